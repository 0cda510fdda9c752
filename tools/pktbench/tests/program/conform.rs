//! `pktbench conform` against our own server, and against servers that each do one thing wrong.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::{Ran, pktbench, start};
use pktconn::{Addr, Checksum, CodecConfig, ConnConfig, HeaderFormat, ServerConfig};
use serde_json::Value;

/// The payload limit of the servers here: above 64 KiB, and low enough for short runs.
const LIMIT: usize = 100_000;

fn config(codec: CodecConfig, limit: usize) -> ServerConfig {
    ServerConfig::new().conn(ConnConfig::new().codec(codec.max_payload_len(limit)))
}

/// Tests our server and checks that all cases pass. The timeout is long enough for a busy machine.
#[track_caller]
fn check_ours(addr: impl Into<Addr>, codec: CodecConfig, options: &str) -> Ran {
    let (addr, _) = start(addr, config(codec, LIMIT));
    let ran = pktbench(&format!("conform {addr} {options} --timeout 30s"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    let rows: Vec<_> = ran.stdout.lines().collect();
    let (summary, cases) = rows.split_last().unwrap();
    assert!(cases.iter().all(|row| row.starts_with("pass  ")), "{}", ran.stdout);
    assert_eq!(*summary, format!("{} passed, 0 failed", cases.len()));
    ran
}

#[track_caller]
fn assert_has(ran: &Ran, names: &[&str]) {
    for name in names {
        assert!(ran.stdout.lines().any(|row| row == format!("pass  {name}")), "no {name}: {}", ran.stdout);
    }
}

#[test]
fn our_server_passes_all_cases() {
    let ran = check_ours("127.0.0.1:0", CodecConfig::new(), "--max-payload 100000");
    assert_has(&ran, &["empty-packet", "size-1", "size-65535", "size-65536", "size-65537", "size-100000"]);
    assert_has(
        &ran,
        &["typed-integers", "one-byte-chunks", "many-in-one-segment", "pipelined", "half-close"],
    );
    assert_has(&ran, &["cut-after-1-of-7", "cut-after-6-of-7", "truncated-after-6-of-7"]);
    assert_has(&ran, &["others-go-on", "over-long-100001", "over-long-4294967295"]);
    assert!(!ran.stdout.contains("checksum"), "{}", ran.stdout);
}

#[test]
fn our_server_passes_with_the_checksum() {
    let codec = CodecConfig::new().checksum(Checksum::Crc32);
    let ran = check_ours("127.0.0.1:0", codec, "--crc --max-payload 100000");
    assert_has(&ran, &["wrong-checksum", "altered-payload", "wrong-checksum-of-an-empty-packet"]);
    assert_has(&ran, &["cut-after-10-of-11", "truncated-after-10-of-11"]);
}

#[test]
fn our_server_passes_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    check_ours(Addr::unix(dir.path().join("socket")), CodecConfig::new(), "--max-payload 100000");
}

#[test]
fn our_server_passes_with_every_other_header() {
    for header in [HeaderFormat::U32Be, HeaderFormat::U16Le, HeaderFormat::U16Be] {
        let limit = if header == HeaderFormat::U32Be { "--max-payload 100000" } else { "" };
        let codec = CodecConfig::new().header(header);
        let ran = check_ours("127.0.0.1:0", codec, &format!("--header {header} {limit}"));
        // Over-long lengths are only tested if the header can express them.
        let is_short = header.max_payload_len() < LIMIT;
        assert_eq!(ran.stdout.contains("over-long"), !is_short, "{header}: {}", ran.stdout);
        assert_has(&ran, &[if is_short { "size-65535" } else { "size-100000" }, "others-go-on"]);
    }
}

#[test]
fn the_smallest_limits_have_cases_too() {
    for limit in [0, 1] {
        let (addr, _) = start("127.0.0.1:0", config(CodecConfig::new(), limit));
        let ran = pktbench(&format!("conform {addr} --max-payload {limit} --timeout 30s"));
        assert_eq!(ran.code, Some(0), "{}", ran.stdout);
        assert_has(&ran, &["empty-packet", "others-go-on", &format!("over-long-{}", limit + 1)]);
    }
}

/// The fault of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    DropsEmptyPackets,
    CutsAt64KiB,
    CorruptsTheLastByte,
    ChangesInfinityToNaN,
    ExpectsWholeFramesInEachRead,
    DuplicatesTheLongest,
    WaitsForWholeReads,
    ReordersBursts,
    StaysOpenAtOverLong,
    EchoesOverLong,
    ClosesAllConnectionsForABadOne,
    DropsAnswersAtTheEnd,
    StaysOpenAtTheEnd,
    EchoesTruncated,
    StaysOpenWhenTruncated,
    StopsAfterTruncated,
    IgnoresChecksums,
    SkipsWrongChecksums,
    ChecksumsOnlyThePayload,
    ServesOneAtATime,
}

