//! The bare server and client as programs: they must be correct before their figures mean anything.

#![forbid(unsafe_code)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use common::{Server, frame};
use pktconn_benches::{load::LoadReport, wire::MAX_PAYLOAD_LEN};

fn run_client(address: SocketAddr, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bare_epoll_client"))
        .args(["--connect", &address.to_string()])
        .args(arguments)
        .output()
        .unwrap()
}

fn report(output: &Output) -> LoadReport {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn frames_around_the_read_buffer_come_back_whole() {
    let server = Server::start(env!("CARGO_BIN_EXE_bare_epoll_server"), &[]);
    for payload_len in [0, 1, 65_531, 65_532, 65_533, 65_536, 131_068, 131_069] {
        let frames = [frame(payload_len), frame(0), frame(7), frame(payload_len)].concat();
        assert_eq!(server.echo([frames.as_slice()]), frames, "payloads of {payload_len} bytes");
    }
}

#[test]
fn the_largest_packets_come_back_before_the_close() {
    let server = Server::start(env!("CARGO_BIN_EXE_bare_epoll_server"), &[]);
    let frames = [frame(MAX_PAYLOAD_LEN), frame(3), frame(MAX_PAYLOAD_LEN)].concat();
    assert!(server.echo([frames.as_slice()]) == frames, "a large packet was truncated or corrupted");
}

#[test]
fn single_bytes_add_up_to_packets() {
    let frames = [frame(0), frame(5), frame(300)].concat();
    assert_eq!(Server::start(env!("CARGO_BIN_EXE_bare_epoll_server"), &[]).echo(frames.chunks(1)), frames);
}

#[test]
fn a_frame_that_a_half_close_cuts_short_is_not_echoed() {
    let frames = [frame(9), frame(9)].concat();
    assert_eq!(Server::start(env!("CARGO_BIN_EXE_bare_epoll_server"), &[]).echo([&frames[..20]]), frame(9));
}

#[test]
fn a_peer_that_reads_late_gets_everything() {
    let server = Server::start(env!("CARGO_BIN_EXE_bare_epoll_server"), &[]);
    let frames = frame(60_000).repeat(300);
    let stream = server.connect();
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&frames).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        // Long enough for both sockets to fill up: their buffers hold less than 18 MB.
        thread::sleep(Duration::from_millis(300));
        let mut echoed = Vec::new();
        (&stream).read_to_end(&mut echoed).unwrap();
        assert!(echoed == frames, "{} of {} bytes came back", echoed.len(), frames.len());
    });
}

#[test]
fn a_length_above_the_limit_closes_only_that_connection() {
    let server = Server::start(env!("CARGO_BIN_EXE_bare_epoll_server"), &[]);
    let mut bystander = server.connect();
    let mut offender = server.connect();
    offender.write_all(&[frame(3), (MAX_PAYLOAD_LEN as u32 + 1).to_le_bytes().to_vec()].concat()).unwrap();
    let mut echoed = Vec::new();
    offender.read_to_end(&mut echoed).unwrap();
    assert_eq!(echoed, frame(3), "the frames before it are echoed");
    bystander.write_all(&frame(4)).unwrap();
    let mut reply = [0; 8];
    bystander.read_exact(&mut reply).unwrap();
    assert_eq!(reply, *frame(4));
}

#[test]
fn a_peer_that_resets_affects_no_other_connection() {
    let server = Server::start(env!("CARGO_BIN_EXE_bare_epoll_server"), &[]);
    for _ in 0..50 {
        let mut peer = server.connect();
        peer.write_all(&frame(60_000)).unwrap();
        // Closing a socket with unread data resets the connection.
        let _ = peer.read(&mut [0]).unwrap();
    }
    assert_eq!(server.echo([frame(5).as_slice()]), frame(5));
}

#[test]
fn the_client_reports_what_it_measured() {
    let server = Server::start(env!("CARGO_BIN_EXE_bare_epoll_server"), &[]);
    let output = run_client(server.address, &["--conns", "3", "--pipeline", "4", "--duration", "200ms"]);
    let report = report(&output);
    assert!(report.packets >= 12 && report.seconds >= 0.19, "{report:?}");
    // A round trip with two system calls on each side takes more than a microsecond, and less than the run.
    let in_order = 1000 < report.p50_ns && report.p50_ns <= report.p99_ns && report.p99_ns <= report.p999_ns;
    assert!(in_order && report.p999_ns < 5_000_000_000, "{report:?}");
}

