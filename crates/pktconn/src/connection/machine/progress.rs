//! Write progress: what was written, what the peer has acknowledged, and the deadlines for both.

use std::time::Duration;

use pktconn_codec::Packet;
use tokio::time::Instant;

use super::phase::Phase;
use super::stall::Stall;
use super::{Machine, Rules, SlowConsumer, Wakeups};
use crate::error::{Reason, Timeout};
use crate::transport::UnackedBytes;

/// How often to check acknowledgements while the transport is blocked. A socket becomes writable only when a third of
/// its buffer is free, and a slow reader may need longer than the `write_timeout` for that. So acknowledged bytes count
/// as progress, too. A write timeout is late by up to this interval.
const ACK_SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

/// The result of writing the queue to the transport.
#[derive(Debug)]
pub(crate) enum WriteOutcome {
    /// Everything was written.
    All,
    /// The transport has no room for now.
    Blocked,
    Failed(Reason),
}

impl Machine {
    pub(crate) fn has_output(&self) -> bool {
        !self.queue.is_empty() || self.is_unflushed() || self.has_latest
    }

    /// Whether the transport may hold written bytes in its own buffer.
    pub(crate) fn is_unflushed(&self) -> bool {
        self.bytes_flushed < self.bytes_written
    }

    /// How many bytes the transport has accepted since it was last flushed.
    pub(crate) fn unflushed_len(&self) -> u64 {
        self.bytes_written - self.bytes_flushed
    }

