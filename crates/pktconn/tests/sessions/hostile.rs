//! Clients that send what the specification forbids, by hand, little-endian.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;

use pktconn::{ConnConfig, PacketServer, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Server, ms, sessions, soon};

const WELCOME_LEN: usize = 6 + 67;
const SUPERSEDED: [u8; 11] = reject(3);

const fn reject(reason: u8) -> [u8; 11] {
    [0x02, 0xFF, 0xFF, 0xFF, 5, 0, reason, 0, 0, 0, 0]
}

fn control(type_code: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u16).to_le_bytes();
    [&[type_code, 0xFF, 0xFF, 0xFF][..], &len, body].concat()
}

fn ack(received: u64) -> Vec<u8> {
    control(0x03, &received.to_le_bytes())
}

fn bye(sent: u64) -> Vec<u8> {
    control(0x07, &[&[0][..], &sent.to_le_bytes()].concat())
}

#[derive(Clone, Copy)]
pub(crate) struct Hello {
    version: u8,
    id: [u8; 16],
    secret: [u8; 16],
    attempt: u32,
    received: u64,
    first_held: u64,
}

impl Hello {
    pub(crate) const NEW: Self =
        Self { version: 1, id: [0; 16], secret: [0; 16], attempt: 1, received: 0, first_held: 0 };

    pub(crate) fn bytes(self) -> Vec<u8> {
        let body = [
            &[self.version][..],
            &[0; 4],
            &self.id,
            &self.secret,
            &self.attempt.to_le_bytes(),
            &self.received.to_le_bytes(),
            &self.first_held.to_le_bytes(),
            &(1_u32 << 20).to_le_bytes(),
        ];
        control(0x00, &body.concat())
    }
}

pub(crate) async fn send(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// What the server sends until it closes.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset can follow what was sent.
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    bytes
}

/// A session whose first connection is established, and the HELLO that resumes it.
pub(crate) async fn attach(addr: SocketAddr) -> (TcpStream, Hello) {
    let mut stream = send(addr, &Hello::NEW.bytes()).await;
    let mut welcome = [0; WELCOME_LEN];
    soon(stream.read_exact(&mut welcome)).await.unwrap();
    let (id, secret) = (welcome[11..27].try_into().unwrap(), welcome[27..43].try_into().unwrap());
    stream.write_all(&ack(0)).await.unwrap();
    // The server confirms it.
    soon(stream.read_exact(&mut [0; 14])).await.unwrap();
    (stream, Hello { id, secret, attempt: 2, ..Hello::NEW })
}

/// Whether the session lives: it can be resumed.
pub(crate) async fn can_resume(addr: SocketAddr, hello: Hello) -> bool {
    let mut stream = send(addr, &hello.bytes()).await;
    let mut answer = [0; 11];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    match answer[0] {
        0x01 => true,
        _ => {
            assert_eq!(answer, reject(1), "REJECT unknown");
            false
        }
    }
}

#[tokio::test]
async fn a_frame_that_is_not_allowed_ends_the_connection_and_the_session_lives_on() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    let mut over_long = control(0x03, &[]);
    over_long[4..6].copy_from_slice(&1025_u16.to_le_bytes());
    let cases = [
        ("an unknown type", control(0x0A, &[])),
        ("an over-long body", over_long),
        ("HELLO once more", Hello::NEW.bytes()),
        ("WELCOME", control(0x01, &[0; 67])),
        ("REJECT", reject(4).to_vec()),
        ("GOAWAY", control(0x06, &[0; 10])),
        ("DONE", control(0x09, &[])),
        ("ACK that is too short", control(0x03, &[0; 7])),
        ("ACK that is too long", control(0x03, &[0; 9])),
        ("PING that is too long", control(0x04, &[0; 9])),
        ("BYE that is too short", control(0x07, &[0])),
        ("a payload over the limit", vec![0, 0, 0, 0x80]),
    ];
    for (what, bytes) in cases {
        let (mut stream, hello) = attach(server.addr).await;
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(rest(stream).await, [], "{what}");
        assert!(can_resume(server.addr, hello).await, "{what}");
    }
}

