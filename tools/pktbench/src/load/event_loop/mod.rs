//! The event loop of a worker. It runs a connection when its socket is ready or its next packet is due, and replaces
//! connections that have ended.
//!
//! ```text
//!   queue of due times -- send_due ------.
//!                                        v
//!   poll: sockets, timer, conductor --> driver of a connection --> queue of due times
//!                                        |-- at the end of an interval: publish the recording to the conductor
//!                                        '-- at the end of a connection: close it, dial the next one of its slot
//! ```

mod slots;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use tokio::sync::watch;

use crate::load::closing::{CLOSE_TIMEOUT, Closing};
use crate::load::control::{Command, SharedProgress, StopReason};
use crate::load::dialer::{Dialed, Dialer};
use crate::load::driver::{ConnectionDriver, DriveResult, End, WorkerState};
use crate::load::new_conns::NewConns;
use crate::load::slot::SlotLoad;
use crate::load::timer::Timer;
use crate::plan::Plan;
use crate::plan::schedule::Schedule;
use crate::record::recording::{Published, Recording};
use crate::record::saturation::thread_sampler::LoadSampler;
use crate::record::tally::Tally;

/// The token of the conductor's waker. The token of a connection is the index of its slot, and while it is closed
/// `FIRST_CLOSING` plus a number.
pub(crate) const WAKER: Token = Token(usize::MAX);

const TIMER: Token = Token(usize::MAX - 1);

const FIRST_CLOSING: usize = usize::MAX / 2;

/// How long to wait for the FIN of the servers after an interrupt: a user waits, and an overloaded server may have more
/// answers than it can send in time.
const CLOSE_TIMEOUT_ABORTED: Duration = Duration::from_millis(200);

/// The maximum number of events that one call of `poll` returns: enough for many sockets that are ready at once.
const MAX_EVENTS: usize = 1024;

pub(crate) struct EventLoop<P> {
    poll: Poll,
    timer: Timer,
    command: watch::Receiver<Command>,
    plan: Arc<Plan>,
    schedule: Schedule,
    /// Read by the conductor.
    progress: Arc<SharedProgress>,
    /// The number of slots with outstanding packets or unsent bytes, or that wait for a connection.
    conns_awaiting_peer: usize,
    publish: P,
    /// Whether the ages of outstanding packets are published, too.
    watches_outstanding: bool,
    /// The interval that is recorded now.
    interval: u64,
    /// When the interval ends, or when the measurement starts or ends.
    next_boundary_ns: u64,
    sampler: LoadSampler,
    slots: Vec<SlotEntry>,
    /// The number of slots whose load has not ended.
    active: usize,
    dialer: Dialer,
    /// The number of slots with a connection.
    open: usize,
    /// The number of slots that wait for the time to dial.
    down: usize,
    /// Only in an open loop of connections.
    new_conns: Option<NewConns>,
    closing: Closing,
    close_timeout: Duration,
    next_sweep_ns: u64,
    /// The due times of slots. Each slot has at most one entry.
    wakeups: BinaryHeap<Reverse<(u64, usize)>>,
    /// Slots to run again without an event. Events are edge-triggered: none announces bytes that were left unread.
    run_again: Vec<usize>,
    state: WorkerState,
}

/// What the worker shares with the conductor.
pub(crate) struct Shared {
    pub(crate) plan: Arc<Plan>,
    pub(crate) command: watch::Receiver<Command>,
    pub(crate) progress: Arc<SharedProgress>,
}

struct SlotEntry {
    slot: Slot,
    /// Whether it has an entry in `wakeups`.
    is_queued: bool,
    /// Whether it is counted in `conns_awaiting_peer`.
    is_awaiting_peer: bool,
}

enum Slot {
    /// Has a connection.
    Up(Box<ConnectionDriver>),
    /// Its next connection is being opened. `is_measured` tells whether the time counts.
    Dialing { load: Box<SlotLoad>, is_measured: bool },
    /// Waits for the time to dial.
    Down { load: Box<SlotLoad>, dial_at_ns: u64 },
    /// Waits for a connection of the open loop of connections.
    Idle(Box<SlotLoad>),
    /// Its load has ended.
    Ended,
}

impl<P: FnMut(Published)> EventLoop<P> {
    pub(crate) fn new(
        poll: Poll,
        schedule: Schedule,
        dialer: Dialer,
        new_conns: Option<NewConns>,
        shared: Shared,
        publish: P,
    ) -> io::Result<Self> {
        let Shared { plan, command, progress } = shared;
        let state = WorkerState::new(plan.is_open(), dialer.targets());
        Ok(Self {
            timer: Timer::new(poll.registry(), TIMER)?,
            poll,
            command,
            schedule,
            progress,
            conns_awaiting_peer: 0,
            publish,
            watches_outstanding: plan.watches_outstanding,
            interval: 0,
            next_boundary_ns: schedule.measure_from_ns,
            sampler: LoadSampler::default(),
            slots: Vec::new(),
            active: 0,
            dialer,
            open: 0,
            down: 0,
            new_conns,
            closing: Closing::new(FIRST_CLOSING),
            close_timeout: CLOSE_TIMEOUT,
            next_sweep_ns: 0,
            wakeups: BinaryHeap::new(),
            run_again: Vec::new(),
            state,
            plan,
        })
    }

