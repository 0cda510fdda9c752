//! The program `idle`, with few connections.

#![forbid(unsafe_code)]

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output},
    thread,
};

const BARE: &str = concat!("bare=", env!("CARGO_BIN_EXE_bare_epoll_server"));
const WHOLE: &str = concat!("whole=", env!("CARGO_BIN_EXE_tokio_echo_server"), " --kind whole");

fn idle(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_idle")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_server_has_a_row_and_its_readings_for_each_number_of_connections() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("idle.json");
    let output = idle(&[
        "--server",
        BARE,
        "--server",
        WHOLE,
        "--conns",
        "3",
        "--conns",
        "70",
        "--json",
        json.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    let mut lines = table.lines();
    assert_eq!(
        lines.next(),
        Some("| server | connections | fresh, B/connection | after use, B/connection | peak RSS MB |")
    );
    assert_eq!(lines.next(), Some("|---|--:|--:|--:|--:|"));
    let rows: Vec<Vec<&str>> = lines.map(|row| row.split(" | ").collect()).collect();
    let heads: Vec<&[&str]> = rows.iter().map(|row| &row[..2]).collect();
    assert_eq!(heads, [["| bare", "3"], ["| whole", "3"], ["| bare", "70"], ["| whole", "70"]]);

    let results: Vec<serde_json::Value> = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(results.len(), 4);
    for result in &results {
        for name in ["empty", "fresh", "used", "peak"] {
            assert!(result[format!("{name}_rss_bytes")].as_u64().unwrap() > 0, "{name}: {result}");
        }
    }
}

#[test]
fn a_limit_on_open_files_that_is_too_low_is_one_line_that_says_what_to_do() {
    let command = format!("ulimit -n 200; exec {} --conns 101", env!("CARGO_BIN_EXE_idle"));
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "idle: 101 connections need 201 open files, and the limit is 200: raise the hard limit (ulimit -Hn 201, as \
         root) or choose fewer with --conns\n"
    );
}

#[test]
fn a_server_that_does_not_echo_is_an_error_of_one_line_and_is_stopped() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Accepts the connection of the warm-up and closes it.
    let server = thread::spawn(move || drop(listener.accept().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let (script, pid) = (folder.path().join("silent.sh"), folder.path().join("silent.pid"));
    fs::write(&script, "echo $$ > $2; echo listening on $1; exec sleep 1000\n").unwrap();
    let spec = format!("silent=sh {} {address} {}", script.display(), pid.display());
    let output = idle(&["--server", &spec, "--conns", "1"]);
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = stderr(&output);
    assert!(line.starts_with("idle: server \"silent\" with 1 connections: warming up: "), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");

    let pid = fs::read_to_string(pid).unwrap();
    // Another process may have this id by now.
    let command = fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
    assert_ne!(command, b"sleep\x001000\x00");
}
