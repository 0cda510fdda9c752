//! Plays a case against the server: blocking sockets, one connection at a time, and a deadline over all that a connection
//! does.
//!
//! ```text
//!   steps -> Conn: Line  write ----------> server
//!                  Answers  compared as they come <---'       first difference, end or silence -> Fault
//! ```
//!
//! Long exchanges write on a thread of their own, so that no server has to hold what is not read yet.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use pktconn::Addr;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::conform::cases::{Case, Others, Step};
use crate::load::connect::resolve;

/// Where the server is.
pub(crate) struct Server {
    addr: Addr,
    /// Resolved once, so that all cases meet the same server; empty for a Unix socket.
    tcp: Vec<SocketAddr>,
    timeout: Duration,
}

/// How a server failed a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) detail: String,
    /// The bytes that came instead, as [`Answers`] shows them; nothing where none came.
    pub(crate) got: String,
}

/// Between two bytes of one that trickles: a server on the loopback reads the first one meanwhile.
const TRICKLE_PAUSE: Duration = Duration::from_millis(1);

/// Around a difference, so much is shown on each side of it.
const SHOWN_BYTES: usize = 16;

const READ_BYTES: usize = 64 * 1024;

impl Server {
    pub(crate) fn new(addr: Addr, timeout: Duration) -> anyhow::Result<Self> {
        let tcp = if addr.unix_path().is_some() { Vec::new() } else { resolve(&addr.to_string())? };
        Ok(Self { addr, tcp, timeout })
    }

    /// Plays a case, and looks after the connections besides that it names.
    pub(crate) fn play(&self, case: &Case) -> Result<(), Fault> {
        let standing = match &case.others {
            Others::Standing(packet) => Some(self.served(packet).map_err(|fault| fault.on("beside it"))?),
            Others::None | Others::New(_) => None,
        };
        let mut conn = self.conn()?;
        case.steps.iter().try_for_each(|step| conn.take(step))?;
        match (&case.others, standing) {
            (Others::New(packet), _) => {
                self.served(packet).map(drop).map_err(|fault| fault.on("made after it"))
            }
            (Others::Standing(packet), Some(mut conn)) => {
                conn.line.deadline = Instant::now() + self.timeout;
                conn.exchange(packet, false).map_err(|fault| fault.on("beside it"))
            }
            _ => Ok(()),
        }
    }

    /// A connection on which a packet has come back.
    fn served(&self, packet: &[u8]) -> Result<Conn, Fault> {
        let mut conn = self.conn()?;
        conn.exchange(packet, false)?;
        Ok(conn)
    }

    fn conn(&self) -> Result<Conn, Fault> {
        let socket = self.connect().map_err(|error| Fault {
            detail: format!("the connection could not be made: {error}"),
            got: String::new(),
        })?;
        // The first address of a name may be one that nothing answers at.
        let line = Line { socket, deadline: Instant::now() + self.timeout, timeout: self.timeout };
        Ok(Conn { line, answers: Answers::default() })
    }

    pub(crate) fn connect(&self) -> io::Result<Socket> {
        if let Some(path) = self.addr.unix_path() {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // It bounds the wait for a server whose backlog is full, too.
            socket.set_write_timeout(Some(self.timeout.max(LEAST_WAIT)))?;
            socket.connect(&SockAddr::unix(path)?)?;
            return Ok(socket);
        }
        let mut failed = ErrorKind::AddrNotAvailable.into();
        for addr in &self.tcp {
            match TcpStream::connect_timeout(addr, self.timeout) {
                Ok(stream) => {
                    // Each write is to leave as it is.
                    stream.set_nodelay(true)?;
                    return Ok(stream.into());
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

impl Fault {
    fn on(self, which: &str) -> Self {
        Self { detail: format!("on a connection {which} {}", self.detail), ..self }
    }
}

/// A connection, and what came on it.
struct Conn {
    line: Line,
    answers: Answers,
}

impl Conn {
    fn take(&mut self, step: &Step) -> Result<(), Fault> {
        let Self { line, answers } = self;
        match step {
            // A server may have closed already; the next read tells whether it may.
            Step::Send(bytes) => drop(line.write(bytes)),
            Step::Trickle(bytes) => {
                for byte in bytes {
                    drop(line.write(std::slice::from_ref(byte)));
                    thread::sleep(TRICKLE_PAUSE);
                }
            }
            Step::Expect(bytes) => answers.expect(line, bytes)?,
            Step::Exchange(bytes) => self.exchange(bytes, false)?,
            Step::LastExchange(bytes) => self.exchange(bytes, true)?,
            // It fails on a connection that the server has reset, which the next read tells.
            Step::HalfClose => drop(line.socket.shutdown(Shutdown::Write)),
            Step::End => answers.expect_end(line, false)?,
            Step::Gone => answers.expect_end(line, true)?,
        }
        Ok(())
    }

    fn exchange(&mut self, bytes: &[u8], half_close: bool) -> Result<(), Fault> {
        let Self { line, answers } = self;
        let line = &*line;
        thread::scope(|scope| {
            let writer = thread::Builder::new().spawn_scoped(scope, move || {
                line.write(bytes)?;
                if half_close { line.socket.shutdown(Shutdown::Write).map_err(Stop::Failed) } else { Ok(()) }
            });
            let writer = writer.map_err(|error| answers.fault(&Stop::Failed(error), bytes.len()))?;
            let read = answers.expect(line, bytes);
            if read.is_err() {
                // The writer need not wait for a server that does no more.
                let _ = line.socket.shutdown(Shutdown::Both);
            }
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read?;
            written.map_err(|stop| answers.fault(&stop, 0))
        })
    }
}

/// What a socket takes for less is no limit at all.
const LEAST_WAIT: Duration = Duration::from_micros(1);

/// The socket, and until when it is of interest.
struct Line {
    socket: Socket,
    deadline: Instant,
    timeout: Duration,
}

/// Why nothing more comes.
#[derive(Debug)]
enum Stop {
    Closed,
    Reset,
    Silent(Duration),
    Failed(io::Error),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was closed"),
            Self::Reset => f.write_str("the connection was reset"),
            Self::Silent(time) => write!(f, "nothing more came within {}", humantime::format_duration(*time)),
            Self::Failed(error) => write!(f, "the connection failed: {error}"),
        }
    }
}

impl Line {
    fn left(&self) -> Result<Duration, Stop> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Stop::Silent(self.timeout)) } else { Ok(left.max(LEAST_WAIT)) }
    }

