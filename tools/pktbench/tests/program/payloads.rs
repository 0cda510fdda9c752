//! `--payload`: the user's own payloads are sent, and every fault is counted even if they are equal to each other.

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use crate::common::{Answer, count, frame, pktbench, serve};
use serde_json::json;

/// A server that notes the payloads, and the receiver of the notes.
fn recording_server() -> (std::net::SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let (seen, payloads) = mpsc::channel();
    let addr = serve(move || {
        let seen = seen.clone();
        move |_, frame| {
            let _ = seen.send(frame[4..].to_vec());
            Answer::Bytes(frame)
        }
    });
    (addr, payloads)
}

#[test]
fn a_server_sees_the_payloads_in_their_order_and_the_result_names_them() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.ndjson"), "{\"id\":1}\n\n{\"id\":22}\r\n").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/2"), "second").unwrap();
    fs::write(dir.path().join("d/1"), b"\x00first\n").unwrap();
    let (lines, files) = (dir.path().join("a.ndjson"), dir.path().join("d"));
    let cases = [
        (format!("file:{}", lines.display()), vec![&b"{\"id\":1}"[..], b"{\"id\":22}"], "8-9"),
        (format!("file:{}", files.display()), vec![b"\x00first\n", b"second"], "6-7"),
        (format!("file:{}", files.join("2").display()), vec![b"second"], "6"),
        ("hex:00ff".to_owned(), vec![b"\x00\xff"], "2"),
    ];
    for (payload, expected, sizes) in cases {
        let (addr, seen) = recording_server();
        let load = "--conns 1 --pipeline 3 --packets 5";
        let ran = pktbench(&format!("--connect {addr} --payload {payload} {load} --json"));
        let document = ran.document();
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{document}");
        assert_eq!(document["config"]["payload"], json!(payload));
        assert_eq!(document["config"]["sizes"], sizes);
        let seen: Vec<_> = seen.try_iter().collect();
        let expected: Vec<_> = expected.into_iter().cycle().take(5).collect();
        assert_eq!(seen, expected, "{payload}");
        let ran = pktbench(&format!("--connect {addr} --payload {payload} {load}"));
        let words = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!(" payloads of {sizes} B from {payload}, ")), "{}", ran.stdout);
    }
}

#[test]
fn connections_begin_at_evenly_spread_payloads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    fs::write(&path, "0\n1\n2\n3\n4\n5\n6\n7\n").unwrap();
    let (addr, seen) = recording_server();
    let ran = pktbench(&format!("--connect {addr} --payload file:{} --conns 4 --packets 4", path.display()));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let mut first: Vec<_> = seen.try_iter().collect();
    first.sort_unstable();
    assert_eq!(first, [b"0", b"2", b"4", b"6"]);
}

/// What the server does with packet 995 of 1,000.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Lost,
    Duplicated,
    Altered,
}

#[test]
fn one_fault_in_a_thousand_equal_packets_is_counted() {
    let counts = ["corrupted", "reordered", "duplicated", "lost", "unanswered"];
    for load in ["--payload hex:00112233445566778899", "--payload hex:00", "--sizes 0"] {
        for (pipeline, fault, expected, code) in [
            (1, Fault::None, [0, 0, 0, 0, 0], 0),
            (8, Fault::Lost, [0, 0, 0, 0, 1], 5),
            (1, Fault::Duplicated, [0, 0, 1, 0, 0], 3),
            (8, Fault::Duplicated, [0, 0, 1, 0, 0], 3),
            (8, Fault::Altered, [1, 0, 0, 0, 0], 3),
        ] {
            let addr = serve(move || {
                move |number, sent: Vec<u8>| match fault {
                    // With 8 packets outstanding, the load is complete before the last answer.
                    Fault::Duplicated if number == 999 => {
                        std::thread::sleep(Duration::from_millis(100));
                        Answer::Bytes(sent)
                    }
                    _ if number != 995 => Answer::Bytes(sent),
                    Fault::None => Answer::Bytes(sent),
                    Fault::Lost => Answer::Bytes(Vec::new()),
                    Fault::Duplicated => Answer::Bytes([sent.clone(), sent].concat()),
                    Fault::Altered => Answer::Bytes(frame(b"other")),
                }
            });
            let load = format!("{load} --conns 1 --pipeline {pipeline} --packets 1000 --timeout 1s");
            let ran = pktbench(&format!("--connect {addr} {load} --json"));
            let document = ran.document();
            let found = counts.map(|name| count(&document, "integrity", name));
            assert_eq!((found, ran.code), (expected, Some(code)), "{load}: {fault:?}");
        }
    }
}

#[test]
fn payloads_that_cannot_be_sent_are_bad_usage_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ndjson");
    fs::write(&path, "1\n\n1234567890\n22\n").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let file = format!("file:{}", path.display());
    let (shown, large) = (path.display(), dir.path().join("large"));
    fs::write(&large, vec![b'x'; 70_000]).unwrap();
    let cases = [
        (
            format!("{file} --sizes 9"),
            "'--payload <PAYLOAD>' cannot be used with '--sizes <SIZES>'".to_owned(),
        ),
        (
            format!("{file} --max-payload 9"),
            format!("{shown}, line 3, has 10 bytes, above the limit of 9; raise it with --max-payload 10"),
        ),
        (
            format!("file:{} --header u16be", large.display()),
            format!("{} has 70000 bytes, but --header u16be allows up to 65535; use", large.display()),
        ),
        (
            "hex:0011 --max-payload 1".to_owned(),
            "--payload hex: has 2 bytes, above the limit of 1".to_owned(),
        ),
        (format!("file:{}/empty", dir.path().display()), "empty has no files".to_owned()),
        (format!("{file}.gone"), "a.ndjson.gone: No such file or directory".to_owned()),
        ("text:1".to_owned(), "'text:1' is no kind of payload; write file:DIR".to_owned()),
    ];
    for (payload, expected) in cases {
        let ran = pktbench(&format!("--payload {payload}"));
        let line = ran.error_line();
        assert!(line.starts_with("error: ") && line.contains(&expected), "{payload}: {line}");
        assert_eq!(ran.code, Some(2), "{payload}");
    }
}
