//! Turns on a thread, for connections that could go on for ever.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Has the current task polled again after the others that are ready, and after a look at what has arrived for them.
///
/// Only that makes it fair: who wakes itself comes behind the tasks that are ready, but before the sockets, which tokio
/// looks at once in 61 tasks, or in as many as the program chose.
pub(crate) fn yield_turn(cx: &mut Context<'_>) {
    // Pending when it is first polled.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
