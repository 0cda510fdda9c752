//! The sessions of a server by id, and the timers of those without a connection.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pktconn_session::ConnectionId;
use pktconn_session::frame::SessionId;
use tokio::sync::Notify;

use crate::SessionConfig;
use crate::session::core::{SessionCore, SessionKeeper};

pub(super) struct SessionTable {
    pub(super) config: SessionConfig,
    /// For the state machine of each session.
    pub(super) machine_config: Arc<pktconn_session::SessionConfig>,
    sessions: Mutex<HashMap<SessionId, Arc<SessionCore>>>,
    detached: Mutex<Detached>,
    /// Notified when the first timer has changed, and when a session is forgotten.
    changed: Notify,
    next_connection: AtomicU64,
}

/// The sessions without a connection, by the time at which something happens to them: they expire, unless they end before.
/// A session may have an older entry, too, which does nothing.
type Detached = BTreeSet<(Instant, SessionId)>;

impl SessionTable {
    pub(super) fn new(config: SessionConfig) -> Self {
        Self {
            machine_config: config.machine(),
            config,
            sessions: Mutex::default(),
            detached: Mutex::default(),
            changed: Notify::new(),
            next_connection: AtomicU64::new(0),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<SessionCore>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn detached(&self) -> MutexGuard<'_, Detached> {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn new_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Relaxed))
    }

    pub(super) fn find(&self, id: SessionId) -> Option<Arc<SessionCore>> {
        self.sessions().get(&id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<SessionCore>> {
        self.sessions().values().cloned().collect()
    }

    /// Adds a session. If there are too many, the one that would expire first makes room. Returns whether there was room.
    pub(super) fn insert(&self, id: SessionId, session: &Arc<SessionCore>) -> bool {
        loop {
            let mut sessions = self.sessions();
            if sessions.len() < self.config.max_sessions {
                sessions.insert(id, Arc::clone(session));
                return true;
            }
            drop(sessions);
            // One without a connection makes room.
            let first = self.detached().pop_first();
            let Some((_, first)) = first else { return false };
            if let Some(session) = self.find(first) {
                session.expire_detached();
            }
        }
    }

    /// A session has a connection again, which keeps its timers. Without one they were due at `scheduled`.
    pub(super) fn attached(&self, id: SessionId, scheduled: Option<Instant>) {
        if let Some(at) = scheduled {
            self.detached().remove(&(at, id));
        }
    }

    /// Waits until there is no session.
    pub(super) async fn wait_until_empty(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the check, so that no notification is missed.
            changed.as_mut().enable();
            if self.sessions().is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Runs the timers of sessions without a connection. Never ends.
    pub(super) async fn run_timers(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look at the first one, so that no notification is missed.
            changed.as_mut().enable();
            let first = self.detached().first().copied();
            let due = async {
                match first {
                    Some((at, _)) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = changed => continue,
            }
            let now = tokio::time::Instant::now().into_std();
            loop {
                // In a statement of its own: the lock is released before the session is used.
                let due = pop_due(&mut self.detached(), now);
                let Some(id) = due else { break };
                if let Some(session) = self.find(id) {
                    session.handle_timeout_detached();
                }
            }
        }
    }
}

impl SessionKeeper for SessionTable {
    fn schedule(&self, id: SessionId, before: Option<Instant>, at: Instant) {
        let mut detached = self.detached();
        if let Some(before) = before {
            detached.remove(&(before, id));
        }
        detached.insert((at, id));
        let is_first = detached.first() == Some(&(at, id));
        let excess = if detached.len() > self.config.max_detached { detached.pop_first() } else { None };
        drop(detached);
        if let Some(session) = excess.and_then(|(_, id)| self.find(id)) {
            session.expire_detached();
        }
        if is_first {
            self.changed.notify_waiters();
        }
    }

    fn forget(&self, id: SessionId) {
        let forgotten = self.sessions().remove(&id);
        self.changed.notify_waiters();
        // Without the lock: this may be the last reference.
        drop(forgotten);
    }
}

fn pop_due(detached: &mut Detached, now: Instant) -> Option<SessionId> {
    let (at, _) = detached.first()?;
    if *at <= now { detached.pop_first().map(|(_, id)| id) } else { None }
}
