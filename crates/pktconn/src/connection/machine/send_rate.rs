//! `min_send_rate`: how much of the queued bytes the peer takes while the transport is full.

use tokio::time::Instant;

use super::min_rate::SendRate;
use super::progress::DeadlineCheck;
use super::{Machine, Rules};
use crate::error::{Reason, Timeout};
use crate::transport::UnackedBytes;

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
        let is_over = match self.cold().send_rate.as_mut() {
            Some(measured) => {
                measured.count_time(now);
                measured.window.time_left(rate).is_zero()
            }
            None => {
                let taken = self.taken_by_peer(probe()?);
                let measured = SendRate::new(rate, self.due_to_peer(taken), taken, now);
                self.cold().send_rate = Some(Box::new(measured));
                false
            }
        };
        if is_over {
            self.acknowledged(probe()?, now);
        }
        let Some(mut measured) = self.cold().send_rate.take() else { return Ok(()) };
        measured.window.roll(rate, self.due_to_peer(measured.taken));
        let ends_at = now.checked_add(measured.window.time_left(rate));
        let reason = measured.window.reason(Timeout::MinSendRate, rate);
        self.cold().send_rate = Some(measured);
        if check.is_due(ends_at, now) {
            self.fail(reason);
            self.end(true);
        }
        Ok(())
    }
}
