//! A load generator that does not get the CPU: its figures are not those of the server, and the result says so.

use std::io::{BufRead, BufReader, Read};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{check_schema, command, count, pktbench};

/// How long the process is stopped: far longer than any scheduler delays it.
const STOPPED: Duration = Duration::from_millis(1500);

/// Runs `pktbench` with the words of `args`, and stops it in the middle of the run.
fn stopped(args: &str) -> (Value, Option<i32>) {
    let args = format!("--conns 2 --duration 2500ms --interval 100ms --format ndjson {args}");
    let mut child = command(env!("CARGO_BIN_EXE_pktbench")).args(args.split_whitespace()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    // The window has begun when its first interval is over.
    while !line.contains("\"interval\"") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the run ended without an interval");
    }
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::STOP).unwrap();
    thread::sleep(STOPPED);
    kill_process(pid, Signal::CONT).unwrap();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let code = child.wait().unwrap().code();
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    check_schema(&last["result"]);
    (last["result"].clone(), code)
}

#[test]
fn a_process_that_was_stopped_is_saturated_in_both_loops() {
    for mode in ["", "--rate 200 --min-offered 0%"] {
        let (document, code) = stopped(mode);
        assert_eq!((document["verdict"].as_str(), code), (Some("pass_saturated"), Some(0)), "{document}");
        let reasons = document["load_generator"]["saturated_by"].as_array().unwrap();
        assert!(reasons.contains(&"clock_gap".into()), "{document}");
        // The part of the stop that is in the window, less one tick of the conductor.
        let gap_ns = count(&document, "load_generator", "clock_gap_ns");
        assert!(gap_ns > 1_000_000_000, "{document}");
        let (document, code) = stopped(&format!("{mode} --strict-client"));
        assert_eq!((document["verdict"].as_str(), code), (Some("saturated"), Some(4)), "{document}");
    }
}

#[test]
fn a_saturated_result_says_so_in_every_format_and_in_a_sum() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (saturated, _) = stopped("");
    std::fs::write(path("saturated.json"), saturated.to_string()).unwrap();
    let other = pktbench("--conns 2 --duration 300ms --json");
    std::fs::write(path("other.json"), &other.stdout).unwrap();

    let pass = "pass, but the load generator was saturated";
    let merged = pktbench(&format!("merge {} {}", path("saturated.json"), path("other.json")));
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = words(&merged.stdout);
    assert!(text.contains(&format!("verdict {pass}: ")) && text.ends_with("(exit code 0)"), "{text}");
    assert!(
        text.contains("the load generator is saturated: ") && text.contains("it stood still for "),
        "{text}"
    );
    assert_eq!(merged.code, Some(0));
    for file in ["page.html", "charts.svg"] {
        let ran = pktbench(&format!("html {} {}", path("saturated.json"), path(file)));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let text = std::fs::read_to_string(path(file)).unwrap();
        assert!(text.contains(pass), "{file}: {text}");
    }
    let compared = pktbench(&format!("compare {} {} --force", path("saturated.json"), path("other.json")));
    let warning = "the load generator of base";
    assert!(compared.stderr.contains(warning), "{compared:?}");
    let help = pktbench("--help").stdout;
    assert!(words(&help).contains(pass), "{help}");
}

/// On a core that is shared with busy loops, or not.
#[cfg(target_os = "linux")]
mod cores {
    use std::process::Stdio;

    use serde_json::Value;

    use crate::common::{KillOnDrop, asserts_times, command, ran, start};

    /// Runs `pktbench` on the second core, against a server in this process.
    fn on_one_core(load: &str) -> (Value, Option<i32>) {
        let (addr, _server) = start("127.0.0.1:0", pktconn::ServerConfig::default());
        let program = env!("CARGO_BIN_EXE_pktbench");
        let args = format!("-c 1 {program} --connect {addr} --duration 2s --json {load}");
        let ran = ran(command("taskset").args(args.split_whitespace()));
        (ran.document(), ran.code)
    }

    const LOADS: [&str; 3] = ["--conns 64", "--conns 1", "--conns 4 --rate 5k --min-offered 0%"];

    #[test]
    #[ignore = "needs taskset and two cores: cargo test -p pktbench -- --include-ignored"]
    fn two_busy_loops_on_its_core_saturate_it() {
        let busy_loop = || {
            let mut sh = command("taskset");
            sh.args(["-c", "1", "sh", "-c", "while :; do :; done"]).stdout(Stdio::null());
            KillOnDrop(sh.spawn().unwrap())
        };
        let _busy = [busy_loop(), busy_loop()];
        for load in LOADS {
            for (option, verdict, code) in [("", "pass_saturated", 0), ("--strict-client", "saturated", 4)] {
                let (document, exit) = on_one_core(&format!("{load} {option}"));
                assert_eq!((document["verdict"].as_str(), exit), (Some(verdict), Some(code)), "{document}");
            }
        }
    }

    #[test]
    #[ignore = "needs taskset and two cores: cargo test -p pktbench -- --include-ignored"]
    fn with_a_core_of_its_own_it_is_not_saturated() {
        for load in LOADS {
            let (document, _) = on_one_core(load);
            // On a busy machine it shares the core with other programs.
            if asserts_times() {
                assert_eq!(document["load_generator"]["saturated"], false, "{document}");
            }
        }
    }
}
