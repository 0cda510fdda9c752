//! The memory budget that the connections of a server share, and the account of each connection.
//!
//! ```text
//!   receiver: bytes read but not received ---.
//!                                            +--> total: above the limit, connections that hold 4 KiB or more
//!   state:    bytes in the send queue -------'           are not read
//! ```
//!
//! Each connection updates its account after a read, before a wait, and when its lock is released. Accounts change in
//! steps of 2 KiB, so that not every packet writes to the shared total.
//!
//! Above the limit the budget is under pressure, until an eighth of it is free again. A watcher must end the pressure
//! and wake the paused receivers. The server runs that watcher.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;

use super::deferred::{Deferred, catch_panic};

/// Accounts change in steps of this many bytes, so that not every packet writes to the shared total.
const ACCOUNT_STEP: usize = 2 * 1024;

/// A connection that holds fewer bytes is read even under pressure, up to this many bytes per read. So a server with
/// 1,000 connections exceeds its budget by up to 8 MiB.
pub(crate) const EXEMPT_BYTES: usize = 4 * 1024;

/// How many paused receivers are woken at a time when the pressure ends. Each of them has much to read, and other
/// connections must not wait behind all of them.
const RESUME_BATCH: usize = 16;

pub(crate) struct Budget {
    limit: usize,
    total: AtomicUsize,
    /// Set by the connection that exceeds the limit. Cleared by the watcher in
    /// [`update_pressure`](Self::update_pressure).
    is_under_pressure: AtomicBool,
    /// Whether the watcher has ended. Connections that outlive their server are read as if there were no budget,
    /// because they would never be resumed.
    is_retired: AtomicBool,
    /// Notifies the watcher that the total has crossed the limit or the low mark.
    crossed: Notify,
    /// The wakers of receivers that wait for the end of the pressure, by the place of their connection in the server.
    paused: Mutex<HashMap<usize, Waker>>,
    closed: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            total: AtomicUsize::new(0),
            is_under_pressure: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            crossed: Notify::new(),
            paused: Mutex::default(),
            closed: AtomicU64::new(0),
        }
    }

    /// The total at or below which the pressure ends, in bytes: seven eighths of the limit.
    pub(crate) fn low_mark(&self) -> usize {
        self.limit - self.limit / 8
    }

    pub(crate) fn is_under_pressure(&self) -> bool {
        self.is_under_pressure.load(SeqCst) && !self.is_retired.load(SeqCst)
    }

    /// The memory that all connections hold, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.total.load(Relaxed)
    }

    /// How many connections were closed because of the budget.
    pub(crate) fn closed(&self) -> u64 {
        self.closed.load(Relaxed)
    }

    /// Adds to the total. Returns whether to [notify the watcher](Self::notify_watcher).
    fn add(&self, bytes: usize) -> bool {
        let total = self.total.fetch_add(bytes, SeqCst) + bytes;
        total > self.limit && !self.is_under_pressure.swap(true, SeqCst)
    }

    fn subtract(&self, bytes: usize) -> bool {
        let before = self.total.fetch_sub(bytes, SeqCst);
        before > self.low_mark() && before - bytes <= self.low_mark()
    }

    /// Notifies the watcher. Do not call it under the lock of a connection, because it wakes a task.
    pub(crate) fn notify_watcher(&self) {
        self.crossed.notify_one();
    }

    /// Registers the waker of the receiver at `place`. Returns `false` without doing so if there is no pressure.
    fn pause(&self, place: usize, waker: &Waker) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        // Read the flag under the lock: the watcher clears the flag first and looks for paused receivers afterwards.
        let is_under_pressure = self.is_under_pressure();
        let replaced = if is_under_pressure { paused.insert(place, waker.clone()) } else { None };
        drop(paused);
        // Dropping a waker may run code of the application.
        drop(replaced);
        is_under_pressure
    }

    /// Ends the pressure if the total is at or below the low mark.
    pub(crate) fn update_pressure(&self) {
        if self.total.load(SeqCst) > self.low_mark() {
            return;
        }
        self.is_under_pressure.store(false, SeqCst);
        // A connection that added to the total in the meantime saw the flag still set, and notified nobody.
        if self.total.load(SeqCst) > self.limit {
            self.is_under_pressure.store(true, SeqCst);
        }
    }

    /// The watcher has ended. Wakes all paused receivers.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, SeqCst);
        while self.resume_some() {}
    }

    /// Waits until the total has crossed the limit or the low mark.
    pub(crate) async fn crossed(&self) {
        self.crossed.notified().await;
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Counts connections that were closed because of the budget.
    pub(crate) fn note_closed(&self, conns: u64) {
        self.closed.fetch_add(conns, Relaxed);
    }

    /// Removes and returns the waker of the receiver at `place`. `None` if it was already woken.
    fn unpause(&self, place: usize) -> Option<Waker> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner).remove(&place)
    }

    /// Wakes up to [`RESUME_BATCH`] paused receivers. Returns whether more are paused.
    pub(crate) fn resume_some(&self) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let places: Vec<_> = paused.keys().take(RESUME_BATCH).copied().collect();
        let wakers: Vec<_> = places.iter().filter_map(|place| paused.remove(place)).collect();
        let has_more = !paused.is_empty();
        if !has_more {
            // Free the memory of a map that was large.
            *paused = HashMap::new();
        }
        drop(paused);
        let mut deferred = Deferred::default();
        wakers.into_iter().for_each(|waker| deferred.wake(waker));
        // A waker is code of the application and may panic. That must not end the server.
        catch_panic(|| deferred.run());
        has_more
    }
}

