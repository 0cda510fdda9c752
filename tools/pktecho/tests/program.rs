//! The program as a process: what it prints, how it stops, how it says what is wrong.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};

use common::tls::Certificate;
use common::{Server, http, pktecho};
use pktconn::{ConnConfig, PacketConn, TlsClientConfig};

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
fn either_signal_stops_it_with_totals_and_success() {
    for (signal, threads, runtimes) in [("INT", "1", "own"), ("TERM", "3", "own"), ("TERM", "2", "one")] {
        let server = Server::start(&["--threads", threads, "--runtimes", runtimes]);
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        for _ in 0..10 {
            echo(&mut stream, b"\x05\0\0\0hello");
        }
        server.signal(signal);
        // The server closes; the end of this side lets it finish.
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        drop(stream);
        let rest = server.finish();
        assert!(rest.starts_with("echoed 10 packets, 0.0 MB of payload, over 1 connection in "), "{rest}");
    }
}

#[test]
fn every_thread_with_a_runtime_of_its_own_serves() {
    let server = Server::start(&["--threads", "3", "--runtimes", "own"]);
    // That the kernel deals none of 60 connections to one of three threads comes about once in 10^10 times.
    let mut streams: Vec<_> = (0..60).map(|_| TcpStream::connect(&server.addr).unwrap()).collect();
    for stream in &mut streams {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        echo(stream, b"\x01\0\0\0x");
    }
    drop(streams);
    server.signal("TERM");
    assert!(server.finish().starts_with("echoed 60 packets, 0.0 MB of payload, over 60 connections in "));
}