/// Starts a server with a fault. It uses the default header and runs until the end of the process.
fn faulty(wrong: Wrong, limit: usize, has_crc: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let is_stopped = Arc::new(AtomicBool::new(false));
    let all = Arc::new(Mutex::new(Vec::new()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            if is_stopped.load(Ordering::SeqCst) {
                continue;
            }
            let (is_stopped, all) = (Arc::clone(&is_stopped), Arc::clone(&all));
            if wrong == Wrong::ClosesAllConnectionsForABadOne {
                all.lock().unwrap().push(stream.try_clone().unwrap());
            }
            let one = move || {
                let server =
                    Faulty { stream: &stream, wrong, limit, has_crc, received: Vec::new(), ended: false };
                let Err(error) = server.serve() else { return };
                // Decide about the other connections before this one is closed.
                let is_truncated = error.kind() == ErrorKind::UnexpectedEof;
                is_stopped.store(wrong == Wrong::StopsAfterTruncated && is_truncated, Ordering::SeqCst);
                if error.kind() != ErrorKind::InvalidData {
                    // Not a bad connection: perhaps it was one of those that were closed.
                    return;
                }
                for other in all.lock().unwrap().drain(..) {
                    let _ = other.shutdown(Shutdown::Both);
                }
            };
            if wrong == Wrong::ServesOneAtATime {
                one();
            } else {
                thread::spawn(one);
            }
        }
    });
    addr
}

struct Faulty<'a> {
    stream: &'a TcpStream,
    wrong: Wrong,
    limit: usize,
    has_crc: bool,
    received: Vec<u8>,
    ended: bool,
}

/// How long `DropsAnswersAtTheEnd` waits for more packets before it answers.
const QUIET_TIME: Duration = Duration::from_millis(100);

