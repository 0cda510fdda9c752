//! The deadlines of a waiting receiver: `frame_timeout` and `idle_timeout`.
//!
//! Only time spent waiting in `recv` counts. If the application does not receive, the peer may be unable to send more,
//! which is not its fault. A deadline that passes during a wait counts even if it is noticed late.

use std::time::Duration;

use tokio::time::Instant;

use super::Timeouts;
use crate::error::{Reason, Timeout};

#[derive(Debug, Default)]
pub(crate) struct RecvClock {
    /// When the current wait began. `None` if no receiver waits.
    since: Option<Instant>,
    /// How long the receiver had waited for the current frame before `since`. `None` between frames.
    frame: Option<Duration>,
    /// How long the peer had been silent before `since`, counting only waits.
    silent: Duration,
    /// The first value of acknowledged bytes in this silence. A larger one shows that the peer is alive.
    baseline: Option<u64>,
    /// The last write in this silence: the position of its first byte, and when it was.
    sent: Option<(u64, Instant)>,
    /// Whether a deadline has passed. The receiver then reads once more before it fails.
    is_overdue: bool,
    /// When the flusher checks this clock next.
    next_check: Option<Instant>,
}

impl RecvClock {
    /// A receiver starts to wait, or waits again after it was woken and found no whole frame.
    pub(crate) fn wait(&mut self, in_frame: bool, has_read: bool, now: Instant) {
        self.accumulate(now);
        (self.since, self.is_overdue) = (Some(now), false);
        self.frame = in_frame.then(|| self.frame.unwrap_or_default());
        if has_read {
            self.silent = Duration::ZERO;
            (self.baseline, self.sent) = (None, None);
        }
    }

    /// The receiver no longer waits.
    pub(crate) fn pause(&mut self, now: Instant) {
        self.accumulate(now);
        (self.since, self.is_overdue) = (None, false);
    }

    /// A whole frame was received. The time of the next one starts at zero.
    pub(crate) fn received(&mut self) {
        *self = Self { next_check: self.next_check, ..Self::default() };
    }

    /// The peer was alive at the time `at`, although it has sent nothing.
    pub(crate) fn alive_at(&mut self, at: Instant, now: Instant) {
        self.accumulate(now);
        self.silent = self.silent.min(now.saturating_duration_since(at));
        (self.baseline, self.sent) = (None, None);
    }

    /// The transport accepted bytes that start at position `from`.
    pub(crate) fn sent(&mut self, from: u64, now: Instant) {
        if self.since.is_some() {
            self.sent = Some((from, now));
        }
    }

    fn accumulate(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let waited = now.saturating_duration_since(since);
        self.silent += waited;
        if let Some(frame) = &mut self.frame {
            *frame += waited;
        }
        self.since = Some(now);
    }

    /// The earliest deadline, and the reason to fail with when it passes. `None` while no receiver waits.
    pub(crate) fn due(&self, timeouts: &Timeouts) -> Option<(Instant, Reason)> {
        let since = self.since?;
        let dues = [
            (Timeout::Frame, self.frame.zip(timeouts.frame)),
            (Timeout::Idle, Some(self.silent).zip(timeouts.idle)),
        ];
        let dues = dues.into_iter().filter_map(|(timeout, times)| {
            let (waited, granted) = times?;
            // A timeout that overflows the clock means no deadline.
            let due = since.checked_add(granted.saturating_sub(waited))?;
            Some((due, Reason::Timeout(timeout, granted)))
        });
        dues.min_by_key(|(due, _)| *due)
    }

    /// When to record how much the peer has acknowledged: half-way through the idle timeout. At the end of the timeout,
    /// a larger value shows that the peer is alive.
    pub(crate) fn baseline_due(&self, timeouts: &Timeouts) -> Option<Instant> {
        if self.baseline.is_some() {
            return None;
        }
        self.since?.checked_add((timeouts.idle? / 2).saturating_sub(self.silent))
    }

    /// Whether the flusher's next check is too late for a deadline, or not scheduled.
    pub(crate) fn needs_earlier_check(&self, timeouts: &Timeouts) -> bool {
        self.due(timeouts).is_some_and(|(due, _)| self.next_check.is_none_or(|at| at > due))
    }

    pub(crate) fn set_next_check(&mut self, at: Option<Instant>) {
        self.next_check = at;
    }

