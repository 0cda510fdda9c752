//! The open loop: packets are sent when they are due, regardless of the server. And `--search-max`.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::common::{Answer, asserts_times, command, count, pktbench, samples, serve};
use pktconn::PacketServer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A percentile of the document, in ns.
fn percentile(latency_ns: &Value, percent: f64) -> u64 {
    let pairs = latency_ns["percentiles"].as_array().unwrap();
    let pair = pairs.iter().find(|pair| pair[0] == percent).unwrap();
    pair[1].as_u64().unwrap()
}

#[track_caller]
fn is_within_a_tenth(value: u64, expected_ms: u64) {
    let expected = expected_ms * 1_000_000;
    assert!(value.abs_diff(expected) <= expected / 10, "{value} ns instead of {expected_ms} ms");
}

#[test]
fn packets_are_due_at_the_rate_and_both_latencies_are_measured() {
    for arrival in ["constant", "poisson"] {
        let load = "--rate 2k --warmup 0 --duration 1s --conns 8 --threads 2 --json";
        let ran = pktbench(&format!("{load} --arrival {arrival}"));
        let document = ran.document();
        assert_eq!(ran.code, Some(0), "{document}");
        assert_eq!(document["config"]["mode"], "open");
        assert_eq!(document["config"]["arrival"], arrival);
        let due = count(&document, "totals", "sent") + count(&document, "offered", "missed");
        // Five standard deviations of a Poisson count. A constant rate is exact.
        let spread = if arrival == "poisson" { 224 } else { 0 };
        assert!(due.abs_diff(2000) <= spread, "{due} packets were due: {document}");
        let [service, response] = ["service", "response"].map(|latency| &document["latency_ns"][latency]);
        assert_eq!(service["count"], response["count"]);
        for figure in ["min", "max"] {
            assert!(response[figure].as_u64() >= service[figure].as_u64(), "{document}");
        }
    }
}

#[test]
fn an_open_loop_can_send_a_number_of_packets() {
    let ran = pktbench("--rate 10k --packets 1003 --conns 1004 --warmup 100ms --json");
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{document}");
    assert_eq!(count(&document, "totals", "sent"), 1003);
    assert_eq!(samples(&document), 1003);
    assert!(count(&document, "totals", "warmup_sent") > 0, "{document}");
}

#[test]
fn packets_of_the_ramp_do_not_count() {
    for load in ["--rate 4k --warmup 0 --duration 500ms", "--packets 500"] {
        let ran = pktbench(&format!("{load} --ramp 500ms --conns 4 --json"));
        let document = ran.document();
        assert_eq!(ran.code, Some(0), "{document}");
        assert!(count(&document, "totals", "warmup_sent") > 0, "{document}");
        let due = document["offered"]["asked"].as_u64().unwrap_or(count(&document, "totals", "sent"));
        assert_eq!(due, if load.starts_with("--rate") { 2000 } else { 500 }, "{document}");
    }
}

#[test]
fn packets_that_a_slow_server_delays_are_counted_as_missed_and_need_no_memory() {
    // The server answers one packet per 20 ms, and the rate is a million per second.
    let addr = serve(|| {
        |_, frame| {
            std::thread::sleep(Duration::from_millis(20));
            Answer::Bytes(frame)
        }
    });
    let load = "--rate 1M --warmup 0 --duration 500ms --conns 1 --max-outstanding 2 --json";
    let ran = pktbench(&format!("--connect {addr} {load}"));
    let document = ran.document();
    assert_eq!((ran.code, &document["verdict"]), (Some(6), &json!("not_offered")), "{document}");
    assert_eq!(document["offered"]["limit"], "server", "{document}");
    let sent = count(&document, "totals", "sent");
    assert!(sent < 100, "{document}");
    let pct = document["offered"]["pct"].as_f64().unwrap();
    assert!((pct - sent as f64 / 5000.0).abs() < 1e-9, "{document}");
    assert_eq!(count(&document, "offered", "missed"), count(&document, "offered", "missed"));
    assert_eq!(sent + count(&document, "offered", "missed"), 500_000, "{document}");
    // A packet that was due at the start and sent near the end.
    assert!(document["latency_ns"]["response"]["max"].as_u64().unwrap() > 300_000_000, "{document}");
    // The service time starts at sending, so it is about 40 ms.
    let [service, response] = ["service", "response"].map(|latency| &document["latency_ns"][latency]);
    assert!(percentile(service, 50.0) < percentile(response, 50.0), "{document}");
    assert!(!asserts_times() || percentile(service, 50.0) < 300_000_000, "{document}");
}

