//! Yields the thread to other tasks, for connections that always have more work.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Makes tokio poll the current task again after the other ready tasks, and after its driver has checked the sockets.
/// The caller must return `Pending`.
///
/// A task that only wakes its own waker is not fair. It runs after the tasks that are ready, but before tokio checks
/// the sockets, which happens every 61 tasks by default.
pub(crate) fn yield_turn(cx: &mut Context<'_>) {
    // The first poll returns `Pending` and schedules the wakeup.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
