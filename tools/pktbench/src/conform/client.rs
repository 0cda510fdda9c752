//! Runs a case against the server, with blocking sockets and a deadline for each connection.
//!
//! ```text
//!   steps -> Conn: TimedSocket   write ----------> server
//!                  Received      compare <------------'       first difference, end or timeout -> CaseFailure
//! ```
//!
//! Exchanges write on a second thread, so that the server need not buffer what the client has not read yet.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use pktconn::Addr;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::conform::cases::{Case, OtherConn, Step};
use crate::load::target::resolve;

/// The server under test.
pub(crate) struct Server {
    addr: Addr,
    /// The resolved address: all cases must use the same server. Empty for a Unix socket.
    tcp: Vec<SocketAddr>,
    /// The time limit for connecting to each resolved address, and then for each connection.
    timeout: Duration,
}

/// Why a case failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CaseFailure {
    pub(crate) detail: String,
    /// The bytes received around the first difference, see [`Received::excerpt`]; empty if none were received.
    pub(crate) got: String,
}

/// The pause between two bytes of [`Step::Trickle`]: long enough for a server on the loopback to read the first one.
const TRICKLE_PAUSE: Duration = Duration::from_millis(1);

/// How many bytes are shown on each side of a difference.
const EXCERPT_LEN: usize = 16;

const READ_LEN: usize = 64 * 1024;

impl Server {
    pub(crate) fn new(addr: Addr, timeout: Duration) -> anyhow::Result<Self> {
        let tcp = if addr.unix_path().is_some() { Vec::new() } else { resolve(&addr.to_string())? };
        Ok(Self { addr, tcp, timeout })
    }

    /// Runs a case on a new connection, and checks its other connection.
    pub(crate) fn run_case(&self, case: &Case) -> Result<(), CaseFailure> {
        let other = match &case.other_conn {
            OtherConn::OpenThroughout(packet) => {
                Some(self.connect_and_echo(packet).map_err(|failure| failure.on(OPEN_THROUGHOUT))?)
            }
            OtherConn::None | OtherConn::OpenedAfter(_) => None,
        };
        let mut conn = self.open_conn()?;
        case.steps.iter().try_for_each(|step| conn.run_step(step))?;
        match (&case.other_conn, other) {
            (OtherConn::OpenedAfter(packet), _) => {
                self.connect_and_echo(packet).map(drop).map_err(|failure| failure.on(OPENED_AFTER))
            }
            (OtherConn::OpenThroughout(packet), Some(mut conn)) => {
                // The case on the first connection may have used up the time.
                conn.socket.deadline = Instant::now() + self.timeout;
                conn.exchange(packet, false).map_err(|failure| failure.on(OPEN_THROUGHOUT))
            }
            _ => Ok(()),
        }
    }

    /// Opens a connection and checks that this packet comes back on it.
    fn connect_and_echo(&self, packet: &[u8]) -> Result<Conn, CaseFailure> {
        let mut conn = self.open_conn()?;
        conn.exchange(packet, false)?;
        Ok(conn)
    }

    /// Whether this packet comes back on a new connection.
    pub(crate) fn echoes(&self, packet: &[u8]) -> Result<(), CaseFailure> {
        self.connect_and_echo(packet).map(drop)
    }

    fn open_conn(&self) -> Result<Conn, CaseFailure> {
        let socket = self.connect().map_err(|error| CaseFailure {
            detail: format!("cannot connect: {error}"),
            got: String::new(),
        })?;
        // The deadline begins here because connecting may have used up the timeout, once per resolved address.
        let socket = TimedSocket { socket, deadline: Instant::now() + self.timeout, timeout: self.timeout };
        Ok(Conn { socket, received: Received::default() })
    }

