//! What is left to do when the lock of a connection is let go of.
//!
//! To wake a task, or to drop a waker, the memory of a packet or a transport, can run code of the application's, and that
//! may use the connection: under the lock it would wait for itself.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

/// Runs code that may be the application's: a waker, a transport, the memory of a packet that is dropped. A panic in it ends
/// nothing else; `None` then.
pub(crate) fn catch_panic<T>(act: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(act)).ok()
}

/// Boxed, because most connections have nothing here at most times.
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

    /// Does all of it. A panic in one of them, which is code of the application's, keeps the others from nothing.
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
