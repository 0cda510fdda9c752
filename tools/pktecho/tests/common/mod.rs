//! The server as a process.

#![allow(dead_code, reason = "each test file uses a part of this")]

pub(crate) mod scrape;
pub(crate) mod tls;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

use socket2::{Domain, Socket, Type};

/// Returns true if tests assert times, which fails on a busy machine. `.ci/nightly times` sets `PKTCONN_TIMES=1`.
pub(crate) fn asserts_times() -> bool {
    std::env::var_os("PKTCONN_TIMES").is_some_and(|value| value == "1")
}

/// A running server. Dropping this kills it.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
    pub(crate) addr: String,
    /// The lines that it printed before its address.
    pub(crate) first_lines: Vec<String>,
}

impl Server {
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::spawn(pktecho(&["--listen", "127.0.0.1:0"]).args(options))
    }

    /// Starts a server that may open at most `files` files.
    pub(crate) fn with_open_files(files: usize, options: &[&str]) -> Self {
        let script = format!("ulimit -n {files}; exec \"$0\" --listen 127.0.0.1:0 \"$@\"");
        let mut shell = Command::new("sh");
        Self::spawn(
            shell.args(["-c", &script, env!("CARGO_BIN_EXE_pktecho")]).args(options).env_remove("RUST_LOG"),
        )
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first_lines = Vec::new();
        let addr = loop {
            let mut line = String::new();
            assert!(
                stdout.read_line(&mut line).unwrap() > 0,
                "no line contains the address: {first_lines:?}"
            );
            match line.strip_prefix("listening on ") {
                Some(addr) => break addr.trim().to_owned(),
                None => first_lines.push(line),
            }
        };
        Self { child, stdout, addr, first_lines }
    }

    /// The address of the metrics, for a server that was started with `--metrics`.
    pub(crate) fn metrics_addr(&mut self) -> String {
        let url = loop {
            let mut line = String::new();
            assert!(
                self.stdout.read_line(&mut line).unwrap() > 0,
                "no line contains the address of the metrics"
            );
            if let Some(url) = line.strip_prefix("metrics on http://") {
                break url.to_owned();
            }
        };
        url.trim().strip_suffix("/metrics").unwrap().to_owned()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits until the server exits with 0. Returns what it printed after the lines that were read.
    pub(crate) fn finish(mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {rest}");
        rest
    }
}

/// The last line, which has the totals.
pub(crate) fn summary(output: &str) -> &str {
    output.lines().next_back().unwrap_or_default()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends an HTTP request, and returns head and body of the response.
pub(crate) fn http(addr: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// A TCP socket that will connect from this address.
pub(crate) fn socket_from(source: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    Ok(socket)
}

pub(crate) fn pktecho(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pktecho"));
    command.args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}
