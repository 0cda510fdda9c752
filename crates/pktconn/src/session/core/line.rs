//! The line of those that wait for a session.

use std::sync::atomic::AtomicUsize;

use tokio::sync::Notify;

/// Those that wait for room or for the end.
#[derive(Default)]
pub(super) struct WaitingLine {
    /// Held by the sender that is next: senders are served in order.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// How many senders wait. Others come after them.
    pub(super) senders: AtomicUsize,
    /// Notified when there may be room for senders, and at the end.
    pub(super) changed: Notify,
}
