//! The state of a connection behind its lock: the [machine](super::machine), the transport, and the wakers of waiting
//! tasks.
//!
//! This is the driver of the machine: it writes the machine's output to the transport, and acts on the results. It
//! makes no decisions itself and never waits. If the transport blocks, the flusher continues.

use std::task::{Context, Waker};

use super::deferred::Deferred;
use super::machine::{Machine, Phase, Wakeups};
use super::waiters::Waiters;
use crate::transport::{Reader, Writer};

mod end;

mod write;
pub(crate) use write::is_temporary;

// `repr(C)` keeps this order in memory: first the fields that each packet uses, then the rest.
#[repr(C)]
pub(crate) struct State {
    /// The writing half. `None` after the end.
    writer: Option<Writer>,
    /// The waker of the task that waits in `recv`.
    receiver: Option<Waker>,
    /// The wakers of other waiting callers. Most connections have none.
    waiters: Option<Box<WaitingTasks>>,
    /// Whether the connection's account has more than 0 bytes of the send queue.
    pub(crate) is_held_counted: bool,
    /// Whether to limit the bytes in the transport's own buffer: the transport has one, and the slow-consumer policy
    /// may drop packets, which it cannot do in that buffer.
    limits_buffering: bool,
    pub(crate) flusher: Flusher,
    pub(crate) sweep: Sweep,
    /// Actions to run after the lock is released.
    pub(crate) deferred: Deferred,
    pub(crate) machine: Machine,
    /// The reading half, after the receiver has given it up. It is only used to wait for the peer's close.
    reader: Option<Box<Reader>>,
    flusher_waker: Option<Waker>,
}

/// The wakers of the callers that wait for a connection, apart from its receiver.
#[derive(Default)]
struct WaitingTasks {
    /// Wait for bytes to be written, or for the end.
    progress: Waiters,
    /// Senders that wait for room in order, or for the end.
    senders: Waiters,
    /// Wait only for the end.
    end: Waiters,
}

/// The state of the flusher task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flusher {
    /// No flusher exists, because nothing has to wait.
    None,
    /// Spawned but not yet run. It will check everything.
    Spawned,
    /// Waits to be woken.
    Waiting,
    /// Was woken and will run.
    Woken,
}

/// Whether a sweeper will write the queue of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sweep {
    No,
    Listed,
}

/// What to do after the lock is released.
#[derive(Default)]
pub(crate) struct AfterUnlock {
    pub(crate) deferred: Deferred,
    pub(crate) spawn_flusher: bool,
    pub(crate) list_for_sweep: bool,
}

impl State {
    pub(crate) fn new(writer: Writer, machine: Machine, may_drop: bool) -> Self {
        Self {
            limits_buffering: may_drop && writer.may_buffer(),
            machine,
            writer: Some(writer),
            reader: None,
            flusher: Flusher::None,
            flusher_waker: None,
            sweep: Sweep::No,
            is_held_counted: false,
            deferred: Deferred::default(),
            receiver: None,
            waiters: None,
        }
    }

    // ---- waiting tasks

    fn waiters(&mut self) -> &mut WaitingTasks {
        // Progress made before the first task waits is of no interest to it.
        if self.waiters.is_none() {
            self.machine.clear_wakeups(Wakeups::PROGRESS);
        }
        self.waiters.get_or_insert_default()
    }

    /// Registers a waker for progress (bytes were written) or the end.
    pub(crate) fn wait_for_progress(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().progress.register(key, cx);
        self.deferred.drop_some(replaced);
    }

    /// Registers a waker for when sender `key` is the first waiting sender and may have room, or for the end.
    pub(crate) fn wait_for_sender_turn(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().senders.register(key, cx);
        self.deferred.drop_some(replaced);
    }

    /// Registers a waker only for the end.
    pub(crate) fn wait_for_end(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().end.register(key, cx);
        self.deferred.drop_some(replaced);
    }

