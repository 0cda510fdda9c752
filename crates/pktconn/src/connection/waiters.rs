//! A small map from the keys of waiting futures to their wakers.

use std::task::{Context, Waker};

/// The wakers of waiting futures, each with the key of its future.
#[derive(Default)]
pub(crate) struct Waiters(Vec<(u64, Waker)>);

impl Waiters {
    /// Registers a waker. Returns the waker that it replaces, which the caller must drop without holding the lock.
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