impl Faulty<'_> {
    /// Serves the connection. After an error it must be closed.
    fn serve(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        if self.wrong == Wrong::DropsAnswersAtTheEnd {
            self.stream.set_read_timeout(Some(QUIET_TIME))?;
        }
        let mut answers = Vec::new();
        loop {
            while let Some(frame) = self.frame()? {
                answers.push(self.answer(frame)?);
            }
            let is_held = match self.wrong {
                Wrong::DropsAnswersAtTheEnd => true,
                Wrong::WaitsForWholeReads => !self.received.is_empty() && !self.ended,
                _ => false,
            };
            if !is_held {
                self.write(&mut answers)?;
            }
            if self.wrong == Wrong::ExpectsWholeFramesInEachRead && !self.received.is_empty() {
                return Err(ErrorKind::InvalidData.into());
            }
            if self.ended {
                return self.end();
            }
            if !self.read()? {
                self.write(&mut answers)?;
            }
        }
    }

    fn write(&self, answers: &mut Vec<Vec<u8>>) -> io::Result<()> {
        if self.wrong == Wrong::ReordersBursts && answers.len() > 2 {
            answers.swap(0, 1);
        }
        let mut stream = self.stream;
        stream.write_all(&std::mem::take(answers).concat())
    }

    /// Reads once. Returns whether bytes or the end of the stream came.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 64 * 1024];
        let mut stream = self.stream;
        match stream.read(&mut chunk) {
            Ok(count) => {
                self.received.extend_from_slice(&chunk[..count]);
                self.ended = count == 0;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The next frame, if it is complete.
    fn frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(header) = self.received.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*header) as usize;
        if len > self.limit {
            match self.wrong {
                Wrong::StaysOpenAtOverLong => return Ok(None),
                Wrong::EchoesOverLong => {
                    let mut stream = self.stream;
                    stream.write_all(&self.received)?;
                }
                _ => {}
            }
            return Err(ErrorKind::InvalidData.into());
        }
        let frame_len = 4 + len + if self.has_crc { 4 } else { 0 };
        let is_whole = self.received.len() >= frame_len;
        Ok(is_whole.then(|| self.received.drain(..frame_len).collect()))
    }

    /// The response to a frame.
    fn answer(&self, mut frame: Vec<u8>) -> io::Result<Vec<u8>> {
        if self.has_crc {
            let (summed, sum) = frame.split_last_chunk::<4>().unwrap();
            let is_right = crc32fast::hash(summed).to_le_bytes() == *sum;
            match self.wrong {
                Wrong::IgnoresChecksums => {}
                Wrong::SkipsWrongChecksums if !is_right => return Ok(Vec::new()),
                Wrong::ChecksumsOnlyThePayload => {
                    let sum = crc32fast::hash(&summed[4..]).to_le_bytes();
                    let at = frame.len() - 4;
                    frame[at..].copy_from_slice(&sum);
                }
                _ if !is_right => return Err(ErrorKind::InvalidData.into()),
                _ => {}
            }
        }
        let payload_len = frame.len() - 4;
        match self.wrong {
            Wrong::DropsEmptyPackets if payload_len == 0 => frame.clear(),
            Wrong::CutsAt64KiB if payload_len > 1 << 16 => {
                frame.truncate(4 + (1 << 16));
                frame[..4].copy_from_slice(&(1_u32 << 16).to_le_bytes());
            }
            Wrong::CorruptsTheLastByte if payload_len > 90_000 => *frame.last_mut().unwrap() ^= 1,
            Wrong::ChangesInfinityToNaN if frame.ends_with(&f64::INFINITY.to_le_bytes()) => {
                frame.truncate(frame.len() - 8);
                frame.extend(f64::NAN.to_le_bytes());
            }
            Wrong::DuplicatesTheLongest if payload_len == self.limit => frame = frame.repeat(2),
            _ => {}
        }
        Ok(frame)
    }

    fn end(&mut self) -> io::Result<()> {
        let is_truncated = !self.received.is_empty();
        let mut stream = self.stream;
        match self.wrong {
            Wrong::EchoesTruncated => stream.write_all(&self.received),
            Wrong::StaysOpenWhenTruncated if is_truncated => stay_open(stream),
            Wrong::StopsAfterTruncated if is_truncated => Err(ErrorKind::UnexpectedEof.into()),
            Wrong::StaysOpenAtTheEnd if !is_truncated => stay_open(stream),
            _ => stream.shutdown(Shutdown::Write),
        }
    }
}

/// Keeps the connection open until the client is gone.
fn stay_open(mut stream: &TcpStream) -> io::Result<()> {
    thread::sleep(Duration::from_secs(60));
    stream.write_all(&[0])
}

/// Tests a faulty server. Returns the names of the failed cases, and what their rows say.
fn failures(wrong: Wrong, limit: usize, options: &str) -> Vec<(String, String)> {
    let addr = faulty(wrong, limit, options.contains("--crc"));
    let ran = pktbench(&format!("conform {addr} --max-payload {limit} {options}"));
    assert_eq!(ran.stderr, "", "{wrong:?}");
    let rows: Vec<_> = ran.stdout.lines().filter_map(|row| row.strip_prefix("FAIL  ")).collect();
    assert_eq!(ran.code, Some(i32::from(!rows.is_empty())), "{wrong:?}: {}", ran.stdout);
    assert!(ran.stdout.ends_with(&format!(" passed, {} failed\n", rows.len())), "{}", ran.stdout);
    rows.into_iter()
        .map(|row| {
            let (name, rest) = row.split_once(": ").unwrap();
            (name.to_owned(), rest.to_owned())
        })
        .collect()
}

