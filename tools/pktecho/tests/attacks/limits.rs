//! How long tests may wait, and whether they assert times.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub(crate) use crate::common::asserts_times;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const MIB: u64 = 1 << 20;

/// Maximum time that a test waits for anything. It only ends a test that hangs, so it is far longer than a slow machine
/// needs. It is shorter than the server's default timeouts of 30 s.
pub(crate) const HANG_GUARD: Duration = Duration::from_secs(25);

/// `expected` if tests assert times, otherwise a time that only ends a hanging test.
pub(crate) fn time_limit(expected: Duration) -> Duration {
    if asserts_times() { expected } else { HANG_GUARD }
}

/// The deadline of something that takes less than `expected` on an idle machine.
pub(crate) fn deadline(expected: Duration) -> Instant {
    Instant::now() + time_limit(expected)
}

/// Runs the tests of attacks one after another. An attacker may have thousands of connections, so this also raises the
/// soft limit on open files, which is 1024 on some systems.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}