    pub(crate) fn connect(&self) -> io::Result<Socket> {
        if let Some(path) = self.addr.unix_path() {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // It also bounds the connect to a server whose backlog is full.
            socket.set_write_timeout(Some(self.timeout.max(MIN_SOCKET_TIMEOUT)))?;
            socket.connect(&SockAddr::unix(path)?)?;
            return Ok(socket);
        }
        let mut last_error = ErrorKind::AddrNotAvailable.into();
        for addr in &self.tcp {
            match TcpStream::connect_timeout(addr, self.timeout) {
                Ok(stream) => {
                    // Each write must be sent at once, as a segment of its own.
                    stream.set_nodelay(true)?;
                    return Ok(stream.into());
                }
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }
}

const OPEN_THROUGHOUT: &str = "the other connection";
const OPENED_AFTER: &str = "a connection opened afterwards";

impl CaseFailure {
    fn on(self, conn: &str) -> Self {
        Self { detail: format!("on {conn}: {}", self.detail), ..self }
    }
}

/// A connection, and what was received on it.
struct Conn {
    socket: TimedSocket,
    received: Received,
}

impl Conn {
    fn run_step(&mut self, step: &Step) -> Result<(), CaseFailure> {
        let Self { socket, received } = self;
        match step {
            // A failed write is ignored: the server may have closed, and the next read shows whether that is right.
            Step::Send(bytes) => drop(socket.write(bytes)),
            Step::Trickle(bytes) => {
                for byte in bytes {
                    drop(socket.write(std::slice::from_ref(byte)));
                    thread::sleep(TRICKLE_PAUSE);
                }
            }
            Step::Expect(bytes) => received.expect(socket, bytes)?,
            Step::Exchange(bytes) => self.exchange(bytes, false)?,
            Step::ExchangeAndHalfClose(bytes) => self.exchange(bytes, true)?,
            // It fails if the server has reset the connection; the next read reports that.
            Step::HalfClose => drop(socket.socket.shutdown(Shutdown::Write)),
            Step::ExpectEnd => received.expect_end(socket, false)?,
            Step::ExpectClosed => received.expect_end(socket, true)?,
        }
        Ok(())
    }

    fn exchange(&mut self, bytes: &[u8], half_close: bool) -> Result<(), CaseFailure> {
        let Self { socket, received } = self;
        let socket = &*socket;
        thread::scope(|scope| {
            let writer = thread::Builder::new().spawn_scoped(scope, move || {
                socket.write(bytes)?;
                match half_close {
                    true => socket.socket.shutdown(Shutdown::Write).map_err(SocketError::Other),
                    false => Ok(()),
                }
            });
            let writer = writer.map_err(|error| received.failure(&SocketError::Other(error), bytes.len()))?;
            let read = received.expect(socket, bytes);
            if read.is_err() {
                // Ends the writer, which would otherwise wait for a server that no longer reads.
                let _ = socket.socket.shutdown(Shutdown::Both);
            }
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read?;
            written.map_err(|error| received.failure(&error, 0))
        })
    }
}

/// The shortest timeout of a socket: a shorter one would be rounded to 0, which means no timeout.
const MIN_SOCKET_TIMEOUT: Duration = Duration::from_micros(1);

/// A socket with a deadline for all its reads and writes together.
struct TimedSocket {
    socket: Socket,
    deadline: Instant,
    /// For the error text.
    timeout: Duration,
}

/// Why a read or a write failed.
#[derive(Debug)]
enum SocketError {
    Closed,
    Reset,
    /// The deadline has passed; with the timeout that it was set from.
    TimedOut(Duration),
    Other(io::Error),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was closed"),
            Self::Reset => f.write_str("the connection was reset"),
            Self::TimedOut(time) => write!(f, "timed out after {}", humantime::format_duration(*time)),
            Self::Other(error) => write!(f, "the connection failed: {error}"),
        }
    }
}

impl TimedSocket {
    fn time_left(&self) -> Result<Duration, SocketError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(SocketError::TimedOut(self.timeout)),
            false => Ok(left.max(MIN_SOCKET_TIMEOUT)),
        }
    }

    /// Reads at least one byte.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, SocketError> {
        loop {
            self.socket.set_read_timeout(Some(self.time_left()?)).map_err(SocketError::Other)?;
            match (&self.socket).read(buffer) {
                Ok(0) => return Err(SocketError::Closed),
                Ok(count) => return Ok(count),
                Err(error) => self.retry_after(error)?,
            }
        }
    }

    /// Writes all bytes.
    fn write(&self, mut bytes: &[u8]) -> Result<(), SocketError> {
        while !bytes.is_empty() {
            self.socket.set_write_timeout(Some(self.time_left()?)).map_err(SocketError::Other)?;
            match (&self.socket).write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) => self.retry_after(error)?,
            }
        }
        Ok(())
    }

    /// `Ok` if the read or write should be tried again.
    fn retry_after(&self, error: io::Error) -> Result<(), SocketError> {
        match error.kind() {
            // The next try checks the deadline first.
            ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                Err(SocketError::Reset)
            }
            _ => Err(SocketError::Other(error)),
        }
    }
}

