//! What the transport has taken, what the peer has acknowledged, and when that took too long.

use std::time::Duration;

use pktconn_codec::Packet;
use tokio::time::Instant;

use super::phase::Phase;
use super::stall::Stall;
use super::{Machine, Rules, SlowConsumer, Wakeups};
use crate::error::{Reason, Timeout};
use crate::transport::Acks;

/// How often the acknowledgements of a peer are looked at whose transport takes no more: a socket has room again when a third
/// of its buffer is free, and a slow reader needs longer for that than a `write_timeout`. So a timeout is late by this at
/// most.
const SAMPLE: Duration = Duration::from_millis(500);

/// What came of offering the transport what there is.
#[derive(Debug)]
pub(crate) enum WriteOutcome {
    /// It has taken everything.
    All,
    /// It takes no more for now.
    Blocked,
    Failed(Reason),
}

impl Machine {
    pub(crate) fn has_output(&self) -> bool {
        !self.queue.is_empty() || self.is_unflushed() || self.has_latest
    }

    /// Whether the transport holds bytes in a buffer of its own.
    pub(crate) fn is_unflushed(&self) -> bool {
        self.bytes_flushed < self.bytes_written
    }

    /// The memory that what is to be sent takes, with what a transport is known to have in a buffer of its own.
    pub(crate) fn held(&self) -> usize {
        /// The most that rustls holds back of what it has encrypted.
        const MAX_BUFFERED: u64 = 64 * 1024;
        // With the end the transport is gone.
        let buffered = if self.phase == Phase::Ended { 0 } else { self.bytes_written - self.bytes_flushed };
        self.queue.held() + self.latest_held() + buffered.min(MAX_BUFFERED) as usize
    }

    /// Whether `target` bytes, of all that were ever accepted, are written or dropped.
    pub(crate) fn is_written(&self, target: u64) -> bool {
        let dropped_bytes = self.cold.as_ref().map_or(0, |cold| cold.dropped_bytes.up_to(self.bytes_flushed));
        self.bytes_flushed + dropped_bytes >= target
    }

    /// What tells whether a write came to something.
    pub(crate) fn bytes_out(&self) -> (u64, u64) {
        (self.bytes_written, self.bytes_flushed)
    }

    /// The transport took `count` bytes off the front of the queue.
    pub(crate) fn note_written(&mut self, count: usize, done: impl FnMut(Packet)) {
        self.queue.advance(count, done);
        self.note_written_directly(count);
    }

    /// The transport took `count` bytes that did not stand in the queue, which was empty.
    pub(crate) fn note_written_directly(&mut self, count: usize) {
        self.bytes_written += count as u64;
        self.writes += 1;
    }

    /// The transport has let go of everything that it took.
    pub(crate) fn flushed(&mut self) {
        self.bytes_flushed = self.bytes_written;
    }

    /// What a write led to that began when `before` was out.
    #[inline]
    pub(crate) fn finish_write(
        &mut self,
        before: (u64, u64),
        outcome: WriteOutcome,
        now: impl FnOnce() -> Instant,
        done: impl FnMut(Packet),
    ) {
        let was_blocked = std::mem::replace(&mut self.blocked, matches!(outcome, WriteOutcome::Blocked));
        let has_progressed = before != self.bytes_out();
        if has_progressed {
            self.request(Wakeups::PROGRESS);
        }
        if self.tracks_queue_time && self.queue.is_empty() {
            if let Some(timing) = &mut self.timing {
                timing.all_written();
            }
        }
        match outcome {
            WriteOutcome::All if !was_blocked && self.recv_clock.is_none() => {}
            WriteOutcome::All | WriteOutcome::Blocked => {
                let flushed = has_progressed.then_some(before.1);
                self.update_after_write(was_blocked, flushed, now(), done);
            }
            WriteOutcome::Failed(reason) => self.write_failed(reason),
        }
    }

    /// `progressed_from`: where the transport has taken something, how much it had let go of before.
    #[cold]
    fn update_after_write(
        &mut self,
        was_blocked: bool,
        progressed_from: Option<u64>,
        now: Instant,
        done: impl FnMut(Packet),
    ) {
        if let (Some(clock), Some(flushed)) = (&mut self.recv_clock, progressed_from) {
            // Who makes room is there. A kernel that has room takes bytes for a peer that is gone, too.
            if was_blocked {
                clock.alive_at(now, now);
            } else {
                clock.sent(flushed, now);
            }
        }
        if !self.blocked {
            if let Some(cold) = &mut self.cold {
                cold.stall = None;
            }
            return;
        }
        // It may stay for long.
        self.queue.compact(done);
        if !was_blocked {
            // Somebody is to wait for the transport, and to keep the time.
            self.request(Wakeups::FLUSHER);
        }
        let stall = &mut self.cold().stall;
        if progressed_from.is_some() || !was_blocked {
            *stall = None;
        }
        stall.get_or_insert_with(|| Stall::new(now));
    }

