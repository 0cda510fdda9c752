//! The account of one connection: the bytes that it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::task::Waker;

use super::{Budget, EXEMPT_BYTES, NetworkMemory};

/// Accounts change in steps of this many bytes, so that not every packet writes to the shared totals.
const ACCOUNT_STEP: usize = 2 * 1024;

/// The memory that one connection holds. Each of the atomic counts has one writer at a time.
pub(crate) struct Account {
    budget: Arc<Budget>,
    network: Arc<NetworkMemory>,
    /// Bytes that were read, and not yet received or only just received.
    read: AtomicUsize,
    /// Bytes of the send queue.
    queued: AtomicUsize,
    /// Bytes that TLS holds beyond those in `read`.
    transport: AtomicUsize,
    /// Bytes that the connection keeps until its end.
    kept: usize,
    /// The connection's place in its server's registry. Identifies its waker.
    place: u32,
    is_paused: AtomicBool,
}

impl Account {
    pub(crate) fn new(budget: &Arc<Budget>, network: Arc<NetworkMemory>, place: u32) -> Self {
        Self {
            budget: Arc::clone(budget),
            network,
            read: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            transport: AtomicUsize::new(0),
            kept: 0,
            place,
            is_paused: AtomicBool::new(false),
        }
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(crate) fn network(&self) -> &Arc<NetworkMemory> {
        &self.network
    }

    /// The memory that the connection holds, in bytes. Buffers are rounded up to the accounting step.
    pub(crate) fn held(&self) -> usize {
        self.buffered() + self.transport.load(SeqCst) + self.kept
    }

    /// The part of [`held`](Self::held) that decides about a pause: it becomes more with each read.
    pub(crate) fn buffered(&self) -> usize {
        self.read.load(SeqCst) + self.queued.load(SeqCst)
    }

    /// Sets the number of bytes that the connection keeps until its end. Call it once.
    pub(crate) fn keep(&mut self, bytes: usize) {
        self.kept = bytes;
        if bytes > 0 && self.budget.add(&self.network, bytes) {
            self.budget.notify_watcher();
        }
    }

    /// Moves the account to another network, because the client's address has become known.
    #[cfg(any(feature = "proxy-protocol", test))]
    pub(crate) fn set_network(&mut self, network: Arc<NetworkMemory>) {
        self.budget.move_bytes(&self.network, &network, self.held());
        self.network = network;
    }

    /// Pauses the receiver and registers its waker. Returns `false` if the buffers of the connection hold fewer than
    /// [`EXEMPT_BYTES`], or if its network is not too heavy.
    pub(crate) fn pause(&self, waker: &Waker) -> bool {
        if self.buffered() < EXEMPT_BYTES || !self.budget.pause(self.place, &self.network, waker) {
            return false;
        }
        self.is_paused.store(true, SeqCst);
        // A write in the meantime may have freed enough, and did not see the pause.
        self.resume_if_exempt().is_none()
    }

    /// Ends the pause if writes have brought the buffers of the connection below [`EXEMPT_BYTES`]. Returns the waker of the receiver.
    /// Wake it without holding a lock.
    pub(crate) fn resume_if_exempt(&self) -> Option<Waker> {
        let resumes = self.is_paused.load(SeqCst)
            && self.buffered() < EXEMPT_BYTES
            && self.is_paused.swap(false, SeqCst);
        if resumes { self.budget.unpause(self.place) } else { None }
    }

    /// Updates the number of bytes that were read.
    pub(crate) fn note_read(&self, bytes: usize) {
        if self.note(&self.read, bytes) {
            self.budget.notify_watcher();
        }
    }

    /// Updates the number of bytes that TLS holds beyond those that were read.
    pub(crate) fn note_transport(&self, bytes: usize) {
        if self.note(&self.transport, bytes) {
            self.budget.notify_watcher();
        }
    }

    /// Whether the account already has this number of queued bytes. [`note_queued`](Self::note_queued) would change
    /// nothing then.
    #[inline]
    pub(crate) fn has_queued(&self, bytes: usize) -> bool {
        self.queued.load(Relaxed) == bytes.next_multiple_of(ACCOUNT_STEP)
    }

    /// Updates the number of queued bytes. Returns whether to [notify the watcher](Budget::notify_watcher).
    pub(crate) fn note_queued(&self, bytes: usize) -> bool {
        self.note(&self.queued, bytes)
    }

    fn note(&self, of: &AtomicUsize, bytes: usize) -> bool {
        let last = of.load(Relaxed);
        // Round up, so that the account is never less than the real value. Without pressure, go down one step less than
        // possible, so that small changes do not move the account up and down. Under pressure, go down all the way, so
        // that a connection that holds little is not paused.
        let rounded = bytes.next_multiple_of(ACCOUNT_STEP);
        let keeps_slack = rounded < last && bytes > 0 && !self.budget.is_under_pressure();
        let bytes = if keeps_slack { rounded + ACCOUNT_STEP } else { rounded };
        if bytes == last || (bytes > last && rounded <= last) {
            return false;
        }
        of.store(bytes, SeqCst);
        if bytes > last {
            self.budget.add(&self.network, bytes - last)
        } else {
            self.budget.subtract(&self.network, last - bytes)
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.budget.subtract(&self.network, self.held()) {
            self.budget.notify_watcher();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn account(budget: &Arc<Budget>, place: u32) -> Account {
        Account::new(budget, Arc::default(), place)
    }

    #[test]
    fn the_total_is_the_sum_of_the_accounts_and_zero_without_accounts() {
        let budget = Arc::new(Budget::new(1000 * KIB));
        let (first, second) = (account(&budget, 0), account(&budget, 0));
        for bytes in [0, 100_000, 5000, 5001, 0, 1, 300_000] {
            first.note_read(bytes);
            second.note_queued(bytes);
            let most = 2 * bytes + 4 * ACCOUNT_STEP;
            assert!((2 * bytes..=most).contains(&budget.held()), "{} for {bytes} each", budget.held());
        }
        first.note_read(0);
        assert_eq!((first.held(), budget.held()), (0, 300_000_usize.next_multiple_of(ACCOUNT_STEP)));
        drop((first, second));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn an_account_is_never_less_than_the_memory_held_and_changes_in_steps() {
        let budget = Arc::new(Budget::new(1000 * KIB));
        let account = account(&budget, 0);
        for (bytes, noted) in [
            (1, 2048),
            (2048, 2048),
            (2049, 4096),
            (2048, 4096),
            (1, 4096),
            (9000, 10_240),
            (1, 4096),
            (0, 0),
        ] {
            account.note_queued(bytes);
            assert_eq!((account.held(), budget.held()), (noted, noted), "after {bytes}");
        }
    }

    #[test]
    fn an_account_that_moves_takes_its_bytes_to_the_other_network() {
        let budget = Arc::new(Budget::new(1000 * KIB));
        let (from, to) = (Arc::new(NetworkMemory::default()), Arc::new(NetworkMemory::default()));
        let mut account = Account::new(&budget, Arc::clone(&from), 0);
        account.note_read(10 * KIB);
        account.set_network(Arc::clone(&to));
        assert_eq!((from.held(), to.held(), budget.held()), (0, 10 * KIB, 10 * KIB));
        drop(account);
        assert_eq!((to.held(), budget.held()), (0, 0));
    }

    #[test]
    fn kept_bytes_count_until_the_end_and_do_not_pause_a_connection() {
        let budget = Arc::new(Budget::new(128 * KIB));
        let mut account = account(&budget, 0);
        account.keep(100 * KIB);
        account.note_read(KIB);
        account.note_read(0);
        assert_eq!((account.held(), budget.held()), (100 * KIB, 100 * KIB));
        assert!(budget.is_under_pressure() && !account.pause(Waker::noop()));
        account.note_queued(EXEMPT_BYTES);
        assert!(account.pause(Waker::noop()));
        account.note_queued(0);
        assert!(account.resume_if_exempt().is_some(), "the pause cannot free what the connection keeps");
        drop(account);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_connection_that_holds_little_resumes_under_pressure_once_its_queue_is_written() {
        let budget = Arc::new(Budget::new(128 * KIB));
        let network = Arc::new(NetworkMemory::default());
        let [large, small] = [0, 1].map(|place| Account::new(&budget, Arc::clone(&network), place));
        large.note_read(100 * KIB);
        // The capacity of the buffer that the thread's pool lends for one small packet.
        small.note_queued(64 * KIB);
        assert!(small.pause(Waker::noop()));
        assert!(small.resume_if_exempt().is_none());
        small.note_queued(10);
        assert!(small.held() < EXEMPT_BYTES && small.resume_if_exempt().is_some());
        assert_eq!((budget.paused_receivers(), budget.is_under_pressure()), (0, true));
        assert!(!small.pause(Waker::noop()) && large.pause(Waker::noop()));
    }
}
