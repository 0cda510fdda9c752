//! What is done when the connections of a server hold too much memory: nobody new is taken, and when that does not help
//! for a second, those that hold the most are closed.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::registry::Registry;
use crate::connection::memory::{Account, Budget};

/// How long pressure is borne before connections are closed for it: one that has come to its peers by chance passes.
const PATIENCE: Duration = Duration::from_secs(1);

/// When the pressure is off, those who were paused are woken by and by.
const RESUMED_EVERY: Duration = Duration::from_millis(5);

/// Retires a budget when its watch is dropped.
struct Retire<'a>(&'a Budget);

impl Drop for Retire<'_> {
    fn drop(&mut self) {
        self.0.retire();
    }
}

/// Closes connections of a server whose pressure does not pass. Never ends.
pub(crate) async fn watch(registry: &Registry) {
    let Some(budget) = registry.budget() else { return pending().await };
    let _retire = Retire(budget);
    let mut pressed_since = None;
    loop {
        budget.relax();
        if !budget.is_pressed() {
            pressed_since = None;
            let has_more = budget.resume_some();
            tokio::select! {
                () = budget.crossed() => {}
                () = sleep(RESUMED_EVERY), if has_more => {}
            }
            continue;
        }
        let due = *pressed_since.get_or_insert_with(Instant::now) + PATIENCE;
        tokio::select! {
            () = budget.crossed() => {}
            () = sleep_until(due) => {
                close_largest(registry, budget);
                // Those who are left have as long to get along with it.
                pressed_since = None;
            }
        }
    }
}

/// Closes those that hold the most, until the others hold no more than what takes the pressure off.
fn close_largest(registry: &Registry, budget: &Budget) {
    let mut conns: Vec<_> =
        registry.open().into_iter().map(|conn| (conn.account().map_or(0, Account::held), conn)).collect();
    conns.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
    // What belongs to connections that have ended already is not held against the others.
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
        "over the memory budget: the connections that held the most are closed"
    );
}
