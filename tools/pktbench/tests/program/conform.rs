//! What `pktbench conform` says of servers: of ours, and of such that do wrong, each in one way.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::{Ran, pktbench, start};
use pktconn::{Addr, Checksum, CodecConfig, ConnConfig, HeaderFormat, ServerConfig};
use serde_json::Value;

/// The limit of the servers here: above 64 KiB, and not so far that a run takes long.
const LIMIT: usize = 100_000;

fn config(codec: CodecConfig, limit: usize) -> ServerConfig {
    ServerConfig::new().conn(ConnConfig::new().codec(codec.max_payload_len(limit)))
}

/// Judges our server, with time enough for a machine that has much to do.
#[track_caller]
fn check_ours(addr: impl Into<Addr>, codec: CodecConfig, options: &str) -> Ran {
    let (addr, _) = start(addr, config(codec, LIMIT));
    let ran = pktbench(&format!("conform {addr} {options} --timeout 30s"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    let rows: Vec<_> = ran.stdout.lines().collect();
    let (sum, cases) = rows.split_last().unwrap();
    assert!(cases.iter().all(|row| row.starts_with("pass  ")), "{}", ran.stdout);
    assert_eq!(*sum, format!("{} passed, 0 failed", cases.len()));
    ran
}

#[track_caller]
fn assert_has(ran: &Ran, names: &[&str]) {
    for name in names {
        assert!(ran.stdout.lines().any(|row| row == format!("pass  {name}")), "no {name}: {}", ran.stdout);
    }
}

#[test]
fn our_server_passes_all_of_it() {
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
fn our_server_passes_by_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    check_ours(Addr::unix(dir.path().join("socket")), CodecConfig::new(), "--max-payload 100000");
}

#[test]
fn our_server_passes_with_every_other_header() {
    for header in [HeaderFormat::U32Be, HeaderFormat::U16Le, HeaderFormat::U16Be] {
        let limit = if header == HeaderFormat::U32Be { "--max-payload 100000" } else { "" };
        let codec = CodecConfig::new().header(header);
        let ran = check_ours("127.0.0.1:0", codec, &format!("--header {header} {limit}"));
        // What no header can say, none can be tested with.
        let is_short = header.max_payload_len() < LIMIT;
        assert_eq!(ran.stdout.contains("over-long"), !is_short, "{header}: {}", ran.stdout);
        assert_has(&ran, &[if is_short { "size-65535" } else { "size-100000" }, "others-go-on"]);
    }
}

#[test]
fn every_case_that_fits_is_tried_with_the_smallest_of_limits() {
    for limit in [0, 1] {
        let (addr, _) = start("127.0.0.1:0", config(CodecConfig::new(), limit));
        let ran = pktbench(&format!("conform {addr} --max-payload {limit} --timeout 30s"));
        assert_eq!(ran.code, Some(0), "{}", ran.stdout);
        assert_has(&ran, &["empty-packet", "others-go-on", &format!("over-long-{}", limit + 1)]);
    }
}

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    DropsEmptyPackets,
    CutsAt64KiB,
    AltersTheLastByte,
    MakesInfinityNaN,
    TakesAReadForWholeFrames,
    DoublesTheLongest,
    WaitsForWholeReads,
    ReordersBursts,
    KeepsOverLong,
    EchoesOverLong,
    ClosesAllAtABadOne,
    ForgetsAnswersAtTheEnd,
    StaysOpenAtTheEnd,
    EchoesTruncated,
    StaysOpenWhenTruncated,
    DiesOfTruncated,
    IgnoresChecksums,
    PassesOverWrongChecksums,
    SumsThePayloadAlone,
    ServesOneAtATime,
}

/// Serves connections until the end of the process, with the default header.
fn faulty(wrong: Wrong, limit: usize, has_crc: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let is_dead = Arc::new(AtomicBool::new(false));
    let all = Arc::new(Mutex::new(Vec::new()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            if is_dead.load(Ordering::SeqCst) {
                continue;
            }
            let (is_dead, all) = (Arc::clone(&is_dead), Arc::clone(&all));
            if wrong == Wrong::ClosesAllAtABadOne {
                all.lock().unwrap().push(stream.try_clone().unwrap());
            }
            let one = move || {
                let server =
                    Faulty { stream: &stream, wrong, limit, has_crc, received: Vec::new(), ended: false };
                let Err(error) = server.serve() else { return };
                // What becomes of the others is settled before this connection is closed.
                let is_truncated = error.kind() == ErrorKind::UnexpectedEof;
                is_dead.store(wrong == Wrong::DiesOfTruncated && is_truncated, Ordering::SeqCst);
                if error.kind() != ErrorKind::InvalidData {
                    // One that was closed itself, perhaps, and not a bad one.
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

/// What one of them waits for more, before it answers what has come. None of the others waits.
const LULL: Duration = Duration::from_millis(100);

impl Faulty<'_> {
    /// An error is a connection that has to be closed.
    fn serve(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        if self.wrong == Wrong::ForgetsAnswersAtTheEnd {
            self.stream.set_read_timeout(Some(LULL))?;
        }
        let mut answers = Vec::new();
        loop {
            while let Some(frame) = self.frame()? {
                answers.push(self.answer(frame)?);
            }
            let is_held = match self.wrong {
                Wrong::ForgetsAnswersAtTheEnd => true,
                Wrong::WaitsForWholeReads => !self.received.is_empty() && !self.ended,
                _ => false,
            };
            if !is_held {
                self.write(&mut answers)?;
            }
            if self.wrong == Wrong::TakesAReadForWholeFrames && !self.received.is_empty() {
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

    /// Whether anything came, be it the end.
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

    /// The next frame, once it is whole.
    fn frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(header) = self.received.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*header) as usize;
        if len > self.limit {
            match self.wrong {
                Wrong::KeepsOverLong => return Ok(None),
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

    /// The bytes that answer a frame.
    fn answer(&self, mut frame: Vec<u8>) -> io::Result<Vec<u8>> {
        if self.has_crc {
            let (summed, sum) = frame.split_last_chunk::<4>().unwrap();
            let is_right = crc32fast::hash(summed).to_le_bytes() == *sum;
            match self.wrong {
                Wrong::IgnoresChecksums => {}
                Wrong::PassesOverWrongChecksums if !is_right => return Ok(Vec::new()),
                Wrong::SumsThePayloadAlone => {
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
            Wrong::AltersTheLastByte if payload_len > 90_000 => *frame.last_mut().unwrap() ^= 1,
            Wrong::MakesInfinityNaN if frame.ends_with(&f64::INFINITY.to_le_bytes()) => {
                frame.truncate(frame.len() - 8);
                frame.extend(f64::NAN.to_le_bytes());
            }
            Wrong::DoublesTheLongest if payload_len == self.limit => frame = frame.repeat(2),
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
            Wrong::DiesOfTruncated if is_truncated => Err(ErrorKind::UnexpectedEof.into()),
            Wrong::StaysOpenAtTheEnd if !is_truncated => stay_open(stream),
            _ => stream.shutdown(Shutdown::Write),
        }
    }
}

/// Until the client has gone for good, which a write notices.
fn stay_open(mut stream: &TcpStream) -> io::Result<()> {
    thread::sleep(Duration::from_secs(60));
    stream.write_all(&[0])
}

/// The names of the cases that fail with this limit, and their rows.
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

/// Checks that these cases fail and no other, and that the row of the first one says `told`.
#[track_caller]
fn check(wrong: Wrong, limit: usize, options: &str, names: &[impl AsRef<str>], told: &str) {
    let failures = failures(wrong, limit, options);
    let failed: Vec<_> = failures.iter().map(|(name, _)| name.as_str()).collect();
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    assert_eq!(failed, names, "{wrong:?}: {failures:?}");
    let (_, row) = &failures[0];
    assert!(row.starts_with("expected ") && row.contains(told), "{wrong:?}: {row}");
}

/// A frame without a payload can be cut at so many places.
fn cuts(what: &str) -> [String; 3] {
    [1, 2, 3].map(|at| format!("{what}-after-{at}-of-4"))
}

/// For cases that fail at the end of their time; those that pass have to be done in it too.
const IMPATIENT: &str = "--timeout 2s";

#[test]
fn a_server_by_hand_that_does_no_wrong_passes() {
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
fn a_server_that_cuts_at_64_kib_fails_from_there_on() {
    let told = "at offset 0 of the response: 00 instead of 01; received: 00000100";
    check(Wrong::CutsAt64KiB, LIMIT, "", &["size-65537", "size-100000"], told);
}

#[test]
fn an_altered_byte_is_told_with_its_place_and_what_is_around_it() {
    let failures = failures(Wrong::AltersTheLastByte, LIMIT, "");
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
    check(Wrong::MakesInfinityNaN, LIMIT, "", &["typed-floats"], told);
}

#[test]
fn a_server_that_takes_each_read_for_whole_frames_fails() {
    // Of what is long it may fail or not, as the reads fall.
    let failures = failures(Wrong::TakesAReadForWholeFrames, 64, "");
    let failed: Vec<_> = failures.iter().map(|(name, _)| name.as_str()).collect();
    assert!(failed.contains(&"one-byte-chunks"), "{failures:?}");
    assert_eq!(failed.iter().filter(|name| name.starts_with("cut-")).count(), 6, "{failures:?}");
}

#[test]
fn an_answer_that_comes_twice_is_found() {
    let told = "the packet of 100000 bytes back, and nothing after it; at offset 100004 of the response: a0";
    check(Wrong::DoublesTheLongest, LIMIT, "", &["size-100000"], told);
}

#[test]
fn a_server_that_answers_only_when_nothing_is_left_to_read_fails_where_a_frame_is_cut() {
    check(Wrong::WaitsForWholeReads, 0, IMPATIENT, &cuts("cut"), "the packet before the cut back at once");
}

#[test]
fn a_server_that_reorders_what_comes_together_fails() {
    let failures = failures(Wrong::ReordersBursts, LIMIT, IMPATIENT);
    assert!(failures.iter().any(|(name, _)| name == "many-in-one-segment"), "{failures:?}");
}

#[test]
fn a_server_that_does_not_close_at_an_over_long_header_fails() {
    let names = ["others-go-on", "over-long-100001", "over-long-4294967295"];
    check(Wrong::KeepsOverLong, LIMIT, IMPATIENT, &names, "the connection was still open after 2s");
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
fn a_server_that_dies_of_a_bad_connection_fails_at_the_next_one() {
    let told = "the connection closed; on a connection opened afterwards: the connection was ";
    check(Wrong::DiesOfTruncated, 0, "", &cuts("truncated"), told);
}

#[test]
fn a_server_that_closes_every_connection_for_a_bad_one_fails() {
    let told = "closed; on the other connection: the connection was ";
    check(Wrong::ClosesAllAtABadOne, LIMIT, "", &["others-go-on"], told);
}

#[test]
fn a_server_for_one_connection_at_a_time_fails_where_there_are_two() {
    check(Wrong::ServesOneAtATime, LIMIT, IMPATIENT, &["others-go-on"], "timed out after 2s; ");
}

#[test]
fn a_server_that_forgets_its_answers_at_the_end_of_the_stream_fails() {
    let mut names = vec!["half-close".to_owned(), "half-close-with-much-outstanding".to_owned()];
    names.extend(cuts("truncated"));
    let told =
        "all 100 packets back and then the end of the stream; the connection was closed; 0 bytes received";
    check(Wrong::ForgetsAnswersAtTheEnd, 0, "", &names, told);
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
fn a_server_that_goes_on_behind_a_wrong_checksum_fails() {
    let names = ["wrong-checksum", "altered-payload", "wrong-checksum-of-an-empty-packet"];
    check(
        Wrong::PassesOverWrongChecksums,
        LIMIT,
        "--crc",
        &names,
        "for a wrong checksum; more bytes came after the 13 expected ones",
    );
}

#[test]
fn answers_with_another_sum_than_that_of_header_and_payload_fail() {
    let failures = failures(Wrong::SumsThePayloadAlone, LIMIT, "--crc");
    let (name, row) = &failures[0];
    assert_eq!(name, "empty-packet");
    // The sum of nothing.
    assert!(
        row.contains("at offset 4 of the response: 00 instead of 1c; received: 00000000 00000000"),
        "{row}"
    );
}

#[test]
fn a_program_is_told_of_every_case() {
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

#[test]
fn a_server_that_is_not_there_is_one_line_with_the_reason() {
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
