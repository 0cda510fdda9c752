//! What all handles of a connection and its flusher share, behind one lock.
//!
//! The lock is held for a copy of small frames, or for a write that does not block; of a batch, also for the checksums of
//! packets that come without. No code of the application runs under it but a transport of its own. `state` is what the lock
//! guards. The handles use it through `send`, `recv` and `end`; the tasks of the connection through `tasks`.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use tokio::time::Instant;

use super::deferred::catch_panic;
use super::flush;
use super::machine::{Machine, Phase, Rules, Wakeups};
use super::memory::{Account, EXEMPT_BYTES};
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
pub(crate) use recv::Found;

mod send;

mod tasks;

thread_local! {
    static SWEEPERS: sweep::ThreadSweepers<Shared> = const { RefCell::new(Vec::new()) };
}

/// What `recv` looks at before each packet, without the lock: whether this side was closed, and whether the server stops.
const CLOSED: u8 = 1;
const DRAINS: u8 = 2;

// In this order in memory: what each packet needs, so that it takes no more lines of the cache than it must, and the rest.
#[repr(C)]
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    /// What it holds, where its server counts that.
    account: Option<Box<Account>>,
    pub(crate) received: Received,
    signals: AtomicU8,
    /// Whether an end would discard packets that were read and not received.
    has_undelivered: AtomicBool,
    /// Whether a peer is judged by a transport of which is known what tokio knew in the last turn of its driver.
    judges_late: bool,
    state: Mutex<State>,
    /// The key of the next future that waits.
    next_key: AtomicU64,
    /// Senders and the receiver; the last one to go ends the connection.
    handles: AtomicUsize,
    pub(crate) ends: Endpoints,
    pub(crate) id: ConnId,
    /// Its place among others, where it has one.
    membership: Option<Box<dyn Membership>>,
}

/// The place of a connection among others, such as those of a server. Dropped with the connection.
pub(crate) trait Membership: Send + Sync {
    /// An account for what the connection holds, where that is counted.
    fn account(&self) -> Option<Account>;

    /// The connection is complete, and may be used at any time from now on. Whether it is to drain at once.
    fn enroll(&self, conn: &Arc<Shared>) -> bool;

    /// The connection is about to leave: what went through it, and why it has ended.
    fn leaves(&self, traffic: ConnStats, reason: Option<Reason>);
}

const TRANSPORT_PANICKED: &str = "the transport of the connection panicked";

/// Ends a connection when code panics under its lock: dropped where that unwinds, behind the lock, and forgotten otherwise.
/// Those who wait are told then, also where nobody uses the connection any more.
struct EndOnPanic<'a>(&'a Arc<Shared>);

impl Drop for EndOnPanic<'_> {
    #[cold]
    fn drop(&mut self) {
        self.0.with_state_contained(|_| ());
    }
}

impl Shared {
    pub(crate) fn new(
        config: &ConnConfig,
        settings: &Arc<Settings>,
        writer: Writer,
        ends: Endpoints,
        membership: Option<Box<dyn Membership>>,
    ) -> Arc<Self> {
        let may_drop = config.slow_consumer != SlowConsumer::Block;
        let judges_late = may_drop && !writer.can_write_now();
        let shared = Arc::new(Self {
            settings: Arc::clone(settings),
            received: Received::default(),
            signals: AtomicU8::new(0),
            has_undelivered: AtomicBool::new(false),
            judges_late,
            state: Mutex::new(State::new(writer, Machine::new(config), may_drop)),
            next_key: AtomicU64::new(0),
            handles: AtomicUsize::new(0),
            ends,
            id: ConnId::next(),
            account: membership.as_ref().and_then(|membership| membership.account()).map(Box::new),
            membership,
        });
        if let Some(interval) = config.heartbeat {
            shared.with_state(|state| state.machine.start_heartbeat(interval, Instant::now()));
        }
        // It is listed when it is complete: the server may use what is in its list at any time.
        if shared.membership.as_ref().is_some_and(|membership| membership.enroll(&shared)) {
            shared.signal(DRAINS);
        }
        shared
    }

    #[inline]
    fn rules(&self) -> &Rules {
        &self.settings.rules
    }

    /// Runs `act` under the lock, and afterwards what it left to be done without: wakers, foreign drops, and the tasks that
    /// it wants, which a runtime that is shut down drops in place, so that they take the lock to end the connection.
    #[inline]
    fn with_state<T>(self: &Arc<Self>, act: impl FnOnce(&mut State) -> T) -> T {
        let end_on_panic = EndOnPanic(self);
        let mut state = self.state.lock().unwrap_or_else(|poisoned| self.mend(poisoned));
        let result = act(&mut state);
        std::mem::forget(end_on_panic);
        if state.has_work_after_unlock() || self.account.is_some() {
            self.settle(state);
        }
        result
    }

