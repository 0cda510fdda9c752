//! What the handles of a session and the driver of its connection share: the state machine behind a lock, and who waits.
//!
//! ```text
//!   handles:  send, recv, close --> lock: state machine --> packets for the connection, wakers
//!   driver:   receive, timers   --> lock: the same
//! ```
//!
//! What the state machine wants to write is given to the connection under the lock, so frames keep their order. Tasks are
//! woken after the lock is released.
//!
//! `shared` is what the lock protects. `handles` has the operations of handles, `conns` those of connections.

mod line;

mod shared;
pub(crate) use shared::SessionFault;

mod handles;

mod conns;
pub(crate) use conns::Work;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::Instant;

use pktconn_session::frame::SessionId;

use self::line::WaitingLine;
use self::shared::{SessionRules, Shared};
use super::machine::Machine;
use crate::connection::config::Settings;
use crate::connection::machine::Rules;

/// A session, for all of its handles.
pub(crate) struct SessionCore {
    shared: Mutex<Shared>,
    settings: Arc<Settings>,
    recv_bytes: usize,
    /// Who keeps the session while it has no connection. A client's task does so itself.
    keeper: Option<Weak<dyn SessionKeeper>>,
    handles: AtomicUsize,
    /// Made by the first that waits: most sessions need none.
    line: OnceLock<Box<WaitingLine>>,
}

/// Keeps sessions that have no connection.
pub(crate) trait SessionKeeper: Send + Sync {
    /// The timers of a session without a connection are due at `at`, no longer at `before`.
    fn schedule(&self, id: SessionId, before: Option<Instant>, at: Instant);

    /// The session is over: nothing is to be done for it any more.
    fn forget(&self, id: SessionId);
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl SessionCore {
    /// A session without handles.
    pub(crate) fn new(
        machine: Machine,
        settings: Arc<Settings>,
        recv_bytes: usize,
        keeper: Option<Weak<dyn SessionKeeper>>,
    ) -> Arc<Self> {
        let shared = Shared {
            machine,
            conn: None,
            memory: None,
            receiver: None,
            driver: None,
            timers_at: None,
            waiting: 0,
            unsent_bytes: 0,
            is_end_told: false,
            can_send: true,
            dropped: 0,
            state: None,
            has_handler: false,
            has_control: false,
            is_forgotten: false,
        };
        Arc::new(Self {
            shared: Mutex::new(shared),
            settings,
            recv_bytes,
            keeper,
            handles: AtomicUsize::new(0),
            line: OnceLock::new(),
        })
    }

    fn rules(&self) -> SessionRules {
        let Rules { codec, send_high_water, slow_consumer, .. } = &self.settings.rules;
        SessionRules {
            payload_limit: codec.config().payload_limit(),
            send_high_water: *send_high_water,
            slow_consumer: *slow_consumer,
            recv_bytes: self.recv_bytes,
        }
    }

    pub(crate) fn payload_limit(&self) -> usize {
        self.settings.rules.codec.config().payload_limit()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what the state machine wants to write, releases the lock and wakes who waits for that.
    fn release(&self, mut shared: MutexGuard<'_, Shared>, now: Instant) {
        let wakes = shared.settle(self.rules(), now);
        let id = shared.machine.id();
        drop(shared);
        wakes.receiver.into_iter().chain(wakes.driver).for_each(Waker::wake);
        if let Some(line) = self.line.get().filter(|_| wakes.changed) {
            line.changed.notify_waiters();
        }
        if let (Some(keeper), Some(id)) = (self.keeper.as_ref().and_then(Weak::upgrade), id) {
            if wakes.forget {
                keeper.forget(id);
            } else if let Some((before, at)) = wakes.schedule {
                keeper.schedule(id, before, at);
            }
        }
    }

    /// Changes the state machine.
    fn change<T>(&self, change: impl FnOnce(&mut Machine, Instant) -> T) -> T {
        let (mut shared, now) = (self.lock(), now());
        let result = change(&mut shared.machine, now);
        self.release(shared, now);
        result
    }

    /// Looks at the state machine.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.lock().machine)
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Without handles the session ends: closed if the peer has ended its direction and all was received, else failed.
    pub(crate) fn drop_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.change(|machine, now| {
            let session = machine.session_mut();
            if session.peer_bye().is_some() && session.inbox_bytes() == 0 {
                session.close(now);
            } else {
                session.fail(now);
            }
        });
    }
}
