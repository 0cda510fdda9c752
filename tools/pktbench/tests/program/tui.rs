//! `--tui`, with and without a terminal.

use crate::common::{Answer, Ran, command, count, pktbench, ran, serve};
use serde_json::{Value, json};

/// Escape sequences that enter and leave the alternate screen.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// A run on its own terminal: its output, what it drew, and whether the terminal was in raw mode.
struct OnTerminal {
    ran: Ran,
    screen: String,
    was_raw: bool,
}

/// Runs `pktbench` with the words of `args` on a terminal. `tests/on_a_terminal.py` explains the steps.
fn on_terminal(steps: &Value, args: &str) -> OnTerminal {
    let mut program = vec![env!("CARGO_BIN_EXE_pktbench")];
    program.extend(args.split_whitespace());
    any_on_terminal(steps, &program)
}

/// The same for any program.
fn any_on_terminal(steps: &Value, program: &[&str]) -> OnTerminal {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/on_a_terminal.py");
    let mut python = command("python3");
    python.args([script, &steps.to_string()]).args(program);
    let report = ran(&mut python);
    let report: Value =
        serde_json::from_str(&report.stdout).unwrap_or_else(|error| panic!("{error}: {report:?}"));
    let text = |name: &str| report[name].as_str().unwrap().to_owned();
    let screen = text("screen");
    assert_eq!(report["actions_left"], 0, "{screen}");
    assert_eq!(report["is_restored"], true, "the mode of the terminal must be restored: {screen}");
    let code = report["code"].as_i64().map(|code| code as i32);
    OnTerminal {
        ran: Ran { stdout: text("stdout"), stderr: String::new(), code },
        screen,
        was_raw: report["was_raw"] == true,
    }
}

impl OnTerminal {
    /// What was drawn on the alternate screen, after a check that the program entered and left it.
    #[track_caller]
    fn view(&self) -> &str {
        assert!(self.was_raw, "the terminal must be in raw mode: {}", self.screen);
        let view = self.screen.strip_prefix(ENTER).expect("the alternate screen is entered first");
        let (view, after) = view.split_once(LEAVE).expect("the alternate screen is left");
        assert!(
            !after.contains(ENTER) && after.contains("\x1b[?25h"),
            "the cursor must be visible again: {after:?}"
        );
        view
    }
}

#[test]
fn tui_without_a_terminal_is_bad_usage() {
    let ran = pktbench("--tui --packets 10");
    assert!(ran.error_line().starts_with("error: --tui needs a terminal, "), "{ran:?}");
    assert_eq!(ran.code, Some(2));
}

#[test]
#[ignore = "needs python3: cargo test -p pktbench -- --include-ignored"]
fn csv_and_ndjson_on_the_same_terminal_are_bad_usage() {
    let program = env!("CARGO_BIN_EXE_pktbench");
    for format in ["csv", "ndjson"] {
        let script = format!("exec {program} --tui --format {format} --packets 9 >&2");
        let on_terminal = any_on_terminal(&json!([]), &["sh", "-c", &script]);
        assert_eq!(on_terminal.ran.code, Some(2), "{}", on_terminal.screen);
        assert!(
            on_terminal.screen.starts_with("error: --tui and --format csv or ndjson "),
            "{}",
            on_terminal.screen
        );
        assert_eq!(on_terminal.screen.lines().count(), 1, "{}", on_terminal.screen);
    }
}

#[test]
#[ignore = "needs python3: cargo test -p pktbench -- --include-ignored"]
fn a_terminal_of_size_0_works() {
    let steps = json!([["measuring", "size:0x0"], ["\x1b[2J", "size:1x1"], ["\x1b[2J", "key:q"]]);
    let on_terminal = on_terminal(&steps, "--tui --conns 2 --warmup 0 --duration 1h --json");
    assert_eq!(on_terminal.ran.code, Some(130), "{}", on_terminal.screen);
    on_terminal.view();
}

#[test]
#[ignore = "needs python3: cargo test -p pktbench -- --include-ignored"]
fn a_run_is_shown_to_its_end_and_the_result_goes_to_standard_output() {
    let on_terminal =
        on_terminal(&json!([]), "--tui --conns 2 --warmup 0 --duration 1s --interval 200ms --json");
    let document = on_terminal.ran.document();
    assert_eq!(on_terminal.ran.code, Some(0), "{document}");
    let view = on_terminal.view();
    for text in ["closed loop: ", "measuring", "throughput", "service latency", "█", "press q to stop"] {
        assert!(view.contains(text), "{text} in {view}");
    }
}

#[test]
#[ignore = "needs python3: cargo test -p pktbench -- --include-ignored"]
fn q_and_esc_and_ctrl_c_and_a_signal_end_the_run_with_the_results_so_far() {
    for action in ["key:q", "key:\x1b", "key:\x03", "signal:INT", "signal:TERM"] {
        let steps = json!([["measuring", "key:\x1b[A"], ["throughput", action]]);
        let on_terminal = on_terminal(&steps, "--tui --conns 2 --warmup 0 --duration 1h --json");
        let document = on_terminal.ran.document();
        assert_eq!(on_terminal.ran.code, Some(130), "{action:?}: {document}");
        assert_eq!(document["verdict"], "interrupted");
        assert_eq!(count(&document, "integrity", "lost"), 0, "{document}");
        on_terminal.view();
    }
}

#[test]
#[ignore = "needs python3: cargo test -p pktbench -- --include-ignored"]
fn a_resized_terminal_is_redrawn() {
    let steps =
        json!([["press q to stop", "size:20x5"], ["measuring", "size:100x30"], ["press q to stop", "key:q"]]);
    let on_terminal = on_terminal(&steps, "--tui --conns 2 --warmup 0 --duration 1h --json");
    assert_eq!(on_terminal.ran.code, Some(130));
    assert!(on_terminal.view().matches("\x1b[2J").count() >= 2, "{}", on_terminal.screen);
}

#[test]
#[ignore = "needs python3: cargo test -p pktbench -- --include-ignored"]
fn a_failed_connection_is_shown_while_the_others_continue() {
    let mut conns = 0;
    let addr = serve(move || {
        conns += 1;
        let last = if conns == 1 { 20 } else { u64::MAX };
        move |number, frame| if number == last { Answer::Last(frame) } else { Answer::Bytes(frame) }
    });
    let steps = json!([["1 of 2 connections failed", "key:q"]]);
    let load = "--conns 2 --warmup 0 --duration 1h --interval 100ms --json";
    let on_terminal = on_terminal(&steps, &format!("--tui --connect {addr} {load}"));
    assert_eq!(on_terminal.ran.document()["verdict"], "interrupted");
}

#[test]
#[ignore = "needs python3: cargo test -p pktbench -- --include-ignored"]
fn q_also_ends_the_run_while_connecting() {
    let steps = json!([["connecting", "key:q"]]);
    let on_terminal = on_terminal(&steps, "--tui --conns 100 --connect-rate 1 --json");
    assert_eq!(on_terminal.ran.code, Some(130), "{}", on_terminal.screen);
    on_terminal.view();
}

#[test]
#[ignore = "needs python3: cargo test -p pktbench -- --include-ignored"]
fn an_error_is_printed_after_the_terminal_is_restored() {
    // A port that was just released: nothing listens on it.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let on_terminal = on_terminal(&json!([]), &format!("--tui --connect {addr}"));
    assert_eq!(on_terminal.ran.code, Some(1));
    on_terminal.view();
    let (_, after) = on_terminal.screen.split_once(LEAVE).unwrap();
    assert!(after.contains(&format!("error: cannot connect to {addr}")), "{after:?}");
}
