//! Enforces the memory budget of a server: wakes paused connections when there is room again, and closes the largest
//! connections if the server stays over its budget for a second. Refusing new connections is up to the registry.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::registry::Registry;
use crate::connection::memory::{Account, Budget};

/// How long the server may stay over its budget before connections are closed. A short peak passes by itself.
const CLOSE_AFTER: Duration = Duration::from_secs(1);

/// Time between two batches of paused connections that are woken, so that they do not all continue at once.
const RESUME_INTERVAL: Duration = Duration::from_millis(5);

/// Retires the budget when the server ends, so that connections that outlive it are not paused forever.
struct RetireOnDrop<'a>(&'a Budget);

impl Drop for RetireOnDrop<'_> {
    fn drop(&mut self) {
        self.0.retire();
    }
}

/// Enforces the budget. Never returns.
pub(crate) async fn enforce(registry: &Registry) {
    let Some(budget) = registry.budget() else { return pending().await };
    let _retire_on_drop = RetireOnDrop(budget);
    let mut pressure_since = None;
    loop {
        budget.update_pressure();
        if !budget.is_under_pressure() {
            pressure_since = None;
            let has_more = budget.resume_some();
            tokio::select! {
                () = budget.crossed() => {}
                () = sleep(RESUME_INTERVAL), if has_more => {}
            }
            continue;
        }
        let due = *pressure_since.get_or_insert_with(Instant::now) + CLOSE_AFTER;
        tokio::select! {
            () = budget.crossed() => {}
            () = sleep_until(due) => {
                close_largest(registry, budget);
                // The remaining connections get the same time again.
                pressure_since = None;
            }
        }
    }
}

/// Closes the connections that hold the most, until the others are below the low mark.
fn close_largest(registry: &Registry, budget: &Budget) {
    let mut conns: Vec<_> = registry
        .open_conns()
        .into_iter()
        .map(|conn| (conn.account().map_or(0, Account::held), conn))
        .collect();
    conns.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
    // Memory of connections that have ended already does not count here: it is freed anyway.
    let mut left: usize = conns.iter().map(|(held, _)| held).sum();
    let mut closed = 0;
    for (held, conn) in conns {
        if left <= budget.low_mark() || held == 0 {
            break;
        }
        closed += u64::from(conn.end_over_budget(held));
        left = left.saturating_sub(held);
    }
    if closed == 0 {
        return;
    }
    budget.note_closed(closed);
    tracing::warn!(
        closed,
        budget = budget.limit(),
        "memory_budget exceeded for 1 s: closed the connections that held the most memory"
    );
}