#[test]
fn in_an_open_loop_packets_that_wait_for_a_new_connection_are_late_and_not_missed() {
    let addr = serve(|| {
        |number, frame| match number {
            100 => Answer::Last(Vec::new()),
            _ => Answer::Bytes(frame),
        }
    });
    let ran = pktbench(&format!("--connect {addr} --rate 1k --warmup 0 --duration 2s --conns 2 --json"));
    let document = ran.document();
    assert_eq!(ran.code, Some(1), "{document}");
    let due = count(&document, "totals", "sent") + count(&document, "offered", "missed");
    assert_eq!(due, 2000, "{document}");
    // A connection ends with its packet 100.
    let failed = count(&document, "errors", "eof") + count(&document, "errors", "reset");
    assert!((10..30).contains(&failed), "{document}");
    assert!(count(&document, "connections", "replaced") + 2 >= failed, "{document}");
    let unanswered = count(&document, "integrity", "unanswered");
    assert!(count(&document, "integrity", "verified") + unanswered >= 1900, "{document}");
    assert_eq!(document["verdict"], "failed");
}

#[test]
fn connections_with_few_packets_stay_open_and_the_window_is_the_whole_duration() {
    let closed = Arc::new(AtomicUsize::new(0));
    let most_closed = Arc::new(AtomicUsize::new(0));
    let addr = {
        let (closed, most_closed) = (Arc::clone(&closed), Arc::clone(&most_closed));
        serve(move || {
            // The guard is dropped when the connection ends.
            let guard = Guard(Arc::clone(&closed));
            let most_closed = Arc::clone(&most_closed);
            move |_, frame| {
                // When the last packet comes, the other connections have nothing more to send.
                most_closed.fetch_max(guard.0.load(Relaxed), Relaxed);
                Answer::Bytes(frame)
            }
        })
    };
    let ran = pktbench(&format!("--connect {addr} --conns 20 --rate 4 --warmup 0 --duration 2s --json"));
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{document}");
    assert_eq!(most_closed.load(Relaxed), 0, "a connection was closed before the end");
    let window = &document["window"]["seconds"];
    assert!(window.as_f64().unwrap() >= 2.0, "{document}");
    assert_eq!(count(&document, "totals", "sent"), 8);
}

/// Counts when it is dropped.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn a_run_for_a_number_of_packets_ends_when_nothing_comes_back_for_the_timeout() {
    // The last packet, after which the worker sleeps, and the first of many packets that would be due for hours.
    for (unanswered, load) in [(9, "--rate 20 --packets 10 --interval 1h"), (0, "--rate 2 --packets 100000")]
    {
        let addr = serve(move || {
            move |number, frame| Answer::Bytes(if number == unanswered { Vec::new() } else { frame })
        });
        let ran =
            pktbench(&format!("--connect {addr} --conns 1 --max-outstanding 1 {load} --timeout 1s --json"));
        let document = ran.document();
        assert_eq!(ran.code, Some(5), "{document}");
        assert_eq!(count(&document, "integrity", "unanswered"), 1, "{document}");
        assert_eq!(count(&document, "errors", "timeout"), 1, "{document}");
    }
}

