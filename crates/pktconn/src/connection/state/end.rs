//! The work of the flusher, and the release of the transport at the end of a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use pktconn_codec::Packet;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{Flusher, State};
use crate::connection::flush::Next;
use crate::connection::machine::{Phase, Rules, Wakeups, WriteOutcome};
use crate::connection::yielding;
use crate::error::Reason;
use crate::transport::{Reader, UnackedBytes, Writer};

impl State {
    /// Runs the flusher once: writes what is due, continues the end of the connection, and checks all deadlines.
    ///
    /// `is_first`: if a deadline has passed, the flusher runs a second time after a turn of tokio's driver, because the
    /// state of the transport may be out of date.
    pub(crate) fn run_flusher(
        &mut self,
        rules: &Rules,
        is_first: bool,
        undelivered: bool,
        cx: &mut Context<'_>,
    ) -> Next {
        self.flusher = Flusher::Waiting;
        let waker = &mut self.flusher_waker;
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let replaced = waker.replace(cx.waker().clone());
            self.deferred.drop_some(replaced);
        }
        let now = Instant::now();
        if self.machine.heartbeat_is_due(now) {
            if let Ok(frame) = rules.codec.frame(&Packet::default()) {
                self.machine.push(&frame, || now);
            }
        }
        let flush_due = self.machine.flush_due().filter(|&due| due > now);
        if flush_due.is_none() && self.machine.phase() < Phase::Ended {
            self.write_with(cx);
        }
        if self.machine.phase() > Phase::Open && self.machine.phase() < Phase::Ended {
            if let Err(error) = self.poll_end(cx) {
                self.machine.finish_write(
                    self.machine.bytes_out(),
                    WriteOutcome::Failed(error.into()),
                    || now,
                    drop,
                );
            }
        }
        // A system call: only when it matters.
        if self.machine.is_write_overdue(rules, now) {
            let has_unread = undelivered || self.has_unread();
            self.machine.note_unread(has_unread);
        }
        let Self { machine, writer, .. } = self;
        let mut check = machine.check_deadlines(rules, is_first, now, || {
            let unacked = writer.as_ref().map_or(Ok(UnackedBytes::NoSocket), Writer::unacked_bytes);
            unacked.map_err(Reason::from)
        });
        check.wait_until(flush_due);
        check.wait_until(self.machine.next_scheduled());
        // The flusher has just checked everything.
        self.machine.clear_wakeups(Wakeups::FLUSHER);
        if check.again {
            Next::Again
        } else if let Some(at) = check.next {
            Next::At(at)
        } else if self.machine.is_at_rest() {
            self.retire_flusher();
            Next::End
        } else {
            Next::Wake
        }
    }

    /// Records that the flusher ends because nothing has to wait.
    fn retire_flusher(&mut self) {
        self.flusher = Flusher::None;
        self.deferred.drop_some(self.flusher_waker.take());
    }

    /// Continues the end of a connection: sends FIN when all is written, and reads until the peer's close.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_written = self.machine.phase() == Phase::Closing && !self.machine.has_output();
        if let Some(writer) = self.writer.as_mut().filter(|_| is_written) {
            if Pin::new(writer).poll_shutdown(cx)?.is_ready() {
                self.machine.finished(Instant::now());
            }
        }
        // An aborting connection leaves undelivered bytes unread, so that the kernel resets the connection.
        if matches!(self.machine.phase(), Phase::Closing | Phase::Finished) {
            if let Some(reader) = &mut self.reader {
                if poll_discard(reader, cx)?.is_ready() {
                    self.deferred.drop_some(self.reader.take());
                    self.machine.peer_closed_without_receiver();
                }
            }
        }
        Ok(())
    }

    /// Ends a close here and now if nothing has to wait: the peer has closed its side, everything is written, and the
    /// transport accepts FIN. So a connection that its peer closes first needs no flusher. Otherwise the flusher, which
    /// the close has requested, continues.
    ///
    /// With `owns_socket`, the end closes a TCP socket, which sends FIN, too. That saves the system call of a shutdown.
    pub(crate) fn finish_close_now(&mut self, owns_socket: bool) {
        let needs_only_fin = self.machine.phase() == Phase::Closing
            && self.machine.has_peer_closed()
            && !self.machine.has_output();
        let Some(writer) = self.writer.as_mut().filter(|_| needs_only_fin) else { return };
        let shut_down = if owns_socket && writer.tcp().is_some() {
            Poll::Ready(Ok(()))
        } else {
            // If the transport blocks, the flusher polls it again with its own waker.
            Pin::new(writer).poll_shutdown(&mut Context::from_waker(Waker::noop()))
        };
        match shut_down {
            Poll::Ready(Ok(())) => {
                self.machine.finished(Instant::now());
                self.machine.end(false);
            }
            Poll::Ready(Err(error)) => {
                let outcome = WriteOutcome::Failed(error.into());
                self.machine.finish_write(self.machine.bytes_out(), outcome, Instant::now, drop);
            }
            Poll::Pending => {}
        }
    }

    /// Takes over the reading half from a receiver that no longer reads.
    pub(crate) fn park_reader(&mut self, reader: Reader, undelivered: bool) {
        if self.machine.phase() < Phase::Ended && !self.machine.has_peer_closed() {
            self.reader = Some(Box::new(reader));
            if self.machine.phase() > Phase::Open {
                self.machine.request_flusher();
            }
            return;
        }
        // After a failed write the receiver kept the reading half. Reset it if packets are lost: the cause may be
        // local, such as a runtime that was shut down, and the peer must not see a clean close.
        if (undelivered || self.machine.ends_by_reset()) && self.machine.can_still_read() {
            reader.reset();
        }
        self.deferred.drop(reader);
    }

    /// Takes the writing half of a connection that hands its transport over. The caller ends the connection.
    pub(crate) fn take_writer(&mut self) -> Option<Writer> {
        self.writer.take()
    }

    /// Whether the kernel holds received bytes that were not read.
    pub(crate) fn has_unread(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::has_unread)
    }

    /// Ends a connection that cannot end by itself, because its runtime was shut down or its transport panicked. `why`
    /// becomes the error message.
    pub(crate) fn lost(&mut self, why: &'static str, undelivered: bool) {
        if self.machine.phase() < Phase::Ended {
            self.machine.fail(io::Error::other(why).into());
            let reset = undelivered || self.machine.has_output() || self.has_unread();
            self.machine.end(reset);
        } else if undelivered && self.machine.can_still_read() {
            // The connection has ended by a failed write, because the runtime was shut down.
            self.machine.reset_at_end();
        }
        self.machine.stop_reading();
    }

    /// Releases the transport of a connection that has ended.
    pub(super) fn release_transport(&mut self) {
        if let Some(writer) = self.writer.take() {
            if self.machine.can_still_read() {
                self.deferred.drop(writer);
            } else {
                let reader_is_elsewhere = self.reader.is_none() && !self.machine.has_peer_closed();
                let stream = writer.release(self.machine.ends_by_reset(), reader_is_elsewhere);
                self.deferred.drop_some(stream);
            }
        }
        self.deferred.drop_some(self.reader.take());
    }
}

/// Reads and discards until the peer closes.
fn poll_discard(reader: &mut Reader, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    /// Limit per turn, so that a peer that sends without pause does not block other tasks on the thread.
    const READS_A_TURN: usize = 16;
    let mut scratch = [0; 8 * 1024];
    for _ in 0..READS_A_TURN {
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *reader).poll_read(cx, &mut buf))?;
        if buf.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
    }
    yielding::yield_turn(cx);
    Poll::Pending
}
