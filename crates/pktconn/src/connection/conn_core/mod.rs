//! The state that all handles of a connection and its tasks share. One lock guards the [state](super::state).
//!
//! `send`, `recv` and `end` are the operations of the handles; `tasks` are those of the flusher and the sweeper.
//!
//! The lock is held while small frames are copied, while a non-blocking write runs, and while the checksums of a batch
//! are computed. The only application code that runs under the lock is a custom transport.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use tokio::time::Instant;

use super::deferred::catch_panic;
use super::flush;
use super::machine::{Machine, Phase, Rules, Wakeups};
use super::memory::{Account, Budget, EXEMPT_BYTES};
use super::state::State;
use super::sweep;
use crate::connection::config::Settings;
use crate::connection::stats::Received;
use crate::error::Reason;
use crate::transport::Writer;
use crate::transport::endpoints::Endpoints;
use crate::{ConnConfig, ConnId, ConnStats, SlowConsumer};

mod end;

mod recv;
pub(crate) use recv::WaitDecision;

mod send;

mod tasks;

thread_local! {
    static SWEEPERS: sweep::ThreadSweepers<ConnCore> = const { RefCell::new(Vec::new()) };
}

/// The flags that `recv` checks before each packet without the lock: this side was closed, or the server shuts down.
const CLOSED: u8 = 1;
const DRAINING: u8 = 2;

/// What the handles of a connection, its flusher and its sweeper share.
// `repr(C)` keeps this order in memory: first the fields that each packet uses, in few cache lines, then the rest.
#[repr(C)]
pub(crate) struct ConnCore {
    pub(crate) settings: Arc<Settings>,
    /// The memory budget of its server. `None` if it has none.
    budget: Option<Arc<Budget>>,
    pub(crate) received: Received,
    signals: AtomicU8,
    /// Whether bytes were read from the transport that the application has not received. An end would discard them.
    has_undelivered: AtomicBool,
    /// Whether a wait with a deadline has ended with a whole frame, and the machine does not know it yet.
    has_received: AtomicBool,
    /// Whether tokio's view of a full transport may be out of date when the slow-consumer policy acts on it. See
    /// [`readiness_may_be_stale`](Self::readiness_may_be_stale).
    readiness_may_be_stale: bool,
    /// The number of senders and receivers. Dropping the last one ends the connection.
    handles: AtomicU32,
    state: Mutex<State>,
    /// The memory that the connection holds. `None` without a budget.
    account: Option<Box<Account>>,
    /// The key of the next waiting future.
    next_waiter_key: AtomicU64,
    pub(crate) endpoints: Endpoints,
    pub(crate) id: ConnId,
    /// The registration with a server. `None` for a connection without a server.
    membership: Option<Box<dyn Membership>>,
}

/// The registration of a connection with its server. Dropped with the connection.
pub(crate) trait Membership: Send + Sync {
    /// Takes the account for the memory that the connection holds. `None` if there is no memory budget.
    fn take_account(&mut self) -> Option<Box<Account>>;

    /// Registers the connection, which may be used from now on. Returns whether it must drain immediately.
    fn register(&self, conn: &Arc<ConnCore>) -> bool;

    /// Records the end of the connection. Called once, before the registration is dropped.
    fn record_end(&self, conn: EndedConn<'_>);
}

/// What a connection reports to its server at its end.
pub(crate) struct EndedConn<'a> {
    pub(crate) id: ConnId,
    pub(crate) endpoints: &'a Endpoints,
    pub(crate) traffic: ConnStats,
    /// `None` if the connection was still open.
    pub(crate) reason: Option<Reason>,
}

const TRANSPORT_PANICKED: &str = "the transport of the connection panicked";

/// Ends the connection if code panics under its lock. A panic drops this guard after the lock, which is poisoned then;
/// without a panic the guard is forgotten. So waiting callers are woken even if nobody uses the connection any more.
struct EndOnPanic<'a>(&'a Arc<ConnCore>);

impl Drop for EndOnPanic<'_> {
    #[cold]
    fn drop(&mut self) {
        self.0.with_state_catching_panics(|_| ());
    }
}