#[test]
fn the_client_fails_in_one_line_on_a_wrong_reply() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&frame(6)).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let output = run_client(address, &["--conns", "1", "--sizes", "5-5", "--duration", "1s"]);
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "bare_epoll_client: connection 0: a reply of 6 bytes to a packet of 5 bytes\n"
    );
}

#[test]
fn an_open_loop_sends_every_packet_that_is_due() {
    let server = Server::start(env!("CARGO_BIN_EXE_bare_epoll_server"), &[]);
    let output = run_client(server.address, &["--conns", "3", "--rate", "2000", "--duration", "200ms"]);
    let report = report(&output);
    assert_eq!(report.packets, 400);
    assert!(report.seconds >= 0.199 && report.late_p99_ns.is_some(), "{report:?}");
}

#[test]
fn an_open_loop_does_not_wait_for_replies() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Replies only after all ten packets have arrived. A closed loop would wait for the first reply forever.
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut frames = [0; 10 * 9];
        stream.read_exact(&mut frames).unwrap();
        stream.write_all(&frames).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let options = ["--conns", "1", "--rate", "50", "--duration", "200ms", "--sizes", "5"];
    let report = report(&run_client(address, &options));
    server.join().unwrap();
    assert_eq!(report.packets, 10);
    // A packet is due every 20 ms: when the last one is due, the fifth from the end is 80 ms old, and the first 180 ms.
    assert!(report.p50_ns >= 80_000_000 && report.p999_ns >= 180_000_000, "{report:?}");
}

#[test]
fn an_open_loop_whose_rate_is_not_reached_ends_with_one_line() {
    // The kernel accepts connections, and nothing replies.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let output = run_client(address, &["--conns", "1", "--rate", "1000000", "--sizes", "0"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "bare_epoll_client: the rate was not reached: more than 10000 packets of one connection unanswered\n"
    );
}

#[test]
fn short_connections_are_closed_after_one_packet_and_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let mut lens = Vec::new();
        // The client opens the last connection before the end of its time, which the sleep exceeds.
        while lens.len() < 4 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut packet = [0; 9];
            stream.read_exact(&mut packet).unwrap();
            if lens.len() == 3 {
                thread::sleep(Duration::from_secs(2));
            }
            stream.write_all(&packet).unwrap();
            lens.push(stream.read_to_end(&mut Vec::new()).unwrap());
        }
        lens
    });
    let output = run_client(address, &["--short", "--conns", "1", "--sizes", "5", "--duration", "2s"]);
    assert_eq!(report(&output).packets, 4);
    assert_eq!(server.join().unwrap(), [0; 4], "one packet per connection, then its end");
}

#[test]
fn a_held_client_runs_once_per_line() {
    let server = Server::start(env!("CARGO_BIN_EXE_bare_epoll_server"), &[]);
    for options in [&["--hold", "--short"][..], &["--hold"]] {
        let mut client = Command::new(env!("CARGO_BIN_EXE_bare_epoll_client"))
            .args(["--connect", &server.address.to_string(), "--conns", "2", "--duration", "50ms"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(client.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "connected\n");
        let mut stdin = client.stdin.take().unwrap();
        for seed in ["1\n", "2\n"] {
            stdin.write_all(seed.as_bytes()).unwrap();
            line.clear();
            stdout.read_line(&mut line).unwrap();
            assert!(serde_json::from_str::<LoadReport>(&line).unwrap().packets >= 2, "{line}");
        }
        drop(stdin);
        assert!(client.wait().unwrap().success());
        assert_eq!(stdout.read_line(&mut line).unwrap(), 0);
    }
}

#[test]
fn packets_come_back_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (made, other) = (certificate(), certificate());
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let (cert, key) = (file("cert.pem", made.cert.pem()), file("key.pem", made.signing_key.serialize_pem()));
    let options = ["--tls-cert", &cert, "--tls-key", &key];
    let server = Server::start(env!("CARGO_BIN_EXE_tokio_rustls_server"), &options);
    // Packets of many records, and more bytes outstanding than the sockets hold: writes are partial on both sides.
    for (pipeline, sizes) in [("1", "0-2048"), ("32", "0-2048"), ("16", "1000000")] {
        let load = ["--conns", "3", "--duration", "200ms", "--pipeline", pipeline, "--sizes", sizes];
        let output = run_client(server.address, &[&load[..], &["--tls-ca", &cert]].concat());
        assert!(report(&output).packets >= 3);
    }
    let not_trusted = run_client(server.address, &["--tls-ca", &file("other.pem", other.cert.pem())]);
    assert!(String::from_utf8_lossy(&not_trusted.stderr).contains("the TLS handshake failed"));
}
