//! The memory of one client network: the sum of the accounts of its connections.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

/// The memory that the connections of one client network hold together. The server decides which connections share it.
#[derive(Debug, Default)]
pub(crate) struct NetworkMemory(AtomicUsize);

impl NetworkMemory {
    /// The bytes that the connections hold.
    pub(crate) fn held(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Adds to the sum. Returns whether it has reached `mark` by that.
    pub(super) fn add(&self, bytes: usize, mark: usize) -> bool {
        let before = self.0.fetch_add(bytes, SeqCst);
        before < mark && before + bytes >= mark
    }

    /// Subtracts from the sum. Returns whether it has fallen below `mark` by that.
    pub(super) fn subtract(&self, bytes: usize, mark: usize) -> bool {
        let before = self.0.fetch_sub(bytes, SeqCst);
        before >= mark && before - bytes < mark
    }
}
