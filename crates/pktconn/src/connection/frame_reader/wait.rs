//! Reading and waiting: what follows a read, and what the receiver does when there is nothing to read.

use std::io;
use std::task::{Context, Poll};

use super::buffer::make_room;
use super::{End, FrameReader, WaitClock};
use crate::connection::conn_core::WaitDecision;
use crate::connection::machine::{FramePart, TimedWait};
use crate::connection::state::is_temporary;
use crate::connection::yielding;
use crate::transport::Reader;

/// How many polls in a row must find nothing before a transport counts as empty, with turns of tokio's driver in
/// between. Only for transports that cannot bypass tokio's readiness ([`Reader::can_read_now`]). One turn is enough on
/// a current-thread runtime. With several threads, another thread may run the driver meanwhile.
const MAX_EMPTY_POLLS: u8 = 4;

impl FrameReader {
    /// Reads once. `Ready` if there are more bytes in the buffer, or an end.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain_bytes_left == 0 {
            self.end_drained();
            return Poll::Ready(());
        }
        if self.core.has_budget() {
            return self.poll_more_with_budget(cx);
        }
        let read = self.poll_read(cx);
        self.after_read(read, cx)
    }

    /// Handles the result of a read.
    #[inline(always)]
    pub(super) fn after_read(&mut self, read: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<()> {
        match read {
            Poll::Ready(Ok(0)) => self.end_of_stream(),
            Poll::Ready(Ok(count)) => self.note_read(count),
            Poll::Ready(Err(error)) => self.fail(&error.into()),
            Poll::Pending => return self.poll_wait(cx),
        }
        Poll::Ready(())
    }

    #[inline(always)]
    pub(super) fn note_read(&mut self, count: usize) {
        self.has_read = true;
        self.core.received.bytes.add(count as u64);
        self.core.received.reads.add(1);
        if self.core.is_draining() {
            self.drain_bytes_left = self.drain_bytes_left.saturating_sub(count as u32);
        }
    }

    /// Waits, because a read has found nothing. `Ready` if more bytes are in the buffer after all, or there is an end.
    #[inline(always)]
    pub(super) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.packets_in_turn = 0;
        let has_held_back = self.may_hold_back && self.update_held_back();
        // An empty buffer has no memory.
        if !self.buffer.is_empty() {
            self.release_memory();
        }
        self.note_undelivered();
        let rules = &self.core.settings.rules;
        let has_part = !self.buffer.is_empty() || has_held_back;
        let in_frame = has_part && rules.times_frames();
        let decision = if in_frame || (rules.times_silence && self.times_silence_now()) {
            self.wait_clock = WaitClock::Running;
            self.core.before_timed_wait(&self.timed_wait(in_frame), cx)
        } else {
            self.core.before_wait(cx)
        };
        let has_read = std::mem::take(&mut self.has_read);
        match decision {
            WaitDecision::Wait if !self.core.is_draining() => Poll::Pending,
            decision => self.poll_end(decision, has_read, cx),
        }
    }

    /// Whether a wait between frames has a deadline: each has if there is an `idle_timeout`, otherwise only that for the
    /// first packet.
    #[cold]
    fn times_silence_now(&self) -> bool {
        self.core.settings.rules.timeouts.idle.is_some() || self.is_before_first_packet()
    }

    fn is_before_first_packet(&self) -> bool {
        self.awaits_first && self.core.received.packets.total() == 0
    }

    /// Whether the current wait counts towards the `first_packet_timeout`.
    pub(super) fn awaits_first_packet(&self) -> bool {
        self.core.settings.rules.first_packet().is_some() && self.is_before_first_packet()
    }

    fn timed_wait(&self, in_frame: bool) -> TimedWait {
        let rules = &self.core.settings.rules;
        let mut wait = TimedWait { in_frame, has_read: self.has_read, ..TimedWait::default() };
        if rules.limits.is_some() {
            wait.awaits_first = self.awaits_first_packet();
            wait.part = (in_frame && rules.recv_rate().is_some()).then(|| self.frame_part());
        }
        wait
    }

    /// The incomplete frame, for the `min_recv_rate`. Bytes of an incomplete TLS record have arrived.
    fn frame_part(&self) -> FramePart {
        let held_back = self.held_back as usize;
        let arrived = self.buffer.len() + held_back;
        let missing = match self.codec.missing(&self.buffer) {
            0 => self.codec.config().header_format().header_len().saturating_sub(arrived),
            missing => missing.saturating_sub(held_back),
        };
        let of_record = self.reader.as_ref().map_or(0, Reader::missing_of_record);
        FramePart { arrived: arrived as u64, missing: missing.max(of_record).max(1) as u64 }
    }

    /// Updates [`held_back`](Self::held_back), and returns whether it is not 0. Bytes of an incomplete TLS record are
    /// part of a frame, and new ones show that the peer is alive.
    #[cold]
    #[inline(never)]
    pub(super) fn update_held_back(&mut self) -> bool {
        // A record has at most 18 KiB.
        let held_back = self.reader.as_ref().map_or(0, Reader::held_back) as u32;
        self.has_read |= held_back > 0 && held_back != self.held_back;
        self.held_back = held_back;
        held_back > 0
    }

    /// Ends receiving after a read has found nothing, unless there are unread bytes after all: tokio's readiness is as
    /// old as the last turn of its driver. So this reads once more, past tokio's readiness. If the transport cannot do
    /// that, it must be empty in up to [`MAX_EMPTY_POLLS`] polls, with turns of the driver in between.
    #[cold]
    pub(super) fn poll_end(
        &mut self,
        decision: WaitDecision,
        has_read: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        match decision {
            WaitDecision::End => self.end_failed(),
            WaitDecision::Overdue(reason) => self.fail(&reason),
            WaitDecision::Wait | WaitDecision::ReadRest
                if self.read_now() || !matches!(self.end, End::NotYet) => {}
            decision => {
                self.empty_polls = if has_read { 0 } else { self.empty_polls + 1 };
                if !self.can_read_now() && self.empty_polls < MAX_EMPTY_POLLS {
                    yielding::yield_turn(cx);
                    return Poll::Pending;
                }
                match decision {
                    WaitDecision::ReadRest => self.end_failed(),
                    _ => self.end_drained(),
                }
            }
        }
        Poll::Ready(())
    }

    /// Reads what has arrived, past tokio's readiness. Returns whether there was something. `false` if the transport
    /// cannot do that.
    pub(super) fn read_now(&mut self) -> bool {
        let Some(reader) = &mut self.reader else { return false };
        if !self.buffer.is_empty() {
            make_room(&mut self.buffer, &mut self.memory, &self.codec);
        }
        match reader.read_now(&mut self.buffer) {
            Some(Ok(0)) => self.end_of_stream(),
            Some(Ok(count)) => {
                self.note_read(count);
                return true;
            }
            Some(Err(error)) if !is_temporary(&error) => self.fail(&error.into()),
            Some(Err(_)) | None => {}
        }
        false
    }

    pub(super) fn can_read_now(&self) -> bool {
        self.reader.as_ref().is_some_and(Reader::can_read_now)
    }
}