#[test]
fn a_run_at_an_impossible_rate_ends_on_time() {
    let ran = pktbench("--rate 1000M --warmup 0 --duration 500ms --conns 4 --max-outstanding 4 --json");
    let document = ran.document();
    assert_eq!((ran.code, &document["verdict"]), (Some(6), &json!("not_offered")), "{document}");
    let due = count(&document, "totals", "sent") + count(&document, "offered", "missed");
    assert_eq!(due, 500_000_000);
}

/// A single-threaded echo server that stalls once for half a second, `after` its first packet.
fn stalling_server(after: Duration) -> SocketAddr {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(PacketServer::bind("127.0.0.1:0")).unwrap();
    let addr = server.local_addr().socket_addr().unwrap();
    std::thread::spawn(move || {
        let stall_at = std::sync::Arc::new(std::sync::Mutex::new(None));
        runtime.block_on(server.serve(move |mut conn| {
            let stall_at = std::sync::Arc::clone(&stall_at);
            async move {
                while let Some(packet) = conn.recv().await? {
                    let stall = {
                        let mut stall_at = stall_at.lock().unwrap();
                        let now = Instant::now();
                        let at = *stall_at.get_or_insert(now + after);
                        let is_due = now >= at;
                        if is_due {
                            *stall_at = Some(now + Duration::from_secs(3600));
                        }
                        is_due
                    };
                    if stall {
                        // Blocks the whole runtime.
                        std::thread::sleep(STALL);
                    }
                    conn.send(packet).await?;
                }
                Ok(conn.close().await?)
            }
        }))
    });
    addr
}

/// How long [`stalling_server`] stalls.
const STALL: Duration = Duration::from_millis(500);

/// The Kolmogorov-Smirnov distance of `gaps` from the exponential distribution with this mean.
fn distance_from_exponential(gaps: &mut [f64], mean: f64) -> f64 {
    gaps.sort_by(f64::total_cmp);
    let count = gaps.len() as f64;
    let distances = gaps.iter().enumerate().map(|(index, gap)| {
        let expected = 1.0 - (-gap / mean).exp();
        f64::max(expected - index as f64 / count, (index + 1) as f64 / count - expected)
    });
    distances.fold(0.0, f64::max)
}

