//! `--stages`, the course of a rate over time; and `--abort-on`, which ends a run early.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::common::{Answer, Ran, asserts_times, count, pktbench, ran, serve};
use serde_json::{Value, json};

/// Runs `pktbench` with the words of `args`, and an option whose value has spaces.
fn run(args: &str, (option, value): (&str, &str)) -> Ran {
    let mut command = crate::common::command(env!("CARGO_BIN_EXE_pktbench"));
    ran(command.args(args.split_whitespace()).args([option, value]))
}

fn stages(document: &Value) -> &[Value] {
    document["stages"].as_array().unwrap()
}

#[test]
fn each_stage_has_its_own_figures() {
    let text = "ramp 0..2k 500ms, hold 2k 300ms, hold 0 200ms, step 500 every 200ms to 1k, spike 10k 100ms";
    let load = "--conns 8 --threads 2 --interval 100ms --sizes 64 --warmup 200ms --json";
    let document = run(load, ("--stages", text)).document();
    let stages = stages(&document);
    let figures: Vec<_> = stages
        .iter()
        .map(|stage| {
            (
                stage["name"].as_str().unwrap(),
                stage["end_s"].as_f64().unwrap(),
                stage["asked"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("ramp 0..2k 500ms", 0.5, 500),
        ("hold 2k 300ms", 0.8, 600),
        ("hold 0 200ms", 1.0, 0),
        ("step 500 every 200ms to 1k (500)", 1.2, 100),
        ("step 500 every 200ms to 1k (1k)", 1.4, 200),
        ("spike 10k 100ms", 1.5, 1000),
    ];
    assert_eq!(figures, expected, "{document}");
    // The warm-up holds the rate of the start, 0.
    assert_eq!(count(&document, "totals", "warmup_sent"), 0, "{document}");
    let sum = |name: &str| stages.iter().map(|stage| stage[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("sent"), count(&document, "totals", "sent"), "{document}");
    assert_eq!(sum("received"), count(&document, "totals", "received"), "{document}");
    let due = count(&document, "totals", "sent") + count(&document, "offered", "missed");
    assert_eq!((due, sum("asked")), (2400, 2400), "{document}");
    let samples = |kind: &str| {
        let of = |stage: &Value| stage["latency_ns"][kind]["count"].as_u64().unwrap();
        stages.iter().map(of).sum::<u64>()
    };
    assert_eq!(samples("response"), samples("service"));
    assert_eq!(samples("response"), document["latency_ns"]["response"]["count"].as_u64().unwrap());
    assert_eq!(document["config"]["stages"], text);
    assert_eq!(document["config"]["duration_s"], 1.5);
    if asserts_times() {
        for stage in stages {
            let [sent, asked] = ["sent", "asked"].map(|name| stage[name].as_u64().unwrap());
            assert!(sent.abs_diff(asked) <= 2 + asked / 50, "{stage}");
        }
    }
}

#[test]
fn the_end_of_a_stage_is_the_end_of_an_interval() {
    let load = "--conns 2 --interval 200ms --sizes 64 --json";
    let document = run(load, ("--stages", "hold 100 300ms, hold 50 400ms")).document();
    let rows = document["intervals"].as_array().unwrap();
    let ends: Vec<_> = rows.iter().map(|row| row["t_s"].as_f64().unwrap()).collect();
    assert_eq!(ends, [0.2, 0.3, 0.4, 0.6, 0.7], "{document}");
}

#[test]
fn the_reports_have_a_row_per_stage() {
    let dir = tempfile::tempdir().unwrap();
    let [json, html] = ["run.json", "run.html"].map(|name| dir.path().join(name).display().to_string());
    let load = format!("--conns 2 --interval 100ms --sizes 64 --output {json} --html {html}");
    let text = "hold 500 300ms, step 500 every 200ms to 2k, sine 100..900 period 200ms for 400ms";
    let ran = run(&load, ("--stages", text));
    assert!(
        ran.stdout.starts_with("mode        open loop: hold 500 300ms, step 500 every"),
        "{}",
        ran.stdout
    );
    let names = [
        "stage  ",
        "hold 500 300ms  ",
        "step 500 every 200ms to 2k (1k)  ",
        "sine 100..900 p\u{2026}200ms for 400ms ",
    ];
    for name in names {
        assert!(ran.stdout.contains(&format!("\n{name}")), "{name}: {}", ran.stdout);
    }
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ran.stdout);
    let page = std::fs::read_to_string(html).unwrap();
    assert!(
        page.contains("<td>step 500 every 200ms to 2k (1k)</td>")
            || page.contains("step 500 every 200ms to 2k (1k)<"),
        "{page}"
    );
    assert!(page.contains(">asked<") || page.contains("\nasked\n"), "the asked course is in the chart");

    // Results of the same stages add up, and others do not.
    let other = dir.path().join("other.json").display().to_string();
    run(&format!("--conns 2 --interval 100ms --sizes 64 --output {other}"), ("--stages", text));
    let sum = pktbench(&format!("merge {json} {other} --format json")).document();
    let asked: Vec<_> = stages(&sum).iter().map(|stage| stage["asked"].as_u64().unwrap()).collect();
    assert_eq!(asked, [300, 400, 600, 800, 400], "{sum}");
    let different = dir.path().join("different.json").display().to_string();
    run(
        &format!("--conns 2 --interval 100ms --sizes 64 --output {different}"),
        ("--stages", "hold 500 300ms"),
    );
    let refused = pktbench(&format!("merge {json} {different}"));
    assert!(refused.error_line().contains("differ in stages"), "{refused:?}");
}

#[test]
fn stages_replace_the_options_of_a_constant_rate() {
    for args in
        ["--rate 1k", "--duration 5s", "--packets 9", "--ramp 1s", "--search-max p99<1s", "--pipeline 2"]
    {
        let refused = run(args, ("--stages", "hold 10k 5s"));
        assert!(refused.error_line().contains("cannot be used with"), "{args}: {refused:?}");
        assert_eq!(refused.code, Some(2));
    }
    let refused = run("", ("--stages", "hold 10k 5s, rise 5k"));
    let line = refused.error_line();
    assert!(line.contains("stage 2 'rise 5k': unknown stage 'rise'; write ramp, hold, step"), "{line}");
    let refused = run("--interval 100ms", ("--stages", "hold 10k 3h"));
    assert!(refused.error_line().contains("--stages has more than 100000 intervals"), "{refused:?}");
}

/// A server that answers each connection for a time, and then nothing more.
fn freezes_after(time: Duration) -> SocketAddr {
    serve(move || {
        let started = Instant::now();
        move |_, frame| Answer::Bytes(if started.elapsed() < time { frame } else { Vec::new() })
    })
}

#[test]
fn a_frozen_server_ends_the_run_by_its_latency() {
    for (load, amount) in
        [("--rate 200 --max-outstanding 2000", "--duration 60s"), ("", "--packets 100000000")]
    {
        let addr = freezes_after(Duration::from_secs(1));
        let args = format!(
            "--connect {addr} --conns 2 --sizes 64 {load} {amount} --warmup 0 --interval 200ms --json --timeout 50s"
        );
        let ran = run(&args, ("--abort-on", "p50>500ms for 600ms"));
        let document = ran.document();
        assert_eq!((ran.code, &document["verdict"]), (Some(99), &json!("threshold")), "{document}");
        assert_eq!(document["aborted"]["condition"], "p50>500ms for 600ms");
        let at_s = document["aborted"]["at_s"].as_f64().unwrap();
        let seconds = document["window"]["seconds"].as_f64().unwrap();
        // Frozen from 1 s on: some are older than 500 ms from 1.5 s on, and it must last for three intervals.
        assert!(at_s >= 2.0 && seconds >= at_s && seconds < 40.0, "{document}");
        assert!(!asserts_times() || seconds < at_s + 0.1, "{document}");
        assert!(count(&document, "integrity", "unanswered") > 0, "{document}");
        assert_eq!(count(&document, "errors", "timeout"), 0, "{document}");
    }
}

#[test]
fn the_report_says_what_ended_the_run() {
    let addr = freezes_after(Duration::from_millis(200));
    let args = format!("--connect {addr} --conns 2 --sizes 64 --interval 100ms --warmup 0 --duration 60s");
    let ran = run(&args, ("--abort-on", "max>200ms"));
    assert_eq!(ran.code, Some(99), "{ran:?}");
    let expected = "\nverdict     aborted: max>200ms at ";
    assert!(ran.stdout.contains(expected) && ran.stdout.ends_with(" s (exit code 99)\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("\nabort-on    aborted: max>200ms at "), "{}", ran.stdout);
}

/// A server that resets each connection after some packets, except the first connection.
fn resetting() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            std::thread::spawn(move || {
                let (mut stream, mut bytes) = (stream.unwrap(), [0; 68]);
                for number in 0.. {
                    // Closing with unread bytes resets the connection.
                    if index > 0 && number == 5 * index {
                        std::thread::sleep(Duration::from_millis(100));
                        return;
                    }
                    if stream.read_exact(&mut bytes).and_then(|()| stream.write_all(&bytes)).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

#[test]
fn failed_connections_end_the_run() {
    for condition in ["errors>0", "errors>=0.1% for 200ms"] {
        let args = format!(
            "--connect {} --conns 5 --rate 100 --sizes 64 --duration 60s --interval 200ms",
            resetting()
        );
        let ran = run(&format!("{args} --json"), ("--abort-on", condition));
        let document = ran.document();
        // A failed connection is worse than a condition.
        assert_eq!((ran.code, &document["verdict"]), (Some(1), &json!("failed")), "{document}");
        assert_eq!(document["aborted"]["condition"], condition);
        assert!(document["window"]["seconds"].as_f64().unwrap() < 30.0, "{document}");
    }
}

#[test]
fn a_condition_that_is_not_met_changes_nothing() {
    let load = "--conns 4 --rate 500 --duration 500ms --interval 100ms --sizes 64 --json";
    let ran = run(load, ("--abort-on", "p99>20s for 200ms"));
    let document = ran.document();
    assert_eq!((ran.code, &document["aborted"]), (Some(0), &Value::Null), "{document}");
    let refused = run("--interval 1s", ("--abort-on", "p99>1s for 500ms"));
    assert!(refused.error_line().contains("500ms is shorter than an interval"), "{refused:?}");
    let refused = run("--search-max p99<1s", ("--abort-on", "errors>5"));
    assert!(refused.error_line().contains("cannot be used with"), "{refused:?}");
}

/// The achieved course of a run against a server of its own, within 1 % per second.
#[test]
#[ignore = "takes 20 s and needs an idle machine: cargo test --release -p pktbench -- --include-ignored"]
fn the_achieved_course_is_the_asked_one() {
    let text =
        "ramp 0..10k 5s, hold 10k 3s, hold 0 1s, spike 20k 1s, sine 5k..15k period 4s for 6s, ramp 10k..0 4s";
    let addr =
        crate::common::start("127.0.0.1:0".parse::<SocketAddr>().unwrap(), pktconn::ServerConfig::new()).0;
    let load = format!("--connect {addr} --conns 16 --sizes 64 --interval 100ms --json");
    let document = run(&load, ("--stages", text)).document();
    let rows = document["intervals"].as_array().unwrap();
    let asked = |t: f64| match t {
        ..5.0 => 1000.0 * t * t,
        ..8.0 => 25e3 + 10e3 * (t - 5.0),
        ..9.0 => 55e3,
        ..10.0 => 55e3 + 20e3 * (t - 9.0),
        ..16.0 => {
            let (s, omega) = (t - 10.0, std::f64::consts::TAU / 4.0);
            75e3 + 10e3 * s + 5e3 / omega * (1.0 - (omega * s).cos())
        }
        _ => {
            let s = t - 16.0;
            // Half a period more than one: the sine has risen above its middle.
            135e3 + 5e3 / (std::f64::consts::TAU / 4.0) * 2.0 + 10e3 * s - 1250.0 * s * s
        }
    };
    let mut received = 0.0;
    let mut at_last_second = 0.0;
    for row in rows {
        let t = row["t_s"].as_f64().unwrap();
        received += row["received"].as_f64().unwrap();
        if (t - t.round()).abs() < 1e-6 {
            let (achieved, expected) = (received - at_last_second, asked(t) - asked(t - 1.0));
            let is_close = (achieved - expected).abs() <= 0.01 * expected + 1.0;
            assert!(!asserts_times() || is_close, "second {t}: {achieved} instead of {expected}");
            at_last_second = received;
        }
    }
    assert_eq!(
        count(&document, "totals", "sent") + count(&document, "offered", "missed"),
        asked(20.0).ceil() as u64
    );
}

#[test]
#[ignore = "needs an idle machine: cargo test --release -p pktbench -- --include-ignored"]
fn a_spike_starts_on_time_at_the_server() {
    let (arrived, arrivals) = std::sync::mpsc::channel();
    let addr = serve(move || {
        let arrived = arrived.clone();
        move |_, frame| {
            let _ = arrived.send(Instant::now());
            Answer::Bytes(frame)
        }
    });
    let load = format!("--connect {addr} --conns 4 --sizes 64 --warmup 0 --json");
    let document = run(&load, ("--stages", "hold 100 1s, hold 0 500ms, spike 2k 500ms")).document();
    let mut arrivals: Vec<_> = arrivals.try_iter().collect();
    arrivals.sort_unstable();
    assert_eq!(arrivals.len(), 1100, "{document}");
    // The first packet is due at 0, and the spike starts 1.5 s later.
    let start = (arrivals[100] - arrivals[0]).as_secs_f64();
    assert!(!asserts_times() || (start - 1.5).abs() < 0.01, "{start} s");
}
