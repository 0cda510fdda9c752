//! How long tests may wait, and whether they assert times.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const MIB: u64 = 1 << 20;

/// Maximum time that a test waits for anything. It only ends a test that hangs, so it is far longer than a slow machine
/// needs. It is shorter than the server's default timeouts of 30 s.
pub(crate) const HANG_GUARD: Duration = Duration::from_secs(25);

/// Returns true if tests assert times, which fails on a busy machine. `.ci/nightly times` sets `PKTCONN_TIMES=1`.
pub(crate) fn asserts_times() -> bool {
    std::env::var_os("PKTCONN_TIMES").is_some_and(|value| value == "1")
}

/// `expected` if tests assert times, otherwise a time that only ends a hanging test.
pub(crate) fn time_limit(expected: Duration) -> Duration {
    if asserts_times() { expected } else { HANG_GUARD }
}

/// The deadline of something that takes less than `expected` on an idle machine.
pub(crate) fn deadline(expected: Duration) -> Instant {
    Instant::now() + time_limit(expected)
}

/// Runs the tests of attacks one after another.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}