    /// Adds a slot with a connection, or with the failure to open one. Its load starts with [`run`](Self::run).
    pub(crate) fn add(&mut self, load: SlotLoad, dialed: Dialed) {
        let index = self.add_slot(Slot::Ended);
        self.dialed(index, load, dialed, !self.plan.has_churn());
    }

    /// Adds a slot that gets its connections from `new_conns`.
    pub(crate) fn add_idle(&mut self, load: SlotLoad) {
        let index = self.add_slot(Slot::Idle(Box::new(load)));
        if let Some(new_conns) = &mut self.new_conns {
            new_conns.free.push(index);
        }
    }

    fn add_slot(&mut self, slot: Slot) -> usize {
        self.active += 1;
        self.slots.push(SlotEntry { slot, is_queued: false, is_awaiting_peer: false });
        self.slots.len() - 1
    }

    /// Runs until the load of all connections has ended and they are closed.
    pub(crate) fn run(mut self) -> io::Result<Tally> {
        let mut events = Events::with_capacity(MAX_EVENTS);
        let mut close_deadline = None;
        loop {
            let mut now_ns = self.schedule.clock.now_ns();
            if now_ns >= self.next_boundary_ns {
                self.cross_boundary(now_ns);
            }
            if self.send_due(now_ns) {
                now_ns = self.schedule.clock.now_ns();
            }
            self.open_due(now_ns);
            if now_ns >= self.next_sweep_ns && self.needs_sweep() {
                self.sweep(now_ns);
            }
            let mut wait = self.until_boundary(now_ns);
            if self.active == 0 {
                self.sampler.sample(now_ns, true);
                if let Some(new_conns) = self.new_conns.take() {
                    new_conns.end(now_ns, &mut self.state.tally.dials);
                }
                let deadline = *close_deadline.get_or_insert_with(|| Instant::now() + self.close_timeout);
                let left = deadline.saturating_duration_since(Instant::now());
                if self.closing.len() == 0 || left.is_zero() {
                    return Ok(self.end());
                }
                wait = Some(left);
            }
            let due_ns = self.wakeups.peek().map(|Reverse((due_ns, _))| *due_ns);
            let new_conn_ns = self.new_conns.as_ref().and_then(NewConns::next_ns);
            match due_ns.into_iter().chain(new_conn_ns).min() {
                _ if !self.run_again.is_empty() || !self.closing.run_again.is_empty() => {
                    wait = Some(Duration::ZERO);
                }
                Some(due_ns) if due_ns <= now_ns => wait = Some(Duration::ZERO),
                Some(due_ns) => wait = self.timer.set(due_ns, self.schedule.clock, wait)?,
                None => {}
            }
            self.progress.store(&self.state.tally, self.conns_awaiting_peer, self.open);
            self.sampler.end_work(now_ns);
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            self.sampler.begin_work(self.schedule.clock);
            let again = std::mem::take(&mut self.run_again);
            let closing = std::mem::take(&mut self.closing.run_again);
            // The conductor's waker has no connection.
            self.check_command();
            for event in &events {
                match event.token() {
                    WAKER | TIMER => {}
                    Token(token) if token >= FIRST_CLOSING => {
                        self.closing.drive(token, self.schedule.clock, &mut self.state);
                    }
                    Token(slot) => self.drive(slot, event.is_read_closed()),
                }
            }
            for slot in again {
                self.drive(slot, true);
            }
            for token in closing {
                self.closing.drive(token, self.schedule.clock, &mut self.state);
            }
            // A slot may be in the list twice, if it had an event too.
            self.run_again.sort_unstable();
            self.run_again.dedup();
        }
    }

    /// Publishes the recording if its interval is over, and samples the thread at the start and the end of the window.
    fn cross_boundary(&mut self, now_ns: u64) {
        let schedule = self.schedule;
        let interval = schedule.interval(now_ns);
        if interval > self.interval {
            if self.watches_outstanding {
                self.record_outstanding(now_ns);
            }
            self.publish(interval);
        }
        self.sampler.sample(now_ns, schedule.is_stopped(now_ns));
        let stop_at_ns = schedule.stop_at_ns.filter(|stop_at_ns| *stop_at_ns > now_ns);
        let boundaries = [schedule.end_of_interval(interval), stop_at_ns];
        self.next_boundary_ns = boundaries.into_iter().flatten().min().unwrap_or(u64::MAX);
    }

    fn record_outstanding(&mut self, now_ns: u64) {
        for entry in &self.slots {
            if let Slot::Up(driver) = &entry.slot {
                driver.record_outstanding(now_ns, &mut self.state.recording);
            }
        }
    }

