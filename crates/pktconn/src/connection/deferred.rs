//! Actions that must run after the lock of a connection is released: waking tasks and dropping foreign values.
//!
//! Waking a task, or dropping a waker, a packet's memory or a transport, can run code of the application. That code may
//! use the connection, and would deadlock under the lock.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

/// Runs code that may belong to the application, such as a waker, a transport or the drop of a packet's memory. Catches
/// a panic, and returns `None` then.
pub(crate) fn catch_panic<T>(act: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(act)).ok()
}

/// A list of actions to run later. Boxed, because it is almost always empty.
#[derive(Default)]
pub(crate) struct Deferred(Option<Box<Actions>>);

#[derive(Default)]
struct Actions(Vec<Action>);

enum Action {
    Wake(Waker),
    Drop(Box<dyn Send>),
}

impl Deferred {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn wake(&mut self, waker: Waker) {
        self.add(Action::Wake(waker));
    }

    pub(crate) fn drop(&mut self, thing: impl Send + 'static) {
        self.add(Action::Drop(Box::new(thing)));
    }

    pub(crate) fn drop_some(&mut self, thing: Option<impl Send + 'static>) {
        if let Some(thing) = thing {
            self.drop(thing);
        }
    }

    fn add(&mut self, action: Action) {
        self.0.get_or_insert_default().0.push(action);
    }

    /// Runs all actions. If one panics, the others still run. The first panic is then resumed, unless the thread is
    /// already panicking.
    #[inline]
    pub(crate) fn run(self) {
        if let Some(actions) = self.0 {
            actions.run();
        }
    }
}

impl Actions {
    fn run(self) {
        let mut panic = None;
        for action in self.0 {
            let done = catch_unwind(AssertUnwindSafe(|| match action {
                Action::Wake(waker) => waker.wake(),
                Action::Drop(thing) => drop(thing),
            }));
            panic = panic.or(done.err());
        }
        if let Some(panic) = panic.filter(|_| !std::thread::panicking()) {
            resume_unwind(panic);
        }
    }
}
