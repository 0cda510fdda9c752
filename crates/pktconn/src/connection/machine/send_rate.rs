//! `min_send_rate`: how much of the queued bytes the peer takes while the transport is full.

use tokio::time::Instant;

use super::min_rate::{MinRate, RateWindow};
use super::progress::DeadlineCheck;
use super::{Machine, Rules};
use crate::error::{Reason, Timeout};
use crate::transport::UnackedBytes;

/// The rate of the peer of a blocked transport.
#[derive(Debug)]
pub(super) struct SendRate {
    window: RateWindow,
    /// Until when the time of the window is counted.
    counted_to: Instant,
    /// How many bytes the peer had taken when it was last asked.
    taken: u64,
}

impl SendRate {
    /// The peer has taken the first `taken` bytes.
    ///
    /// The number can go down under TLS, when encrypted bytes move from its buffer to the kernel.
    pub(super) fn note_taken(&mut self, taken: u64) {
        self.window.add_bytes(taken.saturating_sub(self.taken));
        self.taken = taken;
    }
}

impl Machine {
    /// How many bytes the peer has taken: acknowledged, or taken by a transport that shows no acknowledgements.
    pub(super) fn taken_by_peer(&self, unacked: UnackedBytes) -> u64 {
        match unacked {
            UnackedBytes::Count(unacked_len) => self.bytes_written.saturating_sub(unacked_len as u64),
            UnackedBytes::Unreported | UnackedBytes::NoSocket => self.bytes_written,
        }
    }

    /// How many bytes the peer still has to take if it has taken `taken`.
    fn due_to_peer(&self, taken: u64) -> u64 {
        self.bytes_written - taken + self.queue.len() as u64
    }

    /// Checks the rate of the peer of a blocked transport. The first check begins the first window.
    pub(super) fn check_send_rate(
        &mut self,
        rules: &Rules,
        now: Instant,
        check: &mut DeadlineCheck,
        probe: &mut impl FnMut() -> Result<UnackedBytes, Reason>,
    ) -> Result<(), Reason> {
        let Some(rate) = rules.send_rate().filter(|_| self.blocked) else { return Ok(()) };
        if self.send_rate().is_none() {
            let taken = self.taken_by_peer(probe()?);
            let window = RateWindow::new(rate, self.due_to_peer(taken));
            self.cold().send_rate = Some(Box::new(SendRate { window, counted_to: now, taken }));
        }
        if self.send_window_is_over(rate, now) {
            self.acknowledged(probe()?, now);
        }
        let due = self.send_rate().map_or(0, |measured| self.due_to_peer(measured.taken));
        let Some(measured) = self.cold().send_rate.as_mut() else { return Ok(()) };
        measured.window.roll(rate, due);
        let ends_at = now.checked_add(measured.window.time_left(rate));
        let reason = measured.window.reason(Timeout::MinSendRate, rate);
        if check.is_due(ends_at, now) {
            self.fail(reason);
            self.end(true);
        }
        Ok(())
    }

    /// Counts the time up to `now`. Returns whether the window is over.
    fn send_window_is_over(&mut self, rate: MinRate, now: Instant) -> bool {
        let Some(measured) = self.cold().send_rate.as_mut() else { return false };
        measured.window.add_time(now.saturating_duration_since(measured.counted_to));
        measured.counted_to = now;
        measured.window.time_left(rate).is_zero()
    }

    fn send_rate(&self) -> Option<&SendRate> {
        self.cold.as_ref()?.send_rate.as_deref()
    }
}
