//! Runs without faults, most of them against the built-in server.

use std::io::Read;
use std::sync::mpsc;
use std::time::Duration;

use crate::common::{Answer, Ran, assert_passed, command, count, pktbench, ran, samples, serve};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_number_of_packets_is_echoed_by_the_built_in_server() {
    let ran = pktbench("--packets 1003 --conns 8 --pipeline 4 --threads 2 --json");
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stderr, "", "only the result is printed into a pipe");
    assert_eq!(document["schema"], "pktbench/2");
    assert_eq!(count(&document, "totals", "sent"), 1003);
    assert_eq!(count(&document, "integrity", "verified"), 1003);
    assert_eq!(document["totals"]["bytes_sent"], document["totals"]["bytes_received"]);
    assert_eq!(document["config"]["builtin_server"], true);
    let latency_ns = &document["latency_ns"]["service"];
    let percentiles = latency_ns["percentiles"].as_array().unwrap();
    let mut latencies = vec![latency_ns["min"].as_u64()];
    latencies.extend(percentiles.iter().map(|pair| pair[1].as_u64()));
    latencies.push(latency_ns["max"].as_u64());
    assert!(latencies.is_sorted() && latencies[0] > Some(0), "{latency_ns}");
}

#[test]
fn the_report_names_the_built_in_server() {
    let ran = pktbench("--packets 100 --conns 2");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.contains(" (built-in echo server in this process, on "), "{}", ran.stdout);
    assert!(ran.stdout.contains("\npackets     100 sent, 100 received, in "), "{}", ran.stdout);
    assert!(!ran.stdout.contains(['\r', '\u{1b}']), "a progress bar or colors: {:?}", ran.stdout);
}

#[test]
fn a_timed_run_ends_by_itself() {
    let ran = pktbench("--warmup 0 --duration 1s --conns 4 --json");
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{document}");
    assert_eq!(document["config"]["duration_s"], 1.0);
    assert_eq!(document["window"]["seconds"], 1.0, "{document}");
}

#[test]
fn the_warm_up_is_checked_and_not_counted() {
    let ran = pktbench("--warmup 100ms --packets 200 --conns 2 --json");
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{document}");
    assert_eq!(count(&document, "totals", "sent"), 200);
    // And the answers to the last packets of the warm-up.
    assert!((200..=202).contains(&count(&document, "totals", "received")), "{document}");
    assert_eq!(samples(&document), 200);
}

#[test]
fn more_may_be_outstanding_than_both_sides_buffer() {
    let ran = pktbench("--sizes 1MiB --pipeline 16 --packets 64 --conns 2 --crc --json");
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{document}");
    assert_eq!(count(&document, "totals", "bytes_received"), 64 << 20);
}

#[test]
fn empty_packets_are_packets() {
    let ran = pktbench("--sizes 0 --packets 100 --conns 3 --json");
    assert_eq!(count(&ran.document(), "integrity", "verified"), 100);
    assert_eq!(ran.code, Some(0));
}

#[test]
fn fewer_packets_than_connections_are_enough() {
    let ran = pktbench("--packets 3 --conns 10 --json");
    assert_eq!(count(&ran.document(), "integrity", "verified"), 3);
    assert_eq!(ran.code, Some(0));
}

#[test]
fn interrupted_runs_print_their_results_so_far() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        interrupted_by(signal);
    }
}

fn interrupted_by(signal: Signal) {
    let (reached, is_reached) = mpsc::channel();
    let addr = serve(move || {
        let reached = reached.clone();
        move |number, frame| {
            if number == 20 {
                let _ = reached.send(());
            }
            Answer::Bytes(frame)
        }
    });
    let mut child = command(env!("CARGO_BIN_EXE_pktbench"))
        .args(["--connect", &addr.to_string(), "--conns", "1", "--warmup", "0", "--duration", "1h", "--json"])
        .spawn()
        .unwrap();
    is_reached.recv_timeout(Duration::from_secs(30)).expect("packets arrive");
    kill_process(Pid::from_child(&child), signal).unwrap();
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let code = child.wait().unwrap().code();
    let document = Ran { stdout, stderr: String::new(), code }.document();
    assert_eq!(code, Some(130));
    assert_eq!(document["verdict"], "interrupted");
    assert!(count(&document, "integrity", "verified") >= 20, "{document}");
    assert_eq!(count(&document, "integrity", "lost"), 0, "{document}");
}

#[test]
fn the_soft_limit_on_open_files_is_raised() {
    let program = env!("CARGO_BIN_EXE_pktbench");
    let script = format!("ulimit -S -n 64; exec {program} --conns 64 --packets 64");
    let ran = ran(command("sh").args(["-c", &script]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn several_runs_can_start_at_the_same_time() {
    let start = std::time::SystemTime::now() + Duration::from_secs(4);
    let at = humantime::format_rfc3339_millis(start).to_string();
    let start_ns = start.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let children = [0, 1].map(|_| {
        let load = ["--start-at", &at, "--packets", "100", "--conns", "2", "--json"];
        command(env!("CARGO_BIN_EXE_pktbench")).args(load).spawn().unwrap()
    });
    for child in children {
        let output = child.wait_with_output().unwrap();
        let ran = Ran {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::new(),
            code: output.status.code(),
        };
        let document = ran.document();
        assert_passed(&document);
        // Not before --start-at. How long after depends on the machine.
        let began_ns = count(&document, "window", "start_unix_ns");
        assert!(began_ns + 1_000_000 >= start_ns, "{began_ns} and {start_ns}");
    }
}

#[test]
fn a_start_time_that_passes_while_connecting_is_an_error() {
    // The start is in two seconds, and connecting takes three.
    let start = std::time::SystemTime::now() + Duration::from_secs(2);
    let at = humantime::format_rfc3339_millis(start);
    let ran = pktbench(&format!("--start-at {at} --packets 100 --conns 61 --connect-rate 20"));
    assert!(ran.error_line().contains("after --start-at; give it more time"), "{ran:?}");
    assert_eq!(ran.code, Some(1));
}

#[test]
fn connections_are_made_at_a_rate() {
    let begun = std::time::Instant::now();
    let ran = pktbench("--connect-rate 20 --conns 11 --packets 11 --threads 2 --json");
    assert_eq!(ran.document()["config"]["connect_rate"], 20.0);
    // The eleventh connection is made after 10/20 s.
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
}
