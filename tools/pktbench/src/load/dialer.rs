//! Opens connections without blocking: TCP or Unix socket, then TLS. It is driven by the events of the loop that will
//! also run the connections, so that no other thread takes part, and the times are exact.
//!
//! ```text
//!   start --> connect --> TLS handshake --> Opened       each within --timeout
//!                '------------'-----------> Failed
//! ```

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockAddr, Socket as RawSocket, Type};

use crate::load::connect_error::ConnectError;
use crate::load::stream::{Socket, Stream};
use crate::load::target::{Address, Target, Targets};

pub(crate) struct Dialer {
    targets: Arc<Targets>,
    /// Local addresses to connect from; empty for the choice of the system.
    sources: Vec<IpAddr>,
    timeout: Duration,
    /// By the token of the connection.
    dials: BTreeMap<usize, Dial>,
}

/// A connection that is being opened.
struct Dial {
    /// `None` until a Unix socket has room in its backlog.
    stream: Option<Stream>,
    target: usize,
    since: Instant,
    connected_at: Option<Instant>,
    deadline: Instant,
}

/// A connection that is open.
pub(crate) struct Opened {
    pub(crate) stream: Stream,
    /// The index of its address.
    pub(crate) target: usize,
    /// From when it was due to the established connection.
    pub(crate) connect: Duration,
    /// The TLS handshake that followed.
    pub(crate) handshake: Option<Duration>,
}

/// A connection that could not be opened.
pub(crate) struct Refused {
    /// The index of its address.
    pub(crate) target: usize,
    /// One line that says what is wrong and what to do.
    pub(crate) problem: String,
    /// From when it was due to the failure.
    pub(crate) age: Duration,
}

pub(crate) type Dialed = Result<Opened, Refused>;

impl Dialer {
    pub(crate) fn new(targets: Arc<Targets>, sources: Vec<IpAddr>, timeout: Duration) -> Self {
        Self { targets, sources, timeout, dials: BTreeMap::new() }
    }

    /// The number of addresses.
    pub(crate) fn targets(&self) -> usize {
        self.targets.addresses().len()
    }

    /// The number of connections that are being opened.
    pub(crate) fn len(&self) -> usize {
        self.dials.len()
    }

    /// Starts to open connection `conn`, which was due at `since`. Its events have the token `token`, also after it is
    /// open. Returns the result if it is known at once.
    pub(crate) fn start(
        &mut self,
        registry: &Registry,
        token: usize,
        conn: usize,
        since: Instant,
    ) -> Option<Dialed> {
        let target = self.targets.index(conn);
        let now = Instant::now();
        let mut dial = Dial { stream: None, target, since, connected_at: None, deadline: now + self.timeout };
        // All combinations of an address and a source occur, even if there are as many of both.
        let source = (!self.sources.is_empty())
            .then(|| self.sources[(conn / self.targets.addresses().len()) % self.sources.len()]);
        let result = dial.open(self.targets.get(target), source, registry, token);
        self.dials.insert(token, dial);
        match result {
            Ok(()) => self.drive(registry, token),
            Err(error) => self.end(token, Err(error)),
        }
    }

    /// Goes on with the connection of an event.
    pub(crate) fn drive(&mut self, registry: &Registry, token: usize) -> Option<Dialed> {
        let dial = self.dials.get_mut(&token)?;
        match dial.progress(&self.targets, registry, token) {
            Ok(false) => None,
            Ok(true) => self.end(token, Ok(())),
            Err(error) => self.end(token, Err(error)),
        }
    }

    /// Goes on with the connections that no event announces: those whose time is over, and those that wait for the backlog
    /// of a Unix socket. Returns those that have ended.
    pub(crate) fn sweep(&mut self, registry: &Registry, now: Instant) -> Vec<(usize, Dialed)> {
        let waits = |dial: &Dial| dial.stream.is_none() || dial.deadline <= now;
        let tokens: Vec<_> =
            self.dials.iter().filter(|(_, dial)| waits(dial)).map(|(token, _)| *token).collect();
        let ended = tokens.into_iter().filter_map(|token| {
            let dialed = self.drive(registry, token).or_else(|| {
                let dial = self.dials.get(&token).filter(|dial| dial.deadline <= now)?;
                let in_handshake = dial.connected_at.is_some();
                self.end(token, Err(ConnectError::timeout(in_handshake)))
            });
            Some((token, dialed?))
        });
        ended.collect()
    }

    /// Gives up a connection. Returns its age.
    pub(crate) fn cancel(&mut self, token: usize) -> Option<Duration> {
        self.dials.remove(&token).map(|dial| dial.since.elapsed())
    }

    fn end(&mut self, token: usize, result: Result<(), ConnectError>) -> Option<Dialed> {
        let Dial { stream, target, since, connected_at, .. } = self.dials.remove(&token)?;
        let now = Instant::now();
        let connected_at = connected_at.unwrap_or(now);
        Some(match (result, stream) {
            (Ok(()), Some(stream)) => {
                let handshake = stream.is_tls().then(|| now.saturating_duration_since(connected_at));
                let connect = connected_at.saturating_duration_since(since);
                Ok(Opened { stream, target, connect, handshake })
            }
            (result, _) => {
                let error = result.err().unwrap_or_else(|| io::Error::from(ErrorKind::NotConnected).into());
                let problem = error.describe(&self.targets.get(target).address.to_string());
                Err(Refused { target, problem, age: now.saturating_duration_since(since) })
            }
        })
    }
}

