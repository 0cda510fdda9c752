//! The signal that a server shuts down: a flag, and the wakers of the tasks that wait for it.
//!
//! A handler can check it before each packet, which costs one load of a shared flag that is written only once. A
//! waiting task costs 16 bytes here and 32 bytes in its future. A server can have one waiting task per connection.

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
    /// Written under the lock of `wakers`, read without it.
    is_triggered: AtomicBool,
    /// No waker is added after the trigger.
    wakers: Mutex<Slab<Waker>>,
}

impl ShutdownSignal {
    pub(crate) fn trigger(&self) {
        let mut registered = self.wakers();
        self.is_triggered.store(true, Ordering::Release);
        let wakers = mem::take(&mut *registered);
        drop(registered);
        let mut deferred = Deferred::default();
        wakers.into_iter().for_each(|(_, waker)| deferred.wake(waker));
        deferred.run();
    }

    pub(crate) fn is_triggered(&self) -> bool {
        self.is_triggered.load(Ordering::Acquire)
    }

    /// Waits for the trigger.
    pub(crate) fn triggered(&self) -> Triggered<'_> {
        Triggered { signal: self, registered: None }
    }

    fn wakers(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Triggered<'a> {
    signal: &'a ShutdownSignal,
    /// The key of the waker in the slab, and a copy of the waker to compare with without the lock.
    registered: Option<(usize, Waker)>,
}

impl Future for Triggered<'_> {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &self.registered {
            _ if self.signal.is_triggered.load(Ordering::Acquire) => Poll::Ready(()),
            Some((_, waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            _ => self.wait(cx.waker()),
        }
    }
}

impl Triggered<'_> {
    /// Registers the waker, or replaces the registered one.
    #[cold]
    fn wait(&mut self, waker: &Waker) -> Poll<()> {
        let mut wakers = self.signal.wakers();
        if self.signal.is_triggered.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let last = match &mut self.registered {
            Some((key, known)) => {
                let last = mem::replace(&mut wakers[*key], waker.clone());
                Some((last, mem::replace(known, waker.clone())))
            }
            None => {
                self.registered = Some((wakers.insert(waker.clone()), waker.clone()));
                None
            }
        };
        // Dropping a waker can drop its task, and a `Triggered` inside it takes this lock.
        drop(wakers);
        drop(last);
        Poll::Pending
    }
}

impl Drop for Triggered<'_> {
    fn drop(&mut self) {
        if let Some((key, _)) = self.registered {
            // After the trigger the slab is empty. The waker is dropped after the lock is released.
            let left = self.signal.wakers().try_remove(key);
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
    fn the_first_trigger_wakes_the_latest_waker_of_each_once() {
        let signal = ShutdownSignal::default();
        let (mut first, mut second) = (pin!(signal.triggered()), pin!(signal.triggered()));
        let ((old, old_waker), (new, new_waker)) = (counted(), counted());
        for waker in [&old_waker, &old_waker, &new_waker] {
            assert!(first.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
        assert!(second.as_mut().poll(&mut Context::from_waker(&new_waker)).is_pending());
        signal.trigger();
        signal.trigger();
        assert_eq!((old.0.load(Ordering::Relaxed), new.0.load(Ordering::Relaxed)), (0, 2));
        assert!(first.as_mut().poll(&mut Context::from_waker(&old_waker)).is_ready());
        assert!(pin!(signal.triggered()).poll(&mut Context::from_waker(&old_waker)).is_ready());
    }

    #[test]
    fn a_dropped_wait_removes_only_its_own_waker() {
        let signal = ShutdownSignal::default();
        let (count, waker) = counted();
        let wait = || {
            let mut triggered = Box::pin(signal.triggered());
            assert!(triggered.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            triggered
        };
        let (gone, stays) = (wait(), wait());
        drop(gone);
        assert_eq!(signal.wakers().len(), 1);
        signal.trigger();
        drop(stays);
        assert_eq!((count.0.load(Ordering::Relaxed), signal.wakers().len()), (1, 0));
    }

    /// A waker that owns a waiting future, like the waker of a task that nothing else keeps alive.
    struct Owner(#[expect(dead_code, reason = "held only to be dropped")] Mutex<Option<Triggered<'static>>>);

    impl Wake for Owner {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn replacing_a_waker_may_drop_another_waiting_future() {
        let signal: &'static ShutdownSignal = Box::leak(Box::default());
        let (_, waker) = counted();
        let mut other = signal.triggered();
        assert!(Pin::new(&mut other).poll(&mut Context::from_waker(&waker)).is_pending());
        let owner = Waker::from(Arc::new(Owner(Mutex::new(Some(other)))));
        let mut triggered = pin!(signal.triggered());
        assert!(triggered.as_mut().poll(&mut Context::from_waker(&owner)).is_pending());
        drop(owner);
        assert!(triggered.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(signal.wakers().len(), 1);
    }
}