/// Checks that exactly the cases `names` fail, and that the row of the first one contains `told`.
#[track_caller]
fn check(wrong: Wrong, limit: usize, options: &str, names: &[impl AsRef<str>], told: &str) {
    let failures = failures(wrong, limit, options);
    let failed: Vec<_> = failures.iter().map(|(name, _)| name.as_str()).collect();
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    assert_eq!(failed, names, "{wrong:?}: {failures:?}");
    let (_, row) = &failures[0];
    assert!(row.starts_with("expected ") && row.contains(told), "{wrong:?}: {row}");
}

/// The cases that cut a frame with an empty payload.
fn cuts(what: &str) -> [String; 3] {
    [1, 2, 3].map(|at| format!("{what}-after-{at}-of-4"))
}

/// A short timeout for faults that end in a timeout. The cases that pass must also finish within it.
const IMPATIENT: &str = "--timeout 2s";

#[test]
fn a_hand_written_server_without_faults_passes() {
    for options in ["", "--crc"] {
        assert_eq!(failures(Wrong::Nothing, LIMIT, options), [], "{options}");
    }
}

#[test]
fn a_server_that_drops_empty_packets_fails() {
    let told = "the empty packet back; timed out after 2s; 0 bytes received, 4 missing; received: nothing";
    check(
        Wrong::DropsEmptyPackets,
        LIMIT,
        IMPATIENT,
        &["empty-packet", "empty-packets-between-others"],
        told,
    );
}

#[test]
fn a_server_that_cuts_payloads_at_64_kib_fails_for_longer_ones() {
    let told = "at offset 0 of the response: 00 instead of 01; received: 00000100";
    check(Wrong::CutsAt64KiB, LIMIT, "", &["size-65537", "size-100000"], told);
}

#[test]
fn a_corrupted_byte_is_reported_with_its_offset_and_the_bytes_around_it() {
    let failures = failures(Wrong::CorruptsTheLastByte, LIMIT, "");
    let [(name, row)] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!(name, "size-100000");
    assert!(row.contains("at offset 100003 of the response: "), "{row}");
    let (_, came) = row.split_once("; received: ...").unwrap();
    let (right, wrong) = came.split_once(' ').unwrap();
    assert_eq!((right.len(), wrong.len()), (32, 2), "16 right bytes and the wrong one: {row}");
}

#[test]
fn a_server_that_changes_a_typed_value_fails() {
    let told = "the typed values back unchanged; at offset 24 of the response: f8 instead of f0";
    check(Wrong::ChangesInfinityToNaN, LIMIT, "", &["typed-floats"], told);
}

#[test]
fn a_server_that_expects_whole_frames_in_each_read_fails() {
    // Long packets may pass or fail, depending on how they are read.
    let failures = failures(Wrong::ExpectsWholeFramesInEachRead, 64, "");
    let failed: Vec<_> = failures.iter().map(|(name, _)| name.as_str()).collect();
    assert!(failed.contains(&"one-byte-chunks"), "{failures:?}");
    assert_eq!(failed.iter().filter(|name| name.starts_with("cut-")).count(), 6, "{failures:?}");
}

#[test]
fn a_duplicate_is_found() {
    let told = "the packet of 100000 bytes back, and nothing after it; at offset 100004 of the response: a0";
    check(Wrong::DuplicatesTheLongest, LIMIT, "", &["size-100000"], told);
}

#[test]
fn a_server_that_answers_only_after_complete_reads_fails_the_cut_cases() {
    check(Wrong::WaitsForWholeReads, 0, IMPATIENT, &cuts("cut"), "the packet before the cut back at once");
}

#[test]
fn a_server_that_reorders_packets_of_a_burst_fails() {
    let failures = failures(Wrong::ReordersBursts, LIMIT, IMPATIENT);
    assert!(failures.iter().any(|(name, _)| name == "many-in-one-segment"), "{failures:?}");
}