    /// At least one byte.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, Stop> {
        loop {
            self.socket.set_read_timeout(Some(self.left()?)).map_err(Stop::Failed)?;
            match (&self.socket).read(buffer) {
                Ok(0) => return Err(Stop::Closed),
                Ok(count) => return Ok(count),
                Err(error) => self.go_on_after(error)?,
            }
        }
    }

    fn write(&self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            self.socket.set_write_timeout(Some(self.left()?)).map_err(Stop::Failed)?;
            match (&self.socket).write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) => self.go_on_after(error)?,
            }
        }
        Ok(())
    }

    fn go_on_after(&self, error: io::Error) -> Result<(), Stop> {
        match error.kind() {
            // A time that has passed is noticed before the next try.
            ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                Err(Stop::Reset)
            }
            _ => Err(Stop::Failed(error)),
        }
    }
}

/// What came on a connection so far: all of it right, or there is a fault.
#[derive(Default)]
struct Answers {
    count: u64,
    /// The last of them.
    tail: Vec<u8>,
}

impl Answers {
    fn expect(&mut self, line: &Line, expected: &[u8]) -> Result<(), Fault> {
        let mut buffer = vec![0; READ_BYTES.min(expected.len())];
        let mut left = expected;
        while !left.is_empty() {
            let room = left.len().min(buffer.len());
            let count = line.read(&mut buffer[..room]).map_err(|stop| self.fault(&stop, left.len()))?;
            let (came, right) = (&buffer[..count], &left[..count]);
            if came != right {
                let at = came.iter().zip(right).take_while(|(came, right)| came == right).count();
                self.add(&came[..at]);
                let detail = format!(
                    "at offset {} of the answers came {:02x} in place of {:02x}",
                    self.count, came[at], right[at]
                );
                return Err(Fault { detail, got: self.shown(&came[at..]) });
            }
            self.add(came);
            left = &left[count..];
        }
        Ok(())
    }

    /// Reads the end of the stream, or also a reset.
    fn expect_end(&mut self, line: &Line, or_reset: bool) -> Result<(), Fault> {
        let mut buffer = [0; 4 * SHOWN_BYTES];
        let detail = match line.read(&mut buffer) {
            Err(Stop::Closed) => return Ok(()),
            Err(Stop::Reset) if or_reset => return Ok(()),
            Ok(count) => {
                let detail = format!("more came behind the {} bytes that had to come", self.count);
                return Err(Fault { detail, got: self.shown(&buffer[..count]) });
            }
            Err(Stop::Silent(time)) => {
                format!("the connection was still open after {}", humantime::format_duration(time))
            }
            Err(stop) => stop.to_string(),
        };
        Err(Fault { detail, got: self.shown(&[]) })
    }

    fn add(&mut self, came: &[u8]) {
        self.count += came.len() as u64;
        self.tail.extend_from_slice(&came[came.len().saturating_sub(SHOWN_BYTES)..]);
        self.tail.drain(..self.tail.len().saturating_sub(SHOWN_BYTES));
    }

    fn fault(&self, stop: &Stop, missing: usize) -> Fault {
        let detail = format!("{stop} after {} bytes, with {missing} missing", self.count);
        Fault { detail, got: self.shown(&[]) }
    }

    /// The bytes around the place that was reached, as hex: the right ones, a space, the wrong ones. Dots stand for what is
    /// not shown.
    fn shown(&self, wrong: &[u8]) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let before = if self.count > self.tail.len() as u64 { "..." } else { "" };
        let between = if self.tail.is_empty() || wrong.is_empty() { "" } else { " " };
        let behind = if wrong.len() > SHOWN_BYTES { "..." } else { "" };
        let wrong = &wrong[..wrong.len().min(SHOWN_BYTES)];
        format!("{before}{}{between}{}{behind}", hex(&self.tail), hex(wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_shown_around_the_place_that_was_reached() {
        let mut answers = Answers::default();
        assert_eq!(answers.shown(&[]), "");
        answers.add(&[1, 2]);
        assert_eq!(answers.shown(&[0xff]), "0102 ff");
        answers.add(&[3; 100]);
        assert_eq!(answers.shown(&[4; 17]), format!("...{} {}...", "03".repeat(16), "04".repeat(16)));
        assert_eq!(answers.count, 102);
    }
}
