//! What the lock of a connection guards: the [machine](super::machine), the transport, and the wakers of those who wait.
//!
//! This is the driver of the machine: it offers the transport what the machine has, and does what the machine says. It decides
//! nothing itself, and nothing here waits: where the transport takes no more, the flusher goes on.

use std::task::{Context, Waker};

use super::deferred::Deferred;
use super::machine::{Machine, News, Phase};
use super::waiters::Waiters;
use crate::transport::{Reader, Writer};

mod end;

mod write;
pub(crate) use write::is_for_now;

// In this order in memory: what each packet needs, and the rest.
#[repr(C)]
pub(crate) struct State {
    /// The writing half; gone with the end.
    writer: Option<Writer>,
    /// The task that waits in `recv`.
    receiver: Option<Waker>,
    /// Other tasks that wait; most connections have none.
    waiters: Option<Box<Waiting>>,
    /// What is done when the lock is let go of.
    pub(crate) later: Deferred,
    pub(crate) machine: Machine,
    /// The reading half, once the receiver has given it up: what is left to do with it is to wait for the peer's close.
    reader: Option<Box<Reader>>,
    /// Whether the transport may gather bytes in a buffer of its own, where packets that may be dropped are to be few.
    keeps_few: bool,
    pub(crate) flusher: Flusher,
    pub(crate) sweep: Sweep,
}

/// Those who wait for a connection, and its own task.
#[derive(Default)]
struct Waiting {
    /// For bytes to be written, or for the end.
    progress: Waiters,
    /// For room, each in its turn, or for the end.
    line: Waiters,
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
pub(crate) struct Orders {
    pub(crate) later: Deferred,
    pub(crate) spawn: bool,
    pub(crate) enlist: bool,
}

impl State {
    pub(crate) fn new(writer: Writer, machine: Machine, may_drop: bool) -> Self {
        Self {
            keeps_few: may_drop && writer.may_gather(),
            machine,
            writer: Some(writer),
            reader: None,
            flusher: Flusher::None,
            sweep: Sweep::No,
            later: Deferred::default(),
            receiver: None,
            waiters: None,
        }
    }

    // ---- those who wait

    fn waiters(&mut self) -> &mut Waiting {
        // Whatever has happened before, nobody has waited for it.
        if self.waiters.is_none() {
            self.machine.forget_news(News::PROGRESS);
        }
        self.waiters.get_or_insert_default()
    }

    /// Leaves a waker for when bytes were written, or for the end.
    pub(crate) fn wait_for_progress(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().progress.register(key, cx);
        self.later.drop_some(replaced);
    }

    /// Leaves a waker for when it is the turn of `key` in the line, or for the end.
    pub(crate) fn wait_in_line(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().line.register(key, cx);
        self.later.drop_some(replaced);
    }

    /// Leaves a waker for the end alone.
    pub(crate) fn wait_for_end(&mut self, key: u64, cx: &Context<'_>) {
        let replaced = self.waiters().end.register(key, cx);
        self.later.drop_some(replaced);
    }

    /// Leaves the waker of the receiver.
    #[inline]
    pub(crate) fn wait_in_recv(&mut self, cx: &Context<'_>) {
        if !self.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let replaced = self.receiver.replace(cx.waker().clone());
            self.later.drop_some(replaced);
        }
    }

    /// Takes the wakers back that were left under `key`, and its place in the line.
    pub(crate) fn forget(&mut self, key: u64) {
        if let Some(waiters) = &mut self.waiters {
            for waiters in [&mut waiters.progress, &mut waiters.line, &mut waiters.end] {
                self.later.drop_some(waiters.remove(key));
            }
        }
        self.machine.leave_line(key);
    }

    /// Whether something is to be done when the lock is let go of.
    #[inline]
    pub(crate) fn has_orders(&self) -> bool {
        let news = self.machine.news();
        (!news.is_empty() && (news != News::PROGRESS || self.waiters.is_some())) || !self.later.is_empty()
    }

    /// What is to be done when the lock is let go of.
    #[inline]
    pub(crate) fn take_orders(&mut self) -> Orders {
        let news = self.machine.take_news();
        if news.is_within(News::OF_WRITING) && self.waiters.is_none() {
            return self.orders(news, false);
        }
        self.take_all_orders(news)
    }

    fn orders(&mut self, news: News, spawn: bool) -> Orders {
        let enlist = news.has(News::SWEEP) && self.sweep == Sweep::No;
        if enlist {
            self.sweep = Sweep::Listed;
        }
        Orders { later: std::mem::take(&mut self.later), spawn, enlist }
    }

    fn take_all_orders(&mut self, news: News) -> Orders {
        if self.machine.phase() == Phase::Ended {
            self.release_transport();
        }
        if news.has(News::END) || news.has(News::RECEIVER) {
            if let Some(receiver) = self.receiver.take() {
                self.later.wake(receiver);
            }
        }
        if let Some(waiters) = &mut self.waiters {
            if news.has(News::END) {
                for waiters in [&mut waiters.progress, &mut waiters.line, &mut waiters.end] {
                    waiters.take_all(|waker| self.later.wake(waker));
                }
            } else if news.has(News::PROGRESS) {
                waiters.progress.take_all(|waker| self.later.wake(waker));
                let first = self.machine.first_in_line();
                let waker = first.and_then(|key| waiters.line.remove(key));
                if let Some(waker) = waker {
                    self.later.wake(waker);
                }
            }
        }
        let has_ended = self.machine.phase() == Phase::Ended;
        let spawn = news.has(News::TASK) && self.flusher == Flusher::None && !has_ended;
        if spawn {
            self.flusher = Flusher::Spawned;
        } else if news.has(News::TASK) {
            self.wake_flusher();
        }
        self.orders(news, spawn)
    }

    fn wake_flusher(&mut self) {
        if self.flusher == Flusher::Waiting {
            self.flusher = Flusher::Woken;
            if let Some(waker) = self.waiters.as_ref().and_then(|waiters| waiters.flusher.clone()) {
                self.later.wake(waker);
            }
        }
    }
}