#[test]
fn what_is_in_flight_is_answered_before_it_stops() {
    let server = Server::start(&["--threads", "1"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    echo(&mut stream, b"\0\0\0\0");
    let request = b"\x02\0\0\0hi".repeat(1000);
    stream.write_all(&request).unwrap();
    // The first reply tells that the requests have begun to arrive.
    let mut replies = vec![0; 6];
    stream.read_exact(&mut replies).unwrap();
    server.signal("TERM");
    stream.read_to_end(&mut replies).unwrap();
    assert_eq!(replies.len() % 6, 0, "a reply was torn");
    assert!(request.starts_with(&replies));
    drop(stream);
    server.finish();
}

#[test]
fn a_peer_that_does_not_close_is_cut_when_the_time_to_drain_is_over() {
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
    // All was sent, and the client alone has not closed yet.
    assert_eq!(warning, "");
}

#[test]
fn what_a_client_sends_instead_of_packets_is_a_warning_by_default() {
    let mut server = Server::start(&["--threads", "1"]);
    let mut client = TcpStream::connect(&server.addr).unwrap();
    let client_addr = client.local_addr().unwrap().to_string();
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    // The end, or a reset.
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
fn what_a_client_has_not_read_is_told_of_when_it_is_cut_off() {
    let mut server = Server::start(&["--threads", "1", "--drain-timeout", "50ms"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    stream.set_nonblocking(true).unwrap();
    let packets = b"\x04\0\0\0ping".repeat(10_000);
    // Until the server reads no more, because it has nowhere to put the replies: a second without progress.
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
    let start = "warning: cut off 1 connection that had not finished, ";
    let packets = warning.strip_prefix(start).and_then(|rest| rest.strip_suffix(" packets unsent\n"));
    let packets: usize = packets.unwrap_or_else(|| panic!("{warning}")).parse().unwrap();
    // An send queue of 1 MiB holds 131,072 of them.
    assert!((100_000..=131_073).contains(&packets), "{packets}");
}

#[test]
fn statistics_are_a_line_a_second() {
    let mut server = Server::start(&["--stats"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    echo(&mut stream, b"\x01\0\0\0x");
    // The packet is in the first line, or in the second on a machine that took so long until here.
    let mut line = String::new();
    while !line.ends_with("1 connection, 1 packets/s, 0.0 MB/s\n") {
        assert!(line.lines().count() < 3, "{line}");
        server.stdout.read_line(&mut line).unwrap();
    }
    drop(stream);
    server.signal("TERM");
    server.finish();
}

#[test]
fn at_the_limit_on_open_files_it_says_so_and_serves_on() {
    let command =
        format!("ulimit -n 32; exec {} --listen 127.0.0.1:0 --threads 1", env!("CARGO_BIN_EXE_pktecho"));
    let mut shell = Command::new("sh");
    let mut server = Server::spawn(shell.args(["-c", &command]));
    let mut streams: Vec<_> = (0..40).map(|_| TcpStream::connect(&server.addr).unwrap()).collect();
    echo(&mut streams[0], b"\x01\0\0\0x");
    let mut line = String::new();
    BufReader::new(server.child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("open files") && line.contains("ulimit -n"), "{line}");
    echo(&mut streams[0], b"\x01\0\0\0x");
    // With room again, those who waited are served.
    let mut last = streams.pop().unwrap();
    drop(streams);
    echo(&mut last, b"\x01\0\0\0x");
    drop(last);
    server.signal("TERM");
    server.finish();
}

#[test]
fn limits_and_checksums_are_those_of_the_command_line() {
    let server = Server::start(&["--crc", "--max-payload", "8"]);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    echo(&mut stream, b"\x03\0\0\0\x3a\xbd\x40\xc0\x34\xcf\xa2");
    stream.write_all(b"\x09\0\0\0").unwrap();
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)), "nine bytes are over the limit of eight");
    server.signal("TERM");
    server.finish();
}

#[test]
fn it_listens_on_several_addresses_with_each_way_of_sharing() {
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
        assert!(server.finish().starts_with("echoed 2 packets"));
    }
}

#[test]
fn a_socket_that_is_handed_over_is_listened_on() {
    for (threads, runtimes, more) in
        [("1", "one", ""), ("2", "own", ""), ("1", "one", "--listen 127.0.0.1:0")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        // As systemd does it: from file 3 on, for a process that is named.
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
fn a_unix_socket_is_listened_on_beside_tcp_and_replaced_when_it_is_stale() {
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
        // Killed: its file stays, and is no obstacle to the next one.
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
fn a_unix_socket_that_was_handed_over_is_listened_on() {
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
    assert!(path.exists(), "it is the one's who handed it over");
}

#[test]
fn a_certificate_that_cannot_be_used_is_one_line_that_names_it() {
    let certificate = Certificate::new("localhost");
    std::fs::write(certificate.key(), "no key").unwrap();
    for threads in ["1", "2"] {
        let options = ["--listen", "127.0.0.1:0", "--threads", threads];
        let output = pktecho(&options).args(certificate.options()).output().unwrap();
        assert_one_line_error(&output, 1, &["key.pem"]);
    }
}

#[test]
fn a_hangup_has_the_certificate_read_again() {
    let certificate = Certificate::new("localhost");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // With trust in what stands in the file at that time.
    let connects = |server: &Server| {
        let tls = TlsClientConfig::new().ca(certificate.chain()).server_name("localhost");
        runtime.block_on(async {
            let mut conn = PacketConn::connect_with(&server.addr, ConnConfig::new().tls(tls)).await.ok()?;
            conn.send(b"hello").await.unwrap();
            assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"hello");
            Some(conn)
        })
    };
    for sharing in ["one", "own"] {
        let options = ["--threads", "2", "--runtimes", sharing];
        let server = Server::start(&[&options[..], &certificate.options()].concat());
        let mut before = connects(&server).unwrap();
        certificate.renew();
        assert!(connects(&server).is_none(), "the server shows the old one");
        server.signal("HUP");
        while connects(&server).is_none() {}
        runtime.block_on(async {
            before.send(b"still here").await.unwrap();
            assert_eq!(before.recv().await.unwrap().unwrap().payload(), b"still here");
        });
    }
}

#[test]
fn two_servers_share_a_port_when_both_say_so() {
    let first = Server::start(&["--reuse-port"]);
    let second = Server::spawn(&mut pktecho(&["--listen", &first.addr, "--reuse-port"]));
    assert_eq!(first.addr, second.addr);
    // The one that is left serves whoever comes.
    drop(first);
    echo(&mut TcpStream::connect(&second.addr).unwrap(), b"\x01\0\0\0x");
    let output = pktecho(&["--listen", &second.addr]).output().unwrap();
    assert_one_line_error(&output, 1, &["in use"]);
}

#[test]
fn beyond_the_limits_clients_are_closed_at_once() {
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
fn its_figures_are_told_over_http() {
    let mut server = Server::start(&["--metrics", "127.0.0.1:0", "--threads", "2", "--runtimes", "own"]);
    let addr = server.metrics_addr();
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    for _ in 0..10 {
        echo(&mut stream, b"\x05\0\0\0hello");
    }
    drop(stream);
    // Brought up to date once a second.
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
        assert!(figures.lines().any(|told| told == line), "{line:?} is not in {figures}");
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
fn clients_that_are_silent_or_slow_are_ended_when_that_was_asked_for() {
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
fn a_client_that_does_not_read_gets_what_the_policy_says() {
    // A fifth of them more than a send queue and the kernel's buffers have room for.
    const COUNT: u32 = 50_000;
    let frame = |number: u32| [&1000_u32.to_le_bytes(), &number.to_le_bytes()[..], &[7; 996]].concat();
    let packets: Vec<u8> = (0..COUNT).flat_map(frame).collect();
    for policy in ["drop-newest", "drop-oldest", "disconnect"] {
        let server = Server::start(&["--threads", "1", "--slow-consumer", policy]);
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        // Nobody waits for it to read, so that this is read to its end.
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
            // An send queue of them, at the least.
            assert!(numbers.iter().copied().take(1000).eq(0..1000));
        }
    }
}

#[test]
fn bad_usage_is_one_line_and_exit_code_2() {
    let cases: [(&[&str], &[&str]); 17] = [
        (&["--port", "1"], &["unexpected argument '--port'", "--help"]),
        (&["--listen", "localhost"], &["'localhost'", "HOST:PORT"]),
        (&["--threads", "0"], &["from 1 to 1024"]),
        (&["--max-payload", "lots"], &["64KiB"]),
        (&["--drain-timeout", "soon"], &["--drain-timeout"]),
        (&["--frame-timeout", "0s"], &["'off'"]),
        (&["--max-conns", "0"], &["at least 1"]),
        (&["--max-conns", "9", "--threads", "2", "--runtimes", "own"], &["not with --runtimes own"]),
        (&["--memory-budget", "1000KiB"], &["at least 1MiB"]),
        (&["--tls-cert", "chain.pem"], &["--tls-key"]),
        (&["--tls-client-ca", "ca.pem"], &["--tls-cert"]),
        (&["--proxy-protocol"], &["--trusted-proxy"]),
        (&["--proxy-protocol", "--trusted-proxy", "everyone"], &["10.0.0.0/8"]),
        (&["--header", "u16le", "--max-payload", "1MiB"], &["u16le can say, 65535"]),
        (&["--reuse-port", "--listen", "unix:socket"], &["no port"]),
        (&["--metrics", "unix:socket"], &["HOST:PORT"]),
        (&["extra"], &["unexpected argument 'extra'"]),
    ];
    for (args, expected) in cases {
        assert_one_line_error(&pktecho(args).output().unwrap(), 2, expected);
    }
}

#[test]
fn an_address_that_cannot_be_had_is_one_line_that_says_what_to_do() {
    // Also where both share their port among threads of their own.
    for runtimes in ["one", "own"] {
        let options = ["--threads", "2", "--runtimes", runtimes];
        let server = Server::start(&options);
        let output = pktecho(&["--listen", &server.addr]).args(options).output().unwrap();
        assert_one_line_error(&output, 1, &[&server.addr, "choose another port", "in use"]);
    }
    // TEST-NET-1 of RFC 5737: never an address of this machine.
    let output = pktecho(&["--listen", "192.0.2.1:0"]).output().unwrap();
    assert_one_line_error(&output, 1, &["192.0.2.1:0", "an address of this machine"]);
}

#[test]
#[ignore = "needs python3: cargo test -p pktecho -- --include-ignored"]
fn a_client_that_speaks_the_wire_format_by_hand_is_served() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/by_hand.py");
    let status = Command::new("python3").arg(script).arg(env!("CARGO_BIN_EXE_pktecho")).status().unwrap();
    assert!(status.success());
}
