//! The sweeper: one task per thread and runtime. It writes the send queues that senders on its thread left when they
//! yielded.
//!
//! ```text
//!   send:       lists the connection, and wakes the sweeper if the list was empty
//!   recv:       writes the queue before it waits, so that the sweeper finds nothing to do
//!   sweeper:    runs after the tasks that were ready before it, and writes what is still queued
//! ```
//!
//! The sweeper is woken once for all connections that sent in the same turn of the scheduler. A write task per
//! connection would be woken for each single packet. The sweeper never waits for a transport: if one blocks, the
//! connection's own flusher continues.
//!
//! A thread lists a connection with a sweeper in the connection's own runtime, because another runtime may be busy or
//! may not run at all. So a thread that sends over connections of several runtimes has a sweeper in each of them. A
//! thread or runtime may end at any time: a sweeper that is dropped leaves its list to the flushers.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::LocalKey;

use tokio::runtime;

use super::deferred::catch_panic;
use crate::connection::config::Home;
use crate::connection::yielding;

/// Maximum number of connections per turn. Each write counts against tokio's budget of 128 operations per turn of a
/// task.
const CONNS_A_TURN: usize = 64;

/// Maximum capacity of an empty list. A list that a burst has made larger is freed.
const MAX_SPARE: usize = 1024;

/// The interface of a connection to its sweeper.
pub(crate) trait SweepTarget: Send + Sync + 'static {
    /// Writes the send queue.
    fn sweep(self: &Arc<Self>);

    /// Leaves the send queue to the connection's flusher.
    fn leave_to_flusher(self: &Arc<Self>);
}

/// The sweepers of a thread: one for each runtime of its connections. Mostly there is one.
pub(crate) type ThreadSweepers<T> = RefCell<Vec<(runtime::Id, ThreadEnd<T>)>>;

/// Lists `conn`, which has bytes to write, with this thread's sweeper in the connection's runtime. Creates that sweeper
/// if there is none.
pub(crate) fn schedule<T: SweepTarget>(
    conn: &Arc<T>,
    home: &Home,
    of_this_thread: &'static LocalKey<ThreadSweepers<T>>,
) {
    let listed = of_this_thread.try_with(|sweepers| {
        let sweepers = sweepers.borrow();
        let mine = sweepers.iter().find(|(id, _)| *id == home.id);
        mine.is_some_and(|(_, ThreadEnd(sweeper))| sweeper.add(conn))
    });
    match listed {
        Ok(true) => {}
        Ok(false) => {
            let sweeper = Arc::new(Sweeper::default());
            sweeper.add(conn);
            let task = run(TaskEnd(Arc::clone(&sweeper)));
            let gone = of_this_thread.with_borrow_mut(|sweepers| {
                let (gone, mut there): (Vec<_>, Vec<_>) = std::mem::take(sweepers)
                    .into_iter()
                    .partition(|(_, ThreadEnd(sweeper))| sweeper.has_ended());
                there.push((home.id, ThreadEnd(sweeper)));
                *sweepers = there;
                gone
            });
            drop(gone);
            // The list must not be borrowed here: a runtime that was shut down drops the task inside `spawn`.
            home.runtime.spawn(task);
        }
        // The thread is ending.
        Err(_) => conn.leave_to_flusher(),
    }
}

struct Sweeper<T>(Mutex<List<T>>);

struct List<T> {
    conns: Vec<Arc<T>>,
    /// The waker of the task, set when it first runs.
    waker: Option<Waker>,
    /// Whether the task has ended, so that no connection can be listed any more.
    task_ended: bool,
    /// Whether the thread has ended, so that no connection will be listed any more.
    thread_ended: bool,
}

impl<T> Default for Sweeper<T> {
    fn default() -> Self {
        let list = List { conns: Vec::new(), waker: None, task_ended: false, thread_ended: false };
        Self(Mutex::new(list))
    }
}

impl<T> Sweeper<T> {
    fn list(&self) -> MutexGuard<'_, List<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the task has ended because its runtime was shut down.
    fn has_ended(&self) -> bool {
        self.list().task_ended
    }

    /// Adds `conn` to the list. Returns `false` if the task has ended.
    fn add(&self, conn: &Arc<T>) -> bool {
        let mut list = self.list();
        if list.task_ended {
            return false;
        }
        list.conns.push(Arc::clone(conn));
        if list.conns.len() == 1 {
            if let Some(waker) = &list.waker {
                waker.wake_by_ref();
            }
        }
        true
    }
}

impl<T: SweepTarget> Sweeper<T> {
    /// One turn of the task. `swept` is an empty vector whose memory is reused for the list.
    fn sweep(&self, swept: &mut Vec<Arc<T>>, cx: &mut Context<'_>) -> Poll<()> {
        let mut list = self.list();
        if !list.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            list.waker = Some(cx.waker().clone());
        }
        if list.conns.len() <= CONNS_A_TURN {
            std::mem::swap(&mut list.conns, swept);
        } else {
            swept.extend(list.conns.drain(..CONNS_A_TURN));
            yielding::yield_turn(cx);
        }
        let done = list.thread_ended && list.conns.is_empty();
        drop(list);
        for conn in swept.drain(..) {
            // Code of the application, such as a waker, may panic. The other connections must still be swept.
            if catch_panic(|| conn.sweep()).is_none() {
                catch_panic(|| conn.leave_to_flusher());
            }
        }
        if swept.capacity() > MAX_SPARE {
            *swept = Vec::new();
        }
        if done { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The thread's handle to a sweeper. When it is dropped, the task ends.
pub(crate) struct ThreadEnd<T>(Arc<Sweeper<T>>);

impl<T> Drop for ThreadEnd<T> {
    fn drop(&mut self) {
        let mut list = self.0.list();
        list.thread_ended = true;
        let waker = list.waker.take();
        drop(list);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The task's handle to a sweeper. When it is dropped, the listed connections are left to their flushers.
struct TaskEnd<T: SweepTarget>(Arc<Sweeper<T>>);

impl<T: SweepTarget> Drop for TaskEnd<T> {
    fn drop(&mut self) {
        let mut list = self.0.list();
        list.task_ended = true;
        let conns = std::mem::take(&mut list.conns);
        drop(list);
        for conn in conns {
            conn.leave_to_flusher();
        }
    }
}

async fn run<T: SweepTarget>(sweeper: TaskEnd<T>) {
    let mut swept = Vec::new();
    poll_fn(|cx| sweeper.0.sweep(&mut swept, cx)).await;
}