    /// The memory used by the send queue and keyed packets, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.queue.held() + self.latest_held()
    }

    /// Whether the first `target` accepted bytes, counted since the start of the connection, are written or dropped.
    pub(crate) fn is_written(&self, target: u64) -> bool {
        let dropped_bytes = self.cold.as_ref().map_or(0, |cold| cold.dropped_bytes.up_to(self.bytes_flushed));
        self.bytes_flushed + dropped_bytes >= target
    }

    /// The written and the flushed bytes. If neither changes, a write made no progress.
    pub(crate) fn bytes_out(&self) -> (u64, u64) {
        (self.bytes_written, self.bytes_flushed)
    }

    /// The transport accepted `count` bytes from the front of the queue.
    pub(crate) fn note_written(&mut self, count: usize, done: impl FnMut(Packet)) {
        self.queue.advance(count, done);
        self.note_written_directly(count);
    }

    /// The transport accepted `count` bytes of a packet that did not pass through the queue, which was empty.
    pub(crate) fn note_written_directly(&mut self, count: usize) {
        self.bytes_written += count as u64;
        self.writes += 1;
    }

    /// The transport has flushed everything that it accepted.
    pub(crate) fn flushed(&mut self) {
        self.bytes_flushed = self.bytes_written;
    }

    /// Updates the state after a write. `before` is [`bytes_out`](Self::bytes_out) before it began.
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
            WriteOutcome::All if !was_blocked && !self.is_recv_timed() => {}
            WriteOutcome::All | WriteOutcome::Blocked => {
                let flushed = has_progressed.then_some(before.1);
                self.update_after_write(was_blocked, flushed, now(), done);
            }
            WriteOutcome::Failed(reason) => self.write_failed(reason),
        }
    }

    /// `progressed_from`: the flushed bytes before the write, if the write made progress.
    #[cold]
    fn update_after_write(
        &mut self,
        was_blocked: bool,
        progressed_from: Option<u64>,
        now: Instant,
        done: impl FnMut(Packet),
    ) {
        if let (Some(clock), Some(flushed)) = (&mut self.recv_clock, progressed_from) {
            // Room after a block shows that the peer is alive. Without a block it shows nothing: a kernel with room
            // accepts bytes even if the peer is gone.
            if was_blocked {
                clock.alive_at(now, now);
            } else {
                clock.sent(flushed, now);
            }
        }
        if !self.blocked {
            if let Some(cold) = &mut self.cold {
                (cold.stall, cold.send_rate) = (None, None);
            }
            return;
        }
        // The queue may stay full for a long time.
        self.queue.compact(done);
        if !was_blocked {
            // The flusher must wait for room in the transport, and watch the deadline.
            self.request(Wakeups::FLUSHER);
        }
        let stall = &mut self.cold().stall;
        if progressed_from.is_some() || !was_blocked {
            *stall = None;
        }
        stall.get_or_insert_with(|| Stall::new(now));
    }

    /// Updates the lag, the receiver's deadlines and the stall with what the peer's kernel has acknowledged.
    pub(crate) fn acknowledged(&mut self, unacked: UnackedBytes, now: Instant) {
        let end = self.bytes_written + self.queue.len() as u64;
        let unacked_len = match unacked {
            UnackedBytes::Count(unacked_len) => unacked_len,
            // Acknowledgements are not visible: take flushed bytes as acknowledged.
            UnackedBytes::Unreported | UnackedBytes::NoSocket => 0,
        };
        // `unacked_len` counts encrypted bytes, which are a few more under TLS. So `reached` is slightly too low then.
        let reached = self.bytes_flushed.saturating_sub(unacked_len as u64);
        if let Some(lag) = &mut self.lag {
            lag.reached(reached, end);
        }
        if let Some(clock) = &mut self.recv_clock {
            clock.acked(reached, now);
        }
        let taken = self.taken_by_peer(unacked);
        let Some(cold) = &mut self.cold else { return };
        if let Some(measured) = &mut cold.send_rate {
            measured.note_taken(taken);
        }
        let Some(stall) = &mut cold.stall else { return };
        if !matches!(unacked, UnackedBytes::Count(_)) {
            stall.sample_at = None;
        } else {
            if stall.unacked.is_some_and(|last| unacked_len < last) {
                stall.since = now;
            }
            stall.unacked = Some(unacked_len);
            stall.sample_at = now.checked_add(ACK_SAMPLE_INTERVAL);
        }
    }

    /// Whether the write timeout has passed, as far as is known. Then [`note_unread`](Self::note_unread) comes before
    /// the deadlines are checked.
    pub(crate) fn is_write_overdue(&self, rules: &Rules, now: Instant) -> bool {
        let due =
            self.stall().zip(rules.timeouts.write).and_then(|(stall, limit)| stall.since.checked_add(limit));
        due.is_some_and(|due| due <= now)
    }

    /// Records whether received bytes wait unread while the transport is blocked.
    pub(crate) fn note_unread(&mut self, has_unread: bool) {
        if let Some(stall) = self.cold.as_mut().and_then(|cold| cold.stall.as_mut()) {
            stall.has_unread = has_unread;
        }
    }

    /// Checks the write timeout of a blocked transport, and the lag.
    pub(super) fn check_sending(
        &mut self,
        rules: &Rules,
        now: Instant,
        check: &mut DeadlineCheck,
        probe: &mut impl FnMut() -> Result<UnackedBytes, Reason>,
    ) -> Result<(), Reason> {
        let samples = rules.timeouts.write.is_some() || rules.send_rate().is_some();
        if samples && self.stall().is_some_and(|stall| stall.is_sample_due(now)) {
            self.acknowledged(probe()?, now);
        }
        if let (Some(stall), Some(granted)) = (self.stall(), rules.timeouts.write) {
            // A timeout that overflows the clock means no deadline.
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
        }
        if samples {
            check.wait_until(self.stall().and_then(|stall| stall.sample_at));
        }
        self.check_send_rate(rules, now, check, probe)?;
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

/// One check of all deadlines, and its results.
#[derive(Debug, Default)]
pub(crate) struct DeadlineCheck {
    /// When to check again at the latest. `None` if no deadline is pending.
    pub(crate) next: Option<Instant>,
    /// Whether the transport's state may be as old as the last turn of tokio's driver. A deadline that has passed then
    /// counts only in a second check, after another turn of the driver.
    pub(crate) is_first: bool,
    /// Whether such a second check is needed.
    pub(crate) again: bool,
}

impl DeadlineCheck {
    /// Whether a deadline has passed and counts. Schedules a check for a deadline in the future.
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
