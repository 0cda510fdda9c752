//! `--replay`: the sizes, the order and the gaps of a capture, on as many connections.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::common::pcap::{PORT, Pcap};
use crate::common::{
    Answer, KillOnDrop, asserts_times, command, count, frame, pktbench, samples, serve, start,
};
use pktconn::ServerConfig;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A packet as the server received it.
#[derive(Debug)]
struct Arrival {
    conn: usize,
    len: usize,
    at: Instant,
}

/// A server that notes the packets, and the receiver of the notes.
fn recording_server() -> (SocketAddr, mpsc::Receiver<Arrival>) {
    let (seen, arrivals) = mpsc::channel();
    let mut conns = 0;
    let addr = serve(move || {
        let (seen, conn) = (seen.clone(), conns);
        conns += 1;
        move |_, frame| {
            let _ = seen.send(Arrival { conn, len: frame.len() - 4, at: Instant::now() });
            Answer::Bytes(frame)
        }
    });
    (addr, arrivals)
}

fn frames(lens: &[usize]) -> Vec<u8> {
    lens.iter().flat_map(|len| frame(&vec![7; *len])).collect()
}

/// Two connections of 400 ms, with a segment out of order and one sent twice, in an hour after 1970.
fn two_connections() -> Pcap {
    let at = |ms: u64| Duration::from_secs(3600) + Duration::from_millis(ms);
    let mut pcap = Pcap::new();
    let one = frames(&[100, 0, 2000, 5]);
    pcap.open(at(0), 1001);
    pcap.open(at(0), 1002);
    pcap.data(at(100), 1001, 1, &one[..50]);
    pcap.data(at(150), 1002, 1, &frames(&[11, 12]));
    pcap.data(at(200), 1001, 151, &one[150..]);
    pcap.data(at(210), 1001, 51, &one[50..150]);
    pcap.data(at(210), 1001, 51, &one[50..150]);
    pcap.data(at(500), 1001, 1 + one.len() as u32, &frames(&[6]));
    pcap
}

fn write(dir: &Path, pcap: &Pcap) -> String {
    let path = dir.join("load.pcap");
    fs::write(&path, pcap.bytes()).unwrap();
    path.display().to_string()
}

#[test]
fn a_capture_is_replayed_with_its_sizes_its_order_and_its_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), &two_connections());
    for (option, speed, at_least_s) in [("", 1.0, 0.4), ("--speed 4x", 4.0, 0.1)] {
        let (addr, arrivals) = recording_server();
        let ran =
            pktbench(&format!("--connect {addr} --replay {file} --tcp-port {PORT} {option} --seed 7 --json"));
        let document = ran.document();
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{document}");
        let mut conns = [Vec::new(), Vec::new()];
        let arrivals: Vec<_> = arrivals.try_iter().collect();
        arrivals.iter().for_each(|arrival| conns[arrival.conn].push(arrival.len));
        conns.sort();
        assert_eq!(conns, [vec![11, 12], vec![100, 0, 2000, 5, 6]]);
        assert_eq!(count(&document, "totals", "sent"), 7);
        assert_eq!(samples(&document), 7);
        // No packet is sent before it is due.
        let window_s = document["window"]["seconds"].as_f64().unwrap();
        assert!(window_s >= at_least_s, "{document}");
        if asserts_times() {
            assert!(window_s < at_least_s + 0.05, "{document}");
            let last = arrivals.iter().map(|arrival| arrival.at).max().unwrap() - arrivals[0].at;
            assert!((last.as_secs_f64() - at_least_s).abs() < 0.02, "{last:?}");
        }
        let config = &document["config"];
        for (name, expected) in [
            ("mode", json!("open")),
            ("conns", json!(2)),
            ("packets", json!(7)),
            ("sizes", json!("0-2000")),
            ("replay", json!(file)),
            ("tcp_port", json!(PORT)),
            ("speed", json!(speed)),
            ("by_segment", json!(0)),
            ("rate", json!(null)),
        ] {
            assert_eq!(config[name], expected, "{name}");
        }
        assert_eq!(document["latency_ns"]["response"]["count"], 7);
        assert_eq!(document["offered"], json!({"asked": 7, "pct": 100.0, "missed": 0, "limit": null}));
    }
}

#[test]
fn the_report_and_the_page_describe_the_replay() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), &two_connections());
    let html = dir.path().join("report.html");
    let load = format!("--replay {file} --tcp-port {PORT} --speed 40x --html {}", html.display());
    let ran = pktbench(&load);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let words = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        format!("mode open loop: replay of {file}, TCP port {PORT}, at 40x speed, regardless of responses; "),
        "load 2 connections with up to 1,024 packets outstanding each, payloads of 0-2000 B as captured, 7 packets in \
         total, "
            .to_owned(),
        "offered 100.0 % of the recorded packets, 0 packets missed".to_owned(),
    ] {
        assert!(words.contains(&expected), "{expected}: {words}");
    }
    let page = fs::read_to_string(html).unwrap();
    for (name, value) in [("replay", file.as_str()), ("tcp port", "14572"), ("speed", "40")] {
        let row = format!("<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>");
        assert!(page.contains(&row), "{row}: {page}");
    }
}

