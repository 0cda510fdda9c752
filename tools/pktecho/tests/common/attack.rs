//! For the tests of attacks: a healthy client, and the memory, files and CPU time of the server.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Server;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Maximum time that a test waits for anything. It only ends a test that hangs, so it is far longer than a slow machine
/// needs. It is shorter than the server's default timeouts of 30 s.
pub(crate) const HANG_GUARD: Duration = Duration::from_secs(25);

/// How much the p99 of the healthy client may always rise: other programs use the machine too.
const P99_TOLERANCE: Duration = Duration::from_millis(2);

/// Returns true if tests assert times, which fails on a busy machine. `.ci/nightly times` sets `PKTCONN_TIMES=1`.
pub(crate) fn asserts_times() -> bool {
    std::env::var_os("PKTCONN_TIMES").is_some_and(|value| value == "1")
}

/// The deadline of something that takes less than `expected` on an idle machine.
pub(crate) fn deadline(expected: Duration) -> Instant {
    Instant::now() + if asserts_times() { expected } else { HANG_GUARD }
}

/// Runs the tests of this file one after another.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client that echoes until it is stopped.
pub(crate) struct Healthy {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Healthy {
    pub(crate) fn start(server: &Server) -> Self {
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(20 * SECOND)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let answered = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&answered);
        let thread = thread::spawn(move || {
            let (mut times, mut number) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let sent = Instant::now();
                echo(&mut stream, number);
                times.push(sent.elapsed());
                number += 1;
                counted.store(number, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1).saturating_sub(sent.elapsed()));
            }
            times
        });
        Self { stop, answered, thread }
    }

    /// Number of replies so far.
    pub(crate) fn answered(&self) -> u32 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits for `more` replies. Call it during the attack.
    pub(crate) fn expect_answers(&self, more: u32) {
        let (until, give_up_at) = (self.answered() + more, Instant::now() + 4 * HANG_GUARD);
        while self.answered() < until {
            assert!(!self.thread.is_finished(), "the healthy client has failed");
            assert!(Instant::now() < give_up_at, "{} of {until} packets were echoed", self.answered());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops the client, and returns the 99th percentile of its round-trip times.
    pub(crate) fn p99(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().expect("the healthy client does not fail");
        times.sort();
        times[times.len() * 99 / 100]
    }
}

/// The p99 of a healthy client without an attack; `None` if tests do not assert times.
pub(crate) fn calm_p99(server: &Server) -> Option<Duration> {
    asserts_times().then(|| {
        let healthy = Healthy::start(server);
        thread::sleep(2 * SECOND);
        healthy.p99()
    })
}

/// Asserts that each packet of the healthy client was echoed, and, if tests assert times, that its p99 rose at most by
/// the factor `ratio` or by 2 ms.
pub(crate) fn assert_unharmed(what: &str, calm: Option<Duration>, healthy: Healthy, ratio: f64) {
    let attacked = healthy.p99();
    let Some(calm) = calm else { return };
    eprintln!("{what}: the healthy client's p99 was {attacked:?}, and {calm:?} without the attack");
    let limit = calm.mul_f64(ratio).max(calm + P99_TOLERANCE);
    assert!(attacked <= limit, "{what}: the healthy client's p99 rose from {calm:?} to {attacked:?}");
}

pub(crate) fn proc_file(server: &Server, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{name}", server.child.id())).unwrap()
}

pub(crate) fn resident_bytes(server: &Server) -> u64 {
    let status = proc_file(server, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

pub(crate) fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().count()
}

/// The CPU time that the server has used so far.
pub(crate) fn cpu_time(server: &Server) -> Duration {
    let stat = proc_file(server, "stat");
    // The fields from the third on, which follow the name. The name may contain spaces and parentheses.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ is 100 on every Linux.
    Duration::from_millis(ticks * 10)
}

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
