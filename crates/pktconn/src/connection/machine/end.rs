//! How a connection ends: close, abort, failure, the peer's close, and the deadlines of these.
//!
//! The states are in [`phase`](super::phase). The deadlines of a waiting receiver are checked here, too.

use std::time::Duration;

use pktconn_codec::Packet;
use tokio::time::Instant;

use super::phase::Phase;
use super::progress::DeadlineCheck;
use super::{Machine, Rules, TimedWait, Wakeups};
use crate::error::{Reason, Timeout};
use crate::transport::UnackedBytes;

/// How long an aborted connection may take to write its queue. Enough for a round trip around the world with one lost
/// packet, and short enough that a peer that does not read delays nothing.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The pauses between two checks of what the peer has acknowledged. The kernel sends no event for that, so it must be
/// polled. The pause starts at a round trip on a local network and doubles up to a round trip around the world.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(128);

impl Machine {
    /// Fails with the [`stop_reason`](Self::stop_reason) if packets can no longer be sent.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<(), Reason> {
        if self.phase == Phase::Open { Ok(()) } else { Err(self.stop_reason()) }
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        self.cold.as_ref().and_then(|cold| cold.reason.clone())
    }

    pub(crate) fn stop_reason(&self) -> Reason {
        let stopped = self.cold.as_ref().and_then(|cold| cold.stopped.clone());
        stopped.unwrap_or(Reason::LocalClose)
    }

    pub(crate) fn failure(&self) -> Option<Reason> {
        self.cold.as_ref().and_then(|cold| cold.failure.clone())
    }

    /// Records a failure, and stops sending because of it.
    pub(crate) fn fail(&mut self, reason: Reason) {
        self.cold().failure.get_or_insert_with(|| reason.clone());
        self.stop(reason);
    }

    /// Records why sending stopped, unless a reason is already recorded.
    pub(crate) fn stop(&mut self, reason: Reason) {
        let cold = self.cold();
        cold.reason.get_or_insert_with(|| reason.clone());
        cold.stopped.get_or_insert(reason);
        self.request(Wakeups::END);
    }

    /// Empties the queue. Returns the packets that were not completely written, and whether the first of them was
    /// partly written: the peer then sees a truncated frame.
    pub(crate) fn take_unsent(&mut self, rules: &Rules) -> (Vec<Packet>, bool) {
        self.queue_all_latest(Instant::now);
        let left = self.queue.len();
        let unsent = self.queue.take_unsent(&rules.codec);
        let lens = unsent.iter().map(|packet| rules.codec.frame(packet).map_or(0, |frame| frame.len()));
        let is_torn = left < lens.sum();
        (unsent, is_torn)
    }

    // ---- how a connection ends

    /// Accepts no more packets, and lets the flusher write the queue. Does nothing unless the connection is open.
    pub(crate) fn close(&mut self, rules: &Rules, now: Instant) {
        if self.phase > Phase::Open {
            return;
        }
        self.queue_all_latest(|| now);
        self.phase = Phase::Closing;
        self.recv_clock = None;
        // A timeout that overflows the clock means no deadline.
        self.cold().ending.deadline = now.checked_add(rules.timeouts.close);
        self.request(Wakeups::END);
        self.request(Wakeups::FLUSHER);
    }

    /// Ends the connection without a close. The caller has already tried to write the queue.
    ///
    /// If packets would be lost silently (`undelivered`), the connection ends with a reset. A reset discards what the
    /// peer has not acknowledged, so the queue first gets up to [`ABORT_TIMEOUT`] to be written and acknowledged.
    pub(crate) fn abort(&mut self, undelivered: bool, now: Instant) {
        if self.phase >= Phase::Aborting {
            return;
        }
        if !undelivered {
            return self.end(false);
        }
        self.queue_all_latest(|| now);
        self.phase = Phase::Aborting;
        self.recv_clock = None;
        let ending = &mut self.cold().ending;
        (ending.deadline, ending.next_ack_check) = (now.checked_add(ABORT_TIMEOUT), None);
        self.request(Wakeups::END);
        self.request(Wakeups::FLUSHER);
    }

    /// Ends the connection now, with a reset of the transport if `reset`.
    pub(crate) fn end(&mut self, reset: bool) {
        if self.phase == Phase::Ended {
            return;
        }
        self.phase = Phase::Ended;
        self.recv_clock = None;
        self.blocked = false;
        let cold = self.cold();
        cold.ending.reset = reset;
        (cold.stall, cold.send_rate) = (None, None);
        self.request(Wakeups::END);
        self.request(Wakeups::FLUSHER);
    }

    /// A write has failed. Bytes that have already arrived can still be received.
    ///
    /// The cause may be local, such as a runtime that was shut down. If packets are lost, the peer must not see a clean
    /// close, so the transport is reset.
    pub(super) fn write_failed(&mut self, reason: Reason) {
        let was_open = self.phase == Phase::Open;
        self.fail(reason);
        self.end(self.has_output());
        self.cold().ending.can_still_read = was_open;
    }

    /// The transport has sent FIN after the whole queue.
    pub(crate) fn finished(&mut self, now: Instant) {
        self.phase = Phase::Finished;
        let ending = &mut self.cold().ending;
        (ending.next_ack_check, ending.pause) = (Some(now), FIRST_PAUSE);
    }

    /// The peer has closed its side between two frames. Returns `false` if the connection was already ending for
    /// another reason.
    pub(crate) fn peer_closed(&mut self, rules: &Rules, now: Instant) -> bool {
        self.remote_closed = true;
        self.recv_clock = None;
        if self.phase != Phase::Open {
            // If this side is closing, this was the last event that it waited for.
            self.request(Wakeups::FLUSHER);
            return false;
        }
        self.cold().reason.get_or_insert(Reason::RemoteClose);
        self.request(Wakeups::END);
        if !rules.half_close {
            self.cold().stopped.get_or_insert(Reason::RemoteClose);
            self.close(rules, now);
        }
        true
    }

    /// The peer has closed its side, and this side no longer receives.
    pub(crate) fn peer_closed_without_receiver(&mut self) {
        self.remote_closed = true;
    }

    pub(crate) fn has_peer_closed(&self) -> bool {
        self.remote_closed
    }

    /// Whether a connection that has ended must reset its transport.
    pub(crate) fn ends_by_reset(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.ending.reset)
    }

    /// Makes a connection that has already ended reset its transport.
    pub(crate) fn reset_at_end(&mut self) {
        self.cold().ending.reset = true;
    }

    /// The application has received the end of the stream.
    pub(crate) fn note_end_delivered(&mut self) {
        self.cold().ending.end_delivered = true;
    }

    /// Whether the application has received the end of the stream. Dropping the connection then is a clean close.
    pub(crate) fn is_end_delivered(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.ending.end_delivered)
    }

    // ---- reading after a failed write

    /// Whether bytes that have arrived can still be received although the connection has ended.
    pub(crate) fn can_still_read(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.ending.can_still_read)
    }

    /// Ends receiving after a failed write.
    pub(crate) fn stop_reading(&mut self) {
        if let Some(cold) = self.cold.as_mut().filter(|cold| cold.ending.can_still_read) {
            cold.ending.can_still_read = false;
            self.request(Wakeups::RECEIVER);
        }
    }

    // ---- deadlines

    /// Checks all deadlines. The caller has just tried to write the queue.
    ///
    /// `is_first`: the transport's state may be as old as the last turn of tokio's driver, so a deadline that has
    /// passed must be checked a second time. `probe` asks the kernel what the peer has acknowledged.
    pub(crate) fn check_deadlines(
        &mut self,
        rules: &Rules,
        is_first: bool,
        now: Instant,
        mut probe: impl FnMut() -> Result<UnackedBytes, Reason>,
    ) -> DeadlineCheck {
        let mut check = DeadlineCheck { is_first, ..DeadlineCheck::default() };
        if let Err(reason) = self.check_all(rules, now, &mut check, &mut probe) {
            self.write_failed(reason);
        }
        if self.phase == Phase::Ended {
            // No deadline applies any more.
            check = DeadlineCheck::default();
        }
        if let Some(clock) = &mut self.recv_clock {
            clock.set_next_check(check.next);
        }
        check
    }

    fn check_all(
        &mut self,
        rules: &Rules,
        now: Instant,
        check: &mut DeadlineCheck,
        probe: &mut impl FnMut() -> Result<UnackedBytes, Reason>,
    ) -> Result<(), Reason> {
        if self.phase > Phase::Open && self.phase < Phase::Ended {
            self.check_ending(rules, now, check, probe)?;
        }
        if self.phase < Phase::Ended {
            self.check_sending(rules, now, check, probe)?;
        }
        if self.phase == Phase::Open {
            self.check_receiving(rules, now, check, probe)?;
        }
        Ok(())
    }

    fn check_ending(
        &mut self,
        rules: &Rules,
        now: Instant,
        check: &mut DeadlineCheck,
        probe: &mut impl FnMut() -> Result<UnackedBytes, Reason>,
    ) -> Result<(), Reason> {
        let is_late = check.is_due(self.cold().ending.deadline, now);
        match self.phase {
            Phase::Closing if is_late => {
                self.fail(Reason::Timeout(Timeout::Close, rules.timeouts.close));
                self.end(true);
            }
            Phase::Finished if is_late || self.remote_closed => self.end(false),
            Phase::Finished => {
                let unacked = self.probe_when_due(now, probe)?;
                let ending = &mut self.cold().ending;
                if unacked == Some(UnackedBytes::Count(0)) {
                    ending.all_acked.get_or_insert(now);
                }
                let due = ending.all_acked.and_then(|since| since.checked_add(rules.timeouts.close_grace));
                if check.is_due(due, now) {
                    // If the peer has sent a reset in the meantime, this is not a clean close.
                    probe()?;
                    self.end(false);
                } else if due.is_none() {
                    self.schedule_ack_check(unacked, now, check);
                }
            }
            Phase::Aborting if is_late => self.end(true),
            Phase::Aborting if !self.has_output() => match self.probe_when_due(now, probe)? {
                Some(UnackedBytes::Count(0) | UnackedBytes::NoSocket) => self.end(true),
                unacked => self.schedule_ack_check(unacked, now, check),
            },
            Phase::Open | Phase::Closing | Phase::Aborting | Phase::Ended => {}
        }
        Ok(())
    }

    /// Asks what the peer has acknowledged. `None` if the next check is not due yet.
    fn probe_when_due(
        &mut self,
        now: Instant,
        probe: &mut impl FnMut() -> Result<UnackedBytes, Reason>,
    ) -> Result<Option<UnackedBytes>, Reason> {
        if self.cold().ending.next_ack_check.is_some_and(|at| at > now) {
            return Ok(None);
        }
        probe().map(Some)
    }

    fn schedule_ack_check(&mut self, unacked: Option<UnackedBytes>, now: Instant, check: &mut DeadlineCheck) {
        let ending = &mut self.cold().ending;
        match unacked {
            // The next check is not due yet.
            None => {}
            Some(UnackedBytes::Count(_)) => {
                ending.pause = (2 * ending.pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                ending.next_ack_check = now.checked_add(ending.pause);
            }
            // Acknowledgements are not visible here, so only the deadline is left.
            Some(UnackedBytes::Unreported | UnackedBytes::NoSocket) => {
                ending.next_ack_check = ending.deadline;
            }
        }
        check.wait_until(ending.next_ack_check);
    }

    // ---- deadlines of the receiver

    /// A receiver starts to wait, or waits again after it was woken and found no whole frame.
    #[inline]
    pub(crate) fn recv_waits(&mut self, rules: &Rules, wait: &TimedWait, now: Instant) {
        if !self.recv_clock.as_mut().is_some_and(|clock| clock.wait_for_next(wait, rules, now)) {
            self.recv_waits_in_general(rules, wait, now);
        }
    }

    #[inline(never)]
    fn recv_waits_in_general(&mut self, rules: &Rules, wait: &TimedWait, now: Instant) {
        let clock = self.recv_clock.get_or_insert_default();
        clock.wait(wait, rules, now);
        if clock.needs_earlier_check(rules) {
            self.request(Wakeups::FLUSHER);
        }
    }

    /// The receiver no longer waits, and has received nothing.
    pub(crate) fn recv_pauses(&mut self, now: Instant) {
        if let Some(clock) = &mut self.recv_clock {
            clock.pause(now);
        }
    }

    /// The receiver no longer waits: it has received a whole frame.
    pub(crate) fn recv_received(&mut self) {
        if let Some(clock) = &mut self.recv_clock {
            clock.received();
        }
    }

    /// Whether a receiver waits with a deadline.
    #[inline]
    pub(super) fn is_recv_timed(&self) -> bool {
        self.recv_clock.as_ref().is_some_and(|clock| clock.is_running())
    }

    /// The deadline that the peer has missed. The receiver calls this after it was woken for the deadline and has read
    /// once more.
    pub(crate) fn recv_overdue(&self, rules: &Rules, now: Instant) -> Option<Reason> {
        let clock = self.recv_clock.as_ref().filter(|clock| clock.is_overdue())?;
        // The peer may have acknowledged bytes in the meantime, which moves the idle deadline.
        clock.due(rules).filter(|(due, _)| *due <= now).map(|(_, reason)| reason)
    }

    fn check_receiving(
        &mut self,
        rules: &Rules,
        now: Instant,
        check: &mut DeadlineCheck,
        probe: &mut impl FnMut() -> Result<UnackedBytes, Reason>,
    ) -> Result<(), Reason> {
        let Some(clock) = &mut self.recv_clock else { return Ok(()) };
        if !clock.is_running() {
            // A receiver that runs in a loop waits again soon. Keep the timer: setting one costs as much as several
            // packets.
            let expires_at = clock.expires_at(rules, now);
            if expires_at.is_some_and(|at| at > now) {
                check.wait_until(expires_at);
            } else if clock.is_blank() {
                self.recv_clock = None;
            }
            return Ok(());
        }
        clock.roll_rate(rules, now);
        // A peer that acknowledges sent bytes is alive, too.
        let baseline_due = clock.baseline_due(rules).filter(|_| self.bytes_written > 0);
        let due = clock.due_at(rules);
        if [baseline_due, due].into_iter().flatten().any(|due| due <= now) && rules.timeouts.idle.is_some() {
            self.acknowledged(probe()?, now);
        }
        let Some(clock) = &mut self.recv_clock else { return Ok(()) };
        let baseline_due = clock.baseline_due(rules).filter(|_| self.bytes_written > 0);
        check.wait_until(baseline_due);
        let due = clock.due_at(rules);
        if !clock.is_overdue() && check.is_due(due, now) {
            clock.set_overdue();
            self.request(Wakeups::RECEIVER);
        }
        Ok(())
    }
}