impl ConnCore {
    pub(crate) fn new(
        config: &ConnConfig,
        settings: &Arc<Settings>,
        writer: Writer,
        endpoints: Endpoints,
        mut membership: Option<Box<dyn Membership>>,
    ) -> Arc<Self> {
        let mut account = membership.as_mut().and_then(|membership| membership.take_account());
        if let Some(account) = &mut account {
            account.keep(endpoints.kept_bytes());
        }
        let may_drop = config.slow_consumer != SlowConsumer::Block;
        let readiness_may_be_stale = may_drop && !writer.can_write_now();
        let core = Arc::new(Self {
            settings: Arc::clone(settings),
            budget: account.as_ref().map(|account| Arc::clone(account.budget())),
            received: Received::default(),
            signals: AtomicU8::new(0),
            has_undelivered: AtomicBool::new(false),
            has_received: AtomicBool::new(false),
            readiness_may_be_stale,
            handles: AtomicU32::new(0),
            state: Mutex::new(State::new(writer, Machine::new(config), may_drop)),
            next_waiter_key: AtomicU64::new(0),
            endpoints,
            id: ConnId::next(),
            account,
            membership,
        });
        if let Some(interval) = config.heartbeat {
            core.with_state(|state| state.machine.start_heartbeat(interval, Instant::now()));
        }
        if let Some(max) = core.rules().limits.as_ref().and_then(|limits| limits.max_age) {
            core.with_state(|state| state.machine.start_age(max, core.id.into(), Instant::now()));
        }
        // Last, because the server may use a registered connection at any time.
        if core.membership.as_ref().is_some_and(|membership| membership.register(&core)) {
            core.set_signal(DRAINING);
        }
        core
    }

    #[inline]
    fn rules(&self) -> &Rules {
        &self.settings.rules
    }

    /// Runs `act` under the lock. Then releases the lock and runs the work that `act` deferred.
    #[inline]
    fn with_state<T>(self: &Arc<Self>, act: impl FnOnce(&mut State) -> T) -> T {
        let end_on_panic = EndOnPanic(self);
        let mut state = self.lock();
        let result = act(&mut state);
        std::mem::forget(end_on_panic);
        if state.has_work_after_unlock() || (self.budget.is_some() && self.changes_account(&state)) {
            self.unlock_and_run_deferred(state);
        }
        result
    }

    /// Whether the account does not have the bytes of the send queue yet. Mostly there are none, and there were none.
    #[inline]
    fn changes_account(&self, state: &State) -> bool {
        let held = state.held();
        (held > 0 || state.is_held_counted)
            && self.account.as_ref().is_some_and(|account| !account.has_queued(held))
    }

    /// Like [`with_state`](Self::with_state), but catches panics of the deferred work, which can run application code.
    /// For tasks that serve several connections or all handles of one: a panic must not end these tasks.
    fn with_state_catching_panics<T>(self: &Arc<Self>, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = act(&mut state);
        catch_panic(|| self.unlock_and_run_deferred(state));
        result
    }

