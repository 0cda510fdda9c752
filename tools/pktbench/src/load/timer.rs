//! Wakes an event loop at a time between two milliseconds.
//!
//! The wait of `epoll` is in whole milliseconds, which would send the packets of a millisecond together. On Linux a
//! timer of the kernel, which is a file to wait for, is exact to some tens of microseconds; the wait of other systems
//! is.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};

use crate::plan::clock::Clock;

pub(crate) struct Timer {
    #[cfg(target_os = "linux")]
    timer: rustix::fd::OwnedFd,
    /// What it is set to.
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

    /// Sets it to `at_ns` of `clock`, and returns how long the loop may wait besides: `wait`.
    pub(crate) fn set(
        &mut self,
        at_ns: u64,
        clock: Clock,
        wait: Option<Duration>,
    ) -> io::Result<Option<Duration>> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        if self.at_ns != at_ns {
            let once = Timespec { tv_sec: 0, tv_nsec: 0 };
            // None at all would be no timer.
            let left = Duration::from_nanos(at_ns.saturating_sub(clock.now_ns()).max(1));
            let time = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            timerfd_settime(
                &self.timer,
                TimerfdTimerFlags::empty(),
                &Itimerspec { it_interval: once, it_value: time },
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
