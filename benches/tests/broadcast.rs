//! The program `broadcast`, with few connections.

#![forbid(unsafe_code)]

use std::process::{Command, Output};

fn broadcast(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_broadcast")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The error line. On a machine with one core, a warning about that precedes it.
fn error(output: &Output) -> String {
    let stderr = stderr(output);
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.contains("share one core")).collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    lines[0].to_owned()
}

#[test]
fn each_contender_has_a_row_and_every_byte_arrives() {
    for payload in ["0", "1024"] {
        let output =
            broadcast(&["--conns", "20", "--rounds", "2", "--broadcasts", "5", "--payload", payload]);
        assert!(output.status.success(), "{}", stderr(&output));
        let table = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = table.lines().collect();
        let [head, rule, bare, pktconn] = lines[..] else { panic!("{table}") };
        assert_eq!(head, "| contender | CPU ns per connection and packet | ratio (min-max) |");
        assert_eq!(rule, "|---|--:|--:|");
        assert!(bare.starts_with("| bare | ") && bare.ends_with(" | 1.00 (1.00-1.00) |"), "{bare}");
        assert!(pktconn.starts_with("| pktconn | ") && pktconn.ends_with(") |"), "{pktconn}");

        // 20 broadcasts of the warm-up, and 2 x 5.
        let bytes = 30 * (4 + payload.parse::<u32>().unwrap());
        let arrived = format!("all bytes arrived: {bytes} on each of 40 connections\n");
        assert!(stderr(&output).ends_with(&arrived), "{}", stderr(&output));
    }
}

#[test]
fn a_payload_that_does_not_fit_into_a_socket_is_an_error_of_one_line() {
    let output = broadcast(&["--conns", "2", "--payload", "33554432"]);
    assert_eq!(output.status.code(), Some(1));
    let line = error(&output);
    assert!(line.starts_with("broadcast: a socket took "), "{line}");
    assert!(line.ends_with(" bytes: choose a smaller --payload"), "{line}");
}

#[test]
fn a_limit_on_open_files_that_is_too_low_is_reported_with_the_needed_number() {
    let command = format!("ulimit -n 200; exec {} --conns 26", env!("CARGO_BIN_EXE_broadcast"));
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = error(&output);
    assert!(
        line.starts_with("broadcast: 26 connections need 204 open files, and the limit is 200: "),
        "{line}"
    );
}