#[test]
#[ignore = "takes 10 s and needs an idle machine: cargo test --release -p pktbench -- --include-ignored"]
fn poisson_arrivals_have_exponential_gaps_at_the_server() {
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let addr = {
        let arrived = Arc::clone(&arrived);
        serve(move || {
            let arrived = Arc::clone(&arrived);
            move |_, frame| {
                arrived.lock().unwrap().push(Instant::now());
                Answer::Bytes(frame)
            }
        })
    };
    let load = "--rate 200 --arrival poisson --warmup 0 --duration 10s --conns 8 --sizes 64";
    let ran = pktbench(&format!("--connect {addr} {load} --json"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let mut arrived = arrived.lock().unwrap().clone();
    arrived.sort_unstable();
    let mut gaps: Vec<f64> = arrived.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let distance = distance_from_exponential(&mut gaps, mean);
    // Five standard deviations of a count of 2,000.
    assert!(arrived.len().abs_diff(2000) <= 224, "{} packets arrived", arrived.len());
    // 1 of 1,000 samples of this size exceeds this distance, if the packets arrive as they are sent.
    assert!(
        !asserts_times() || distance < 1.95 / (gaps.len() as f64).sqrt(),
        "{distance} of {} gaps",
        gaps.len()
    );
}

/// At 1,000 packets/s, a stall of 500 ms in 10 s delays 500 of 10,000 packets: the first by 500 ms, the last by almost
/// nothing. So 1 packet in 100 waits for 400 ms or more, and 1 in 1,000 for 490 ms or more.
#[test]
#[ignore = "takes 20 s and needs an idle machine: cargo test --release -p pktbench -- --include-ignored"]
fn an_open_loop_shows_a_stall_in_its_response_times_and_a_closed_loop_hides_it() {
    let load = "--warmup 0 --duration 10s --conns 8";
    let addr = stalling_server(Duration::from_secs(3));
    let ran = pktbench(&format!("--connect {addr} {load} --rate 1k --json"));
    let document = ran.document();
    let response = &document["latency_ns"]["response"];
    assert!(response["max"].as_u64() >= Some(450_000_000), "{document}");
    // The p99 is 400 ms on an idle machine, and more on a busy one.
    assert!(percentile(response, 99.0) >= 360_000_000, "{document}");
    if asserts_times() {
        is_within_a_tenth(percentile(response, 99.0), 400);
        is_within_a_tenth(percentile(response, 99.9), 490);
    }
    let stalled = document["intervals"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|interval| interval["max_ns"].as_u64() >= Some(450_000_000));
    let stalled = stalled.count();
    assert!(if asserts_times() { stalled == 1 } else { stalled >= 1 }, "{stalled}: {document}");

    let open_p99 = percentile(response, 99.0);
    let addr = stalling_server(Duration::from_secs(3));
    let ran = pktbench(&format!("--connect {addr} {load} --json"));
    let document = ran.document();
    let service = &document["latency_ns"]["service"];
    assert!(service["max"].as_u64() >= Some(450_000_000), "{document}");
    assert!(percentile(service, 99.0) < open_p99, "{document}");
    assert!(!asserts_times() || percentile(service, 99.9) < 100_000_000, "{document}");
}

#[test]
fn the_report_starts_with_the_mode_and_says_what_a_closed_loop_hides() {
    for (load, expected) in [
        ("--packets 100", ["mode        closed loop: ", "hide stalls"]),
        ("--packets 100 --rate 10k", ["mode        open loop: 10,000 packets/s ", "response "]),
    ] {
        let ran = pktbench(&format!("{load} --conns 2"));
        assert!(ran.stdout.starts_with(expected[0]) && ran.stdout.contains(expected[1]), "{}", ran.stdout);
        let widest = ran.stdout.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{}", ran.stdout);
    }
}

#[test]
fn each_kind_of_verification_finds_only_what_it_checks() {
    let corrupting_server = || {
        serve(|| {
            |number, frame: Vec<u8>| match number {
                7 => Answer::Bytes(crate::common::frame(&vec![0xff; frame.len() - 4])),
                8 => Answer::Bytes(crate::common::frame(&vec![0xff; frame.len() - 3])),
                _ => Answer::Bytes(frame),
            }
        })
    };
    for (verify, corrupted, code) in [("full", 2, 3), ("len", 1, 3), ("off", 0, 0)] {
        let load = "--conns 1 --pipeline 4 --sizes 8-64 --packets 40 --json";
        let ran = pktbench(&format!("--connect {} {load} --verify {verify}", corrupting_server()));
        let document = ran.document();
        assert_eq!(count(&document, "integrity", "corrupted"), corrupted, "{verify}: {document}");
        assert_eq!(ran.code, Some(code), "{verify}");
        assert_eq!(document["config"]["verify"], verify);
    }
}

#[test]
fn a_search_shows_its_steps_and_finds_the_highest_rate() {
    let load = "--search-max p99<10s --rate 2k --warmup 0 --duration 200ms --conns 4";
    let ran = pktbench(load);
    let first = ran.stdout.lines().next().unwrap();
    assert_eq!(first, "search      for the highest rate at which p99<10s", "{ran:?}");
    assert!(ran.stdout.contains("        2,000/s  p50 "), "{ran:?}");
    let ran = pktbench(&format!("{load} --json"));
    let document = ran.document();
    let search = &document["search"];
    let steps = search["steps"].as_array().unwrap();
    assert!(steps.len() > 1 && steps.is_sorted_by_key(|step| step["rate"].as_f64()), "{document}");
    let highest = steps.iter().rfind(|step| step["ok"] == true);
    // A busy machine may hold no rate at all.
    assert_eq!(highest.map(|step| &step["rate"]), Some(&search["max_rate"]).filter(|rate| !rate.is_null()));
    assert_eq!(ran.code, Some(if highest.is_some() { 0 } else { 99 }));
    if let Some(step) = highest {
        assert_eq!(document["config"]["rate"], step["rate"]);
    }
}

#[test]
fn a_signal_ends_a_search_which_prints_its_results_so_far() {
    for signal in [Signal::INT, Signal::TERM] {
        // Each step makes new connections.
        let (reached, is_reached) = mpsc::channel();
        let mut conns = 0;
        let addr = serve(move || {
            conns += 1;
            let reached = (conns == 2).then(|| reached.clone());
            move |_, frame| {
                if let Some(reached) = &reached {
                    let _ = reached.send(());
                }
                Answer::Bytes(frame)
            }
        });
        let load = "--search-max p99<10s --rate 2 --warmup 0 --duration 500ms --conns 1 --json";
        let mut child = command(env!("CARGO_BIN_EXE_pktbench"))
            .args(["--connect", &addr.to_string()])
            .args(load.split(' '))
            .spawn()
            .unwrap();
        is_reached.recv_timeout(Duration::from_secs(60)).expect("a second step");
        kill_process(Pid::from_child(&child), signal).unwrap();
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{stdout}");
        let document: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(document["verdict"], "interrupted");
        // A complete search takes twenty steps.
        assert!((1..15).contains(&document["search"]["steps"].as_array().unwrap().len()), "{document}");
    }
}

/// A server that stalls must not look fast because its slowest packets are in no figure.
#[test]
fn packets_without_an_answer_are_in_the_latencies_with_their_age() {
    // Answers the first second, and then nothing.
    let addr = serve(|| |number, frame| Answer::Bytes(if number < 500 { frame } else { Vec::new() }));
    let load = "--conns 1 --rate 500 --max-outstanding 5000 --warmup 0 --duration 3s --timeout 1s --sizes 64";
    let ran =
        pktbench(&format!("--connect {addr} {load} --json --threshold p99<100ms --threshold p30<100ms"));
    let document = ran.document();
    assert_eq!((ran.code, &document["verdict"]), (Some(5), &json!("no_answer")), "{document}");
    let censored = count(&document, "integrity", "unanswered");
    assert!(censored >= 950, "{document}");
    for kind in ["service", "response"] {
        let latency = &document["latency_ns"][kind];
        assert_eq!((&latency["count"], &latency["censored"]), (&json!(500), &json!(censored)), "{kind}");
    }
    // Due evenly from 1 s to 3 s, and the wait ends at 4 s or later, so the youngest is 1 s old or older.
    let response = &document["latency_ns"]["response"];
    let percentile = |index: usize| response["percentiles"][index][1].as_u64().unwrap() as f64 / 1e9;
    let (total, last) = (500 + censored, censored as f64 / 500.0);
    let youngest = response["max"].as_u64().unwrap() as f64 / 1e9 - last;
    assert!(youngest >= 0.95, "{youngest} s");
    assert!(!asserts_times() || youngest < 1.2, "{youngest} s");
    for (index, percent) in [(0, 0.5), (1, 0.9), (3, 0.99)] {
        let rank = percent * total as f64 - 500.0;
        let age = youngest + last * rank / censored as f64;
        assert!(percentile(index) >= 0.95 * age, "{percent}: {} s, expected {age} s", percentile(index));
        if asserts_times() {
            assert!(percentile(index) <= 1.05 * age, "{percent}: {} s, expected {age} s", percentile(index));
        }
    }
    let [tail, body] = [0, 1].map(|index| &document["thresholds"][index]);
    assert_eq!((&tail["ok"], &tail["is_lower_bound"]), (&json!(false), &json!(true)));
    assert_eq!((&body["ok"], &body["is_lower_bound"]), (&json!(true), &Value::Null));
}

/// Answers each packet after `delay`, without a limit on their number.
fn delayed(delay: Duration) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut read = stream.unwrap();
            let mut write = read.try_clone().unwrap();
            let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
            std::thread::spawn(move || {
                let mut bytes = [0; 64 * 1024];
                while let Ok(len @ 1..) = read.read(&mut bytes) {
                    let _ = sender.send((Instant::now() + delay, bytes[..len].to_vec()));
                }
            });
            std::thread::spawn(move || {
                for (due, bytes) in receiver {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if std::io::Write::write_all(&mut write, &bytes).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

#[test]
fn a_server_that_adds_latency_does_not_look_slower_at_a_fixed_rate() {
    let addr = delayed(Duration::from_millis(500));
    let load = "--conns 2 --rate 400 --warmup 1s --duration 2s --max-outstanding 1000 --sizes 64 --json";
    let ran = pktbench(&format!("--connect {addr} {load}"));
    let document = ran.document();
    let count = |name| count(&document, "totals", name);
    // All that was asked for came back in the window: what was sent in the warm-up takes the place of what is late.
    assert_eq!(count("sent"), 800, "{document}");
    assert!((760..=840).contains(&count("received")), "{document}");
    assert!((160..=240).contains(&count("drained")), "{document}");
    assert_eq!(document["window"]["seconds"], 2.0);
    let drain_s = document["window"]["drain_s"].as_f64().unwrap();
    assert!(drain_s > 0.4, "{document}");
    assert_eq!(document["latency_ns"]["response"]["count"], 800);
}

#[test]
fn one_late_answer_does_not_lower_the_throughput() {
    // The last packet is answered 2 s late.
    let addr = serve(|| {
        let started = Instant::now();
        move |_, frame| {
            if started.elapsed() > Duration::from_millis(1200) {
                std::thread::sleep(Duration::from_secs(2));
            }
            Answer::Bytes(frame)
        }
    });
    let ran =
        pktbench(&format!("--connect {addr} --conns 1 --warmup 0s --duration 1500ms --sizes 64 --json"));
    let document = ran.document();
    assert_eq!(document["window"]["seconds"], 1.5);
    assert_eq!((ran.code, count(&document, "totals", "drained")), (Some(0), 1), "{document}");
    let rate = document["totals"]["packets_per_s"].as_f64().unwrap();
    let received = count(&document, "totals", "received") as f64;
    assert!((rate - received / 1.5).abs() < 1e-6 * rate, "{document}");
    assert!(document["window"]["drain_s"].as_f64() > Some(1.0), "{document}");
    let rows = document["intervals"].as_array().unwrap();
    let in_rows: u64 = rows.iter().map(|row| row["received"].as_u64().unwrap()).sum();
    assert_eq!(in_rows as f64, received);
    assert_eq!(rows.last().unwrap()["t_s"], 1.5);
}

#[test]
fn a_rate_that_is_not_offered_is_accepted_if_the_options_say_so() {
    let load = "--rate 1M --warmup 0 --duration 300ms --conns 1 --max-outstanding 1";
    let addr = serve(|| {
        |_, frame| {
            std::thread::sleep(Duration::from_millis(10));
            Answer::Bytes(frame)
        }
    });
    for (option, code) in [("", 6), ("--min-offered 0%", 0), ("--min-offered 50", 6)] {
        let ran = pktbench(&format!("--connect {addr} {load} {option}"));
        assert_eq!(ran.code, Some(code), "{ran:?}");
        let offered = ran.stdout.lines().find(|line| line.starts_with("offered ")).unwrap();
        assert!(offered.contains("0.0 % of 1,000,000 packets/s"), "{offered}");
    }
    let refused = pktbench(&format!("--connect {addr} {load} --min-offered 101%"));
    assert_eq!(refused.code, Some(2));
}