    /// The same for a task that sees to other connections too, or to its own for all of its handles: a panic in what was left
    /// to be done, which is code of the application's, ends nothing else.
    fn with_state_contained<T>(self: &Arc<Self>, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| self.mend(poisoned));
        let result = act(&mut state);
        catch_panic(|| self.settle(state));
        result
    }

    /// Ends a connection of which code has panicked under the lock.
    #[cold]
    fn mend<'a>(&self, poisoned: PoisonError<MutexGuard<'a, State>>) -> MutexGuard<'a, State> {
        self.state.clear_poison();
        let mut state = poisoned.into_inner();
        state.lost(TRANSPORT_PANICKED, self.has_undelivered());
        state
    }

    fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.machine.wakeups().intersects(Wakeups::END) {
            self.name_failure(&state.machine);
        }
        let mut after_unlock = state.take_after_unlock();
        let notifies_watcher =
            self.account.as_ref().is_some_and(|account| account.note_queued(state.machine.held()));
        drop(state);
        if let Some(account) = &self.account {
            if notifies_watcher {
                account.budget().notify_watcher();
            }
            if let Some(waker) = account.resume_if_exempt() {
                after_unlock.deferred.wake(waker);
            }
        }
        if after_unlock.spawn_flusher {
            self.settings.home.runtime.spawn(flush::flusher(Arc::clone(self)));
        }
        if after_unlock.list_for_sweep {
            sweep::schedule(self, &self.settings.home, &SWEEPERS);
        }
        after_unlock.deferred.run();
    }

    /// Tells those who will be told of a failure whose connection it was.
    #[cold]
    fn name_failure(&self, machine: &Machine) {
        if let (Some(reason), Some(peer)) = (machine.failure(), self.ends.peer()) {
            reason.name_peer(peer);
        }
    }

    #[inline]
    pub(crate) fn account(&self) -> Option<&Account> {
        self.account.as_deref()
    }

    /// How much the receiver, which holds `read` bytes, may read at a time. `None` while the connections of its server hold
    /// too much: it is woken then.
    pub(crate) fn may_read(&self, read: usize, cx: &Context<'_>) -> Option<usize> {
        let Some(account) = self.account().filter(|account| account.budget().is_under_pressure()) else {
            return Some(usize::MAX);
        };
        account.note_read(read);
        (!account.pause(cx.waker())).then_some(EXEMPT_BYTES)
    }

    /// Ends the connection because the connections of its server hold too much memory, and this one holds more than most.
    ///
    /// Returns whether to count it as closed for the budget. A connection that had already failed, or that has no handle any
    /// more, was ending anyway: no caller gets this error.
    pub(crate) fn end_over_budget(self: &Arc<Self>, held: usize) -> bool {
        self.with_state_contained(|state| {
            let is_in_use = self.handles.load(Ordering::Acquire) > 0;
            let closes =
                is_in_use && state.machine.phase() < Phase::Ended && state.machine.failure().is_none();
            if state.machine.phase() < Phase::Ended {
                state.machine.fail(Reason::OverBudget { held });
                self.signal(CLOSED);
                state.machine.end(true);
                // To free memory is what it is for.
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

    /// Counts a handle off. Without any the connection ends: where its receiver has been told the end of the stream, as by a
    /// close, and otherwise after a moment for what is queued.
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
                return state.machine.close(self.rules(), Instant::now());
            }
            state.write_last();
            let undelivered = self.has_undelivered() || self.would_look_clean(state);
            state.machine.abort(undelivered, Instant::now());
        });
    }

    /// Whether the peer would take an end now for a clean close, though packets of its own were not received, or packets for it
    /// are lost: where the transport has stopped between two of them, no frame is cut that would tell. In the first case what is
    /// queued has a moment to leave; in the second it goes.
    fn would_look_clean(&self, state: &mut State) -> bool {
        if state.has_unread() {
            return true;
        }
        let (unsent, is_torn) = state.machine.take_unsent(self.rules());
        let is_hidden = !unsent.is_empty() && !is_torn;
        state.deferred.drop(unsent);
        is_hidden
    }

    /// Notes whether packets that were read have not come to the application.
    #[inline]
    pub(crate) fn note_undelivered(&self, are_some: bool) {
        self.has_undelivered.store(are_some, Ordering::Relaxed);
    }

    fn has_undelivered(&self) -> bool {
        self.has_undelivered.load(Ordering::Relaxed)
    }

    fn signal(&self, signal: u8) {
        self.signals.fetch_or(signal, Ordering::Relaxed);
    }

    /// What a future needs to leave its waker here, for as long as it waits.
    pub(crate) fn wait(self: &Arc<Self>) -> Wait<'_> {
        Wait::new(self)
    }

    pub(crate) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the wakers back that were left under `key`, and its place in the line.
    pub(crate) fn forget(self: &Arc<Self>, key: u64) {
        self.with_state(|state| state.forget(key));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(membership) = &self.membership else { return };
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        membership.leaves(state.machine.stats(&self.received), state.machine.reason());
    }
}

/// The key of a future that waits. Dropped with it, and its wakers and its place in the line go too.
pub(crate) struct Wait<'a> {
    shared: &'a Arc<Shared>,
    pub(crate) key: u64,
}

impl<'a> Wait<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>) -> Self {
        Self { shared, key: shared.next_key() }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.shared.forget(self.key);
    }
}
