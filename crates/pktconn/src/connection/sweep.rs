//! A task for each thread of a runtime that writes what its senders left in their queues when they yielded.
//!
//! ```text
//!   send:       lists the connection, and wakes the sweeper if it is the first
//!   recv:       writes before it waits, so that the sweeper finds nothing to do
//!   sweeper:    runs when the tasks that were ready before it have yielded: writes what is still there
//! ```
//!
//! It is woken once for all the connections that sent in a turn of the scheduler, where a task for each connection would
//! be woken for each packet that stands alone. It never waits for a transport: where one takes no more, the connection's
//! own flusher goes on.
//!
//! A thread lists a connection with a sweeper of the connection's own runtime: a task of another runtime may not be driven, or
//! be busy. So a thread that sends over connections of several runtimes has a sweeper in each. Nothing depends on the life
//! of a thread or of a runtime: a sweeper that is dropped leaves what is on its list to the flushers.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::LocalKey;

use tokio::runtime;

use super::deferred::catch_panic;
use crate::connection::config::Home;
use crate::connection::yielding;

/// How many connections are swept in a turn. Each write counts against the 128 operations that tokio grants a task.
const CONNS_A_TURN: usize = 64;

/// A list that has grown beyond this, in a burst, is given up when it is empty.
const MAX_SPARE: usize = 1024;

/// A connection, as a sweeper sees it.
pub(crate) trait SweepTarget: Send + Sync + 'static {
    /// Writes what is still in the send queue.
    fn sweep(self: &Arc<Self>);

    /// Leaves what is in the send queue to the connection's flusher.
    fn leave_to_flusher(self: &Arc<Self>);
}

/// The sweepers of a thread, one for each runtime that its connections live in: mostly one.
pub(crate) type ThreadSweepers<T> = RefCell<Vec<(runtime::Id, ThreadEnd<T>)>>;

/// Has a sweeper of this thread look after `conn`, which has something to write, in the runtime that is its home.
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
            // Not with the list borrowed: a runtime that is shut down drops the task in place.
            home.runtime.spawn(task);
        }
        // The thread ends.
        Err(_) => conn.leave_to_flusher(),
    }
}

struct Sweeper<T>(Mutex<List<T>>);

struct List<T> {
    conns: Vec<Arc<T>>,
    /// That of the task, once it has run.
    waker: Option<Waker>,
    /// Whether the task is gone, so that nothing can be listed any more.
    task_ended: bool,
    /// Whether the thread is gone, so that nothing will be listed any more.
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

    /// Whether there is no task any more, because its runtime was shut down.
    fn has_ended(&self) -> bool {
        self.list().task_ended
    }

    /// Puts `conn` on the list; `false` when there is no task to look at it.
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
    /// A turn of the task. `swept` is empty, and the list's next one.
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
            // Code of the application's, such as a waker, may panic: that must not strand the others.
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

/// The thread's end of a sweeper. The task has nothing to wait for when it is gone.
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

/// The task's end of a sweeper. What is on the list when it is gone is left to the flushers.
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