    /// The peer's kernel was asked what it has acknowledged.
    pub(crate) fn acknowledged(&mut self, acks: Acks, now: Instant) {
        let end = self.bytes_written + self.queue.len() as u64;
        let missing = match acks {
            Acks::Missing(missing) => missing,
            // As good as it gets.
            Acks::Hidden | Acks::NoNetwork => 0,
        };
        // TLS makes of the bytes a few more: the peer is nearer than it seems then, by little.
        let reached = self.bytes_flushed.saturating_sub(missing as u64);
        if let Some(lag) = &mut self.lag {
            lag.reached(reached, end);
        }
        if let Some(clock) = &mut self.recv_clock {
            clock.acked(reached, now);
        }
        let Some(stall) = self.cold.as_mut().and_then(|cold| cold.stall.as_mut()) else { return };
        if !matches!(acks, Acks::Missing(_)) {
            stall.sample_at = None;
        } else {
            if stall.unacked.is_some_and(|last| missing < last) {
                stall.since = now;
            }
            stall.unacked = Some(missing);
            stall.sample_at = now.checked_add(SAMPLE);
        }
    }

    /// Whether bytes of the peer wait unread here, while the transport is blocked.
    pub(crate) fn note_unread(&mut self, has_unread: bool) {
        if let Some(stall) = self.cold.as_mut().and_then(|cold| cold.stall.as_mut()) {
            stall.has_unread = has_unread;
        }
    }

    /// Looks at the time that a blocked transport has, and at the lag. `Some` while there is something to wait for.
    pub(super) fn check_sending(
        &mut self,
        rules: &Rules,
        now: Instant,
        check: &mut DeadlineCheck,
        probe: &mut impl FnMut() -> Result<Acks, Reason>,
    ) -> Result<(), Reason> {
        let stall = self.stall();
        if stall.is_some_and(|stall| stall.is_sample_due(now)) && rules.timeouts.write.is_some() {
            self.acknowledged(probe()?, now);
        }
        if let (Some(stall), Some(granted)) = (self.stall(), rules.timeouts.write) {
            // A time beyond what the clock can say is none.
            let due = stall.since.checked_add(granted);
            if check.is_due(due, now) {
                self.fail(if stall.has_unread {
                    Reason::MutualStall(granted)
                } else {
                    Reason::Timeout(Timeout::Write, granted)
                });
                self.end(true);
                return Ok(());
            }
            check.wait_until(stall.sample_at);
        }
        if rules.slow_consumer == SlowConsumer::Disconnect && self.phase == Phase::Open {
            if self.exceeds_max_lag(|| now) {
                self.acknowledged(probe()?, now);
            }
            if check.is_due(self.lag.as_ref().and_then(|lag| lag.due()), now) {
                self.disconnect_slow();
            }
        }
        Ok(())
    }

    fn stall(&self) -> Option<Stall> {
        self.cold.as_ref().and_then(|cold| cold.stall).filter(|_| self.blocked)
    }
}

/// A look at all deadlines.
#[derive(Debug, Default)]
pub(crate) struct DeadlineCheck {
    /// When to look again at the latest.
    pub(crate) next: Option<Instant>,
    /// Whether what is seen may be as old as the last turn of tokio's driver: a deadline counts after a look behind that.
    pub(crate) is_first: bool,
    /// Whether a deadline has passed, and is to be looked at again after such a turn.
    pub(crate) again: bool,
}

impl DeadlineCheck {
    /// Whether a deadline has passed and counts. Where it is to come, it is waited for.
    pub(super) fn is_due(&mut self, due: Option<Instant>, now: Instant) -> bool {
        match due {
            Some(due) if due > now => {
                self.wait_until(Some(due));
                false
            }
            Some(_) if self.is_first => {
                self.again = true;
                false
            }
            Some(_) => true,
            None => false,
        }
    }

    pub(crate) fn wait_until(&mut self, at: Option<Instant>) {
        self.next = [self.next, at].into_iter().flatten().min();
    }
}
