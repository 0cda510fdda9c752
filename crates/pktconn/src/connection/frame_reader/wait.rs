//! Reading and waiting: what a read leads to, and what a receiver does that has found nothing.

use std::io;
use std::task::{Context, Poll};

use super::buffer::make_room;
use super::{End, FrameReader};
use crate::connection::shared::Found;
use crate::connection::state::is_temporary;
use crate::connection::yielding;
use crate::transport::Reader;

/// How often a transport that cannot tell by itself what has arrived is asked before nothing has, with turns of tokio's driver
/// in between. One does on a current-thread runtime; with several threads another one may be in the driver.
const LOOKS: u8 = 4;

impl FrameReader {
    /// Reads once. Ready when there are more bytes in the buffer, or an end.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain_left == 0 {
            self.end_drained();
            return Poll::Ready(());
        }
        if self.shared.account().is_some() {
            return self.poll_more_counted(cx);
        }
        let read = self.poll_read(cx);
        self.after_read(read, cx)
    }

    /// What a read leads to.
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
        self.shared.received.bytes.add(count as u64);
        self.shared.received.reads.add(1);
        if self.shared.drains() {
            self.drain_left = self.drain_left.saturating_sub(count);
        }
    }

    /// A read has found nothing. Ready when there is an end after all.
    #[inline(always)]
    pub(super) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.in_turn = 0;
        let holds_back = self.may_hold_back && self.note_held_back();
        // An empty one is without memory already.
        if !self.buffer.is_empty() {
            self.release_memory();
        }
        self.note_undelivered();
        let timeouts = &self.shared.settings.rules.timeouts;
        let has_part = !self.buffer.is_empty() || holds_back;
        let in_frame = has_part && timeouts.frame.is_some();
        let has_deadline = in_frame || timeouts.idle.is_some();
        let found = if has_deadline {
            self.has_deadline = true;
            self.shared.before_timed_wait(in_frame, self.has_read, cx)
        } else {
            self.shared.before_wait(cx)
        };
        let has_read = std::mem::take(&mut self.has_read);
        match found {
            Found::Nothing if !self.shared.drains() => Poll::Pending,
            found => self.poll_end(found, has_read, cx),
        }
    }

    /// A part of a record of TLS is a part of a frame, and a sign of life. Whether there is one.
    #[cold]
    #[inline(never)]
    pub(super) fn note_held_back(&mut self) -> bool {
        let held_back = self.reader.as_ref().map_or(0, Reader::held_back);
        self.has_read |= held_back > 0 && held_back != self.held_back;
        self.held_back = held_back;
        held_back > 0
    }

    /// A read has found nothing, and there is an end, or may be one: what tokio knows of a transport is as old as the last turn
    /// of its driver. Where the transport cannot tell by itself what has arrived, it is asked again after some of these.
    #[cold]
    pub(super) fn poll_end(&mut self, found: Found, has_read: bool, cx: &mut Context<'_>) -> Poll<()> {
        match found {
            Found::End => self.end_failed(),
            Found::Overdue(reason) => self.fail(&reason),
            Found::Nothing | Found::LastPackets if self.read_now() || !matches!(self.end, End::NotYet) => {}
            found => {
                self.looks = if has_read { 0 } else { self.looks + 1 };
                if !self.can_read_now() && self.looks < LOOKS {
                    yielding::yield_turn(cx);
                    return Poll::Pending;
                }
                match found {
                    Found::LastPackets => self.end_failed(),
                    _ => self.end_drained(),
                }
            }
        }
        Poll::Ready(())
    }

    /// Reads what has arrived, whatever tokio knows of it. Whether there was something, where the transport can say so.
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
