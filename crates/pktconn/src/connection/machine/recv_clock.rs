//! The deadlines of a waiting receiver: `frame_timeout`, `idle_timeout`, `first_packet_timeout` and `min_recv_rate`.
//!
//! Only time spent waiting in `recv` counts. If the application does not receive, the peer may be unable to send more,
//! which is not its fault. A deadline that passes during a wait counts even if it is noticed late.

use std::time::Duration;

use tokio::time::Instant;

use super::Rules;
use super::min_rate::{MinRate, RateWindow};
use crate::error::{Reason, Timeout};

/// A wait of a receiver that has a deadline.
#[derive(Debug, Default)]
pub(crate) struct TimedWait {
    /// Whether a part of a frame has arrived.
    pub(crate) in_frame: bool,
    /// Whether bytes have arrived since the last wait.
    pub(crate) has_read: bool,
    /// Whether no whole packet has arrived yet. `false` unless there is a `first_packet_timeout`.
    pub(crate) awaits_first: bool,
    /// The frame that the receiver waits for. `None` between frames, and unless there is a `min_recv_rate`.
    pub(crate) part: Option<FramePart>,
}

/// An incomplete frame: how many of its bytes have arrived, and how many are missing as far as is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FramePart {
    pub(crate) arrived: u64,
    pub(crate) missing: u64,
}

/// Small, because each packet of a connection with deadlines needs it. What is not part of every wait is apart.
#[derive(Debug, Default)]
pub(crate) struct RecvClock {
    /// When the current wait began. `None` if no receiver waits.
    since: Option<Instant>,
    /// How long the peer had been silent before `since`, counting only waits.
    silent: Duration,
    /// When the flusher checks this clock next.
    next_check: Option<Instant>,
    /// Whether a deadline has passed. The receiver then reads once more before it fails.
    is_overdue: bool,
    rare: Option<Box<RareTimes>>,
}

/// The times of a wait that is in a frame, is long, or has other limits than the timeouts.
#[derive(Debug, Default)]
struct RareTimes {
    /// How long the receiver had waited for the current frame before `since`. `None` between frames.
    frame: Option<Duration>,
    /// The first value of acknowledged bytes in this silence. A larger one shows that the peer is alive.
    baseline: Option<u64>,
    /// The last write in this silence: the position of its first byte, and when it was.
    sent: Option<(u64, Instant)>,
    /// How long the receiver had waited for the first packet before `since`. `None` after the first packet, and unless
    /// there is a `first_packet_timeout`.
    first: Option<Duration>,
    /// `None` between frames, and unless there is a `min_recv_rate`.
    rate: Option<Box<FrameRate>>,
}

/// How fast the current frame arrives.
#[derive(Debug)]
struct FrameRate {
    window: RateWindow,
    part: FramePart,
}

impl FrameRate {
    fn new(rate: MinRate, part: FramePart) -> Self {
        // The bytes that have arrived count: a peer may send a frame in few large pieces.
        let mut window = RateWindow::new(rate, part.arrived.saturating_add(part.missing));
        window.add_bytes(part.arrived);
        Self { window, part }
    }

    fn update(&mut self, rate: MinRate, part: FramePart) {
        // Under TLS the number goes down a little when a record is complete, which was counted with its overhead.
        self.window.add_bytes(part.arrived.saturating_sub(self.part.arrived));
        self.part = FramePart { arrived: part.arrived.max(self.part.arrived), ..part };
        self.window.roll(rate, part.missing);
    }
}

impl RareTimes {
    fn wait(&mut self, wait: &TimedWait, rules: &Rules) {
        if wait.has_read {
            (self.baseline, self.sent) = (None, None);
        }
        self.frame = wait.in_frame.then(|| self.frame.unwrap_or_default());
        self.first = wait.awaits_first.then(|| self.first.unwrap_or_default());
        match (&mut self.rate, rules.recv_rate(), wait.part) {
            (Some(measured), Some(rate), Some(part)) => measured.update(rate, part),
            (measured, rate, part) => {
                *measured = rate.zip(part).map(|(rate, part)| Box::new(FrameRate::new(rate, part)));
            }
        }
    }
}