    /// The peer's kernel has acknowledged the first `acked` bytes. If they include bytes of the last write, the peer
    /// was alive when they were written. If they are only more than the baseline, the peer is alive now.
    pub(crate) fn acked(&mut self, acked: u64, now: Instant) {
        match self.sent {
            Some((from, at)) if acked > from => self.alive_at(at, now),
            _ if acked > *self.baseline.get_or_insert(acked) => self.alive_at(now, now),
            _ => {}
        }
    }

    /// Makes the receiver read once more before it fails.
    pub(crate) fn set_overdue(&mut self) {
        self.is_overdue = true;
    }

    pub(crate) fn is_overdue(&self) -> bool {
        self.is_overdue
    }

    /// Whether a receiver waits.
    pub(crate) fn is_running(&self) -> bool {
        self.since.is_some()
    }

    /// Until when the flusher keeps its timer for this clock while no receiver waits.
    pub(crate) fn expires_at(&self, timeouts: &Timeouts, now: Instant) -> Option<Instant> {
        self.next_check.or_else(|| now.checked_add(timeouts.idle.max(timeouts.frame)?))
    }

    /// Whether the clock has no state that affects the next wait.
    pub(crate) fn is_blank(&self) -> bool {
        !self.is_running() && self.frame.is_none() && self.silent.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timeouts(frame: u32, idle: u32) -> Timeouts {
        let secs = |secs: u32| (secs > 0).then_some(secs * SECOND);
        Timeouts { close: SECOND, close_grace: SECOND, frame: secs(frame), idle: secs(idle), write: None }
    }

    fn due_in(clock: &RecvClock, timeouts: &Timeouts, now: Instant) -> Option<Duration> {
        clock.due(timeouts).map(|(due, _)| due.saturating_duration_since(now))
    }

    #[test]
    fn only_time_spent_waiting_counts() {
        let (start, timeouts) = (Instant::now(), timeouts(5, 20));
        let mut clock = RecvClock::default();
        assert!(clock.due(&timeouts).is_none() && !clock.is_running());
        clock.wait(true, true, start);
        clock.pause(start + 3 * SECOND);
        assert!(clock.due(&timeouts).is_none() && !clock.is_running());
        let later = start + 100 * SECOND;
        clock.wait(true, false, later);
        assert_eq!(due_in(&clock, &timeouts, later), Some(2 * SECOND));
    }

    #[test]
    fn bytes_end_a_silence_and_do_not_extend_a_frame() {
        let (start, timeouts) = (Instant::now(), timeouts(5, 20));
        let mut clock = RecvClock::default();
        for second in 0..4 {
            let now = start + second * SECOND;
            clock.wait(true, true, now);
            assert_eq!(due_in(&clock, &timeouts, now), Some((5 - second) * SECOND));
        }
        clock.received();
        let now = start + 4 * SECOND;
        clock.wait(false, false, now);
        assert_eq!(due_in(&clock, &timeouts, now), Some(20 * SECOND));
        clock.wait(true, true, now + SECOND);
        assert_eq!(due_in(&clock, &timeouts, now + SECOND), Some(5 * SECOND), "a new frame");
    }

    #[test]
    fn a_peer_that_accepts_bytes_is_not_idle() {
        let (start, timeouts) = (Instant::now(), timeouts(0, 20));
        let mut clock = RecvClock::default();
        clock.wait(false, false, start);
        clock.alive_at(start + 15 * SECOND, start + 15 * SECOND);
        assert_eq!(due_in(&clock, &timeouts, start + 15 * SECOND), Some(20 * SECOND));
    }

    #[test]
    fn an_acknowledgement_shows_that_the_peer_was_alive_when_the_bytes_were_sent() {
        let (start, timeouts) = (Instant::now(), timeouts(0, 20));
        let at = |second: u32| start + second * SECOND;
        let mut clock = RecvClock::default();
        clock.wait(false, false, start);
        clock.sent(100, at(3));
        clock.acked(100, at(10));
        assert_eq!(
            due_in(&clock, &timeouts, at(10)),
            Some(10 * SECOND),
            "the last write is not acknowledged"
        );
        clock.acked(101, at(15));
        assert_eq!(due_in(&clock, &timeouts, at(15)), Some(8 * SECOND), "the peer was alive at 3 s");
    }
}