#[test]
fn a_server_that_stays_open_at_an_over_long_header_fails() {
    let names = ["others-go-on", "over-long-100001", "over-long-4294967295"];
    check(Wrong::StaysOpenAtOverLong, LIMIT, IMPATIENT, &names, "the connection was still open after 2s");
}

#[test]
fn a_server_that_echoes_an_over_long_header_fails() {
    let names = ["others-go-on", "over-long-100001", "over-long-4294967295"];
    check(
        Wrong::EchoesOverLong,
        LIMIT,
        "",
        &names,
        "more bytes came after the 9 expected ones; received: 05000000",
    );
}

#[test]
fn a_server_that_stops_after_a_bad_connection_fails() {
    let told = "the connection closed; on a connection opened afterwards: the connection was ";
    check(Wrong::StopsAfterTruncated, 0, "", &cuts("truncated"), told);
}

#[test]
fn a_server_that_closes_all_connections_because_of_a_bad_one_fails() {
    let told = "closed; on the other connection: the connection was ";
    check(Wrong::ClosesAllConnectionsForABadOne, LIMIT, "", &["others-go-on"], told);
}

#[test]
fn a_server_that_serves_one_connection_at_a_time_fails() {
    check(Wrong::ServesOneAtATime, LIMIT, IMPATIENT, &["others-go-on"], "timed out after 2s; ");
}

#[test]
fn a_server_that_drops_its_answers_at_the_end_of_the_stream_fails() {
    let mut names = vec!["half-close".to_owned(), "half-close-with-much-outstanding".to_owned()];
    names.extend(cuts("truncated"));
    let told =
        "all 100 packets back and then the end of the stream; the connection was closed; 0 bytes received";
    check(Wrong::DropsAnswersAtTheEnd, 0, "", &names, told);
}

#[test]
fn a_server_that_stays_open_at_the_end_of_the_stream_fails() {
    let names = ["half-close-without-a-packet", "half-close", "half-close-with-much-outstanding"];
    check(Wrong::StaysOpenAtTheEnd, LIMIT, IMPATIENT, &names, "the connection was still open after 2s");
}

#[test]
fn a_server_that_answers_a_truncated_frame_fails() {
    let mut names: Vec<_> = (1..7).map(|at| format!("truncated-after-{at}-of-7")).collect();
    names.push("truncated-after-8194-of-16388".to_owned());
    let told = "more bytes came after the 25 expected ones; received: ...";
    check(Wrong::EchoesTruncated, LIMIT, "", &names, told);
}

#[test]
fn a_server_that_stays_open_when_a_frame_is_truncated_fails() {
    let told = "the connection was still open after 2s";
    check(Wrong::StaysOpenWhenTruncated, 0, IMPATIENT, &cuts("truncated"), told);
}

#[test]
fn a_server_that_ignores_a_wrong_checksum_fails() {
    let names = ["wrong-checksum", "altered-payload", "wrong-checksum-of-an-empty-packet"];
    check(Wrong::IgnoresChecksums, LIMIT, "--crc", &names, "closed, for a wrong checksum; more bytes came");
}

#[test]
fn a_server_that_skips_a_wrong_checksum_and_continues_fails() {
    let names = ["wrong-checksum", "altered-payload", "wrong-checksum-of-an-empty-packet"];
    check(
        Wrong::SkipsWrongChecksums,
        LIMIT,
        "--crc",
        &names,
        "for a wrong checksum; more bytes came after the 13 expected ones",
    );
}

#[test]
fn a_checksum_that_does_not_cover_the_header_fails() {
    let failures = failures(Wrong::ChecksumsOnlyThePayload, LIMIT, "--crc");
    let (name, row) = &failures[0];
    assert_eq!(name, "empty-packet");
    // 0 is the CRC-32 of an empty payload.
    assert!(
        row.contains("at offset 4 of the response: 00 instead of 1c; received: 00000000 00000000"),
        "{row}"
    );
}

