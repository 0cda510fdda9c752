//! Accepting packets into the send queue: is there room, what to do without room, and the order of waiting senders.

use tokio::time::Instant;

use super::{Machine, Rules, SlowConsumer, Wakeups};
use crate::error::Reason;
use pktconn_codec::Packet;

impl Machine {
    /// Whether the queue is below its high-water mark.
    pub(crate) fn is_below_mark(&self, rules: &Rules) -> bool {
        self.queue.occupied() < rules.send_high_water
    }

    /// Whether a frame of `len` bytes may be queued. An empty queue accepts a frame of any size.
    #[inline]
    pub(crate) fn has_room(&self, len: usize, rules: &Rules, now: impl FnOnce() -> Instant) -> bool {
        (self.queue.is_empty() || self.queue.occupied() + len <= rules.send_high_water)
            && !self.exceeds_max_lag(now)
    }

    /// Whether the peer lags behind by more than `send_max_lag`, according to the last check of acknowledgements.
    #[inline]
    pub(crate) fn exceeds_max_lag(&self, now: impl FnOnce() -> Instant) -> bool {
        self.lag.as_ref().and_then(|lag| lag.due()).is_some_and(|due| due <= now())
    }

    /// Applies `policy` to a frame of `len` bytes that has no room. The caller has already tried to write the queue.
    ///
    /// Fails with [`Reason::Full`] if the caller must wait or drop the packet. Dropped packets that own their memory
    /// are passed to `done`.
    pub(crate) fn make_room(
        &mut self,
        len: usize,
        policy: SlowConsumer,
        rules: &Rules,
        now: Instant,
        done: impl FnMut(Packet),
    ) -> Result<(), Reason> {
        match policy {
            SlowConsumer::Block | SlowConsumer::DropNewest => Err(Reason::Full),
            SlowConsumer::DropOldest => {
                // The written part of a large frame still occupies room.
                let written = self.queue.occupied() - self.queue.len();
                let room = rules.send_high_water.saturating_sub(written + len);
                let target = if self.exceeds_max_lag(|| now) { 0 } else { room };
                self.drop_oldest(target, rules, done);
                Ok(())
            }
            SlowConsumer::Disconnect => Err(self.disconnect_slow()),
        }
    }

    fn drop_oldest(&mut self, target: usize, rules: &Rules, done: impl FnMut(Packet)) {
        let dropped = self.queue.drop_oldest(target, &rules.codec, done);
        if dropped.packets == 0 {
            return;
        }
        let flushed = self.bytes_flushed;
        let partial_end = self.bytes_written + self.queue.partial_len() as u64;
        if let Some(lag) = &mut self.lag {
            lag.dropped(partial_end, dropped.bytes as u64);
            lag.reached(flushed.min(partial_end), self.bytes_written + self.queue.len() as u64);
        }
        let cold = self.cold();
        cold.packets_dropped += dropped.packets;
        cold.dropped_bytes.add(dropped.bytes as u64, flushed, partial_end);
        self.request(Wakeups::PROGRESS);
    }

    /// Counts a new packet that was dropped because there was no room.
    pub(crate) fn drop_newest(&mut self) {
        self.cold().packets_dropped += 1;
    }

    /// Ends the connection because the peer is too slow.
    pub(crate) fn disconnect_slow(&mut self) -> Reason {
        let reason = Reason::SlowConsumer { queued: self.queue.len() };
        self.fail(reason.clone());
        self.end(true);
        reason
    }

    // ---- senders that wait for room, served in order

    /// Whether senders wait for room. Other senders must not overtake them.
    #[inline]
    pub(crate) fn has_waiting_senders(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| !cold.waiting_senders.is_empty())
    }

    /// Adds the sender `key` behind the others, unless it already waits. Returns whether it is the first.
    pub(crate) fn add_waiting_sender(&mut self, key: u64) -> bool {
        let waiting = &mut self.cold().waiting_senders;
        if !waiting.contains(&key) {
            waiting.push_back(key);
        }
        waiting.front() == Some(&key)
    }

    /// The key of the sender that is served next.
    pub(crate) fn first_waiting_sender(&self) -> Option<u64> {
        self.cold.as_ref()?.waiting_senders.front().copied()
    }

    /// Removes a sender that was served or has given up. The next one moves up. If none is left, callers of `poll_room`
    /// may continue.
    pub(crate) fn remove_waiting_sender(&mut self, key: u64) {
        let Some(cold) = &mut self.cold else { return };
        let before = cold.waiting_senders.len();
        cold.waiting_senders.retain(|other| *other != key);
        if cold.waiting_senders.len() < before {
            self.request(Wakeups::PROGRESS);
        }
    }

    /// Whether a caller that is not in the list of waiting senders may use free room. If the queue is empty, waiting
    /// senders are bypassed, because their futures may never be polled again.
    pub(crate) fn may_bypass_waiting_senders(&self) -> bool {
        self.queue.is_empty() || !self.has_waiting_senders()
    }
}
