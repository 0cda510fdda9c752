//! What is left to do when the lock of a connection is let go of.
//!
//! To wake a task, or to drop a waker, the memory of a packet or a transport, can run code of the application's, and that
//! may use the connection: under the lock it would wait for itself.

use std::task::Waker;

#[derive(Default)]
pub(crate) struct Later(Vec<Deed>);

enum Deed {
    Wake(Waker),
    Drop(Box<dyn Send>),
}

impl Later {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn wake(&mut self, waker: Waker) {
        self.0.push(Deed::Wake(waker));
    }

    pub(crate) fn drop(&mut self, thing: impl Send + 'static) {
        self.0.push(Deed::Drop(Box::new(thing)));
    }

    pub(crate) fn run(self) {
        for deed in self.0 {
            match deed {
                Deed::Wake(waker) => waker.wake(),
                Deed::Drop(thing) => drop(thing),
            }
        }
    }
}
