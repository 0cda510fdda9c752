//! Runs against servers that each do one thing wrong.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use crate::common::{Answer, Ran, assert_passed, count, frame, pktbench, serve, serve_with_trailer};
use serde_json::{Value, json};

/// Four packets outstanding. All packets have 8 bytes or more, so they differ.
const FOUR: &str = "--conns 1 --pipeline 4 --sizes 8-64";

/// One packet outstanding. When the server closes the connection, it has no unread bytes that would cause a reset.
const ONE: &str = "--conns 1 --pipeline 1 --sizes 8-64";

/// A short timeout for servers that do not answer. Other tests use the default and do not wait for it.
const IMPATIENT: &str = "--timeout 1s";

/// Sends 40 packets with these options.
fn load(addr: SocketAddr, options: &[&str]) -> Ran {
    pktbench(&format!("--connect {addr} --packets 40 --json {}", options.join(" ")))
}

/// A server that answers packet 7 with `wrong`, and echoes the others.
fn wrong_at_7(wrong: fn(Vec<u8>) -> Answer) -> SocketAddr {
    serve(move || {
        move |number, frame| match number {
            7 => wrong(frame),
            _ => Answer::Bytes(frame),
        }
    })
}

/// Checks the counts of `integrity`. Counts that are not given must be 0.
#[track_caller]
fn check(document: &Value, verified: u64, others: &[(&str, u64)]) {
    assert_eq!(count(document, "integrity", "verified"), verified, "{document}");
    for name in ["corrupted", "reordered", "duplicated", "lost", "unanswered"] {
        let expected = others.iter().find(|(other, _)| *other == name).map_or(0, |(_, count)| *count);
        assert_eq!(count(document, "integrity", name), expected, "{name}: {document}");
    }
}

#[test]
fn a_server_without_faults_passes() {
    let ran = load(wrong_at_7(Answer::Bytes), &[FOUR]);
    check(&ran.document(), 40, &[]);
    assert_eq!(ran.code, Some(0));
    assert_passed(&ran.document());
}

#[test]
fn a_corrupted_byte_is_found_at_any_position() {
    let corruptions: [fn(Vec<u8>) -> Answer; 3] = [
        |mut frame| {
            frame[4] ^= 1;
            Answer::Bytes(frame)
        },
        |mut frame| {
            let middle = 4 + (frame.len() - 4) / 2;
            frame[middle] ^= 0x80;
            Answer::Bytes(frame)
        },
        |mut frame| {
            *frame.last_mut().unwrap() ^= 0x10;
            Answer::Bytes(frame)
        },
    ];
    for corrupt in corruptions {
        let ran = load(wrong_at_7(corrupt), &[FOUR]);
        check(&ran.document(), 39, &[("corrupted", 1)]);
        assert_eq!(ran.code, Some(3));
        assert_eq!(ran.document()["verdict"], "integrity");
    }
}

#[test]
fn a_shortened_packet_is_corrupted() {
    let addr = wrong_at_7(|whole| Answer::Bytes(frame(&whole[4..whole.len() - 1])));
    let ran = load(addr, &[FOUR]);
    check(&ran.document(), 39, &[("corrupted", 1)]);
    assert_eq!(ran.code, Some(3));
}

#[test]
fn a_dropped_packet_is_lost() {
    let ran = load(wrong_at_7(|_| Answer::Bytes(Vec::new())), &[FOUR, IMPATIENT]);
    check(&ran.document(), 39, &[("lost", 1)]);
    assert_eq!(ran.code, Some(3));
}

#[test]
fn swapped_packets_are_reordered() {
    let addr = serve(|| {
        let mut held = Vec::new();
        move |number, frame| match number {
            7 => {
                held = frame;
                Answer::Bytes(Vec::new())
            }
            8 => Answer::Bytes([frame, std::mem::take(&mut held)].concat()),
            _ => Answer::Bytes(frame),
        }
    });
    let ran = load(addr, &[FOUR]);
    check(&ran.document(), 39, &[("reordered", 1)]);
    assert_eq!(ran.code, Some(3));
}

#[test]
fn a_packet_that_comes_twice_is_duplicated_even_if_it_is_the_last() {
    for duplicated in [7, 39] {
        let addr = serve(move || {
            move |number, frame: Vec<u8>| {
                Answer::Bytes(frame.repeat(if number == duplicated { 2 } else { 1 }))
            }
        });
        let ran = load(addr, &[FOUR]);
        check(&ran.document(), 40, &[("duplicated", 1)]);
        assert_eq!(ran.code, Some(3), "packet {duplicated}");
    }
}

