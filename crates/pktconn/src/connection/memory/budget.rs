//! The shared total: when connections are paused, which networks are too heavy, and the wakers of paused receivers.

use std::collections::HashMap;
use std::sync::atomic::{
    AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;

use super::{EXEMPT_BYTES, NetworkMemory};
use crate::connection::deferred::{Deferred, catch_panic};

/// How many paused receivers are woken at a time when the pressure ends. Each of them has much to read, and other
/// connections must not wait behind all of them.
const RESUME_BATCH: usize = 16;

pub(crate) struct Budget {
    limit: usize,
    total: AtomicUsize,
    /// The number of networks that hold at least [`small`](Self::small) bytes. Below 0 for a moment if two threads move
    /// a network across that mark in both directions.
    holding_networks: AtomicIsize,
    /// Set by the connection that exceeds the pause mark. Cleared by the watcher in
    /// [`update_pressure`](Self::update_pressure).
    is_under_pressure: AtomicBool,
    /// Whether the watcher has ended. Connections that outlive their server are read as if there were no budget,
    /// because they would never be resumed.
    is_retired: AtomicBool,
    /// Notifies the watcher that the total has crossed a mark.
    crossed: Notify,
    /// The paused receivers, by the place of their connection in the server.
    paused: Mutex<HashMap<u32, Paused>>,
    counts: Counts,
}

struct Paused {
    waker: Waker,
    network: Arc<NetworkMemory>,
}

/// How often the budget has acted.
#[derive(Default)]
struct Counts {
    pauses: AtomicU64,
    closed: AtomicU64,
    closed_idle: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            total: AtomicUsize::new(0),
            holding_networks: AtomicIsize::new(0),
            is_under_pressure: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            crossed: Notify::new(),
            paused: Mutex::default(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The total above which the pressure begins, in bytes. The rest of the budget is a reserve for networks that hold
    /// little, such as new clients.
    pub(crate) fn pause_mark(&self) -> usize {
        self.limit - self.limit / 4
    }

    /// The total at or below which the pressure ends, in bytes. It is an eighth of the limit below the pause mark, so
    /// that the pressure does not begin again at once.
    pub(crate) fn resume_mark(&self) -> usize {
        self.limit - self.limit / 8 * 3
    }

    /// A network that holds less is never too heavy, in bytes. Otherwise many networks that each hold a little would
    /// make the share of all others too small to be served.
    fn small(&self) -> usize {
        (self.limit / 1024).max(EXEMPT_BYTES)
    }

    /// The share of each network, in bytes: the memory below the pause mark, divided among the networks that hold more
    /// than a little.
    fn fair_share(&self) -> usize {
        let networks = self.holding_networks.load(Relaxed).max(1).unsigned_abs();
        (self.pause_mark() / networks).max(self.small())
    }

    pub(crate) fn is_under_pressure(&self) -> bool {
        self.is_under_pressure.load(SeqCst) && !self.is_retired.load(SeqCst)
    }

    /// Whether `network` holds more than its fair share, under pressure. Its connections are then paused, and new ones
    /// refused.
    pub(crate) fn is_too_heavy(&self, network: &NetworkMemory) -> bool {
        self.is_under_pressure() && network.held() > self.fair_share()
    }

    /// Whether the connections hold more than the budget. The server then refuses all new ones.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.held() > self.limit && !self.is_retired.load(SeqCst)
    }

    /// The memory that all connections hold, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.total.load(SeqCst)
    }

    /// Adds to the totals. Returns whether to [notify the watcher](Self::notify_watcher).
    pub(super) fn add(&self, network: &NetworkMemory, bytes: usize) -> bool {
        self.add_to_network(network, bytes);
        let before = self.total.fetch_add(bytes, SeqCst);
        let total = before + bytes;
        let begins = total > self.pause_mark() && !self.is_under_pressure.swap(true, SeqCst);
        if begins {
            self.counts.pauses.fetch_add(1, Relaxed);
        }
        begins || (before <= self.limit && total > self.limit)
    }

    pub(super) fn subtract(&self, network: &NetworkMemory, bytes: usize) -> bool {
        self.subtract_from_network(network, bytes);
        let before = self.total.fetch_sub(bytes, SeqCst);
        before > self.resume_mark() && before - bytes <= self.resume_mark()
    }

    /// Moves bytes from one network to another.
    #[cfg(any(feature = "proxy-protocol", test))]
    pub(super) fn move_bytes(&self, from: &NetworkMemory, to: &NetworkMemory, bytes: usize) {
        self.subtract_from_network(from, bytes);
        self.add_to_network(to, bytes);
    }

    fn add_to_network(&self, network: &NetworkMemory, bytes: usize) {
        if network.add(bytes, self.small()) {
            self.holding_networks.fetch_add(1, Relaxed);
        }
    }

    fn subtract_from_network(&self, network: &NetworkMemory, bytes: usize) {
        if network.subtract(bytes, self.small()) {
            self.holding_networks.fetch_sub(1, Relaxed);
        }
    }

    /// Notifies the watcher. Do not call it under the lock of a connection, because it wakes a task.
    pub(crate) fn notify_watcher(&self) {
        self.crossed.notify_one();
    }

    /// Waits until the total has crossed a mark.
    pub(crate) async fn crossed(&self) {
        self.crossed.notified().await;
    }

    /// Registers the waker of the receiver at `place`. Returns `false` without doing so if its network is not too
    /// heavy.
    pub(super) fn pause(&self, place: u32, network: &Arc<NetworkMemory>, waker: &Waker) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        // Read the flag under the lock: the watcher clears the flag first and looks for paused receivers afterwards.
        let must_pause = self.is_too_heavy(network);
        let replaced = if must_pause {
            paused.insert(place, Paused { waker: waker.clone(), network: Arc::clone(network) })
        } else {
            None
        };
        drop(paused);
        // Dropping a waker may run code of the application.
        drop(replaced);
        must_pause
    }

    /// Removes and returns the waker of the receiver at `place`. `None` if it was already woken.
    pub(super) fn unpause(&self, place: u32) -> Option<Waker> {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner).remove(&place);
        paused.map(|paused| paused.waker)
    }

    /// Ends the pressure if the total is at or below the resume mark.
    pub(crate) fn update_pressure(&self) {
        if self.total.load(SeqCst) > self.resume_mark() {
            return;
        }
        self.is_under_pressure.store(false, SeqCst);
        // A connection that added to the total in the meantime saw the flag still set, and notified nobody.
        if self.total.load(SeqCst) > self.pause_mark() {
            self.is_under_pressure.store(true, SeqCst);
        }
    }

    /// Wakes up to [`RESUME_BATCH`] paused receivers whose network is not too heavy any more. Returns whether more of
    /// them are paused.
    pub(crate) fn resume_some(&self) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut resumable = paused.iter().filter(|(_, paused)| !self.is_too_heavy(&paused.network));
        let places: Vec<_> = resumable.by_ref().take(RESUME_BATCH).map(|(place, _)| *place).collect();
        let has_more = resumable.next().is_some();
        let resumed: Vec<_> = places.iter().filter_map(|place| paused.remove(place)).collect();
        if paused.is_empty() {
            // Free the memory of a map that was large.
            *paused = HashMap::new();
        }
        drop(paused);
        let mut deferred = Deferred::default();
        resumed.into_iter().for_each(|paused| deferred.wake(paused.waker));
        // A waker is code of the application and may panic. That must not end the server.
        catch_panic(|| deferred.run());
        has_more
    }

    /// The watcher has ended. Wakes all paused receivers.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, SeqCst);
        while self.resume_some() {}
    }

    /// How often the pressure has begun.
    pub(crate) fn pauses(&self) -> u64 {
        self.counts.pauses.load(Relaxed)
    }

    /// How many connections were closed because of the budget.
    pub(crate) fn closed(&self) -> u64 {
        self.counts.closed.load(Relaxed)
    }

    /// How many of the closed connections were idle.
    pub(crate) fn closed_idle(&self) -> u64 {
        self.counts.closed_idle.load(Relaxed)
    }

    /// Counts connections that were closed because of the budget.
    pub(crate) fn note_closed(&self, conns: u64, are_idle: bool) {
        self.counts.closed.fetch_add(conns, Relaxed);
        if are_idle {
            self.counts.closed_idle.fetch_add(conns, Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn paused_receivers(&self) -> usize {
        self.paused.lock().unwrap().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn network(budget: &Budget, bytes: usize) -> Arc<NetworkMemory> {
        let network = Arc::new(NetworkMemory::default());
        budget.add(&network, bytes);
        network
    }

    #[test]
    fn pressure_starts_above_three_quarters_and_ends_at_five_eighths() {
        let budget = Budget::new(80 * KIB);
        let network = Arc::new(NetworkMemory::default());
        assert!(!budget.add(&network, 60 * KIB) && !budget.is_under_pressure());
        assert!(!budget.pause(0, &network, Waker::noop()), "there is no pressure");
        assert!(budget.add(&network, 1) && budget.is_under_pressure());
        assert!(!budget.add(&network, 10 * KIB), "the watcher was already notified");
        assert!(budget.pause(0, &network, Waker::noop()));
        assert!(!budget.subtract(&network, 20 * KIB), "the total is still above the resume mark");
        budget.update_pressure();
        assert!(budget.is_under_pressure());
        assert!(budget.subtract(&network, KIB));
        budget.update_pressure();
        assert!(!budget.is_under_pressure() && !budget.pause(0, &network, Waker::noop()));
        assert_eq!(budget.pauses(), 1);
    }

    #[test]
    fn the_watcher_is_notified_when_the_limit_is_exceeded() {
        let budget = Budget::new(80 * KIB);
        let network = network(&budget, 70 * KIB);
        assert!(!budget.add(&network, 10 * KIB) && !budget.is_exceeded());
        assert!(budget.add(&network, 1) && budget.is_exceeded());
    }

    #[test]
    fn only_networks_above_their_fair_share_are_paused() {
        let budget = Budget::new(80 * KIB);
        let [light, heavy] = [5 * KIB, 70 * KIB].map(|bytes| network(&budget, bytes));
        assert!(!budget.pause(0, &light, Waker::noop()) && budget.pause(1, &heavy, Waker::noop()));
        // 60 KiB for two networks.
        budget.add(&light, 26 * KIB);
        assert!(budget.is_too_heavy(&light));
        budget.subtract(&light, 2 * KIB);
        assert!(!budget.is_too_heavy(&light));
    }

    #[test]
    fn a_paused_receiver_resumes_when_its_network_is_within_its_share_again() {
        let budget = Budget::new(80 * KIB);
        let [first, second] = [40 * KIB, 40 * KIB].map(|bytes| network(&budget, bytes));
        assert!(budget.pause(0, &first, Waker::noop()) && budget.pause(1, &second, Waker::noop()));
        budget.subtract(&first, 20 * KIB);
        assert!(budget.is_under_pressure() && !budget.resume_some());
        assert_eq!(budget.paused_receivers(), 1);
        assert!(budget.unpause(0).is_none() && budget.unpause(1).is_some());
    }

    #[test]
    fn many_networks_that_hold_little_do_not_shrink_the_share_of_the_others() {
        let budget = Budget::new(1024 * KIB);
        let networks: Vec<_> = (0..200).map(|_| network(&budget, 4 * KIB)).collect();
        assert!(budget.is_under_pressure());
        assert!(!networks.iter().any(|network| budget.is_too_heavy(network)));
        budget.add(&networks[0], KIB);
        assert!(budget.is_too_heavy(&networks[0]));
    }

    #[test]
    fn without_a_watcher_no_receiver_is_paused() {
        let budget = Budget::new(8000);
        let network = network(&budget, 10_000);
        assert!(budget.pause(0, &network, Waker::noop()) && budget.is_exceeded());
        budget.retire();
        assert!(!budget.is_under_pressure() && !budget.is_exceeded());
        assert!(!budget.pause(0, &network, Waker::noop()));
        assert_eq!(budget.paused_receivers(), 0);
    }
}
