//! What a connection does at set times, whatever its traffic is: heartbeats, and the end of its maximum age.

use std::time::Duration;

use tokio::time::Instant;

use super::age::{Age, AgeEvent, MaxAge};
use super::heartbeat::Heartbeat;
use super::{Machine, Phase, Wakeups};

#[derive(Debug, Default)]
pub(super) struct Schedule {
    heartbeat: Option<Heartbeat>,
    age: Option<Age>,
}

impl Machine {
    /// Starts sending heartbeats: at most `interval` without a packet.
    pub(crate) fn start_heartbeat(&mut self, interval: Duration, now: Instant) {
        self.schedule.get_or_insert_default().heartbeat = Some(Heartbeat::new(interval, now));
        self.request(Wakeups::FLUSHER);
    }

    /// Whether to send an empty packet now because nothing else was sent. Never while bytes are queued, since they
    /// reach the peer first.
    pub(crate) fn heartbeat_is_due(&mut self, now: Instant) -> bool {
        let Some(schedule) = self.schedule.as_mut().filter(|_| self.phase == Phase::Open) else {
            return false;
        };
        let Some(heartbeat) = &mut schedule.heartbeat else { return false };
        if self.queue.is_empty() && !self.has_latest {
            heartbeat.check(self.packets_sent, now)
        } else {
            heartbeat.skip(now)
        }
    }

    /// Starts to count the age of the connection. `seed` selects its jitter.
    pub(crate) fn start_age(&mut self, max: MaxAge, seed: u64, now: Instant) {
        self.schedule.get_or_insert_default().age = Some(Age::new(max, seed, now));
        self.request(Wakeups::FLUSHER);
    }

    pub(crate) fn has_age(&self) -> bool {
        self.schedule.as_ref().is_some_and(|schedule| schedule.age.is_some())
    }

    /// The grace, if the connection has reached its maximum age.
    pub(crate) fn aged(&self) -> Option<Duration> {
        self.schedule.as_ref()?.age.as_ref()?.reached()
    }

    /// What the age of the connection requires now. A connection that is closing has its own deadline.
    pub(crate) fn check_age(&mut self, now: Instant) -> Option<AgeEvent> {
        let schedule = self.schedule.as_mut().filter(|_| self.phase == Phase::Open)?;
        schedule.age.as_mut()?.check(now)
    }

    /// When to call [`heartbeat_is_due`](Self::heartbeat_is_due) and [`check_age`](Self::check_age) again.
    pub(crate) fn next_scheduled(&self) -> Option<Instant> {
        let schedule = self.schedule.as_ref().filter(|_| self.phase == Phase::Open)?;
        let heartbeat = schedule.heartbeat.as_ref().map(Heartbeat::next_check);
        let age = schedule.age.as_ref().and_then(Age::next_check);
        [heartbeat, age].into_iter().flatten().min()
    }
}
