//! The word that a server stops, and those who wait for it.
//!
//! A handler looks at it before each packet: that is one load of a flag, which all share and nobody writes until then.
//! Who waits takes 16 bytes here and 32 in its task, of which a server has one for each connection.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::connection::deferred::Deferred;

#[derive(Debug, Default)]
pub(crate) struct ShutdownSignal {
    /// Written under the lock, and read without.
    is_triggered: AtomicBool,
    /// Nobody joins after the word.
    waiting: Mutex<Slab<Waker>>,
}

impl ShutdownSignal {
    pub(crate) fn trigger(&self) {
        let mut waiting = self.waiting();
        self.is_triggered.store(true, Ordering::Release);
        let wakers = mem::take(&mut *waiting);
        drop(waiting);
        let mut later = Deferred::default();
        wakers.into_iter().for_each(|(_, waker)| later.wake(waker));
        later.run();
    }

    /// Whether it was said.
    pub(crate) fn is_triggered(&self) -> bool {
        self.is_triggered.load(Ordering::Acquire)
    }

    /// Waits for the word.
    pub(crate) fn triggered(&self) -> Triggered<'_> {
        Triggered { stop: self, place: None }
    }

    fn waiting(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Triggered<'a> {
    stop: &'a ShutdownSignal,
    /// Where its waker waits, and the same one, to be compared without the lock.
    place: Option<(usize, Waker)>,
}

impl Future for Triggered<'_> {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &self.place {
            _ if self.stop.is_triggered.load(Ordering::Acquire) => Poll::Ready(()),
            Some((_, waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            _ => self.wait(cx.waker()),
        }
    }
}

impl Triggered<'_> {
    /// Takes a place, or leaves another waker in the one it has.
    #[cold]
    fn wait(&mut self, waker: &Waker) -> Poll<()> {
        let mut waiting = self.stop.waiting();
        if self.stop.is_triggered.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let last = match &mut self.place {
            Some((key, known)) => {
                let last = mem::replace(&mut waiting[*key], waker.clone());
                Some((last, mem::replace(known, waker.clone())))
            }
            None => {
                self.place = Some((waiting.insert(waker.clone()), waker.clone()));
                None
            }
        };
        // To drop a waker can drop its task, and with it what waits here too.
        drop(waiting);
        drop(last);
        Poll::Pending
    }
}

impl Drop for Triggered<'_> {
    fn drop(&mut self) {
        if let Some((key, _)) = self.place {
            // After the word there are no places any more.
            let left = self.stop.waiting().try_remove(key);
            drop(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counted() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), count.into())
    }

    #[test]
    fn the_last_waker_of_each_is_woken_once_by_the_first_word() {
        let stop = ShutdownSignal::default();
        let (mut first, mut second) = (pin!(stop.triggered()), pin!(stop.triggered()));
        let ((old, old_waker), (new, new_waker)) = (counted(), counted());
        for waker in [&old_waker, &old_waker, &new_waker] {
            assert!(first.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
        assert!(second.as_mut().poll(&mut Context::from_waker(&new_waker)).is_pending());
        stop.trigger();
        stop.trigger();
        assert_eq!((old.0.load(Ordering::Relaxed), new.0.load(Ordering::Relaxed)), (0, 2));
        assert!(first.as_mut().poll(&mut Context::from_waker(&old_waker)).is_ready());
        assert!(pin!(stop.triggered()).poll(&mut Context::from_waker(&old_waker)).is_ready());
    }

    #[test]
    fn one_that_is_dropped_leaves_its_place_and_takes_no_other() {
        let stop = ShutdownSignal::default();
        let (count, waker) = counted();
        let wait = || {
            let mut said = Box::pin(stop.triggered());
            assert!(said.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            said
        };
        let (gone, stays) = (wait(), wait());
        drop(gone);
        assert_eq!(stop.waiting().len(), 1);
        stop.trigger();
        drop(stays);
        assert_eq!((count.0.load(Ordering::Relaxed), stop.waiting().len()), (1, 0));
    }

    /// A waker that owns what waits, as that of a task does which nothing else keeps alive.
    struct Owner(
        #[expect(dead_code, reason = "it is there to be dropped")] Mutex<Option<Triggered<'static>>>,
    );

    impl Wake for Owner {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_waker_that_is_replaced_may_drop_another_that_waits() {
        let stop: &'static ShutdownSignal = Box::leak(Box::default());
        let (_, waker) = counted();
        let mut other = stop.triggered();
        assert!(Pin::new(&mut other).poll(&mut Context::from_waker(&waker)).is_pending());
        let owner = Waker::from(Arc::new(Owner(Mutex::new(Some(other)))));
        let mut said = pin!(stop.triggered());
        assert!(said.as_mut().poll(&mut Context::from_waker(&owner)).is_pending());
        drop(owner);
        assert!(said.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(stop.waiting().len(), 1);
    }
}
