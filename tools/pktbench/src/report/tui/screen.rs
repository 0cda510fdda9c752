//! The terminal: taken for a while, and always given back as it was, even by a panic of any thread.

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

/// Whether the terminal is ours, of which a process has one.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

pub(super) struct Screen {
    /// A frame is written at once.
    terminal: Terminal<CrosstermBackend<BufWriter<Stderr>>>,
    keys: File,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        // Opened anew: that reads do not block must not be so for whoever else has the terminal.
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let keys = OpenOptions::new().read(true).custom_flags(nonblocking).open("/dev/tty")?;
        let terminal = Terminal::new(CrosstermBackend::new(BufWriter::new(stderr())))?;
        leave_on_panic();
        enable_raw_mode()?;
        IS_TAKEN.store(true, SeqCst);
        // Leaves where the next step fails.
        let screen = Self { terminal, keys };
        execute!(stderr(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Draws a frame of the size that the terminal has now.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) {
        if IS_TAKEN.load(SeqCst) {
            // A terminal that is gone is no reason to end the run.
            let _ = self.terminal.draw(draw);
        }
    }

    /// Whether a key for it was pressed since the last call.
    pub(super) fn ends(&mut self) -> bool {
        let mut pressed = [0; 64];
        // Nothing was pressed, or nobody is there any more.
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
        // There is nobody to be told.
        let _ = execute!(stderr(), LeaveAlternateScreen, Show).and_then(|()| stderr().flush());
        let _ = disable_raw_mode();
    }
}

/// Else its message would be gone with the alternate screen.
fn leave_on_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        leave();
        hook(panic);
    }));
}

/// Whether `q`, Esc, or Ctrl-C, which is a key in raw mode, is among these. Other keys, such as arrows, begin as Esc does.
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
