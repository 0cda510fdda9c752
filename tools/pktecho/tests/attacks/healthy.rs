//! A healthy client that runs during an attack, and must be served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::limits::{HANG_GUARD, SECOND, asserts_times};

/// How much the p99 of the healthy client may always rise: other programs use the machine too.
const P99_TOLERANCE: Duration = Duration::from_millis(2);

/// A client that echoes until it is stopped.
pub(crate) struct Healthy {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    /// Replies before the measurement.
    skipped: u32,
    thread: JoinHandle<Vec<Duration>>,
}

impl Healthy {
    pub(crate) fn start(client: &Client) -> Self {
        let client = client.clone();
        let mut stream = client.connect(20 * SECOND).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let answered = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&answered);
        let thread = thread::spawn(move || {
            let (mut times, mut number) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let sent = Instant::now();
                client.echo(&mut *stream, number).expect("the server replies");
                times.push(sent.elapsed());
                number += 1;
                counted.store(number, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1).saturating_sub(sent.elapsed()));
            }
            times
        });
        Self { stop, answered, skipped: 0, thread }
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

    /// Number of measured round-trip times so far.
    pub(crate) fn measured(&self) -> u32 {
        self.answered() - self.skipped
    }

    /// Measures round-trip times from now on.
    pub(crate) fn restart_measurement(&mut self) {
        self.skipped = self.answered();
    }

    /// Stops the client, and returns the 99th percentile of its round-trip times.
    pub(crate) fn p99(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().expect("the healthy client does not fail");
        let times = &mut times[self.skipped as usize..];
        times.sort();
        times[times.len() * 99 / 100]
    }
}

/// The p99 of a healthy client without an attack; `None` if tests do not assert times.
pub(crate) fn calm_p99(client: &Client) -> Option<Duration> {
    asserts_times().then(|| {
        let healthy = Healthy::start(client);
        thread::sleep(2 * SECOND);
        healthy.p99()
    })
}

/// Asserts that each packet of the healthy client was echoed, and, if tests assert times, that its p99 rose at most by
/// the factor `ratio` or by 2 ms.
pub(crate) fn assert_unharmed(what: &str, calm: Option<Duration>, healthy: Healthy, ratio: f64) {
    let attacked = healthy.p99();
    print_p99(what, calm, attacked);
    assert_p99(what, calm, attacked, |calm| calm.mul_f64(ratio));
}

/// Prints the p99 during an attack, and without it if that is known.
pub(crate) fn print_p99(what: &str, calm: Option<Duration>, attacked: Duration) {
    let Some(calm) = calm else { return };
    eprintln!("{what}: the healthy client's p99 was {attacked:.1?}, and {calm:.1?} without the attack");
}

/// Asserts, if tests assert times, that a p99 during an attack is at most `limit` of the p99 without it, or 2 ms more
/// than that.
pub(crate) fn assert_p99(
    what: &str,
    calm: Option<Duration>,
    attacked: Duration,
    limit: impl Fn(Duration) -> Duration,
) {
    let Some(calm) = calm else { return };
    let limit = limit(calm).max(calm + P99_TOLERANCE);
    assert!(attacked <= limit, "{what}: the healthy client's p99 rose from {calm:?} to {attacked:?}");
}
