//! An echo server as a program, and frames to send to it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// A running echo server. Dropping this stops it.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start(program: &str, options: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(["--listen", "127.0.0.1:0"])
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { child, address }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends `pieces`, half-closes, and returns everything that arrives until the server closes.
    pub(crate) fn echo<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]> + Send) -> Vec<u8> {
        let stream = self.connect();
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                pieces.into_iter().for_each(|piece| (&stream).write_all(piece).unwrap());
                stream.shutdown(Shutdown::Write).unwrap();
            });
            let mut echoed = Vec::new();
            (&stream).read_to_end(&mut echoed).unwrap();
            sender.join().unwrap();
            echoed
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A frame whose payload bytes depend on their position, so that reordered bytes are detected.
pub(crate) fn frame(payload_len: usize) -> Vec<u8> {
    let payload = (0..payload_len).map(|at| (at % 251) as u8);
    (payload_len as u32).to_le_bytes().into_iter().chain(payload).collect()
}
