//! The one-line errors for invalid command lines, and for servers and systems that cannot be used.

use std::net::{TcpListener, TcpStream};

use crate::common::{command, count, pktbench, ran};

#[test]
fn bad_usage_is_one_line_that_says_what_to_do() {
    let cases = [
        ("--haste 9", "unexpected argument '--haste'"),
        ("--conns", "a value is required for '--conns <N>'"),
        ("--conns x", "expected a whole number of at least 1, such as 64"),
        ("--conns 0", "expected a whole number of at least 1, such as 64"),
        ("--pipeline 0", "expected a whole number from 1 to 65536, such as 32"),
        ("--connect nowhere", "an address is HOST:PORT"),
        ("--connect 127.0.0.1:0", "an address is HOST:PORT"),
        ("--packets 9 --duration 1s", "'--packets <N>' cannot be used with '--duration <TIME>'"),
        ("--duration soon", "in seconds or with its unit, such as 30, 30s, 500ms or 2m"),
        ("conpare a b", "unknown command 'conpare'; did you mean 'compare'"),
        ("--conns 3 compare a b", "'compare' must be the first word"),
        ("-R 10k", "did you mean '--rate'"),
        ("-n 1000", "did you mean '--packets'"),
        ("-z 30s", "did you mean '--duration'"),
        ("--vus 9", "did you mean '--conns'"),
        ("--latency", "latency is always measured"),
        ("--insecure", "did you mean '--tls-insecure'"),
        ("--duration 0s", "give it a time, such as 10s"),
        ("--timeout 0s", "give it a time, such as 10s"),
        ("--conns -1", "expected a whole number of at least 1, such as 64"),
        ("--sizes many", "'many' is not a size"),
        ("--sizes 2048-0", "2048 is larger than 0; write 0-2048"),
        ("--sizes 0-64MiB", "raise it with --max-payload 64MiB"),
        ("--sizes 2KiB --max-payload 1KiB", "raise it with --max-payload 2048"),
    ];
    for (args, expected) in cases {
        let ran = pktbench(args);
        let line = ran.error_line();
        assert!(line.starts_with("error: ") && line.contains(expected), "{args}: {line}");
        assert!(line.ends_with("; see 'pktbench --help'"), "{args}: {line}");
        assert_eq!(ran.code, Some(2), "{args}");
    }
}

#[test]
fn help_has_groups_and_examples_and_exits_with_0() {
    let ran = pktbench("--help");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for group in ["Commands", "Server", "Connections", "Load", "Payloads", "Time", "Verdict", "Result"] {
        assert!(ran.stdout.contains(&format!("\n{group}:\n")), "{group}: {}", ran.stdout);
    }
    assert!(ran.stdout.contains("\nExamples:\n  pktbench "), "{}", ran.stdout);
    for args in ["-h", "compare -h", "help merge", "conform --help", "--version"] {
        let ran = pktbench(args);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{args}");
        assert!(ran.stdout.lines().count() <= 45, "{args}: {}", ran.stdout);
    }
}

#[test]
fn a_usage_error_of_a_command_points_to_its_help() {
    let ran = pktbench("compare --speed a b");
    let expected = "error: unexpected argument '--speed' found; see 'pktbench compare --help'";
    assert_eq!((ran.error_line(), ran.code), (expected, Some(2)));
}

#[test]
fn an_address_needs_no_option() {
    let (addr, _) = crate::common::start("127.0.0.1:0", pktconn::ServerConfig::new());
    let document = pktbench(&format!("{addr} -c 2 --packets 20 --json")).document();
    assert_eq!(document["config"]["server"], addr);
    assert_eq!(document["config"]["warmup_s"], 0.0);
}

/// A port of 127.0.0.1 on which nothing listens. A connection keeps it in use, so that no one else can listen there.
fn unused_port() -> (TcpListener, TcpStream, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let port = stream.local_addr().unwrap().port();
    (listener, stream, port)
}

#[test]
fn a_refused_connection_is_reported_with_the_address_and_the_reason() {
    let (_listener, _stream, port) = unused_port();
    let ran = pktbench(&format!("--connect 127.0.0.1:{port} --packets 10"));
    let line = ran.error_line();
    let expected = format!("error: cannot connect to 127.0.0.1:{port}: Connection refused");
    assert!(line.starts_with(&expected), "{line}");
    assert!(line.contains("; start the server"), "{line}");
    assert_eq!(ran.code, Some(1));
}

#[test]
fn a_refused_connection_is_in_the_json_document_too() {
    let (_listener, _stream, port) = unused_port();
    let ran = pktbench(&format!("--connect 127.0.0.1:{port} --packets 10 --json"));
    let document = ran.document();
    assert_eq!(count(&document, "errors", "connect"), 1);
    assert!(document["errors"]["first"].as_str().unwrap().starts_with("cannot connect to "), "{document}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert_eq!(ran.code, Some(1));
}

#[test]
fn an_unknown_host_is_named() {
    // `.invalid` is reserved for such names (RFC 2606).
    let ran = pktbench("--connect nowhere.invalid:80 --packets 10");
    assert!(ran.error_line().starts_with("error: cannot resolve nowhere.invalid:80; "), "{ran:?}");
    assert_eq!(ran.code, Some(1));
}

#[test]
fn too_many_open_files_are_reported_with_a_sufficient_limit() {
    let run = |limit: &str| {
        let program = env!("CARGO_BIN_EXE_pktbench");
        let script = format!("ulimit -n {limit}; exec {program} --conns 50 --packets 50");
        ran(command("sh").args(["-c", &script]))
    };
    let refused = run("60");
    let line = refused.error_line();
    assert!(line.starts_with("error: too many open files: 50 connections"), "{line}");
    assert_eq!(refused.code, Some(1));
    let (_, advice) = line.split_once("raise it with 'ulimit -n ").unwrap();
    let (enough, _) = advice.split_once('\'').unwrap();
    assert_eq!(run(enough).code, Some(0), "with a limit of {enough}");
}