impl Dial {
    /// Creates the socket and starts to connect it.
    fn open(
        &mut self,
        target: &Target,
        source: Option<IpAddr>,
        registry: &Registry,
        token: usize,
    ) -> Result<(), ConnectError> {
        let socket = match &target.address {
            Address::Tcp(addr) => Socket::Tcp(connect_tcp(*addr, source)?),
            Address::Unix(path) => match mio::net::UnixStream::connect(path) {
                Ok(socket) => Socket::Unix(socket),
                // The backlog of the server is full. No event announces that there is room.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            },
        };
        let mut stream = Stream::new(socket, None);
        stream.register(registry, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Goes on as far as the socket allows. Returns whether the connection is open.
    fn progress(
        &mut self,
        targets: &Targets,
        registry: &Registry,
        token: usize,
    ) -> Result<bool, ConnectError> {
        let target = targets.get(self.target);
        if self.stream.is_none() {
            self.open(target, None, registry, token)?;
        }
        let Some(stream) = &mut self.stream else { return Ok(false) };
        if self.connected_at.is_none() {
            if !stream.is_connected()? {
                return Ok(false);
            }
            self.connected_at = Some(Instant::now());
            stream.set_nodelay()?;
            if let Some(tls) = target.new_tls() {
                stream.start_tls(tls.map_err(|error| ConnectError::in_handshake(io::Error::other(error)))?);
            }
        }
        stream.handshake().map_err(ConnectError::in_handshake)
    }
}

/// A socket that is connecting.
fn connect_tcp(addr: SocketAddr, source: Option<IpAddr>) -> io::Result<mio::net::TcpStream> {
    let Some(source) = source else { return mio::net::TcpStream::connect(addr) };
    let socket = RawSocket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    match socket.connect(&SockAddr::from(addr)) {
        Err(error) if !is_in_progress(&error) => return Err(error),
        _ => {}
    }
    Ok(mio::net::TcpStream::from_std(socket.into()))
}

fn is_in_progress(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::net::TcpListener;

    /// Dials until `count` connections have ended.
    fn dial(dialer: &mut Dialer, conns: std::ops::Range<usize>) -> Vec<(usize, Dialed)> {
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(16);
        let (mut ended, count) = (Vec::new(), conns.len());
        for conn in conns {
            let dialed = dialer.start(poll.registry(), conn, conn, Instant::now());
            ended.extend(dialed.map(|dialed| (conn, dialed)));
        }
        while ended.len() < count {
            poll.poll(&mut events, Some(Duration::from_millis(10))).unwrap();
            for event in &events {
                let Token(token) = event.token();
                ended.extend(dialer.drive(poll.registry(), token).map(|dialed| (token, dialed)));
            }
            ended.extend(dialer.sweep(poll.registry(), Instant::now()));
        }
        assert_eq!(dialer.len(), 0);
        ended
    }

    fn dialer(addr: SocketAddr, sources: Vec<IpAddr>, timeout: Duration) -> Dialer {
        Dialer::new(Arc::new(addr.into()), sources, timeout)
    }

    #[test]
    fn a_connection_that_is_accepted_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut dialer = dialer(listener.local_addr().unwrap(), Vec::new(), Duration::from_secs(10));
        let ended = dial(&mut dialer, 0..5);
        assert!(ended.iter().all(|(_, dialed)| dialed.as_ref().is_ok_and(|open| open.handshake.is_none())));
    }

    #[test]
    fn connections_come_from_the_source_addresses_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sources = vec![[127, 0, 0, 1].into(), [127, 0, 0, 9].into()];
        let mut dialer = dialer(listener.local_addr().unwrap(), sources, Duration::from_secs(10));
        let ended = dial(&mut dialer, 0..4);
        assert!(ended.iter().all(|(_, dialed)| dialed.is_ok()));
        let mut from: Vec<_> = (0..4).map(|_| listener.accept().unwrap().1.ip().to_string()).collect();
        from.sort();
        assert_eq!(from, ["127.0.0.1", "127.0.0.1", "127.0.0.9", "127.0.0.9"]);
    }

    #[test]
    fn a_refused_connection_is_an_error_that_names_the_address() {
        // Bound, so that no other program listens on the port, and not listening.
        let socket = RawSocket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        let (_, dialed) = dial(&mut dialer(addr, Vec::new(), Duration::from_secs(10)), 0..1).remove(0);
        let problem = dialed.err().unwrap().problem;
        assert!(problem.starts_with(&format!("cannot connect to {addr}: ")), "{problem}");
        assert!(problem.contains("start the server"), "{problem}");
    }

    #[test]
    fn a_tls_handshake_without_an_answer_ends_at_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let plan = crate::plan::tests::plan();
        let tls = crate::plan::Tls {
            trust: crate::plan::Trust::Any { identity: None },
            server_name: Some("echo.test".to_owned()),
        };
        let addr = listener.local_addr().unwrap().to_string();
        let plan = crate::plan::Plan { connect: vec![addr.parse().unwrap()], tls: Some(tls), ..plan };
        let targets = Targets::of(&plan).unwrap();
        let mut dialer = Dialer::new(Arc::new(targets), Vec::new(), Duration::from_millis(100));
        let (_, dialed) = dial(&mut dialer, 0..1).remove(0);
        let problem = dialed.err().unwrap().problem;
        assert!(problem.starts_with(&format!("cannot speak TLS with {addr}: ")), "{problem}");
        assert!(problem.contains("raise --timeout"), "{problem}");
    }
}