#[test]
fn bytes_that_are_not_frames_are_replayed_by_segment_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let mut pcap = two_connections();
    pcap.open(ms(0), 80);
    pcap.data(ms(1), 80, 1, b"GET / HTTP/1.1\r\n");
    pcap.data(ms(1), 80, 17, b"\r\n");
    let file = write(dir.path(), &pcap);
    let (addr, arrivals) = recording_server();
    let load = format!("--connect {addr} --replay {file} --tcp-port {PORT} --speed 1000000x");
    let ran = pktbench(&format!("{load} --json"));
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{document}");
    let expected =
        format!("warning: --replay {file}: 1 connection whose bytes are not frames of this --header");
    assert!(ran.stderr.starts_with(&expected) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    assert_eq!(document["config"]["by_segment"], 1);
    let mut conns = [Vec::new(), Vec::new(), Vec::new()];
    arrivals.try_iter().for_each(|arrival| conns[arrival.conn].push(arrival.len));
    conns.sort();
    assert_eq!(conns, [vec![11, 12], vec![16, 2], vec![100, 0, 2000, 5, 6]]);
    let ran = pktbench(&load);
    let words = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(" (1 connection by TCP segment, not by frame), "), "{words}");
}

#[test]
fn packets_that_a_slow_server_delays_are_sent_later_and_their_response_time_counts_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut pcap = Pcap::new();
    pcap.open(ms(0), 1);
    pcap.data(ms(0), 1, 1, &frames(&[1; 10]));
    let file = write(dir.path(), &pcap);
    let addr = serve(|| {
        |_, frame| {
            std::thread::sleep(ms(20));
            Answer::Bytes(frame)
        }
    });
    let load = format!("--replay {file} --tcp-port {PORT} --max-outstanding 1 --json");
    let ran = pktbench(&format!("--connect {addr} {load}"));
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{document}");
    assert_eq!(count(&document, "integrity", "verified"), 10);
    // All ten were due at once, and the last one was sent after nine answers.
    assert!(document["latency_ns"]["response"]["max"].as_u64() >= Some(200_000_000), "{document}");
}

#[test]
fn a_connection_that_fails_in_a_replay_is_replaced_and_goes_on_with_the_next_packet() {
    let dir = tempfile::tempdir().unwrap();
    let mut pcap = Pcap::new();
    pcap.open(ms(0), 1);
    (0..10).for_each(|number| pcap.data(ms(20 * number), 1, 1 + 5 * number as u32, &frames(&[1])));
    let file = write(dir.path(), &pcap);
    let addr = serve(|| {
        |number, frame| match number {
            3 => Answer::Last(Vec::new()),
            _ => Answer::Bytes(frame),
        }
    });
    let ran = pktbench(&format!("--connect {addr} --replay {file} --tcp-port {PORT} --json"));
    let document = ran.document();
    // Each connection ends with its packet 3: packets 3 and 7 are not answered.
    assert_eq!((ran.code, count(&document, "integrity", "verified")), (Some(1), 8), "{document}");
    assert_eq!(count(&document, "integrity", "unanswered"), 2, "{document}");
    assert_eq!(document["offered"]["pct"], 100.0, "{document}");
}

#[test]
fn a_replay_with_other_load_options_is_bad_usage_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), &two_connections());
    let replay = format!("--replay {file} --tcp-port {PORT}");
    for option in [
        "--conns 2",
        "--rate 5",
        "--duration 1s",
        "--packets 9",
        "--pipeline 2",
        "--sizes 5",
        "--payload hex:00",
        "--ramp 1s",
        "--warmup 1s",
        "--arrival poisson",
        "--search-max p99<1s",
    ] {
        let ran = pktbench(&format!("{replay} {option}"));
        let name = option.split(' ').next().unwrap();
        let line = ran.error_line();
        assert!(line.contains("cannot be used with") && line.contains(name), "{option}: {line}");
        assert_eq!(ran.code, Some(2), "{option}");
    }
    let not_a_capture = dir.path().join("sizes.csv");
    fs::write(&not_a_capture, "len\n5\n").unwrap();
    let cases = [
        (format!("--replay {file}"), "--tcp-port <N>".to_owned()),
        ("--tcp-port 5".to_owned(), "--replay <FILE>".to_owned()),
        ("--speed 2x".to_owned(), "--replay <FILE>".to_owned()),
        (format!("{replay} --speed 0x"), "such as 2x or 0.5x".to_owned()),
        (format!("--replay {file} --tcp-port 0"), "expected a whole number".to_owned()),
        (format!("--replay {file}.gone --tcp-port 5"), format!("cannot read {file}.gone: No such file")),
        (
            format!("--replay {file} --tcp-port 5"),
            format!(
                "{file}: no TCP data to port 5 was captured; it contains data to port 14572; give the port"
            ),
        ),
        (
            format!("--replay {} --tcp-port 5", not_a_capture.display()),
            "it is no capture; give a file in the format pcap or pcapng".to_owned(),
        ),
        (format!("{replay} --speed 0.000001x"), "raise --speed or --interval".to_owned()),
        (
            format!("{replay} --connect a:1 --connect b:1 --connect c:1"),
            "--replay has 2 connections, too few for 3 servers (--connect)".to_owned(),
        ),
    ];
    for (args, expected) in cases {
        let ran = pktbench(&args);
        let line = ran.error_line();
        assert!(line.starts_with("error: ") && line.contains(&expected), "{args}: {line}");
        assert_eq!(ran.code, Some(2), "{args}");
    }
}