    /// Registers the waker of the receiver.
    #[inline]
    pub(crate) fn wait_in_recv(&mut self, cx: &Context<'_>) {
        if !self.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let replaced = self.receiver.replace(cx.waker().clone());
            self.deferred.drop_some(replaced);
        }
    }

    /// Takes the waker of the receiver, which waits no more. The caller must drop it without holding the lock.
    pub(crate) fn stop_waiting_in_recv(&mut self) -> Option<Waker> {
        self.receiver.take()
    }

    /// Removes the wakers of `key`, and removes it from the waiting senders.
    pub(crate) fn forget(&mut self, key: u64) {
        if let Some(waiters) = &mut self.waiters {
            for waiters in [&mut waiters.progress, &mut waiters.senders, &mut waiters.end] {
                self.deferred.drop_some(waiters.remove(key));
            }
        }
        self.machine.remove_waiting_sender(key);
    }

    /// Whether [`take_after_unlock`](Self::take_after_unlock) would return any work.
    #[inline]
    pub(crate) fn has_work_after_unlock(&self) -> bool {
        let wakeups = self.machine.wakeups();
        (!wakeups.is_empty() && (wakeups != Wakeups::PROGRESS || self.waiters.is_some()))
            || !self.deferred.is_empty()
    }

    /// Takes the work that must be done after the lock is released.
    #[inline]
    pub(crate) fn take_after_unlock(&mut self) -> AfterUnlock {
        let wakeups = self.machine.take_wakeups();
        if wakeups.is_subset_of(Wakeups::PROGRESS_OR_SWEEPER) && self.waiters.is_none() {
            return self.after_unlock(wakeups, false);
        }
        self.take_all_after_unlock(wakeups)
    }

    fn after_unlock(&mut self, wakeups: Wakeups, spawn_flusher: bool) -> AfterUnlock {
        let list_for_sweep = wakeups.intersects(Wakeups::SWEEPER) && self.sweep == Sweep::No;
        if list_for_sweep {
            self.sweep = Sweep::Listed;
        }
        AfterUnlock { deferred: std::mem::take(&mut self.deferred), spawn_flusher, list_for_sweep }
    }

    fn take_all_after_unlock(&mut self, wakeups: Wakeups) -> AfterUnlock {
        if self.machine.phase() == Phase::Ended {
            self.release_transport();
        }
        if wakeups.intersects(Wakeups::END) || wakeups.intersects(Wakeups::RECEIVER) {
            if let Some(receiver) = self.receiver.take() {
                self.deferred.wake(receiver);
            }
        }
        if let Some(waiters) = &mut self.waiters {
            if wakeups.intersects(Wakeups::END) {
                for waiters in [&mut waiters.progress, &mut waiters.senders, &mut waiters.end] {
                    waiters.take_all(|waker| self.deferred.wake(waker));
                }
            } else if wakeups.intersects(Wakeups::PROGRESS) {
                waiters.progress.take_all(|waker| self.deferred.wake(waker));
                let first = self.machine.first_waiting_sender();
                let waker = first.and_then(|key| waiters.senders.remove(key));
                if let Some(waker) = waker {
                    self.deferred.wake(waker);
                }
            }
        }
        let has_ended = self.machine.phase() == Phase::Ended;
        let spawn_flusher =
            wakeups.intersects(Wakeups::FLUSHER) && self.flusher == Flusher::None && !has_ended;
        if spawn_flusher {
            self.flusher = Flusher::Spawned;
        } else if wakeups.intersects(Wakeups::FLUSHER) {
            self.wake_flusher();
        }
        self.after_unlock(wakeups, spawn_flusher)
    }

    fn wake_flusher(&mut self) {
        if self.flusher == Flusher::Waiting {
            self.flusher = Flusher::Woken;
            if let Some(waker) = &self.flusher_waker {
                self.deferred.wake(waker.clone());
            }
        }
    }
}