#[test]
fn a_server_that_never_answers_is_no_answer_and_no_integrity_violation() {
    let ran = load(serve(|| |_, _| Answer::Bytes(Vec::new())), &[FOUR, IMPATIENT]);
    let document = ran.document();
    check(&document, 0, &[("unanswered", 4)]);
    assert_eq!((ran.code, &document["verdict"]), (Some(5), &json!("no_answer")));
    let service = &document["latency_ns"]["service"];
    assert_eq!((&service["count"], &service["censored"]), (&json!(0), &json!(4)));
    assert!(service["max"].as_u64() > Some(900_000_000), "the packets waited for the timeout: {service}");
}

#[test]
fn a_timed_run_ends_even_if_the_server_stalls() {
    let addr = wrong_at_7(|_| Answer::Bytes(Vec::new()));
    let ran = pktbench(&format!("--connect {addr} --warmup 0 --duration 1s --timeout 100ms --json {ONE}"));
    check(&ran.document(), 7, &[("unanswered", 1)]);
    assert_eq!(ran.code, Some(5));
}

#[test]
fn endless_duplicates_do_not_delay_the_end_of_the_run() {
    let addr = serve(|| {
        let mut last = Vec::new();
        move |number, frame: Vec<u8>| match number {
            7 => Answer::Flood(std::mem::take(&mut last)),
            _ => {
                last.clone_from(&frame);
                Answer::Bytes(frame)
            }
        }
    });
    let ran = load(addr, &[ONE, IMPATIENT]);
    let document = ran.document();
    assert_eq!(count(&document, "integrity", "verified"), 7);
    assert_eq!(count(&document, "integrity", "unanswered"), 1);
    assert!(count(&document, "integrity", "duplicated") > 0);
    assert_eq!(ran.code, Some(3));
}

#[test]
fn a_close_during_the_run_is_a_failed_connection() {
    let ran = load(wrong_at_7(|_| Answer::Last(Vec::new())), &[ONE]);
    let document = ran.document();
    // Packet 7 of each of five connections.
    check(&document, 35, &[("unanswered", 5)]);
    assert_eq!(count(&document, "errors", "eof"), 5);
    assert_eq!(count(&document, "connections", "opened"), 5);
    assert_eq!(count(&document, "connections", "replaced"), 4);
    assert_eq!(ran.code, Some(1));
    assert_eq!(document["verdict"], "failed");
    let first = "connection 0: the server closed the connection (unanswered packets: 1)";
    assert_eq!(document["errors"]["first"], first);
}

#[test]
fn a_close_in_the_middle_of_a_frame_is_counted_as_truncated() {
    let ran = load(wrong_at_7(|frame| Answer::Last(frame[..6].to_vec())), &[ONE]);
    let document = ran.document();
    check(&document, 35, &[("unanswered", 5)]);
    assert_eq!(count(&document, "errors", "truncated"), 5);
    assert_eq!(ran.code, Some(1));
}

#[test]
fn a_frame_over_the_limit_fails_the_connection() {
    let ran = load(wrong_at_7(|_| Answer::Bytes(u32::MAX.to_le_bytes().to_vec())), &[ONE]);
    let document = ran.document();
    check(&document, 35, &[("unanswered", 5)]);
    assert_eq!(count(&document, "errors", "protocol"), 5);
    assert_eq!(ran.code, Some(1));
}

#[test]
fn a_wrong_checksum_fails_the_connection_before_the_packet_is_judged() {
    let addr = serve_with_trailer(4, || {
        |number, mut frame: Vec<u8>| {
            frame[4] ^= u8::from(number == 7);
            Answer::Bytes(frame)
        }
    });
    let ran = load(addr, &[ONE, "--crc"]);
    let document = ran.document();
    check(&document, 35, &[("unanswered", 5)]);
    assert_eq!(count(&document, "errors", "checksum"), 5);
    assert_eq!(ran.code, Some(1));
}

#[test]
fn a_failed_connection_does_not_hide_a_corrupted_packet() {
    let addr = serve(|| {
        |number, mut frame: Vec<u8>| {
            frame[4] ^= u8::from(number == 3);
            if number == 7 { Answer::Last(Vec::new()) } else { Answer::Bytes(frame) }
        }
    });
    let ran = load(addr, &[ONE]);
    let document = ran.document();
    check(&document, 30, &[("corrupted", 5), ("unanswered", 5)]);
    assert_eq!(count(&document, "errors", "eof"), 5);
    assert_eq!(ran.code, Some(3));
}

#[test]
fn an_answer_to_an_incompletely_sent_packet_does_not_end_the_load() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&frame(b"too early")).unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream)
    });
    // Packets that are larger than the socket buffers.
    let ran = pktbench(&format!("--connect {addr} --conns 1 --sizes 16MiB --packets 2 --json"));
    let document = ran.document();
    assert_eq!(count(&document, "totals", "sent"), 2, "{document}");
    check(&document, 1, &[("corrupted", 1), ("duplicated", 1)]);
    assert_eq!(ran.code, Some(3));
}