#[tokio::test]
async fn a_frame_that_is_cut_off_ends_the_connection_and_the_session_lives_on() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    for len in 1..14 {
        let (mut stream, hello) = attach(server.addr).await;
        stream.write_all(&ack(0)[..len]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(rest(stream).await, [], "{len} bytes of ACK");
        assert!(can_resume(server.addr, hello).await, "{len} bytes of ACK");
    }
}

#[tokio::test]
async fn a_type_that_may_be_ignored_is_ignored() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    let (mut stream, _) = attach(server.addr).await;
    stream.write_all(&[control(0x80, b"later"), control(0xFF, &[0; 1024])].concat()).await.unwrap();
    stream.write_all(&control(0x04, b"12345678")).await.unwrap();
    let mut pong = [0; 14];
    soon(stream.read_exact(&mut pong)).await.unwrap();
    assert_eq!(pong[..], control(0x05, b"12345678"));
}

#[tokio::test]
async fn a_counter_out_of_its_bounds_ends_the_session() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    let diverged = control(0x07, &[&[5][..], &[0; 8]].concat());
    for (what, bytes) in [
        ("ACK of a packet that was never sent", ack(1)),
        ("ACK of the largest number", ack(u64::MAX)),
        ("BYE with a packet that has not come", bye(1)),
        ("STOP at a packet that was never sent", control(0x08, &7_u64.to_le_bytes())),
        ("a packet after BYE", [bye(0), vec![1, 0, 0, 0, 9]].concat()),
    ] {
        let (mut stream, hello) = attach(server.addr).await;
        stream.write_all(&bytes).await.unwrap();
        let rest = rest(stream).await;
        assert!(rest.ends_with(&diverged), "{what}: {rest:x?}");
        assert!(!can_resume(server.addr, hello).await, "{what}");
    }
}

#[tokio::test]
async fn counters_of_hello_that_are_out_of_their_bounds_end_the_session() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    for change in [|hello: &mut Hello| hello.received = 1, |hello: &mut Hello| hello.first_held = u64::MAX] {
        let (stream, hello) = attach(server.addr).await;
        drop(stream);
        let mut wrong = hello;
        change(&mut wrong);
        assert_eq!(rest(send(server.addr, &wrong.bytes()).await).await, reject(2), "REJECT diverged");
        assert!(!can_resume(server.addr, Hello { attempt: 3, ..hello }).await);
    }
}

#[tokio::test]
async fn a_hello_that_does_not_begin_a_session_is_refused() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    let new = Hello::NEW;
    for (what, bytes, expected) in [
        ("attempt", Hello { attempt: 2, ..new }.bytes(), vec![]),
        ("secret", Hello { secret: [1; 16], ..new }.bytes(), vec![]),
        ("received", Hello { received: 1, ..new }.bytes(), vec![]),
        ("first_held", Hello { first_held: 1, ..new }.bytes(), vec![]),
        ("another frame first", ack(0), vec![]),
        ("version", Hello { version: 0, ..new }.bytes(), reject(6).to_vec()),
        ("an unknown session", Hello { id: [7; 16], ..new }.bytes(), reject(1).to_vec()),
    ] {
        assert_eq!(rest(send(server.addr, &bytes).await).await, expected, "{what}");
    }
    assert_eq!(server.handlers.load(SeqCst), 0);
}

#[tokio::test]
async fn a_session_is_not_taken_with_a_wrong_secret_or_an_old_attempt() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    let (mut stream, hello) = attach(server.addr).await;
    let guess = Hello { secret: [0; 16], attempt: 9, ..hello };
    assert_eq!(rest(send(server.addr, &guess.bytes()).await).await, reject(1));
    let old = Hello { attempt: 1, ..hello };
    assert_eq!(rest(send(server.addr, &old.bytes()).await).await, SUPERSEDED);
    // The connection is as it was.
    stream.write_all(&[1, 0, 0, 0, 9]).await.unwrap();
    let mut echoed = [0; 5];
    soon(stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(echoed, [1, 0, 0, 0, 9]);
}