impl RecvClock {
    /// Like [`wait`](Self::wait), but only if packets come whole and the flusher's next check is early enough: mostly.
    #[inline]
    pub(crate) fn wait_for_next(&mut self, wait: &TimedWait, rules: &Rules, now: Instant) -> bool {
        let is_plain = wait.has_read && !wait.in_frame && !wait.awaits_first;
        let due = rules.timeouts.idle.and_then(|idle| now.checked_add(idle));
        let is_checked = matches!((self.next_check, due), (Some(at), Some(due)) if at <= due);
        if !is_plain || !is_checked || self.since.is_some() || self.rare.is_some() {
            return false;
        }
        (self.since, self.silent, self.is_overdue) = (Some(now), Duration::ZERO, false);
        true
    }

    /// A receiver starts to wait, or waits again after it was woken and found no whole frame.
    pub(crate) fn wait(&mut self, wait: &TimedWait, rules: &Rules, now: Instant) {
        self.accumulate(now);
        (self.since, self.is_overdue) = (Some(now), false);
        if wait.has_read {
            self.silent = Duration::ZERO;
        }
        if self.rare.is_some() || wait.in_frame || wait.awaits_first {
            self.rare.get_or_insert_default().wait(wait, rules);
        }
    }

    /// The receiver no longer waits.
    pub(crate) fn pause(&mut self, now: Instant) {
        self.accumulate(now);
        (self.since, self.is_overdue) = (None, false);
    }

    /// A whole frame was received. The time of the next one starts at zero.
    #[inline]
    pub(crate) fn received(&mut self) {
        (self.since, self.silent, self.is_overdue) = (None, Duration::ZERO, false);
        if self.rare.is_some() {
            self.rare = None;
        }
    }

    /// The peer was alive at the time `at`, although it has sent nothing.
    pub(crate) fn alive_at(&mut self, at: Instant, now: Instant) {
        self.accumulate(now);
        self.silent = self.silent.min(now.saturating_duration_since(at));
        if let Some(rare) = &mut self.rare {
            (rare.baseline, rare.sent) = (None, None);
        }
    }

    /// The transport accepted bytes that start at position `from`.
    pub(crate) fn sent(&mut self, from: u64, now: Instant) {
        if self.since.is_some() {
            self.rare.get_or_insert_default().sent = Some((from, now));
        }
    }

    fn accumulate(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let waited = now.saturating_duration_since(since);
        self.silent += waited;
        if let Some(rare) = &mut self.rare {
            rare.frame = rare.frame.map(|frame| frame + waited);
            rare.first = rare.first.map(|first| first + waited);
            if let Some(measured) = &mut rare.rate {
                measured.window.add_time(waited);
            }
        }
        self.since = Some(now);
    }

    /// The earliest deadline. `None` while no receiver waits.
    pub(crate) fn due_at(&self, rules: &Rules) -> Option<Instant> {
        let left = |(waited, granted): (Duration, Duration)| granted.saturating_sub(waited);
        let mut least = Some(self.silent).zip(rules.timeouts.idle).map(left);
        let mut consider = |other: Option<Duration>| {
            least = match (least, other) {
                (Some(least), Some(other)) => Some(least.min(other)),
                (least, other) => least.or(other),
            };
        };
        if let Some(rare) = &self.rare {
            consider(rare.frame.zip(rules.timeouts.frame).map(left));
            consider(rare.first.zip(rules.first_packet()).map(left));
            let measured = rare.rate.as_ref().zip(rules.recv_rate());
            consider(measured.map(|(measured, rate)| measured.window.time_left(rate)));
        }
        // A timeout that overflows the clock means no deadline.
        self.since?.checked_add(least?)
    }