#[test]
fn a_run_ends_if_the_server_stops_reading() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&frame(b"too early")).unwrap();
        // Keep the connection open without reading.
        std::thread::sleep(std::time::Duration::from_secs(60));
        drop(stream);
    });
    let ran = pktbench(&format!("--connect {addr} --conns 1 --sizes 16MiB --packets 1 --timeout 1s --json"));
    check(&ran.document(), 0, &[("corrupted", 1)]);
    assert_eq!(ran.code, Some(3));
}

#[test]
fn a_connection_that_failed_is_replaced_and_the_others_continue() {
    let mut accepted = 0;
    let addr = serve(move || {
        accepted += 1;
        let is_first = accepted == 1;
        move |_, frame| if is_first { Answer::Last(Vec::new()) } else { Answer::Bytes(frame) }
    });
    let ran = load(addr, &["--conns 4 --pipeline 1 --sizes 8-64"]);
    check(&ran.document(), 39, &[("unanswered", 1)]);
    assert_eq!(ran.code, Some(1));
}

#[test]
fn errors_within_their_budget_do_not_fail_the_run() {
    let cases = [
        ("errors<=5", 0, "pass"),
        ("errors<20%", 0, "pass"),
        ("errors<=4", 1, "failed"),
        ("errors<5%", 1, "failed"),
    ];
    for (condition, code, verdict) in cases {
        let ran = load(wrong_at_7(|_| Answer::Last(Vec::new())), &[ONE, "--threshold", condition]);
        assert_eq!((ran.code, &ran.document()["verdict"]), (Some(code), &json!(verdict)), "{condition}");
    }
}

#[test]
fn lost_packets_within_their_budget_do_not_fail_the_run() {
    for (condition, code) in [("lost<=1", 0), ("lost<5%", 0), ("lost<1", 3), ("lost<1%", 3)] {
        let addr = wrong_at_7(|_| Answer::Bytes(Vec::new()));
        let ran = load(addr, &[FOUR, IMPATIENT, "--threshold", condition]);
        check(&ran.document(), 39, &[("lost", 1)]);
        assert_eq!(ran.code, Some(code), "{condition}");
    }
}

#[test]
fn a_server_that_closes_every_connection_ends_the_run_early() {
    let ran = pktbench(&format!(
        "--connect {} --duration 60s --json {ONE}",
        serve(|| |_, _| Answer::Last(Vec::new()))
    ));
    let document = ran.document();
    assert_eq!((ran.code, &document["verdict"]), (Some(1), &json!("failed")));
    assert!(document["window"]["seconds"].as_f64() < Some(50.0), "{}", document["window"]);
    assert!(count(&document, "errors", "eof") >= 4, "{}", document["errors"]);
}

#[test]
fn a_packet_that_is_not_answered_in_its_time_fails_its_connection() {
    let ran = load(wrong_at_7(|_| Answer::Bytes(Vec::new())), &[ONE, "--packet-timeout 200ms"]);
    let document = ran.document();
    check(&document, 35, &[("unanswered", 5)]);
    assert_eq!(count(&document, "errors", "timeout"), 5);
    assert_eq!((ran.code, &document["verdict"]), (Some(5), &json!("no_answer")));
    let oldest = document["latency_ns"]["service"]["max"].as_u64().unwrap();
    assert!(oldest >= 200_000_000, "{oldest} ns");
}

#[test]
fn the_text_report_names_the_failure() {
    let addr = wrong_at_7(|_| Answer::Last(Vec::new()));
    let ran = pktbench(&format!("--connect {addr} --packets 40 {ONE}"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), ""));
    let expected = "errors      5 of 5 connections failed (5 eof); first error: connection 0: the\n";
    assert!(ran.stdout.contains(expected), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("(exit code 1)\n"), "{}", ran.stdout);
}

#[test]
fn the_same_seed_sends_the_same_bytes() {
    let sent_with = |seed: &str| {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&sent);
        let addr = serve(move || {
            let log = Arc::clone(&log);
            move |_, frame: Vec<u8>| {
                log.lock().unwrap().push(frame.clone());
                Answer::Bytes(frame)
            }
        });
        assert_eq!(load(addr, &[FOUR, "--seed", seed]).code, Some(0));
        let sent = sent.lock().unwrap().clone();
        assert_eq!(sent.len(), 40);
        sent
    };
    let first = sent_with("5");
    assert_eq!(first, sent_with("5"));
    assert_ne!(first, sent_with("6"));
}