/// The bytes received on a connection so far, all of them as expected.
#[derive(Default)]
struct Received {
    count: u64,
    /// The last of them, up to [`EXCERPT_LEN`].
    tail: Vec<u8>,
}

impl Received {
    fn expect(&mut self, socket: &TimedSocket, expected: &[u8]) -> Result<(), CaseFailure> {
        let mut buffer = vec![0; READ_LEN.min(expected.len())];
        let mut left = expected;
        while !left.is_empty() {
            let room = left.len().min(buffer.len());
            let count = socket.read(&mut buffer[..room]).map_err(|error| self.failure(&error, left.len()))?;
            let (got, right) = (&buffer[..count], &left[..count]);
            if got != right {
                let at = got.iter().zip(right).take_while(|(got, right)| got == right).count();
                self.add(&got[..at]);
                let detail = format!(
                    "at offset {} of the response: {:02x} instead of {:02x}",
                    self.count, got[at], right[at]
                );
                return Err(CaseFailure { detail, got: self.excerpt(&got[at..]) });
            }
            self.add(got);
            left = &left[count..];
        }
        Ok(())
    }

    /// Reads the end of the stream, or a reset if `or_reset` allows it.
    fn expect_end(&mut self, socket: &TimedSocket, or_reset: bool) -> Result<(), CaseFailure> {
        let mut buffer = [0; 4 * EXCERPT_LEN];
        let detail = match socket.read(&mut buffer) {
            Err(SocketError::Closed) => return Ok(()),
            Err(SocketError::Reset) if or_reset => return Ok(()),
            Ok(count) => {
                let detail = format!("more bytes came after the {} expected ones", self.count);
                return Err(CaseFailure { detail, got: self.excerpt(&buffer[..count]) });
            }
            Err(SocketError::TimedOut(time)) => {
                format!("the connection was still open after {}", humantime::format_duration(time))
            }
            Err(error) => error.to_string(),
        };
        Err(CaseFailure { detail, got: self.excerpt(&[]) })
    }

    fn add(&mut self, bytes: &[u8]) {
        self.count += bytes.len() as u64;
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(EXCERPT_LEN)..]);
        self.tail.drain(..self.tail.len().saturating_sub(EXCERPT_LEN));
    }

    fn failure(&self, error: &SocketError, missing: usize) -> CaseFailure {
        let detail = format!("{error}; {} bytes received, {missing} missing", self.count);
        CaseFailure { detail, got: self.excerpt(&[]) }
    }

    /// The bytes around the first difference as hex: the last correct ones, a space, the wrong ones. Dots mark that
    /// more were received.
    fn excerpt(&self, wrong: &[u8]) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let before = if self.count > self.tail.len() as u64 { "..." } else { "" };
        let between = if self.tail.is_empty() || wrong.is_empty() { "" } else { " " };
        let after = if wrong.len() > EXCERPT_LEN { "..." } else { "" };
        let wrong = &wrong[..wrong.len().min(EXCERPT_LEN)];
        format!("{before}{}{between}{}{after}", hex(&self.tail), hex(wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_shows_the_bytes_around_the_difference() {
        let mut received = Received::default();
        assert_eq!(received.excerpt(&[]), "");
        received.add(&[1, 2]);
        assert_eq!(received.excerpt(&[0xff]), "0102 ff");
        received.add(&[3; 100]);
        assert_eq!(received.excerpt(&[4; 17]), format!("...{} {}...", "03".repeat(16), "04".repeat(16)));
        assert_eq!(received.count, 102);
    }
}