    /// The earliest deadline, and the reason to fail with when it passes. `None` while no receiver waits.
    pub(crate) fn due(&self, rules: &Rules) -> Option<(Instant, Reason)> {
        let since = self.since?;
        let rare = self.rare.as_deref();
        let dues = [
            (Timeout::Frame, rare.and_then(|rare| rare.frame).zip(rules.timeouts.frame)),
            (Timeout::Idle, Some(self.silent).zip(rules.timeouts.idle)),
            (Timeout::FirstPacket, rare.and_then(|rare| rare.first).zip(rules.first_packet())),
        ];
        let dues = dues.into_iter().filter_map(|(timeout, times)| {
            let (waited, granted) = times?;
            // A timeout that overflows the clock means no deadline.
            let due = since.checked_add(granted.saturating_sub(waited))?;
            Some((due, Reason::Timeout(timeout, granted)))
        });
        let measured = rare.and_then(|rare| rare.rate.as_ref()).zip(rules.recv_rate());
        let of_rate = measured.and_then(|(measured, rate)| {
            let due = since.checked_add(measured.window.time_left(rate))?;
            Some((due, measured.window.reason(Timeout::MinRecvRate, rate)))
        });
        dues.chain(of_rate).min_by_key(|(due, _)| *due)
    }

    /// Starts the next window of the `min_recv_rate` if the last one is over and enough has arrived.
    pub(crate) fn roll_rate(&mut self, rules: &Rules, now: Instant) {
        let Some(rate) = rules.recv_rate() else { return };
        self.accumulate(now);
        if let Some(measured) = self.rare.as_mut().and_then(|rare| rare.rate.as_mut()) {
            measured.window.roll(rate, measured.part.missing);
        }
    }

    /// When to record how much the peer has acknowledged: half-way through the idle timeout. At the end of the timeout,
    /// a larger value shows that the peer is alive.
    pub(crate) fn baseline_due(&self, rules: &Rules) -> Option<Instant> {
        if self.rare.as_ref().is_some_and(|rare| rare.baseline.is_some()) {
            return None;
        }
        self.since?.checked_add((rules.timeouts.idle? / 2).saturating_sub(self.silent))
    }

    /// Whether the flusher's next check is too late for a deadline, or not scheduled.
    pub(crate) fn needs_earlier_check(&self, rules: &Rules) -> bool {
        self.due_at(rules).is_some_and(|due| self.next_check.is_none_or(|at| at > due))
    }

    pub(crate) fn set_next_check(&mut self, at: Option<Instant>) {
        self.next_check = at;
    }