    /// Publishes the recording, and starts that of interval `next`.
    fn publish(&mut self, next: u64) {
        let recording = std::mem::replace(&mut self.state.recording, Recording::new(self.plan.is_open()));
        (self.publish)(Published { interval: self.interval, next, recording });
        self.interval = next;
    }

    fn end(mut self) -> Tally {
        if let Some(usage) = self.sampler.usage() {
            self.state.tally.client.add_thread(usage);
        }
        self.publish(u64::MAX);
        self.progress.store(&self.state.tally, 0, 0);
        self.state.tally
    }

    /// The time until the next boundary or the next sweep, if there is one.
    fn until_boundary(&self, now_ns: u64) -> Option<Duration> {
        let sweep_ns = if self.needs_sweep() { self.next_sweep_ns } else { u64::MAX };
        let at_ns = self.next_boundary_ns.min(sweep_ns);
        (at_ns < u64::MAX).then(|| Duration::from_nanos(at_ns.saturating_sub(now_ns)))
    }

    /// Runs the connections that have a due packet. Returns whether there were any.
    fn send_due(&mut self, now_ns: u64) -> bool {
        let mut any = false;
        // Each connection once: those that are due again must not delay the responses of others.
        let mut left = self.wakeups.len();
        while let Some(&Reverse((due_ns, slot))) = self.wakeups.peek() {
            if due_ns > now_ns || left == 0 {
                break;
            }
            left -= 1;
            any = true;
            self.check_command();
            self.wakeups.pop();
            self.slots[slot].is_queued = false;
            match self.take(slot) {
                Slot::Up(mut driver) => {
                    let result = driver.send_due(&mut self.state);
                    self.reschedule(slot, driver, result);
                }
                Slot::Down { load, dial_at_ns } if dial_at_ns <= now_ns && load.needs_connection(now_ns) => {
                    self.down -= 1;
                    let conn = load.index;
                    self.dial(slot, load, conn, dial_at_ns);
                }
                other => self.slots[slot].slot = other,
            }
        }
        any
    }

    fn take(&mut self, slot: usize) -> Slot {
        std::mem::replace(&mut self.slots[slot].slot, Slot::Ended)
    }

    /// Runs the connection of a slot after an event.
    fn drive(&mut self, slot: usize, read_closed: bool) {
        self.check_command();
        match self.take(slot) {
            Slot::Up(mut driver) => {
                let result = driver.drive(&mut self.state, read_closed);
                self.reschedule(slot, driver, result);
            }
            Slot::Dialing { load, is_measured } => match self.dialer.drive(self.poll.registry(), slot) {
                Some(dialed) => self.dialed(slot, *load, dialed, is_measured),
                None => self.slots[slot].slot = Slot::Dialing { load, is_measured },
            },
            other => self.slots[slot].slot = other,
        }
    }

    /// Puts the driver back into its slot, and queues it for its next packet.
    fn reschedule(&mut self, slot: usize, driver: Box<ConnectionDriver>, result: DriveResult) {
        match result {
            DriveResult::WaitForSocket => {}
            DriveResult::RunAgain => self.run_again.push(slot),
            DriveResult::Ended(end) => return self.end_connection(slot, *driver, &end),
        }
        self.set_awaiting_peer(slot, driver.is_awaiting_peer());
        let entry = &mut self.slots[slot];
        if !entry.is_queued {
            let next_send_ns = driver.next_send_ns();
            self.wakeups.extend(next_send_ns.map(|at_ns| Reverse((at_ns, slot))));
            entry.is_queued = next_send_ns.is_some();
        }
        entry.slot = Slot::Up(driver);
    }

    fn set_awaiting_peer(&mut self, slot: usize, is_awaiting_peer: bool) {
        let before = std::mem::replace(&mut self.slots[slot].is_awaiting_peer, is_awaiting_peer);
        self.conns_awaiting_peer += usize::from(is_awaiting_peer);
        self.conns_awaiting_peer -= usize::from(before);
    }

    /// Ends the load if the conductor asks for it. Called before each connection: in an overload, one turn over all of
    /// them may take seconds.
    fn check_command(&mut self) {
        // An error means that the conductor has ended; the last command stays.
        if !self.command.has_changed().unwrap_or(true) {
            return;
        }
        let command = *self.command.borrow_and_update();
        if let Command::Stop(reason) = command {
            self.stop(reason);
        }
    }

    /// Ends the load of all slots. The loop goes on until the connections are closed.
    fn stop(&mut self, reason: StopReason) {
        if reason == StopReason::Aborted {
            self.close_timeout = CLOSE_TIMEOUT_ABORTED;
        }
        for slot in 0..self.slots.len() {
            match self.take(slot) {
                Slot::Up(driver) => self.end_connection(slot, *driver, &End::Stopped(reason)),
                Slot::Down { load, .. } => {
                    self.down -= 1;
                    self.give_up(slot, &load, false);
                }
                Slot::Dialing { load, is_measured } => self.give_up(slot, &load, is_measured),
                Slot::Idle(load) => self.give_up(slot, &load, false),
                Slot::Ended => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
