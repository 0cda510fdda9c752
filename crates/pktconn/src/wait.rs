//! How the futures of the handles wait, so that each can be dropped and leave nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use crate::later::Later;
use crate::shared::Shared;

/// The wakers of futures that wait, each under the key of its future.
#[derive(Default)]
pub(crate) struct Waiters(Vec<(u64, Waker)>);

impl Waiters {
    pub(crate) fn register(&mut self, key: u64, cx: &Context<'_>, later: &mut Later) {
        match self.0.iter_mut().find(|(registered, _)| *registered == key) {
            Some((_, waker)) if waker.will_wake(cx.waker()) => {}
            Some((_, waker)) => later.drop(std::mem::replace(waker, cx.waker().clone())),
            None => self.0.push((key, cx.waker().clone())),
        }
    }

    pub(crate) fn remove(&mut self, key: u64, later: &mut Later) {
        if let Some(index) = self.0.iter().position(|(registered, _)| *registered == key) {
            later.drop(self.0.swap_remove(index).1);
        }
    }

    pub(crate) fn wake(&mut self, later: &mut Later) {
        if self.0.is_empty() {
            return;
        }
        for (_, waker) in std::mem::take(&mut self.0) {
            later.wake(waker);
        }
    }
}

/// The key of a future that waits. Dropped with it, and its wakers go too.
pub(crate) struct Wait<'a> {
    shared: &'a Arc<Shared>,
    pub(crate) key: u64,
}

impl<'a> Wait<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>) -> Self {
        Self { shared, key: shared.next_key() }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.shared.forget(self.key);
    }
}

/// Counts a sender that waits, for as long as it does.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(crate) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
