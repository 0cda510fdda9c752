//! The program as a process: its output, how it stops, its error messages.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};

use common::tls::Certificate;
use common::{Server, http, pktecho, summary};

fn echo(stream: &mut (impl Read + Write), frame: &[u8]) {
    stream.write_all(frame).unwrap();
    let mut reply = vec![0; frame.len()];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply, frame);
}

fn assert_one_line_error(output: &Output, code: i32, expected: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in expected {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn sigint_and_sigterm_stop_it_with_totals_and_exit_code_0() {
    for (signal, threads, runtimes) in [("INT", "1", "own"), ("TERM", "3", "own"), ("TERM", "2", "one")] {
        let server = Server::start(&["--threads", threads, "--runtimes", runtimes]);
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        for _ in 0..10 {
            echo(&mut stream, b"\x05\0\0\0hello");
        }
        server.signal(signal);
        // The server has closed its side. Closing this side lets the connection finish.
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        drop(stream);
        let output = server.finish();
        let rest = summary(&output);
        assert!(rest.starts_with("echoed 10 packets, 0.0 MB of payload, over 1 connection in "), "{rest}");
    }
}

#[test]
fn with_one_runtime_per_thread_every_connection_is_served() {
    let server = Server::start(&["--threads", "3", "--runtimes", "own"]);
    // One of three threads gets none of 60 connections only once in 10^10 times.
    let mut streams: Vec<_> = (0..60).map(|_| TcpStream::connect(&server.addr).unwrap()).collect();
    for stream in &mut streams {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        echo(stream, b"\x01\0\0\0x");
    }
    drop(streams);
    server.signal("TERM");
    assert!(
        summary(&server.finish())
            .starts_with("echoed 60 packets, 0.0 MB of payload, over 60 connections in ")
    );
}

#[test]
fn packets_in_flight_are_echoed_before_it_stops() {
    let server = Server::start(&["--threads", "1"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    echo(&mut stream, b"\0\0\0\0");
    let request = b"\x02\0\0\0hi".repeat(1000);
    stream.write_all(&request).unwrap();
    // The first reply shows that the server has begun to receive the packets.
    let mut replies = vec![0; 6];
    stream.read_exact(&mut replies).unwrap();
    server.signal("TERM");
    stream.read_to_end(&mut replies).unwrap();
    assert_eq!(replies.len() % 6, 0, "a reply was truncated");
    assert!(request.starts_with(&replies));
    drop(stream);
    server.finish();
}

#[test]
fn a_peer_that_does_not_close_is_closed_after_the_drain_timeout() {
    let server = Server::start(&["--threads", "1", "--drain-timeout", "50ms"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    echo(&mut stream, b"\x01\0\0\0x");
    server.signal("TERM");
    server.finish();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start(&["--threads", "1", "--drain-timeout", "1h"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    echo(&mut stream, b"\x01\0\0\0x");
    server.signal("TERM");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the first signal closes the connection");
    server.signal("INT");
    let mut stderr = server.child.stderr.take().unwrap();
    server.finish();
    let mut warning = String::new();
    stderr.read_to_string(&mut warning).unwrap();
    // No warning: everything was sent, and only the client has not closed yet.
    assert_eq!(warning, "");
}

#[test]
fn a_client_that_sends_http_is_a_warning_by_default() {
    let mut server = Server::start(&["--threads", "1"]);
    let mut client = TcpStream::connect(&server.addr).unwrap();
    let client_addr = client.local_addr().unwrap().to_string();
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    // Until the end of the stream or a reset.
    let _ = client.read_to_end(&mut Vec::new());
    server.signal("TERM");
    let mut stderr = server.child.stderr.take().unwrap();
    server.finish();
    let mut warning = String::new();
    stderr.read_to_string(&mut warning).unwrap();
    assert_eq!(warning.lines().count(), 1, "{warning}");
    for part in
        ["WARN", &client_addr, "frame of 542393671 bytes exceeds the limit of 33554432", "HTTP request"]
    {
        assert!(warning.contains(part), "{part:?} is not in {warning}");
    }
}

#[test]
fn unsent_packets_of_a_closed_connection_are_a_warning() {
    let mut server = Server::start(&["--threads", "1", "--drain-timeout", "50ms"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    stream.set_nonblocking(true).unwrap();
    let packets = b"\x04\0\0\0ping".repeat(10_000);
    // Until the server stops reading because its send queue is full: a second without progress.
    let (mut sent, mut stuck_since) = (0, std::time::Instant::now());
    while stuck_since.elapsed().as_secs() < 1 {
        match stream.write(&packets[sent..]) {
            Ok(count) => {
                sent = (sent + count) % packets.len();
                stuck_since = std::time::Instant::now();
            }
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
    server.signal("TERM");
    let mut stderr = server.child.stderr.take().unwrap();
    server.finish();
    let mut warning = String::new();
    stderr.read_to_string(&mut warning).unwrap();
    let start = "warning: closed 1 connection that had not finished, ";
    let packets = warning.strip_prefix(start).and_then(|rest| rest.strip_suffix(" packets unsent\n"));
    let packets: usize = packets.unwrap_or_else(|| panic!("{warning}")).parse().unwrap();
    // A send queue of 1 MiB holds 131,072 packets.
    assert!((100_000..=131_073).contains(&packets), "{packets}");
}

#[test]
fn statistics_are_a_line_per_second() {
    let mut server = Server::start(&["--stats"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    echo(&mut stream, b"\x01\0\0\0x");
    // The packet is in the first line after the limits, or on a slow machine in the second one.
    let mut line = String::new();
    while !line.ends_with("1 connection, 1 packets/s, 0.0 MB/s\n") {
        assert!(line.lines().count() < 4, "{line}");
        server.stdout.read_line(&mut line).unwrap();
    }
    drop(stream);
    server.signal("TERM");
    server.finish();
}

#[test]
fn at_the_limit_on_open_files_it_warns_and_keeps_serving() {
    let mut server = Server::with_open_files(32, &["--threads", "1", "--max-conns", "off"]);
    let mut streams: Vec<_> = (0..40).map(|_| TcpStream::connect(&server.addr).unwrap()).collect();
    echo(&mut streams[0], b"\x01\0\0\0x");
    let stderr = BufReader::new(server.child.stderr.take().unwrap());
    let line = stderr.lines().map(Result::unwrap).find(|line| line.contains("WARN")).unwrap();
    assert!(line.contains("open files") && line.contains("ulimit -n"), "{line}");
    echo(&mut streams[0], b"\x01\0\0\0x");
    // When files are free again, the waiting clients are served.
    let mut last = streams.pop().unwrap();
    drop(streams);
    echo(&mut last, b"\x01\0\0\0x");
    drop(last);
    server.signal("TERM");
    server.finish();
}

#[test]
fn by_default_it_keeps_files_for_other_uses_than_connections() {
    let command = format!("ulimit -n 100; exec {} --listen 127.0.0.1:0 2>&1", env!("CARGO_BIN_EXE_pktecho"));
    let server = Server::spawn(Command::new("sh").args(["-c", &command]));
    let mut streams: Vec<_> = (0..60).map(|_| TcpStream::connect(&server.addr).unwrap()).collect();
    let mut served = 0;
    for stream in &mut streams {
        let _ = stream.write_all(b"\x01\0\0\0x");
        served += usize::from(stream.read_exact(&mut [0; 5]).is_ok());
    }
    assert_eq!(served, 50);
    server.signal("TERM");
    drop(streams);
    let output = server.finish();
    assert!(output.contains("limits: 50 connections, "), "{output}");
    assert!(output.contains("the limit max_conns is reached, open=50"), "{output}");
}

#[test]
fn it_warns_if_other_machines_can_reach_it_without_tls_or_limits() {
    let warning = |options: &str| {
        let command = format!("exec {} {options} 2>&1", env!("CARGO_BIN_EXE_pktecho"));
        let server = Server::spawn(Command::new("sh").args(["-c", &command]));
        echo(&mut TcpStream::connect(&server.addr).unwrap(), b"\x01\0\0\0x");
        server.signal("TERM");
        let lines = server.first_lines.concat() + &server.finish();
        lines.lines().find(|line| line.contains("WARN")).map(str::to_owned)
    };
    assert_eq!(warning("--listen 127.0.0.1:0"), None);
    let open = warning("--listen 0.0.0.0:0").unwrap();
    assert!(open.contains("no TLS (--tls-cert) and no limit per client (--edge)"), "{open}");
    let limited = warning("--listen 0.0.0.0:0 --edge").unwrap();
    assert!(limited.contains("no TLS") && !limited.contains("limit"), "{limited}");
}

#[test]
fn it_uses_the_limit_and_the_checksum_of_the_command_line() {
    let server = Server::start(&["--crc", "--max-payload", "8"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    echo(&mut stream, b"\x03\0\0\0\x3a\xbd\x40\xc0\x34\xcf\xa2");
    stream.write_all(b"\x09\0\0\0").unwrap();
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)), "a payload of 9 bytes exceeds the limit of 8");
    server.signal("TERM");
    server.finish();
}

#[test]
fn it_listens_on_several_addresses_with_shared_and_own_runtimes() {
    for runtimes in ["one", "own"] {
        let mut server =
            Server::start(&["--listen", "127.0.0.1:0", "--threads", "2", "--runtimes", runtimes]);
        let mut line = String::new();
        server.stdout.read_line(&mut line).unwrap();
        let second = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        assert_ne!(second, server.addr);
        for addr in [&server.addr, &second] {
            echo(&mut TcpStream::connect(addr).unwrap(), b"\x01\0\0\0x");
        }
        server.signal("TERM");
        assert!(summary(&server.finish()).starts_with("echoed 2 packets"));
    }
}

#[test]
fn it_listens_on_a_tcp_socket_from_systemd() {
    for (threads, runtimes, more) in
        [("1", "one", ""), ("2", "own", ""), ("1", "one", "--listen 127.0.0.1:0")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        // As systemd does it: the sockets are the files from 3 on, and LISTEN_PID is the process that they are for.
        let program = env!("CARGO_BIN_EXE_pktecho");
        let command = format!(
            "exec 3<&0; export LISTEN_FDS=1 LISTEN_PID=$$; exec {program} --threads {threads} --runtimes {runtimes} {more}"
        );
        let mut server =
            Server::spawn(Command::new("sh").args(["-c", &command]).stdin(OwnedFd::from(listener)));
        assert_eq!(server.addr, addr);
        echo(&mut TcpStream::connect(&addr).unwrap(), b"\x01\0\0\0x");
        if !more.is_empty() {
            let mut line = String::new();
            server.stdout.read_line(&mut line).unwrap();
            echo(&mut TcpStream::connect(line.trim().rsplit_once(' ').unwrap().1).unwrap(), b"\x01\0\0\0x");
        }
        server.signal("TERM");
        server.finish();
    }
}

#[test]
fn it_listens_on_a_unix_socket_and_replaces_a_stale_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let unix = format!("unix:{}", path.display());
    for threads in ["1", "2"] {
        let mut server = Server::start(&["--threads", threads, "--listen", &unix]);
        let mut line = String::new();
        server.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, format!("listening on {unix}\n"));
        echo(&mut UnixStream::connect(&path).unwrap(), b"\x01\0\0\0x");
        echo(&mut TcpStream::connect(&server.addr).unwrap(), b"\x01\0\0\0x");
        let output = pktecho(&["--listen", &unix]).output().unwrap();
        assert_one_line_error(&output, 1, &["cannot listen on unix:", "in use"]);
        // Kills the server: the file remains, and the next server replaces it.
        drop(server);
        assert!(path.exists());
    }
    let server = Server::spawn(&mut pktecho(&["--listen", &unix]));
    server.signal("TERM");
    server.finish();
    assert!(!path.exists());
    let output = pktecho(&["--listen", &unix, "--threads", "2", "--runtimes", "own"]).output().unwrap();
    assert_one_line_error(&output, 2, &["--runtimes own"]);
}

#[test]
fn the_socket_file_has_the_mode_of_the_address() {
    use std::os::unix::fs::MetadataExt;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let server = Server::spawn(&mut pktecho(&["--listen", &format!("unix:{}?mode=0620", path.display())]));
    assert_eq!(server.addr, format!("unix:{}", path.display()));
    assert_eq!(std::fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o620);
    echo(&mut UnixStream::connect(&path).unwrap(), b"\x01\0\0\0x");
}

#[test]
fn one_of_several_servers_that_start_together_replaces_a_stale_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let unix = format!("unix:{}", path.display());
    for _ in 0..5 {
        // Killed at the end of the round before, with its socket file and its lock file.
        let servers: Vec<_> = (0..6)
            .map(|_| {
                let mut command = pktecho(&["--threads", "1", "--listen", &unix]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let mut listening = Vec::new();
        for mut server in servers {
            let mut line = String::new();
            BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
            if line.is_empty() {
                let output = server.wait_with_output().unwrap();
                assert_one_line_error(&output, 1, &["cannot listen on unix:", "in use"]);
            } else {
                assert_eq!(line, format!("listening on {unix}\n"));
                listening.push(server);
            }
        }
        echo(&mut UnixStream::connect(&path).unwrap(), b"\x01\0\0\0x");
        assert_eq!(listening.len(), 1);
        for mut server in listening {
            server.kill().unwrap();
            server.wait().unwrap();
        }
        assert!(path.exists() && dir.path().join("socket.lock").exists());
    }
}

#[test]
fn it_listens_on_a_unix_socket_from_systemd() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let program = env!("CARGO_BIN_EXE_pktecho");
    let command =
        format!("exec 3<&0; export LISTEN_FDS=1 LISTEN_PID=$$; exec {program} --threads 2 --runtimes own");
    let server = Server::spawn(Command::new("sh").args(["-c", &command]).stdin(OwnedFd::from(listener)));
    assert_eq!(server.addr, format!("unix:{}", path.display()));
    echo(&mut UnixStream::connect(&path).unwrap(), b"\x01\0\0\0x");
    server.signal("TERM");
    server.finish();
    assert!(path.exists(), "the file belongs to the parent process");
}

#[test]
fn an_invalid_certificate_is_an_error_of_one_line_with_its_path() {
    let certificate = Certificate::new("localhost");
    std::fs::write(certificate.key(), "no key").unwrap();
    for threads in ["1", "2"] {
        let options = ["--listen", "127.0.0.1:0", "--threads", threads];
        let output = pktecho(&options).args(certificate.options()).output().unwrap();
        assert_one_line_error(&output, 1, &["key.pem"]);
    }
}

#[test]
fn two_servers_share_a_port_with_reuse_port() {
    let first = Server::start(&["--reuse-port"]);
    let second = Server::spawn(&mut pktecho(&["--listen", &first.addr, "--reuse-port"]));
    assert_eq!(first.addr, second.addr);
    // The remaining server serves all clients.
    drop(first);
    echo(&mut TcpStream::connect(&second.addr).unwrap(), b"\x01\0\0\0x");
    let output = pktecho(&["--listen", &second.addr]).output().unwrap();
    assert_one_line_error(&output, 1, &["in use"]);
}

#[test]
fn connections_above_the_limits_are_closed_immediately() {
    for option in ["--max-conns", "--max-conns-per-ip"] {
        let server = Server::start(&[option, "2"]);
        let mut streams = [(); 2].map(|()| TcpStream::connect(&server.addr).unwrap());
        streams.iter_mut().for_each(|stream| echo(stream, b"\x01\0\0\0x"));
        let mut refused = TcpStream::connect(&server.addr).unwrap();
        assert!(!matches!(refused.read(&mut [0; 1]), Ok(1..)));
        streams.iter_mut().for_each(|stream| echo(stream, b"\x01\0\0\0x"));
    }
}

#[test]
fn a_client_above_its_connection_rate_is_refused_and_counted() {
    let mut server =
        Server::start(&["--threads", "1", "--conn-rate-per-ip", "1", "--metrics", "127.0.0.1:0"]);
    let addr = server.metrics_addr();
    let is_served = || {
        let Ok(mut stream) = TcpStream::connect(&server.addr) else { return false };
        stream.write_all(b"\x01\0\0\0x").and_then(|()| stream.read_exact(&mut [0; 5])).is_ok()
    };
    // The burst is 5. A slow machine gets more, because time passes.
    let served = (0..).take_while(|_| is_served()).count();
    assert!(served >= 5, "{served}");
    let started = std::time::Instant::now();
    while !http(&addr, "GET /metrics").1.contains("pktconn_connections_over_rate_total 1\n") {
        assert!(started.elapsed().as_secs() < 20, "the metric is missing");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn the_access_log_is_one_line_per_connection_whatever_rust_log_says() {
    for rust_log in [None, Some("off"), Some("debug")] {
        let mut command = pktecho(&["--listen", "127.0.0.1:0", "--threads", "1", "--access-log"]);
        rust_log.map(|filter| command.env("RUST_LOG", filter));
        let mut server = Server::spawn(&mut command);
        // The line with the limits.
        server.stdout.read_line(&mut String::new()).unwrap();
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(&server.addr).unwrap();
            echo(&mut stream, b"\x05\0\0\0hello");
            clients.push(stream.local_addr().unwrap());
            drop(stream);
            let mut line = String::new();
            server.stdout.read_line(&mut line).unwrap();
            let parts = [
                &format!("Z peer={} id=", clients.last().unwrap()),
                " duration_ms=",
                " packets_received=1 bytes_received=9 packets_sent=1 bytes_sent=9 ",
                " reason=\"remote_close\" detail=\"the peer closed the connection\"\n",
            ];
            for part in parts {
                assert!(line.contains(part), "{part:?} is not in {line}");
            }
        }
        server.signal("TERM");
        let mut stderr = server.child.stderr.take().unwrap();
        let rest = server.finish();
        assert_eq!(rest.lines().count(), 1, "only the totals follow: {rest}");
        let mut log = String::new();
        stderr.read_to_string(&mut log).unwrap();
        assert!(!log.contains("pktconn::access"), "{log}");
        assert_eq!(log.is_empty(), rust_log != Some("debug"), "{log}");
    }
}

#[test]
fn it_serves_metrics_over_http() {
    let mut server = Server::start(&["--metrics", "127.0.0.1:0", "--threads", "2", "--runtimes", "own"]);
    let addr = server.metrics_addr();
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    for _ in 0..10 {
        echo(&mut stream, b"\x05\0\0\0hello");
    }
    drop(stream);
    // The metrics are updated once per second.
    let expected = [
        "pktconn_connections_accepted_total 1",
        "pktconn_connections_ended_total{reason=\"remote_close\"} 1",
        "pktconn_connections_open 0",
        "pktconn_packets_received_total 10",
        "pktconn_packets_sent_total 10",
        "pktconn_received_bytes_total 90",
        "pktconn_sent_bytes_total 90",
        "pktconn_connection_duration_seconds_count 1",
        "pktconn_connection_duration_seconds_bucket{le=\"60\"} 1",
    ];
    let started = std::time::Instant::now();
    let figures = loop {
        let (head, body) = http(&addr, "GET /metrics");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/plain; version=0.0.4"), "{head}");
        if body.contains("pktconn_packets_sent_total 10\n") && body.contains("connections_open 0\n") {
            break body;
        }
        assert!(started.elapsed().as_secs() < 20, "{body}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    for line in expected {
        assert!(figures.lines().any(|found| found == line), "{line:?} is not in {figures}");
    }
    let (head, body) = http(&addr, "HEAD /metrics");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head} {body}");
    assert!(http(&addr, "GET /").0.starts_with("HTTP/1.1 404 "));
    let (head, _) = http(&addr, "POST /metrics");
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("allow: GET, HEAD"), "{head}");
    let output = pktecho(&["--listen", "127.0.0.1:0", "--metrics", &addr]).output().unwrap();
    assert_one_line_error(&output, 1, &["cannot listen on", &addr, "choose another port"]);
}

#[test]
fn idle_and_slow_clients_time_out() {
    let server = Server::start(&["--idle-timeout", "100ms"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    echo(&mut stream, b"\x01\0\0\0x");
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));

    let server = Server::start(&["--frame-timeout", "100ms"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    stream.write_all(b"\x02\0\0\0x").unwrap();
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
}

#[test]
fn clients_that_keep_within_the_timeouts_meet_the_limits() {
    let cases: [(&[&str], &[u8], &str); 3] = [
        (&["--first-packet-timeout", "100ms"], b"", "first_packet_timeout"),
        (&["--min-recv-rate", "1KiB:100ms"], b"\x09\0\0\0x", "min_recv_rate"),
        (&["--min-send-rate", "1MiB:300ms"], &[7; 7].repeat(1 << 22), "min_send_rate"),
    ];
    for (options, bytes, expected) in cases {
        let mut server = Server::start(options);
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        // It does not read the replies.
        let header = (bytes.len() as u32).to_le_bytes();
        let frame = if bytes.len() > 9 { [&header, bytes].concat() } else { bytes.to_vec() };
        let sent = stream.write_all(&frame).and_then(|()| stream.write_all(&frame));
        let mut line = String::new();
        let mut log = BufReader::new(server.child.stderr.take().unwrap());
        while !line.contains(expected) {
            line.clear();
            assert_ne!(
                log.read_line(&mut line).unwrap(),
                0,
                "{options:?}: no line with {expected}, {sent:?}"
            );
        }
    }

    let mut server = Server::start(&["--max-connection-age", "1s", "--max-connection-age-grace", "1h"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    echo(&mut stream, b"\x01\0\0\0x");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "not closed cleanly");
    drop(stream);
    server.signal("TERM");
    let mut log = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log, "");
}

#[test]
fn a_client_that_reads_too_slowly_is_treated_by_the_policy() {
    // A fifth more than a send queue and the buffers of the kernel can hold.
    const COUNT: u32 = 50_000;
    let frame = |number: u32| [&1000_u32.to_le_bytes(), &number.to_le_bytes()[..], &[7; 996]].concat();
    let packets: Vec<u8> = (0..COUNT).flat_map(frame).collect();
    for policy in ["drop-newest", "drop-oldest", "disconnect"] {
        let server = Server::start(&["--threads", "1", "--slow-consumer", policy]);
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        // These policies never block, so the server reads all packets even though this client does not read yet.
        let sent = stream.write_all(&packets).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut replies = Vec::new();
        let read = stream.read_to_end(&mut replies);
        let mut numbers = Vec::new();
        let mut whole = replies.chunks_exact(1004);
        for reply in &mut whole {
            let number = u32::from_le_bytes(reply[4..8].try_into().unwrap());
            assert_eq!(reply, frame(number), "{policy}");
            numbers.push(number);
        }
        assert!(numbers.is_sorted(), "{policy}");
        if policy == "disconnect" {
            assert!(sent.is_err() || read.is_err() || !whole.remainder().is_empty());
            assert!(numbers.len() < COUNT as usize);
            continue;
        }
        sent.unwrap();
        read.unwrap();
        assert!(whole.remainder().is_empty() && numbers.len() < COUNT as usize, "{policy}");
        if policy == "drop-oldest" {
            assert_eq!(numbers.last(), Some(&(COUNT - 1)));
        } else {
            // At least one send queue of packets is kept.
            assert!(numbers.iter().copied().take(1000).eq(0..1000));
        }
    }
}

#[test]
fn bad_usage_is_one_line_and_exit_code_2() {
    let cases: [(&[&str], &[&str]); 23] = [
        (&["--port", "1"], &["unexpected argument '--port'", "--help"]),
        (&["--listen", "localhost"], &["'localhost'", "HOST:PORT"]),
        (&["--threads", "0"], &["from 1 to 1024"]),
        (&["--max-payload", "lots"], &["64KiB"]),
        (&["--drain-timeout", "soon"], &["--drain-timeout", "such as 30s"]),
        (&["--frame-timeout", "0s"], &["'off'"]),
        (&["--min-recv-rate", "1KiB/s"], &["1KiB:10s", "'off'"]),
        (&["--max-conns", "0"], &["at least 1"]),
        (&["--max-conns", "9", "--threads", "2", "--runtimes", "own"], &["not with --runtimes own"]),
        (&["--memory-budget", "1000KiB"], &["at least 1MiB"]),
        (&["--conn-rate-per-ip", "0"], &["at least 1"]),
        (&["--tls-cert", "chain.pem"], &["--tls-key"]),
        (&["--tls-client-ca", "ca.pem"], &["--tls-cert"]),
        (&["--tls-min-version", "1.1"], &["1.2, 1.3"]),
        (&["--tls-min-version", "1.3"], &["--tls-cert"]),
        (
            &["--tls-cert", "chain.pem", "--tls-key", "key.pem", "--tls-crl", "crl.pem"],
            &["--tls-crl needs --tls-client-ca or --tls-optional-client-ca"],
        ),
        (&["--proxy-protocol"], &["--trusted-proxy"]),
        (&["--proxy-protocol", "--trusted-proxy", "everyone"], &["10.0.0.0/8"]),
        (&["--header", "u16le", "--max-payload", "1MiB"], &["exceeds 65535, the maximum of --header u16le"]),
        (&["--reuse-port", "--listen", "unix:socket"], &["no port"]),
        (&["--metrics", "unix:socket"], &["HOST:PORT"]),
        (&["--listen", "unix:socket?mode=rw"], &["mode \"rw\" is not an octal number", "0660"]),
        (&["extra"], &["unexpected argument 'extra'"]),
    ];
    for (args, expected) in cases {
        assert_one_line_error(&pktecho(args).output().unwrap(), 2, expected);
    }
}

#[test]
fn an_address_that_it_cannot_listen_on_is_an_error_of_one_line_with_advice() {
    // Also if the sockets of each server share a port.
    for runtimes in ["one", "own"] {
        let options = ["--threads", "2", "--runtimes", runtimes];
        let server = Server::start(&options);
        let output = pktecho(&["--listen", &server.addr]).args(options).output().unwrap();
        assert_one_line_error(&output, 1, &[&server.addr, "choose another port", "in use"]);
    }
    // TEST-NET-1 (RFC 5737) is never an address of this machine.
    let output = pktecho(&["--listen", "192.0.2.1:0"]).output().unwrap();
    assert_one_line_error(&output, 1, &["192.0.2.1:0", "an address of this machine"]);
}

#[test]
#[ignore = "needs python3: cargo test -p pktecho -- --include-ignored"]
fn the_python_client_by_hand_is_served() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/by_hand.py");
    let status = Command::new("python3").arg(script).arg(env!("CARGO_BIN_EXE_pktecho")).status().unwrap();
    assert!(status.success());
}