    /// The peer's kernel has acknowledged the first `acked` bytes. If they include bytes of the last write, the peer
    /// was alive when they were written. If they are only more than the baseline, the peer is alive now.
    pub(crate) fn acked(&mut self, acked: u64, now: Instant) {
        let rare = self.rare.get_or_insert_default();
        match rare.sent {
            Some((from, at)) if acked > from => self.alive_at(at, now),
            _ if acked > *rare.baseline.get_or_insert(acked) => self.alive_at(now, now),
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
    pub(crate) fn expires_at(&self, rules: &Rules, now: Instant) -> Option<Instant> {
        self.next_check.or_else(|| {
            let timeouts = [rules.timeouts.idle, rules.timeouts.frame, rules.first_packet()];
            let window = rules.recv_rate().map(|rate| rate.window);
            now.checked_add(timeouts.into_iter().chain([window]).flatten().max()?)
        })
    }

    /// Whether the clock has no state that affects the next wait.
    pub(crate) fn is_blank(&self) -> bool {
        let has_begun = |rare: &RareTimes| rare.frame.is_some() || rare.first.is_some();
        !self.is_running() && self.silent.is_zero() && !self.rare.as_deref().is_some_and(has_begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConnConfig;
    use crate::connection::config::Origin;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules(frame: u32, idle: u32) -> Rules {
        let secs = |secs: u32| (secs > 0).then_some(secs * SECOND);
        ConnConfig::new().frame_timeout(secs(frame)).idle_timeout(secs(idle)).rules(Origin::Unknown)
    }

    fn wait(in_frame: bool, has_read: bool) -> TimedWait {
        TimedWait { in_frame, has_read, ..TimedWait::default() }
    }

    fn due_in(clock: &RecvClock, rules: &Rules, now: Instant) -> Option<Duration> {
        assert_eq!(clock.due_at(rules), clock.due(rules).map(|(due, _)| due));
        clock.due_at(rules).map(|due| due.saturating_duration_since(now))
    }

    #[test]
    fn the_quick_way_to_wait_for_the_next_packet_changes_nothing_or_what_a_wait_changes() {
        let start = Instant::now();
        for (rules, frame_waits) in [(rules(5, 20), 0), (rules(5, 0), 0), (rules(0, 20), 1)] {
            for next_check in [None, Some(start + 19 * SECOND), Some(start + 99 * SECOND)] {
                for (in_frame, has_read) in [(false, true), (false, false), (true, true)] {
                    let mut clock = RecvClock::default();
                    clock.set_next_check(next_check);
                    (0..frame_waits).for_each(|_| clock.wait(&wait(true, true), &rules, start));
                    let (now, wait) = (start + SECOND, wait(in_frame, has_read));
                    let before = format!("{clock:?}");
                    let is_done = clock.wait_for_next(&wait, &rules, now);
                    if !is_done {
                        assert_eq!(format!("{clock:?}"), before);
                        continue;
                    }
                    let done = format!("{clock:?}");
                    clock = RecvClock::default();
                    clock.set_next_check(next_check);
                    clock.wait(&wait, &rules, now);
                    assert_eq!(format!("{clock:?}"), done);
                    assert!(!clock.needs_earlier_check(&rules));
                }
            }
        }
    }

    #[test]
    fn only_time_spent_waiting_counts() {
        let (start, rules) = (Instant::now(), rules(5, 20));
        let mut clock = RecvClock::default();
        assert!(clock.due(&rules).is_none() && !clock.is_running());
        clock.wait(&wait(true, true), &rules, start);
        clock.pause(start + 3 * SECOND);
        assert!(clock.due(&rules).is_none() && !clock.is_running());
        let later = start + 100 * SECOND;
        clock.wait(&wait(true, false), &rules, later);
        assert_eq!(due_in(&clock, &rules, later), Some(2 * SECOND));
    }

    #[test]
    fn bytes_end_a_silence_and_do_not_extend_a_frame() {
        let (start, rules) = (Instant::now(), rules(5, 20));
        let mut clock = RecvClock::default();
        for second in 0..4 {
            let now = start + second * SECOND;
            clock.wait(&wait(true, true), &rules, now);
            assert_eq!(due_in(&clock, &rules, now), Some((5 - second) * SECOND));
        }
        clock.received();
        let now = start + 4 * SECOND;
        clock.wait(&wait(false, false), &rules, now);
        assert_eq!(due_in(&clock, &rules, now), Some(20 * SECOND));
        clock.wait(&wait(true, true), &rules, now + SECOND);
        assert_eq!(due_in(&clock, &rules, now + SECOND), Some(5 * SECOND), "a new frame");
    }

    #[test]
    fn a_peer_that_accepts_bytes_is_not_idle() {
        let (start, rules) = (Instant::now(), rules(0, 20));
        let mut clock = RecvClock::default();
        clock.wait(&wait(false, false), &rules, start);
        clock.alive_at(start + 15 * SECOND, start + 15 * SECOND);
        assert_eq!(due_in(&clock, &rules, start + 15 * SECOND), Some(20 * SECOND));
    }

    #[test]
    fn an_acknowledgement_shows_that_the_peer_was_alive_when_the_bytes_were_sent() {
        let (start, rules) = (Instant::now(), rules(0, 20));
        let at = |second: u32| start + second * SECOND;
        let mut clock = RecvClock::default();
        clock.wait(&wait(false, false), &rules, start);
        clock.sent(100, at(3));
        clock.acked(100, at(10));
        assert_eq!(due_in(&clock, &rules, at(10)), Some(10 * SECOND), "the last write is not acknowledged");
        clock.acked(101, at(15));
        assert_eq!(due_in(&clock, &rules, at(15)), Some(8 * SECOND), "the peer was alive at 3 s");
    }
}
