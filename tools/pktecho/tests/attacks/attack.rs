//! An attacker: one thread with many connections that send a script of bytes at a given rate.
//!
//! It writes large pieces and sleeps in between, so that it needs little of the cores that it shares with the server.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::client::{Client, Stream};
use crate::limits::SECOND;
use crate::streams::is_gone;

/// Time between two rounds of writes.
const TICK: Duration = Duration::from_millis(1);

/// Bytes that were due and could not be sent for longer than this are dropped: an attacker does not catch up in a burst.
const MAX_BACKLOG: Duration = Duration::from_millis(200);

/// Time until a connection is looked at again if it could send nothing.
const IDLE: Duration = Duration::from_millis(100);

/// Time between two reads of a connection.
const READ_INTERVAL: Duration = Duration::from_millis(100);

/// Connections opened per tick, so that a server that closes all of them gets at most 1,000 new ones per second.
const OPENED_PER_TICK: usize = 1;

/// How many bytes a client has to send by now.
struct Pacer {
    bytes_per_second: u64,
    /// The bytes sent so far were due at this time.
    paid_until: Instant,
}

impl Pacer {
    fn due(&mut self, now: Instant) -> usize {
        self.paid_until = self.paid_until.max(now.checked_sub(MAX_BACKLOG).unwrap_or(now));
        let nanos = now.saturating_duration_since(self.paid_until).as_nanos();
        usize::try_from(nanos * u128::from(self.bytes_per_second) / 1_000_000_000).unwrap()
    }

    fn pay(&mut self, bytes: usize) {
        self.paid_until += Duration::from_nanos(bytes as u64 * 1_000_000_000 / self.bytes_per_second);
    }
}

/// What the attacker does.
#[derive(Clone)]
pub(crate) struct Attack {
    pub(crate) client: Client,
    pub(crate) conns: usize,
    /// The bytes that each connection sends. A connection without further bytes stays open.
    pub(crate) script: Arc<[u8]>,
    /// Whether a connection begins the script again at its end.
    pub(crate) repeats: bool,
    /// Of all connections together.
    pub(crate) bytes_per_second: u64,
    /// Maximum length of a write.
    pub(crate) write_len: usize,
    /// How much each connection reads.
    pub(crate) reads_per_second: usize,
    /// Whether closed connections are opened again.
    pub(crate) reconnects: bool,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    sent: AtomicU64,
    closed: AtomicU64,
    /// Connections that have bytes to send, or are not open yet.
    unfinished: AtomicUsize,
}

/// A running attack. Dropping it stops it.
pub(crate) struct Running {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

struct Conn {
    stream: Box<dyn Stream>,
    offset: usize,
    idle_until: Instant,
    next_read: Instant,
}

impl Attack {
    /// An attack that sends `script` once on each connection, reads nothing, and opens closed connections again.
    pub(crate) fn new(client: &Client, conns: usize, script: impl Into<Arc<[u8]>>) -> Self {
        Self {
            client: client.clone(),
            conns,
            script: script.into(),
            repeats: false,
            bytes_per_second: 100_000_000,
            write_len: 64 * 1024,
            reads_per_second: 0,
            reconnects: true,
        }
    }

    pub(crate) fn start(self) -> Running {
        let progress = Arc::new(Progress { unfinished: self.conns.into(), ..Progress::default() });
        let shared = Arc::clone(&progress);
        let thread = thread::spawn(move || self.run(&shared));
        Running { progress, thread: Some(thread) }
    }