    /// Takes the lock, and tells the machine what happened without it.
    #[inline(always)]
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| self.end_after_panic(poisoned));
        if self.has_received.load(Ordering::Relaxed) {
            self.pass_on_received(&mut state);
        }
        state
    }

    #[cold]
    fn pass_on_received(&self, state: &mut State) {
        self.has_received.store(false, Ordering::Relaxed);
        state.machine.recv_received();
    }

    /// Ends the connection after code has panicked under the lock and poisoned it.
    #[cold]
    fn end_after_panic<'a>(&self, poisoned: PoisonError<MutexGuard<'a, State>>) -> MutexGuard<'a, State> {
        self.state.clear_poison();
        let mut state = poisoned.into_inner();
        state.lost(TRANSPORT_PANICKED, self.has_undelivered());
        state
    }

    /// Releases the lock, and then does the work that must not run under it: wakes tasks, drops values of the
    /// application, spawns the flusher, lists the connection for the sweeper.
    fn unlock_and_run_deferred(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.machine.wakeups().intersects(Wakeups::END) {
            self.add_peer_to_failure(&state.machine);
        }
        let mut after_unlock = state.take_after_unlock();
        let notifies_watcher = self.account.as_ref().is_some_and(|account| {
            let held = state.held();
            state.is_held_counted = held > 0;
            account.note_queued(held)
        });
        drop(state);
        if let Some(account) = &self.account {
            if notifies_watcher {
                account.budget().notify_watcher();
            }
            if let Some(waker) = account.resume_if_exempt() {
                after_unlock.deferred.wake(waker);
            }
        }
        // A runtime that was shut down drops the task inside `spawn`, and that takes the lock.
        if after_unlock.spawn_flusher {
            self.settings.home.runtime.spawn(flush::flusher(Arc::clone(self)));
        }
        if after_unlock.list_for_sweep {
            sweep::schedule(self, &self.settings.home, &SWEEPERS);
        }
        after_unlock.deferred.run();
    }

    /// Adds the peer's address to the failure, so that the error names the connection.
    #[cold]
    fn add_peer_to_failure(&self, machine: &Machine) {
        if let (Some(reason), Some(peer)) = (machine.failure(), self.endpoints.peer()) {
            reason.name_peer(peer);
        }
    }

    #[inline]
    pub(crate) fn account(&self) -> Option<&Account> {
        self.account.as_deref()
    }

    #[inline]
    pub(crate) fn has_budget(&self) -> bool {
        self.budget.is_some()
    }

    /// Whether the server is near its memory budget.
    #[inline]
    pub(crate) fn is_under_pressure(&self) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.is_under_pressure())
    }

    /// How many bytes the receiver, whose account is up to date, may read at a time under pressure. `None` if it must
    /// pause because the network of the client holds more than its share: the receiver's waker is then registered for
    /// the end of the pause.
    pub(crate) fn read_limit(&self, cx: &Context<'_>) -> Option<usize> {
        match self.account() {
            Some(account) if account.budget().is_too_heavy(account.network()) => {
                (!account.pause(cx.waker())).then_some(EXEMPT_BYTES)
            }
            _ => Some(usize::MAX),
        }
    }

    /// Ends the connection because its server is over its memory budget and this connection holds more than most.
    /// `held` is the number of bytes for the error.
    ///
    /// Returns whether to count it as closed for the budget: `false` if no caller gets this error, because the
    /// connection had already failed or has no handle.
    pub(crate) fn end_over_budget(self: &Arc<Self>, held: usize) -> bool {
        self.with_state_catching_panics(|state| {
            let is_in_use = self.handles.load(Ordering::Acquire) > 0;
            let closes =
                is_in_use && state.machine.phase() < Phase::Ended && state.machine.failure().is_none();
            if state.machine.phase() < Phase::Ended {
                state.machine.fail(Reason::OverBudget { held });
                self.set_signal(CLOSED);
                state.machine.end(true);
                // Free the memory now.
                state.machine.queue_all_latest(Instant::now);
                let unsent = std::mem::take(&mut state.machine.queue);
                state.deferred.drop(unsent);
            }
            closes
        })
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes a handle. Without handles the connection ends. If the application has received the end of the stream,
    /// this is a clean close. Otherwise the queue is written if the transport accepts it now, and an abort follows.
    pub(crate) fn drop_handle(self: &Arc<Self>) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.with_state(|state| {
            if state.machine.phase() > Phase::Open {
                return;
            }
            state.machine.stop(Reason::LocalClose);
            if state.machine.is_end_delivered() {
                state.machine.close(self.rules(), Instant::now());
                return state.finish_close_now(self.settings.owns_socket);
            }
            state.write_last();
            let undelivered = self.has_undelivered() || self.would_look_clean(state);
            state.machine.abort(undelivered, Instant::now());
        });
    }

    /// Whether an end now would look like a clean close to the peer although packets are lost. That is so if the kernel
    /// holds unread packets of the peer, or if the transport has blocked between two queued frames. A partly written
    /// frame would show the loss. Drops the queue, unless the kernel holds unread packets: the abort then still tries
    /// to write it.
    fn would_look_clean(&self, state: &mut State) -> bool {
        if state.has_unread() {
            return true;
        }
        let (unsent, is_torn) = state.machine.take_unsent(self.rules());
        let is_hidden = !unsent.is_empty() && !is_torn;
        state.deferred.drop(unsent);
        is_hidden
    }

    /// Records whether bytes were read that the application has not received.
    #[inline]
    pub(crate) fn note_undelivered(&self, has_undelivered: bool) {
        self.has_undelivered.store(has_undelivered, Ordering::Relaxed);
    }

    fn has_undelivered(&self) -> bool {
        self.has_undelivered.load(Ordering::Relaxed)
    }

    fn set_signal(&self, signal: u8) {
        self.signals.fetch_or(signal, Ordering::Relaxed);
    }

    /// Returns a key under which a future can register its waker. Dropping it removes the waker.
    pub(crate) fn waiter(self: &Arc<Self>) -> Waiter<'_> {
        Waiter::new(self)
    }

    pub(crate) fn next_waiter_key(&self) -> u64 {
        self.next_waiter_key.fetch_add(1, Ordering::Relaxed)
    }

    /// Removes the wakers of `key`, and removes it from the waiting senders.
    pub(crate) fn remove_waiter(self: &Arc<Self>, key: u64) {
        self.with_state(|state| state.forget(key));
    }
}

impl Drop for ConnCore {
    fn drop(&mut self) {
        let Some(membership) = &self.membership else { return };
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        membership.record_end(EndedConn {
            id: self.id,
            endpoints: &self.endpoints,
            traffic: state.machine.stats(&self.received),
            reason: state.machine.reason(),
        });
    }
}

/// The key of a waiting future. Dropping it removes the future's wakers, and removes it from the waiting senders.
pub(crate) struct Waiter<'a> {
    core: &'a Arc<ConnCore>,
    pub(crate) key: u64,
}

impl<'a> Waiter<'a> {
    pub(crate) fn new(core: &'a Arc<ConnCore>) -> Self {
        Self { core, key: core.next_waiter_key() }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.core.remove_waiter(self.key);
    }
}