#[tokio::test]
async fn an_older_connection_gets_a_last_frame() {
    let server = Server::echo(sessions(SessionConfig::new())).await;
    let (older, hello) = attach(server.addr).await;
    assert!(can_resume(server.addr, hello).await);
    assert_eq!(rest(older).await, SUPERSEDED);
    assert_eq!(server.handlers.load(SeqCst), 1);
}

#[tokio::test]
async fn more_sessions_than_allowed_are_told_to_try_again() {
    let server = Server::echo(sessions(SessionConfig::new().max_sessions(2))).await;
    let (_first, hello) = attach(server.addr).await;
    let (second, _) = attach(server.addr).await;
    let busy = [0x02, 0xFF, 0xFF, 0xFF, 5, 0, 4, 0xE8, 3, 0, 0];
    assert_eq!(rest(send(server.addr, &Hello::NEW.bytes()).await).await, busy);
    assert!(can_resume(server.addr, hello).await, "resumes are no new sessions");
    drop(second);
}

#[tokio::test]
async fn of_too_many_sessions_without_a_connection_the_oldest_expires() {
    let server = Server::echo(sessions(SessionConfig::new().max_detached(2))).await;
    let mut hellos = Vec::new();
    for _ in 0..3 {
        let (stream, hello) = attach(server.addr).await;
        drop(stream);
        // So that the server has seen the end.
        tokio::time::sleep(ms(50)).await;
        hellos.push(hello);
    }
    let mut lives = Vec::new();
    for hello in hellos {
        lives.push(can_resume(server.addr, hello).await);
    }
    assert_eq!(lives, [false, true, true]);
}

/// A client that fills the server's memory: its `replay_bytes` allow it, and the application receives nothing.
#[tokio::test]
async fn a_client_that_sends_more_than_may_wait_loses_its_session() {
    let (server, mut passed) = Server::passing(sessions(SessionConfig::new().recv_bytes(64 * 1024))).await;
    let (mut stream, _) = attach(server.addr).await;
    let session = soon(passed.recv()).await.unwrap();
    let packet = [&1000_u32.to_le_bytes()[..], &[7; 1000]].concat();
    soon(async { while stream.write_all(&packet).await.is_ok() {} }).await;
    assert!(session.try_send(b"x").is_err(), "the server has ended it");
}

#[tokio::test]
async fn a_server_without_sessions_closes_on_a_hello() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr().socket_addr().unwrap();
    tokio::spawn(server.serve(|mut conn| async move {
        let error = conn.recv().await.unwrap_err();
        assert!(error.is_protocol(), "{error}");
        Ok(())
    }));
    assert_eq!(rest(send(addr, &Hello::NEW.bytes()).await).await, []);
}

#[tokio::test]
async fn sessions_that_are_not_confirmed_count_as_unfinished_handshakes() {
    let conn = ConnConfig::new().handshake_timeout(None);
    let server = Server::echo(sessions(SessionConfig::new()).max_handshakes(2).conn(conn)).await;
    let mut conns = Vec::new();
    for _ in 0..3 {
        let mut stream = send(server.addr, &Hello::NEW.bytes()).await;
        soon(stream.read_exact(&mut [0; WELCOME_LEN])).await.unwrap();
        conns.push(stream);
    }
    assert_eq!(server.handle.stats().handshakes_running, 2);
    assert_eq!(rest(conns.remove(0)).await, [], "the oldest makes room");
    assert_eq!(server.handlers.load(SeqCst), 0);
    // Confirmed sessions take no place.
    let (_confirmed, _) = attach(server.addr).await;
    assert!(server.handle.stats().handshakes_running <= 2);
}
