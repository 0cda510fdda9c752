//! `--metrics`: the figures of a run for Prometheus while it goes on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::common::{command, pktbench};

/// A run with metrics. It is killed at the end.
struct Run {
    child: Child,
    addr: String,
}

impl Run {
    /// Starts a run with the words of `args`, and reads the address of its metrics.
    fn start(args: &str) -> Self {
        let args = format!("--metrics 127.0.0.1:0 --duration 1h --interval 100ms --conns 4 {args}");
        let mut child = command(env!("CARGO_BIN_EXE_pktbench"))
            .args(args.split_whitespace())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.strip_prefix("metrics on http://").unwrap_or_else(|| panic!("{line}"));
        let addr = url.trim().strip_suffix("/metrics").unwrap().to_owned();
        Self { child, addr }
    }

    fn http(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// The page, after the first interval with answers.
    fn page(&self) -> String {
        let started = Instant::now();
        loop {
            let (head, page) = self.http("GET /metrics");
            assert!(
                head.starts_with("HTTP/1.1 200 ") && head.contains("text/plain; version=0.0.4"),
                "{head}"
            );
            if value(&page, "pktbench_service_time_seconds_count") > 0.0 {
                return page;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{page}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn value(page: &str, name: &str) -> f64 {
    let sample = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    sample.unwrap_or_else(|| panic!("{name} in {page}")).parse().unwrap()
}

#[test]
fn the_figures_of_a_run_are_served_while_it_goes_on() {
    let run = Run::start("--rate 2k");
    let first = run.page();
    assert!(first.contains("pktbench_info{version=\""), "{first}");
    assert_eq!(value(&first, "pktbench_connections_open"), 4.0);
    assert_eq!(value(&first, "pktbench_target_packets_per_second"), 2000.0);
    assert_eq!(value(&first, "pktbench_connections_failed_total"), 0.0);
    assert!(value(&first, "pktbench_received_bytes_total") > 0.0, "{first}");
    assert!(value(&first, "pktbench_response_time_seconds_count") > 0.0, "{first}");
    let started = Instant::now();
    while value(&run.page(), "pktbench_packets_sent_total") <= value(&first, "pktbench_packets_sent_total") {
        assert!(started.elapsed() < Duration::from_secs(30), "the counter stands still");
    }
    let (head, body) = run.http("HEAD /metrics");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head} {body}");
    assert!(run.http("GET /").0.starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_port_in_use_is_an_error_before_the_run() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = other.local_addr().unwrap();
    let ran = pktbench(&format!("--metrics {addr} --duration 1h"));
    let expected = format!("error: cannot serve --metrics at {addr}; choose another address, ");
    assert!(ran.error_line().starts_with(&expected), "{ran:?}");
    assert_eq!(ran.code, Some(1));
}

#[test]
#[ignore = "needs promtool (package prometheus): cargo test -p pktbench -- --include-ignored"]
fn promtool_accepts_the_metrics() {
    for mode in ["", "--rate 2k"] {
        let page = Run::start(mode).page();
        let mut promtool =
            command("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
        promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}\n{page}");
    }
}
