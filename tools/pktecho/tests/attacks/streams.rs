//! Plain TCP connections of attackers and clients, and the packets that they echo.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::Server;

/// A frame with a payload of 512 bytes that contains `number`.
pub(crate) fn numbered(number: u32) -> [u8; 516] {
    let mut frame = [7; 516];
    frame[..4].copy_from_slice(&512_u32.to_le_bytes());
    frame[4..8].copy_from_slice(&number.to_le_bytes());
    frame
}

pub(crate) fn echo(stream: &mut TcpStream, number: u32) {
    let mut reply = [0; 516];
    stream.write_all(&numbered(number)).unwrap();
    stream.read_exact(&mut reply).expect("the server replies");
    assert_eq!(reply, numbered(number));
}

pub(crate) fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(&server.addr).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// Returns true if the server has closed or reset the connection. Reads nothing.
pub(crate) fn is_gone(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Waits until the server has closed all `streams`. Fails if one is still open at `deadline`.
pub(crate) fn wait_until_gone(mut streams: Vec<TcpStream>, deadline: Instant) {
    loop {
        streams.retain(|stream| !is_gone(stream));
        if streams.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} connections are still open", streams.len());
        thread::sleep(Duration::from_millis(10));
    }
}
