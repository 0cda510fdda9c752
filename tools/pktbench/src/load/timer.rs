//! Wakes an event loop with a resolution below one millisecond.
//!
//! The timeout of `epoll` is in whole milliseconds: all packets of a millisecond would be sent together. On Linux the
//! loop therefore polls a kernel timer (`timerfd`), which is exact to some tens of microseconds. On other systems the
//! timeout of `poll` is exact enough.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};

use crate::plan::clock::Clock;

pub(crate) struct Timer {
    #[cfg(target_os = "linux")]
    timer: rustix::fd::OwnedFd,
    /// The time that the timer is set to.
    #[cfg(target_os = "linux")]
    at_ns: u64,
}

#[cfg(target_os = "linux")]
impl Timer {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        use std::os::fd::AsRawFd;

        use mio::Interest;
        use mio::unix::SourceFd;
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, at_ns: 0 })
    }

    /// Sets the timer to `at_ns` of `clock`. Returns `wait` as the timeout for `poll`: the timer is an event, which ends
    /// the wait earlier.
    pub(crate) fn set(
        &mut self,
        at_ns: u64,
        clock: Clock,
        wait: Option<Duration>,
    ) -> io::Result<Option<Duration>> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        if self.at_ns != at_ns {
            let no_repetition = Timespec { tv_sec: 0, tv_nsec: 0 };
            // 0 would disarm the timer.
            let left = Duration::from_nanos(at_ns.saturating_sub(clock.now_ns()).max(1));
            let time = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            timerfd_settime(
                &self.timer,
                TimerfdTimerFlags::empty(),
                &Itimerspec { it_interval: no_repetition, it_value: time },
            )?;
            self.at_ns = at_ns;
        }
        Ok(wait)
    }
}

#[cfg(not(target_os = "linux"))]
impl Timer {
    pub(crate) fn new(_: &Registry, _: Token) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Returns the timeout for `poll`: `wait`, or the time until `at_ns` if that is shorter.
    pub(crate) fn set(
        &mut self,
        at_ns: u64,
        clock: Clock,
        wait: Option<Duration>,
    ) -> io::Result<Option<Duration>> {
        let left = Duration::from_nanos(at_ns.saturating_sub(clock.now_ns()));
        Ok(Some(wait.map_or(left, |wait| wait.min(left))))
    }
}