#[test]
#[ignore = "takes 2 s and needs an idle machine: cargo test --release -p pktbench -- --include-ignored"]
fn packets_of_a_replay_arrive_with_the_gaps_of_the_capture() {
    let dir = tempfile::tempdir().unwrap();
    let mut pcap = Pcap::new();
    pcap.open(ms(0), 1);
    // Gaps of 0.5 to 5.5 ms, in no order.
    let gaps_us = (0..600_u64).map(|number| 500 + number * 7919 % 5000);
    let mut at = ms(5);
    let times: Vec<_> = gaps_us
        .map(|gap_us| {
            at += Duration::from_micros(gap_us);
            at
        })
        .collect();
    for (number, at) in times.iter().enumerate() {
        pcap.data(*at, 1, 1 + 68 * number as u32, &frames(&[64]));
    }
    let file = write(dir.path(), &pcap);
    let (addr, arrivals) = recording_server();
    let ran = pktbench(&format!("--connect {addr} --replay {file} --tcp-port {PORT} --json"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let arrivals: Vec<_> = arrivals.try_iter().collect();
    assert_eq!(arrivals.len(), times.len());
    let gaps = arrivals.windows(2).map(|pair| pair[1].at - pair[0].at);
    let due = times.windows(2).map(|pair| pair[1] - pair[0]);
    let mut errors: Vec<_> = gaps.zip(due).map(|(gap, due)| gap.abs_diff(due)).collect();
    errors.sort_unstable();
    let p99 = errors[errors.len() * 99 / 100];
    assert!(!asserts_times() || p99 < ms(1), "the p99 of the error of the gaps is {p99:?}");
}

#[test]
#[ignore = "needs tcpdump and the right to capture: cargo test -p pktbench -- --include-ignored"]
fn what_tcpdump_captures_of_a_load_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("load.pcap");
    let (addr, _server) = start("127.0.0.1:0", ServerConfig::new());
    let port = addr.rsplit_once(':').unwrap().1.to_owned();
    let interface = if cfg!(target_os = "linux") { "lo" } else { "lo0" };
    // Standard output is the file: tcpdump gives up the rights of root before it opens a file. A buffer of 64 MiB has room
    // for 256 packets, more than the load has: none is dropped if tcpdump is slow.
    let mut tcpdump = command("tcpdump");
    tcpdump.args(["-i", interface, "-s", "0", "-B", "65536", "-U", "--immediate-mode", "-w", "-"]);
    tcpdump.args(["tcp", "dst", "port", &port]).stdout(File::create(&path).unwrap()).stderr(Stdio::piped());
    let mut tcpdump = KillOnDrop(tcpdump.spawn().expect("tcpdump is installed"));
    let mut lines = BufReader::new(tcpdump.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = Vec::new();
    loop {
        match lines.next() {
            Some(line) if line.contains("listening on") => break,
            Some(line) => seen.push(line),
            None => {
                eprintln!("not tested: capturing is not permitted here: {}", seen.join(" "));
                return;
            }
        }
    }
    let load = "--conns 3 --rate 300 --packets 90 --sizes 0-3000 --json";
    let original = pktbench(&format!("--connect {addr} {load}")).document();
    // Until tcpdump has written everything.
    let mut len = 0;
    loop {
        std::thread::sleep(ms(500));
        let before = std::mem::replace(&mut len, fs::metadata(&path).unwrap().len());
        if len == before && len > 0 {
            break;
        }
    }
    kill_process(Pid::from_child(&tcpdump.0), Signal::INT).unwrap();
    tcpdump.0.wait().unwrap();

    let replay = format!("--replay {} --tcp-port {port} --json", path.display());
    let ran = pktbench(&format!("--connect {addr} {replay}"));
    let document = ran.document();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{document}");
    assert_eq!(document["config"]["conns"], 3);
    assert_eq!(document["config"]["by_segment"], 0);
    assert_eq!(count(&document, "totals", "sent"), 90);
    assert_eq!(document["totals"]["bytes_sent"], original["totals"]["bytes_sent"]);
}
