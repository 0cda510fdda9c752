//! Takes over the terminal and always restores it, even when a thread panics.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Stderr, Write, stderr};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};
use rustix::fs::OFlags;

/// Whether this process has taken over its terminal.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

pub(super) struct Screen {
    /// Buffered: each redraw is one write.
    terminal: Terminal<CrosstermBackend<BufWriter<Stderr>>>,
    keys: File,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        // A separate open file: O_NONBLOCK must not apply to other processes that use the terminal.
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let keys = OpenOptions::new().read(true).custom_flags(nonblocking).open("/dev/tty")?;
        let terminal = Terminal::new(CrosstermBackend::new(BufWriter::new(stderr())))?;
        leave_on_panic();
        enable_raw_mode()?;
        IS_TAKEN.store(true, SeqCst);
        // Its `drop` restores the terminal if the next step fails.
        let screen = Self { terminal, keys };
        execute!(stderr(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Draws at the current size of the terminal.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) {
        if IS_TAKEN.load(SeqCst) {
            // The run continues if the terminal is gone.
            let _ = self.terminal.draw(draw);
        }
    }

    /// Whether a key that ends the run was pressed since the last call.
    pub(super) fn end_requested(&mut self) -> bool {
        let mut pressed = [0; 64];
        // An error means that no key was pressed or that the terminal is gone.
        let len = self.keys.read(&mut pressed).unwrap_or(0);
        is_end(&pressed[..len])
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn leave() {
    if IS_TAKEN.swap(false, SeqCst) {
        // If the terminal is gone there is nowhere to report it.
        let _ = execute!(stderr(), LeaveAlternateScreen, Show).and_then(|()| stderr().flush());
        let _ = disable_raw_mode();
    }
}

/// Without this, the panic message would disappear with the alternate screen.
fn leave_on_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        leave();
        hook(panic);
    }));
}

/// Whether `pressed` has `q`, Esc or Ctrl-C (a key in raw mode). Skips the escape sequences of other keys, such as
/// arrows, which begin like Esc.
fn is_end(mut pressed: &[u8]) -> bool {
    const CTRL_C: u8 = 3;
    const ESC: u8 = 0x1b;
    loop {
        pressed = match pressed {
            [] => return false,
            [b'q' | CTRL_C, ..] | [ESC] | [ESC, ESC, ..] => return true,
            [ESC, b'[', rest @ ..] => {
                let last = rest.iter().position(|byte| (0x40..=0x7e).contains(byte));
                &rest[last.map_or(rest.len(), |last| last + 1)..]
            }
            [ESC, b'O', _, rest @ ..] | [ESC, _, rest @ ..] | [_, rest @ ..] => rest,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_and_esc_and_ctrl_c_end_the_run_and_an_arrow_does_not() {
        for pressed in ["q", "\x1b", "\x1b\x1b", "\x03", "aq", "\x1b[Aq", "\x1b[1;5A\x1b", "\x1bOP\x03"] {
            assert!(is_end(pressed.as_bytes()), "{pressed:?}");
        }
        for pressed in ["", "a", "Q", "\x1b[A", "\x1b[1;5", "\x1bOq", "\x1bO", "\x1bx"] {
            assert!(!is_end(pressed.as_bytes()), "{pressed:?}");
        }
    }
}
