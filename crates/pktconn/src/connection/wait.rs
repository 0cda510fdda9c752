//! How the futures of the handles wait, so that each can be dropped and leave nothing behind.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::shared::Shared;

/// The wakers of futures that wait, each under the key of its future.
#[derive(Default)]
pub(crate) struct Waiters(Vec<(u64, Waker)>);

impl Waiters {
    /// Leaves a waker, and returns the one that it replaces, to be dropped without a lock.
    pub(crate) fn register(&mut self, key: u64, cx: &Context<'_>) -> Option<Waker> {
        match self.0.iter_mut().find(|(registered, _)| *registered == key) {
            Some((_, waker)) if waker.will_wake(cx.waker()) => None,
            Some((_, waker)) => Some(std::mem::replace(waker, cx.waker().clone())),
            None => {
                self.0.push((key, cx.waker().clone()));
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<Waker> {
        let index = self.0.iter().position(|(registered, _)| *registered == key)?;
        Some(self.0.swap_remove(index).1)
    }

    pub(crate) fn take_all(&mut self, take: impl FnMut(Waker)) {
        if !self.0.is_empty() {
            std::mem::take(&mut self.0).into_iter().map(|(_, waker)| waker).for_each(take);
        }
    }
}

/// The key of a future that waits. Dropped with it, and its wakers and its place in the line go too.
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
