//! What the lock of a connection guards: the [machine](super::machine), the transport, and the wakers of those who wait.
//!
//! This is the driver of the machine: it offers the transport what the machine has, and does what the machine says. It decides
//! nothing itself, and nothing here waits: where the transport takes no more, the flusher goes on.

use std::task::{Context, Waker};

use super::deferred::Deferred;
use super::machine::{Machine, Phase, Wakeups};
use super::waiters::Waiters;
use crate::transport::{Reader, Writer};

mod end;

mod write;
pub(crate) use write::is_temporary;

// In this order in memory: what each packet needs, and the rest.
#[repr(C)]
pub(crate) struct State {
    /// The writing half; gone with the end.
    writer: Option<Writer>,
    /// The task that waits in `recv`.
    receiver: Option<Waker>,
    /// Other tasks that wait; most connections have none.
    waiters: Option<Box<WaitingTasks>>,
    /// What is done when the lock is let go of.
    pub(crate) deferred: Deferred,
    pub(crate) machine: Machine,
    /// The reading half, once the receiver has given it up: what is left to do with it is to wait for the peer's close.
    reader: Option<Box<Reader>>,
    /// Whether the transport may gather bytes in a buffer of its own, where packets that may be dropped are to be few.
    limits_buffering: bool,
    pub(crate) flusher: Flusher,
    pub(crate) sweep: Sweep,
}

/// Those who wait for a connection, and its own task.
#[derive(Default)]
struct WaitingTasks {
    /// For bytes to be written, or for the end.
    progress: Waiters,
    /// For room, each in its turn, or for the end.
    senders: Waiters,
    /// For the end alone.
    end: Waiters,
    flusher: Option<Waker>,
}

/// The flusher task as the others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flusher {
    /// There is none: nothing has to be waited for.
    None,
    /// Spawned and not yet run, so that it will look at everything.
    Spawned,
    /// Waits for its waker.
    Waiting,
    /// Was woken, and will run.
    Woken,
}

/// Whether a sweeper will look at the connection.
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
            limits_buffering: may_drop && writer.may_gather(),
            machine,
            writer: Some(writer),
            reader: None,
            flusher: Flusher::None,
            sweep: Sweep::No,
            deferred: Deferred::default(),
            receiver: None,
            waiters: None,
        }
    }

    // ---- those who wait

    fn waiters(&mut self) -> &mut WaitingTasks {
        // Whatever has happened before, nobody has waited for it.
        if self.waiters.is_none() {
            self.machine.clear_wakeups(Wakeups::PROGRESS);
        }
        self.waiters.get_or_insert_default()
    }

    /// Leaves a waker for when bytes were written, or for the end.
    pub(crate) fn wait_for_progress(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().progress.register(key, cx);
        self.deferred.drop_some(replaced);
    }

    /// Leaves a waker for when it is the turn of `key` in the line, or for the end.
    pub(crate) fn wait_for_sender_turn(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().senders.register(key, cx);
        self.deferred.drop_some(replaced);
    }

    /// Leaves a waker for the end alone.
    pub(crate) fn wait_for_end(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().end.register(key, cx);
        self.deferred.drop_some(replaced);
    }

    /// Leaves the waker of the receiver.
    #[inline]
    pub(crate) fn wait_in_recv(&mut self, cx: &Context<'_>) {
        if !self.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let replaced = self.receiver.replace(cx.waker().clone());
            self.deferred.drop_some(replaced);
        }
    }

    /// Takes the wakers back that were left under `key`, and its place in the line.
    pub(crate) fn forget(&mut self, key: u64) {
        if let Some(waiters) = &mut self.waiters {
            for waiters in [&mut waiters.progress, &mut waiters.senders, &mut waiters.end] {
                self.deferred.drop_some(waiters.remove(key));
            }
        }
        self.machine.remove_waiting_sender(key);
    }

    /// Whether something is to be done when the lock is let go of.
    #[inline]
    pub(crate) fn has_work_after_unlock(&self) -> bool {
        let wakeups = self.machine.wakeups();
        (!wakeups.is_empty() && (wakeups != Wakeups::PROGRESS || self.waiters.is_some()))
            || !self.deferred.is_empty()
    }

    /// What is to be done when the lock is let go of.
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
            if let Some(waker) = self.waiters.as_ref().and_then(|waiters| waiters.flusher.clone()) {
                self.deferred.wake(waker);
            }
        }
    }
}
