//! What a server does once it accepts no more: waits for its handlers and its connections, and cuts those that take too
//! long.

use std::future::poll_fn;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::control::Control;
use super::stats::ShutdownReport;
use crate::connection::shared::Shared;

/// Waits for the handlers to finish, and within the time that is set, if one is, for connections that they have passed
/// on.
pub(super) async fn drain(control: &Control, mut handlers: JoinSet<()>) -> ShutdownReport {
    let at_first = control.registry.open();
    let open_at_first = at_first.len();
    if control.registry.drains {
        // They receive what has arrived, and then the end.
        at_first.iter().for_each(Shared::drain);
    }
    drop(at_first);
    let mut cut_at = control.cut_at.subscribe();
    let cut = loop {
        let due = *cut_at.borrow_and_update();
        tokio::select! {
            biased;
            Some(finished) = handlers.join_next() => log_panic(finished),
            () = control.registry.emptied(), if handlers.is_empty() => break None,
            // They may yet be given a time.
            () = ending_are_over(control), if handlers.is_empty() && due.is_none() => break None,
            // It is there as long as the control.
            _ = cut_at.changed() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let open = control.registry.open();
                break Some((open.len(), open.iter().filter_map(Shared::cut).collect()));
            }
        }
    };
    // Those that are still at work.
    handlers.shutdown().await;
    ending_are_over(control).await;
    let (still_open, cut) = cut.unwrap_or_else(|| (control.registry.open().len(), Vec::new()));
    ShutdownReport { drained: open_at_first.saturating_sub(still_open), cut }
}

/// Waits for the connections that end by themselves: what they have left to be written and acknowledged has a time for
/// it.
async fn ending_are_over(control: &Control) {
    let mut conns = control.registry.open();
    conns.retain(Shared::is_ending);
    for conn in conns {
        let wait = conn.wait();
        poll_fn(|cx| conn.poll_over(wait.key, cx)).await;
    }
}

pub(super) fn log_panic(finished: Result<(), JoinError>) {
    // The panic itself was printed by the hook; this says that only one handler is gone.
    if finished.is_err_and(|error| error.is_panic()) {
        tracing::error!("a connection's handler panicked; its connection is closed");
    }
}
