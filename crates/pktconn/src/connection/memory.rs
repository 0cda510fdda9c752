//! What connections with a common budget hold in memory.
//!
//! ```text
//!   receiver: bytes read and not received --.
//!                                            +--> total: over the limit, who holds more than a few KiB is not read
//!   state:    bytes in the send queue  ---------'
//! ```
//!
//! Each connection has an account, which it brings up to date where it has read, where it waits and where its lock is let
//! go of: by steps of some KiB, so that connections share no line of memory at each packet. The pressure is off when an
//! eighth of the budget is free again. Somebody has to watch the budget for that: a server does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;

use super::deferred::{Deferred, catch_panic};

/// The steps in which accounts count, so that connections share no line of memory at each packet.
const ACCOUNT_STEP: usize = 2 * 1024;

/// Who holds less is read also under pressure, so much at a time. A server with 1,000 connections then grows by 8 MiB at
/// most beyond its budget.
pub(crate) const EXEMPT_BYTES: usize = 4 * 1024;

/// When the pressure is off, so many of those who were paused are woken at a time: each has much to do, and others have less.
const RESUME_BATCH: usize = 16;

pub(crate) struct Budget {
    limit: usize,
    total: AtomicUsize,
    /// Set by who goes beyond the limit, cleared by who [watches](Self::relax) it.
    is_under_pressure: AtomicBool,
    /// Whether the watch is over. Connections that live on without their server are read as if there were no budget:
    /// nobody would resume them.
    is_retired: AtomicBool,
    /// Tells the watch that the total went over a mark.
    crossed: Notify,
    /// Receivers that wait for the pressure to be off, by the places of their connections.
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

    /// From where on the pressure is off.
    pub(crate) fn low_mark(&self) -> usize {
        self.limit - self.limit / 8
    }

    pub(crate) fn is_under_pressure(&self) -> bool {
        self.is_under_pressure.load(SeqCst) && !self.is_retired.load(SeqCst)
    }

    /// What all connections hold, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.total.load(Relaxed)
    }

    /// How many connections were closed for it.
    pub(crate) fn closed(&self) -> u64 {
        self.closed.load(Relaxed)
    }

    /// Whether the watch is to be [told](Self::tell).
    fn add(&self, bytes: usize) -> bool {
        let total = self.total.fetch_add(bytes, SeqCst) + bytes;
        total > self.limit && !self.is_under_pressure.swap(true, SeqCst)
    }

    fn subtract(&self, bytes: usize) -> bool {
        let before = self.total.fetch_sub(bytes, SeqCst);
        before > self.low_mark() && before - bytes <= self.low_mark()
    }

    /// Not under the lock of a connection: it wakes a task.
    pub(crate) fn notify_watcher(&self) {
        self.crossed.notify_one();
    }

    /// Leaves the waker of the receiver at `place`, unless the pressure is off.
    fn pause(&self, place: usize, waker: &Waker) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: who clears it looks here after that.
        let is_under_pressure = self.is_under_pressure();
        let replaced = if is_under_pressure { paused.insert(place, waker.clone()) } else { None };
        drop(paused);
        // It may run code of the application's.
        drop(replaced);
        is_under_pressure
    }

    /// Takes the pressure off where it can be.
    pub(crate) fn update_pressure(&self) {
        if self.total.load(SeqCst) > self.low_mark() {
            return;
        }
        self.is_under_pressure.store(false, SeqCst);
        // Who has added to it meanwhile has seen it set, and told nobody.
        if self.total.load(SeqCst) > self.limit {
            self.is_under_pressure.store(true, SeqCst);
        }
    }

    /// Nobody watches it any more.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, SeqCst);
        while self.resume_some() {}
    }

    /// Waits until the total has gone over a mark.
    pub(crate) async fn crossed(&self) {
        self.crossed.notified().await;
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Notes that connections were closed for it.
    pub(crate) fn note_closed(&self, conns: u64) {
        self.closed.fetch_add(conns, Relaxed);
    }

    /// Takes the waker of the receiver at `place`, unless it was woken.
    fn unpause(&self, place: usize) -> Option<Waker> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner).remove(&place)
    }

    /// Wakes some of those who are paused. Whether there are more.
    pub(crate) fn resume_some(&self) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let places: Vec<_> = paused.keys().take(RESUME_BATCH).copied().collect();
        let wakers: Vec<_> = places.iter().filter_map(|place| paused.remove(place)).collect();
        let has_more = !paused.is_empty();
        if !has_more {
            // What a rush of them took.
            *paused = HashMap::new();
        }
        drop(paused);
        let mut deferred = Deferred::default();
        wakers.into_iter().for_each(|waker| deferred.wake(waker));
        // A waker is code of the application's, and may panic: that must not end the server.
        catch_panic(|| deferred.run());
        has_more
    }
}