/// The memory that one connection holds. Each of the two counts has one writer at a time.
pub(crate) struct Account {
    budget: Arc<Budget>,
    /// Bytes that were read, and not yet received or only just received.
    read: AtomicUsize,
    /// Bytes of the send queue.
    queued: AtomicUsize,
    /// The connection's place in its server's registry. Identifies its waker.
    place: usize,
    is_paused: AtomicBool,
}

impl Account {
    pub(crate) fn new(budget: &Arc<Budget>, place: usize) -> Self {
        Self {
            budget: Arc::clone(budget),
            read: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            place,
            is_paused: AtomicBool::new(false),
        }
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The memory that the connection holds, in bytes, rounded up to the accounting step.
    pub(crate) fn held(&self) -> usize {
        self.read.load(SeqCst) + self.queued.load(SeqCst)
    }

    /// Pauses the receiver and registers its waker. Returns `false` if the connection holds fewer than
    /// [`EXEMPT_BYTES`], or if there is no pressure.
    pub(crate) fn pause(&self, waker: &Waker) -> bool {
        if self.held() < EXEMPT_BYTES || !self.budget.pause(self.place, waker) {
            return false;
        }
        self.is_paused.store(true, SeqCst);
        // A write in the meantime may have freed enough, and did not see the pause.
        self.resume_if_exempt().is_none()
    }

    /// Ends the pause if writes have brought the connection below [`EXEMPT_BYTES`]. Returns the waker of the receiver.
    /// Wake it without holding a lock.
    pub(crate) fn resume_if_exempt(&self) -> Option<Waker> {
        let resumes =
            self.is_paused.load(SeqCst) && self.held() < EXEMPT_BYTES && self.is_paused.swap(false, SeqCst);
        if resumes { self.budget.unpause(self.place) } else { None }
    }

    /// Updates the number of bytes that were read.
    pub(crate) fn note_read(&self, bytes: usize) {
        if self.note(&self.read, bytes) {
            self.budget.notify_watcher();
        }
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
        if bytes > last { self.budget.add(bytes - last) } else { self.budget.subtract(last - bytes) }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.budget.subtract(self.held()) {
            self.budget.notify_watcher();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_of_the_accounts_and_zero_without_accounts() {
        let budget = Arc::new(Budget::new(1000 * 1024));
        let (first, second) = (Account::new(&budget, 0), Account::new(&budget, 0));
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
        let budget = Arc::new(Budget::new(1000 * 1024));
        let account = Account::new(&budget, 0);
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
    fn a_connection_that_holds_little_resumes_under_pressure_once_its_queue_is_written() {
        let budget = Arc::new(Budget::new(80 * 1024));
        let (large, small) = (Account::new(&budget, 0), Account::new(&budget, 1));
        large.note_read(100 * 1024);
        // The capacity of the buffer that the thread's pool lends for one small packet.
        small.note_queued(64 * 1024);
        assert!(small.pause(Waker::noop()));
        assert!(small.resume_if_exempt().is_none());
        small.note_queued(10);
        assert!(small.held() < EXEMPT_BYTES && small.resume_if_exempt().is_some());
        assert!(budget.paused.lock().unwrap().is_empty() && budget.is_under_pressure());
        assert!(!small.pause(Waker::noop()) && large.pause(Waker::noop()));
    }

    #[test]
    fn without_a_watcher_no_receiver_is_paused() {
        let budget = Arc::new(Budget::new(1000));
        let account = Account::new(&budget, 0);
        account.note_queued(5000);
        assert!(budget.pause(0, Waker::noop()));
        budget.retire();
        assert!(!budget.is_under_pressure() && !budget.pause(0, Waker::noop()));
        assert!(budget.paused.lock().unwrap().is_empty());
    }

    #[test]
    fn pressure_starts_above_the_budget_and_ends_when_an_eighth_is_free() {
        const KIB: usize = 1024;
        let budget = Arc::new(Budget::new(80 * KIB));
        let (first, second) = (Account::new(&budget, 0), Account::new(&budget, 0));
        let waker = Waker::noop();
        assert!(!first.note_queued(80 * KIB) && !budget.is_under_pressure());
        assert!(!budget.pause(0, waker), "there is no pressure");
        assert!(second.note_queued(5 * KIB) && budget.is_under_pressure());
        assert!(!second.note_queued(10 * KIB), "the watcher was already notified");
        assert!(budget.pause(0, waker));
        assert!(!first.note_queued(64 * KIB), "the total is still above the low mark");
        budget.update_pressure();
        assert!(budget.is_under_pressure());
        assert!(first.note_queued(56 * KIB));
        budget.update_pressure();
        assert!(!budget.is_under_pressure() && !budget.pause(0, waker));
    }
}