#[test]
fn the_json_document_has_every_case() {
    let addr = faulty(Wrong::CutsAt64KiB, LIMIT, false);
    let ran = pktbench(&format!("conform {addr} --max-payload {LIMIT} --json"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), ""));
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["schema"], "pktbench-conform/1");
    assert_eq!(document["server"], addr.to_string());
    let cases = document["cases"].as_array().unwrap();
    assert_eq!(document["failed"], 2);
    assert_eq!(document["passed"], cases.len() - 2);
    let case = |name| cases.iter().find(|case| case["name"] == name).unwrap();
    assert_eq!(case("size-65536")["ok"], true);
    assert_eq!(case("size-65536")["got"], Value::Null);
    assert_eq!(case("size-65537")["ok"], false);
    assert!(case("size-65537")["got"].as_str().unwrap().starts_with("00000100"), "{document}");
}

/// Accepts connections, and either closes them at once or keeps them open without an answer.
fn mute(closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            if !closes {
                open.push(stream);
            }
        }
    });
    addr
}

#[test]
fn a_server_that_answers_nothing_is_given_up_after_three_cases() {
    // A listener that accepts nothing: the kernel makes the connections.
    let not_accepting = TcpListener::bind("127.0.0.1:0").unwrap();
    for addr in [mute(false), mute(true), not_accepting.local_addr().unwrap()] {
        let ran = pktbench(&format!("conform {addr} --timeout 0.2"));
        let rows: Vec<_> = ran.stdout.lines().collect();
        assert_eq!((rows.len(), ran.code), (4, Some(1)), "{ran:?}");
        assert!(rows[..3].iter().all(|row| row.starts_with("FAIL  ")), "{ran:?}");
        assert!(rows[3].starts_with("0 passed, 3 failed, "), "{ran:?}");
        assert!(rows[3].contains(" not run: the server answers nothing ("), "{ran:?}");
        let ran = pktbench(&format!("conform {addr} --timeout 200ms --json"));
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&document["failed"], ran.code), (&3.into(), Some(1)), "{document}");
        assert!(document["not_run"].as_u64() > Some(50), "{document}");
        assert!(
            document["gave_up"].as_str().unwrap().starts_with("the server answers nothing"),
            "{document}"
        );
    }
}

#[test]
fn a_server_that_falls_silent_during_the_test_is_given_up() {
    let mut conns = 0;
    let addr = crate::common::serve(move || {
        conns += 1;
        let is_silent = conns > 10;
        move |_, frame| crate::common::Answer::Bytes(if is_silent { Vec::new() } else { frame })
    });
    let ran = pktbench(&format!("conform {addr} --max-payload 100000 --timeout 0.3"));
    let summary = ran.stdout.lines().last().unwrap();
    assert!(summary.contains(" passed, 3 failed, ") && summary.contains("answers nothing"), "{}", ran.stdout);
    assert!(!summary.starts_with("0 passed"), "{summary}");
}

#[test]
fn an_unreachable_server_is_one_line_with_the_reason() {
    for (addr, reason) in [
        ("unix:/nowhere/socket", "cannot connect to unix:/nowhere/socket: No such file"),
        ("nowhere.invalid:80", "cannot resolve nowhere.invalid:80"),
    ] {
        let ran = pktbench(&format!("conform {addr} --json"));
        let line = ran.error_line();
        assert!(line.starts_with(&format!("error: {reason}")), "{line}");
        assert_eq!(ran.code, Some(1));
    }
}

#[test]
fn bad_usage_is_one_line_that_says_what_to_do() {
    for (args, expected) in [
        ("", "<ADDR>"),
        ("nowhere", "an address is HOST:PORT"),
        ("127.0.0.1:1 --header u16le --max-payload 64KiB", "is above 65535, the maximum of --header u16le"),
        ("127.0.0.1:1 --timeout 0s", "give it a time, such as 5s"),
        ("127.0.0.1:1 --conns 3", "unexpected argument '--conns'"),
    ] {
        let ran = pktbench(&format!("conform {args}"));
        let line = ran.error_line();
        assert!(line.starts_with("error: ") && line.contains(expected), "{args}: {line}");
        assert_eq!(ran.code, Some(2), "{args}");
    }
}