/// What one connection holds. Each of the two has one who writes it at a time.
pub(crate) struct Account {
    budget: Arc<Budget>,
    /// Read, and not received or just received.
    read: AtomicUsize,
    /// In the send queue.
    queued: AtomicUsize,
    /// Its place among the connections of its server.
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

    /// In bytes, to some KiB.
    pub(crate) fn held(&self) -> usize {
        self.read.load(SeqCst) + self.queued.load(SeqCst)
    }

    /// Leaves the waker of the receiver, unless the connection holds little or the pressure is off.
    pub(crate) fn pause(&self, waker: &Waker) -> bool {
        if self.held() < EXEMPT_BYTES || !self.budget.pause(self.place, waker) {
            return false;
        }
        self.is_paused.store(true, SeqCst);
        // What was written meanwhile has woken nobody.
        self.resume_if_exempt().is_none()
    }

    /// The waker of a receiver that is paused, where what was written has left the connection with little. It is to be woken,
    /// but not under a lock.
    pub(crate) fn resume_if_exempt(&self) -> Option<Waker> {
        let resumes =
            self.is_paused.load(SeqCst) && self.held() < EXEMPT_BYTES && self.is_paused.swap(false, SeqCst);
        if resumes { self.budget.unpause(self.place) } else { None }
    }

    /// Notes what is read.
    pub(crate) fn note_read(&self, bytes: usize) {
        if self.note(&self.read, bytes) {
            self.budget.notify_watcher();
        }
    }

    /// Notes what is queued. Whether the budget's watch is to be [told](Budget::tell).
    pub(crate) fn note_queued(&self, bytes: usize) -> bool {
        self.note(&self.queued, bytes)
    }

    fn note(&self, of: &AtomicUsize, bytes: usize) -> bool {
        let last = of.load(Relaxed);
        // Rounded up: what is counted is never less than what is held. Down only by more than it takes to go up again, but
        // under pressure, which pauses nobody who holds little.
        let rounded = bytes.next_multiple_of(ACCOUNT_STEP);
        let keeps_step = rounded < last && bytes > 0 && !self.budget.is_under_pressure();
        let bytes = if keeps_step { rounded + ACCOUNT_STEP } else { rounded };
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
    fn the_total_is_what_the_accounts_hold_and_nothing_when_they_are_gone() {
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
    fn what_is_counted_is_no_less_than_what_is_held_and_changes_by_steps() {
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
    fn who_holds_little_is_read_under_pressure_as_soon_as_its_queue_is_written() {
        let budget = Arc::new(Budget::new(80 * 1024));
        let (large, small) = (Account::new(&budget, 0), Account::new(&budget, 1));
        large.note_read(100 * 1024);
        // The buffer that the thread lends for one small packet.
        small.note_queued(64 * 1024);
        assert!(small.pause(Waker::noop()));
        assert!(small.resume_if_exempt().is_none());
        small.note_queued(10);
        assert!(small.held() < EXEMPT_BYTES && small.resume_if_exempt().is_some());
        assert!(budget.paused.lock().unwrap().is_empty() && budget.is_under_pressure());
        assert!(!small.pause(Waker::noop()) && large.pause(Waker::noop()));
    }

    #[test]
    fn without_its_watch_nobody_is_paused() {
        let budget = Arc::new(Budget::new(1000));
        let account = Account::new(&budget, 0);
        account.note_queued(5000);
        assert!(budget.pause(0, Waker::noop()));
        budget.retire();
        assert!(!budget.is_under_pressure() && !budget.pause(0, Waker::noop()));
        assert!(budget.paused.lock().unwrap().is_empty());
    }

    #[test]
    fn pressure_begins_beyond_the_budget_and_ends_below_an_eighth_less() {
        const KIB: usize = 1024;
        let budget = Arc::new(Budget::new(80 * KIB));
        let (first, second) = (Account::new(&budget, 0), Account::new(&budget, 0));
        let waker = Waker::noop();
        assert!(!first.note_queued(80 * KIB) && !budget.is_under_pressure());
        assert!(!budget.pause(0, waker), "there is nothing to wait for");
        assert!(second.note_queued(5 * KIB) && budget.is_under_pressure());
        assert!(!second.note_queued(10 * KIB), "it was told once");
        assert!(budget.pause(0, waker));
        assert!(!first.note_queued(64 * KIB), "it is not yet low enough");
        budget.update_pressure();
        assert!(budget.is_under_pressure());
        assert!(first.note_queued(56 * KIB));
        budget.update_pressure();
        assert!(!budget.is_under_pressure() && !budget.pause(0, waker));
    }
}
