//! The end of a server after it has stopped accepting: drains its connections, waits for handlers, and closes what is
//! left at the deadline.

use std::future::poll_fn;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::server_handle::ServerState;
use super::stats::ShutdownReport;
use crate::connection::conn_core::ConnCore;

/// Waits until all handlers have finished. With a deadline, also waits for connections that handlers have passed on,
/// and closes the remaining connections at the deadline.
pub(super) async fn drain(state: &ServerState, mut handlers: JoinSet<()>) -> ShutdownReport {
    let initial_conns = state.registry.open_conns();
    let initial_count = initial_conns.len();
    if state.registry.drain_on_shutdown {
        // `recv` returns what has arrived, and then `None`.
        initial_conns.iter().for_each(ConnCore::drain);
    }
    drop(initial_conns);
    let mut close_deadline = state.close_deadline.subscribe();
    let cut = loop {
        let due = *close_deadline.borrow_and_update();
        tokio::select! {
            biased;
            Some(finished) = handlers.join_next() => log_if_panicked(finished),
            () = state.registry.wait_until_empty(), if handlers.is_empty() => break None,
            // A deadline may still be set while this waits.
            () = wait_for_ending_conns(state), if handlers.is_empty() && due.is_none() => break None,
            // Never fails: `state` owns the sender.
            _ = close_deadline.changed() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let open = state.registry.open_conns();
                break Some((open.len(), open.iter().filter_map(ConnCore::cut).collect()));
            }
        }
    };
    // Drops the handlers that are still running.
    handlers.shutdown().await;
    wait_for_ending_conns(state).await;
    let (still_open, cut) = cut.unwrap_or_else(|| (state.registry.open_conns().len(), Vec::new()));
    ShutdownReport { drained: initial_count.saturating_sub(still_open), cut }
}

/// Waits for connections that are ending already. Their deadlines bound the wait.
async fn wait_for_ending_conns(state: &ServerState) {
    let mut conns = state.registry.open_conns();
    conns.retain(ConnCore::is_ending);
    for conn in conns {
        let waiter = conn.waiter();
        poll_fn(|cx| conn.poll_ended(waiter.key, cx)).await;
    }
}

pub(super) fn log_if_panicked(finished: Result<(), JoinError>) {
    // The panic hook has printed the panic itself. This line says that only one handler is affected.
    if finished.is_err_and(|error| error.is_panic()) {
        tracing::error!(
            "the handler of a connection panicked; the connection is closed, the server continues"
        );
    }
}
