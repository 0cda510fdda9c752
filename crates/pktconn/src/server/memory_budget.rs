//! Enforces the memory budget of a server, in steps: pauses the networks that hold the most, then closes idle
//! connections, then the heaviest ones. Refusing new connections is up to the registry.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::limits::overload::{Holding, choose};
use super::registry::Registry;
use crate::ConnId;
use crate::connection::conn_core::ConnCore;
use crate::connection::memory::{Account, Budget, EXEMPT_BYTES};

/// How long a connection must have moved no bytes under pressure to be closed. A short peak passes by itself.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// Time between two batches of paused connections that are woken, so that they do not all continue at once.
const RESUME_INTERVAL: Duration = Duration::from_millis(5);

/// Time between two searches for connections to close while the budget is exceeded. Closed connections free their
/// memory when their tasks run. A search through 100,000 connections takes some milliseconds.
const CLOSE_INTERVAL: Duration = Duration::from_millis(50);

/// The shortest time between two log lines about one step.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

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
    Watcher { registry, budget, idle_check: None, next_close: None, logged: [None; 3] }.run().await;
}

struct Watcher<'a> {
    registry: &'a Registry,
    budget: &'a Budget,
    /// `Some` under pressure.
    idle_check: Option<IdleCheck>,
    /// When to search again for connections to close.
    next_close: Option<Instant>,
    /// When each [`Step`] was last logged.
    logged: [Option<Instant>; 3],
}

/// The progress of each connection when a period of [`IDLE_AFTER`] began.
struct IdleCheck {
    due: Instant,
    progress: HashMap<ConnId, u64>,
}

/// A step of the server against too much memory.
#[derive(Clone, Copy)]
enum Step {
    Pause,
    CloseIdle,
    CloseHeaviest,
}

impl Watcher<'_> {
    async fn run(&mut self) -> ! {
        loop {
            self.budget.update_pressure();
            let has_more = self.budget.resume_some();
            if !self.budget.is_under_pressure() {
                self.idle_check = None;
                tokio::select! {
                    () = self.budget.crossed() => {}
                    () = sleep(RESUME_INTERVAL), if has_more => {}
                }
                continue;
            }
            let now = Instant::now();
            if self.budget.is_exceeded() && self.next_close.is_none_or(|at| at <= now) {
                self.close_heaviest();
                self.next_close = Some(now + CLOSE_INTERVAL);
            }
            let due = self.idle_check_due(now);
            tokio::select! {
                () = self.budget.crossed() => {}
                // A network may have fallen below its share, without a mark being crossed.
                () = sleep(RESUME_INTERVAL) => {}
                () = sleep_until(due) => self.close_idle(),
            }
        }
    }

    /// When to close idle connections. Begins a period if none is running.
    fn idle_check_due(&mut self, now: Instant) -> Instant {
        if self.idle_check.is_none() {
            let (held, budget) = (self.budget.held(), self.budget.limit());
            if self.should_log(Step::Pause, now) {
                tracing::warn!(
                    held,
                    budget,
                    "memory_budget is three quarters used: the client networks that hold the most are paused"
                );
            }
        }
        let registry = self.registry;
        let check = self.idle_check.get_or_insert_with(|| {
            let conns = registry.open_conns();
            let progress = conns.iter().map(|conn| (conn.id, progress(conn))).collect();
            IdleCheck { due: now + IDLE_AFTER, progress }
        });
        check.due
    }

    /// Closes connections that have moved no bytes in the last period, and begins a new one. Only those of networks above
    /// their fair share, unless the other networks would keep up the pressure by themselves: a network that is never idle
    /// must not cost others their connections.
    fn close_idle(&mut self) {
        let before = self.idle_check.take().map(|check| check.progress).unwrap_or_default();
        let target = self.budget.resume_mark();
        let conns = self.registry.open_conns();
        let is_light = |account: &Account| !self.budget.is_too_heavy(account.network());
        let light = conns.iter().filter_map(|conn| conn.account()).filter(|account| is_light(account));
        let closes_light = light.map(Account::held).sum::<usize>() > target;
        // A client that is only connected, with its certificate, does no harm.
        let can_close = |conn: &Arc<ConnCore>, account: &Account| {
            account.buffered() >= EXEMPT_BYTES
                && (closes_light || !is_light(account))
                && before.get(&conn.id) == Some(&progress(conn))
        };
        let closed = close(&conns, target, can_close);
        self.budget.note_closed(closed, true);
        if closed > 0 && self.should_log(Step::CloseIdle, Instant::now()) {
            tracing::warn!(
                closed,
                budget = self.budget.limit(),
                "memory_budget is three quarters used for 1 s: closed connections that moved no bytes meanwhile"
            );
        }
    }

    /// Closes connections of the networks that hold the most, and ends their handshakes: a handshake that has stalled
    /// does not notice by itself that memory is short.
    fn close_heaviest(&mut self) {
        self.registry.end_handshakes_of_heavy_networks();
        let closed = close(&self.registry.open_conns(), self.budget.pause_mark(), |_, _| true);
        self.budget.note_closed(closed, false);
        if closed > 0 && self.should_log(Step::CloseHeaviest, Instant::now()) {
            tracing::warn!(
                closed,
                budget = self.budget.limit(),
                "memory_budget exceeded: closed connections of the client networks that held the most memory"
            );
        }
    }

    /// Whether to log a step: at most once per [`LOG_INTERVAL`].
    fn should_log(&mut self, step: Step, now: Instant) -> bool {
        let logged = &mut self.logged[step as usize];
        let is_due = logged.is_none_or(|at| now.saturating_duration_since(at) >= LOG_INTERVAL);
        if is_due {
            *logged = Some(now);
        }
        is_due
    }
}

/// Closes connections for which `can_close` holds, until the others hold at most `target` bytes. Returns how many were
/// closed. `conns` are open: the memory of those that have ended is freed anyway.
fn close(
    conns: &[Arc<ConnCore>],
    target: usize,
    can_close: impl Fn(&Arc<ConnCore>, &Account) -> bool,
) -> u64 {
    let holdings: Vec<_> = conns.iter().map(|conn| holding(conn, &can_close)).collect();
    let chosen = choose(&holdings, target);
    chosen.into_iter().map(|index| u64::from(conns[index].end_over_budget(holdings[index].bytes))).sum()
}

/// A count that grows when the connection receives or sends something.
fn progress(conn: &Arc<ConnCore>) -> u64 {
    let stats = conn.stats();
    stats.packets_received + stats.bytes_received + stats.bytes_sent
}

fn holding(conn: &Arc<ConnCore>, can_close: impl Fn(&Arc<ConnCore>, &Account) -> bool) -> Holding {
    let Some(account) = conn.account() else { return Holding { network: 0, bytes: 0, can_close: false } };
    let bytes = account.held();
    Holding { network: Arc::as_ptr(account.network()) as usize, bytes, can_close: can_close(conn, account) }
}