    fn run(&self, progress: &Progress) {
        let mut pacer = Pacer { bytes_per_second: self.bytes_per_second, paid_until: Instant::now() };
        let mut conns: Vec<Option<Conn>> = (0..self.conns).map(|_| self.open().ok()).collect();
        let mut buffer = vec![0; self.reads_per_second / 10];
        let mut next = 0;
        while !progress.stop.load(Relaxed) {
            let now = Instant::now();
            let (mut due, mut opened) = (pacer.due(now), 0);
            for _ in 0..self.conns {
                if due == 0 {
                    break;
                }
                next = (next + 1) % self.conns;
                let slot = &mut conns[next];
                if slot.is_none() && self.reconnects && opened < OPENED_PER_TICK {
                    opened += 1;
                    *slot = self.open().ok();
                }
                let Some(conn) = slot.as_mut().filter(|conn| conn.idle_until <= now) else { continue };
                match self.advance(conn, now, due, &mut buffer) {
                    Ok(0) => conn.idle_until = now + IDLE,
                    Ok(sent) => {
                        pacer.pay(sent);
                        due -= sent;
                        progress.sent.fetch_add(sent as u64, Relaxed);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => conn.idle_until = now + IDLE,
                    Err(_) => {
                        *slot = None;
                        progress.closed.fetch_add(1, Relaxed);
                    }
                }
            }
            let is_unfinished = |slot: &&Option<Conn>| match slot {
                Some(conn) => conn.offset < self.script.len(),
                None => self.reconnects,
            };
            progress.unfinished.store(conns.iter().filter(is_unfinished).count(), Relaxed);
            thread::sleep(TICK);
        }
    }

    fn open(&self) -> io::Result<Conn> {
        let stream = self.client.connect(SECOND)?;
        stream.tcp().set_nonblocking(true)?;
        // A small buffer, so that what the attacker does not read waits in the server and not in its own kernel.
        SockRef::from(stream.tcp()).set_recv_buffer_size(4096)?;
        let now = Instant::now();
        Ok(Conn { stream, offset: 0, idle_until: now, next_read: now })
    }

    /// Sends up to `due` bytes. Returns an error if the server has closed the connection.
    fn advance(&self, conn: &mut Conn, now: Instant, due: usize, buffer: &mut [u8]) -> io::Result<usize> {
        // With unread replies, a reset shows only here and in a write.
        if let Some(error) = conn.stream.tcp().take_error()? {
            return Err(error);
        }
        if !buffer.is_empty() && conn.next_read <= now {
            conn.next_read = now + READ_INTERVAL;
            match conn.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        if conn.offset == self.script.len() {
            return if is_gone(conn.stream.tcp()) { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(0) };
        }
        let left = &self.script[conn.offset..];
        let sent = conn.stream.write(&left[..left.len().min(due).min(self.write_len)])?;
        conn.offset += sent;
        if conn.offset == self.script.len() && self.repeats {
            conn.offset = 0;
        }
        Ok(sent)
    }
}

impl Running {
    /// Stops the attack. Returns what it has done, for people.
    pub(crate) fn stop(self) -> String {
        let (sent, closed) = self.progress();
        format!("{} MB sent, {closed} connections closed by the server", sent / 1_000_000)
    }

    /// Bytes that the kernel has taken so far, and connections that the server has closed.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.progress.sent.load(Relaxed), self.progress.closed.load(Relaxed))
    }

    /// Waits until the attacker has sent `bytes` or the server has closed one of its connections, for at most `limit`.
    pub(crate) fn wait_until_noticed(&self, bytes: u64, limit: Duration) {
        let give_up_at = Instant::now() + limit;
        while Instant::now() < give_up_at {
            let (sent, closed) = self.progress();
            if sent >= bytes || closed > 0 {
                break;
            }
            thread::sleep(TICK);
        }
    }

    /// Waits until each connection has sent its script or is closed for good, for at most `limit`.
    pub(crate) fn wait_until_sent(&self, limit: Duration) {
        let give_up_at = Instant::now() + limit;
        while self.progress.unfinished.load(Relaxed) > 0 && Instant::now() < give_up_at {
            thread::sleep(TICK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.progress.stop.store(true, Relaxed);
        let result = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || !matches!(result, Some(Err(_))), "the attacker has failed");
    }
}
