//! Who may queue a packet, and what is done where there is no room for it.

use tokio::time::Instant;

use super::{Machine, News, Rules, SlowConsumer};
use crate::error::Reason;
use pktconn_codec::Packet;

impl Machine {
    /// Whether the queue is below its high-water mark.
    pub(crate) fn is_below_mark(&self, rules: &Rules) -> bool {
        self.queue.occupied() < rules.send_high_water
    }

    /// Whether a frame of `len` bytes may join the queue. One that is larger than the queue passes alone.
    #[inline]
    pub(crate) fn has_room(&self, len: usize, rules: &Rules, now: impl FnOnce() -> Instant) -> bool {
        (self.queue.is_empty() || self.queue.occupied() + len <= rules.send_high_water) && !self.lags(now)
    }

    /// Whether the peer lags behind for longer than it may, as far as is known.
    #[inline]
    pub(crate) fn lags(&self, now: impl FnOnce() -> Instant) -> bool {
        self.lag.as_ref().and_then(|lag| lag.due()).is_some_and(|due| due <= now())
    }

    /// What `policy` does for a frame of `len` bytes that has no room, after the transport was offered what there is and has
    /// not taken it. [`Reason::Full`] where the packet is to wait or to be dropped. Packets with memory of their own go to
    /// `done`.
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
                // Of a large frame that was begun.
                let written = self.queue.occupied() - self.queue.len();
                let room = rules.send_high_water.saturating_sub(written + len);
                let target = if self.lags(|| now) { 0 } else { room };
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
        let begun_end = self.bytes_written + self.queue.begun_len() as u64;
        if let Some(lag) = &mut self.lag {
            lag.dropped(begun_end, dropped.bytes as u64);
            lag.reached(flushed.min(begun_end), self.bytes_written + self.queue.len() as u64);
        }
        let extra = self.extra();
        extra.packets_dropped += dropped.packets;
        extra.passed_over.add(dropped.bytes as u64, flushed, begun_end);
        self.tell(News::PROGRESS);
    }

    /// Counts a packet that was dropped for want of room.
    pub(crate) fn drop_newest(&mut self) {
        self.extra().packets_dropped += 1;
    }

    /// Ends the connection of a peer that is too slow.
    pub(crate) fn disconnect_slow(&mut self) -> Reason {
        let reason = Reason::SlowConsumer { queued: self.queue.len() };
        self.fail(reason.clone());
        self.end(true);
        reason
    }

    // ---- the line of senders that wait

    /// Whether senders wait for room. Nobody passes them by.
    #[inline]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.line.is_empty())
    }

    /// Takes a place in the line, behind the others, unless `key` has one. Whether it is the first.
    pub(crate) fn stand_in_line(&mut self, key: u64) -> bool {
        let line = &mut self.extra().line;
        if !line.contains(&key) {
            line.push_back(key);
        }
        line.front() == Some(&key)
    }

    /// Who is next.
    pub(crate) fn first_in_line(&self) -> Option<u64> {
        self.extra.as_ref()?.line.front().copied()
    }

    /// Leaves the line: served, or given up. Those behind move up, and if there are none, whoever waits for room without a
    /// place may go on.
    pub(crate) fn leave_line(&mut self, key: u64) {
        let Some(extra) = &mut self.extra else { return };
        let before = extra.line.len();
        extra.line.retain(|other| *other != key);
        if extra.line.len() < before {
            self.tell(News::PROGRESS);
        }
    }

    /// Whether one who has no place in the line may go on when there is room. Senders that wait may not be polled any more: in
    /// front of an empty queue nobody waits for them.
    pub(crate) fn may_pass_line(&self) -> bool {
        self.queue.is_empty() || !self.is_waited_for()
    }
}
