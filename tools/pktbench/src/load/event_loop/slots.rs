//! The connections of the slots: how they end, are closed, and are replaced by the next one.
//!
//! ```text
//!   Up --end--> Down (waits for the time to dial) --> Dialing --> Up           --conns-per-second: Idle instead of Down
//!    '------------'------- the slot needs no more connections ------> Ended
//! ```

use std::cmp::Reverse;
use std::time::Instant;

use super::{EventLoop, Slot};
use crate::load::connection::Connection;
use crate::load::dialer::{Dialed, Opened, Refused};
use crate::load::driver::{ConnectionDriver, End, WorkerState};
use crate::load::slot::SlotLoad;
use crate::record::missed::Cause;
use crate::record::recording::Published;

/// How often what no event announces is looked for, if there may be something: a timeout, or a slot without a connection. It
/// costs about 1 % of a core at most.
const SWEEP_INTERVAL_NS: u64 = 10_000_000;
const SWEEP_INTERVAL_PER_SLOT_NS: u64 = 1000;

impl<P: FnMut(Published)> EventLoop<P> {
    /// Ends a connection and starts to close it. Another one takes its place if the slot needs one.
    pub(super) fn end_connection(&mut self, slot: usize, driver: ConnectionDriver, end: &End) {
        let now_ns = self.schedule.clock.now_ns();
        self.open -= 1;
        let cause = driver.missed_cause(end);
        let (mut load, connection) = driver.end(end, &mut self.state, now_ns);
        if let Some(connection) = connection {
            let is_complete = matches!(end, End::Complete);
            let clock = self.schedule.clock;
            self.closing.add(connection, is_complete, self.poll.registry(), clock, &mut self.state);
        }
        if matches!(end, End::Stopped(_)) || !load.needs_connection(now_ns) {
            return self.end_load(slot, &load, cause);
        }
        let dial_at_ns = match end {
            End::Failed(_) => load.failed(now_ns),
            End::Complete | End::Stopped(_) => {
                self.state.tally.dials.retired += 1;
                now_ns
            }
        };
        self.go_down(slot, load, dial_at_ns);
    }

    /// The slot waits for its next connection.
    fn go_down(&mut self, slot: usize, mut load: SlotLoad, dial_at_ns: u64) {
        if let Some(new_conns) = &mut self.new_conns {
            new_conns.free.push(slot);
            self.set_awaiting_peer(slot, false);
            self.slots[slot].slot = Slot::Idle(Box::new(load));
            return;
        }
        load.down(self.schedule.clock.now_ns());
        self.set_awaiting_peer(slot, true);
        self.down += 1;
        self.slots[slot].slot = Slot::Down { load: Box::new(load), dial_at_ns };
        // Not dialed here: a server that refuses every connection would make it recurse.
        self.wakeups.push(Reverse((dial_at_ns, slot)));
    }

    /// Ends the load of a slot that has no connection any more.
    pub(super) fn end_load(&mut self, slot: usize, load: &SlotLoad, cause: Cause) {
        let WorkerState { tally, recording, .. } = &mut self.state;
        load.count_missed(cause, tally, recording);
        tally.dials.down_ns += load.down_ns(self.schedule.clock.now_ns());
        self.set_awaiting_peer(slot, false);
        self.active -= 1;
        self.slots[slot].slot = Slot::Ended;
    }

    /// Starts to open connection `conn` for a slot. It was due at `due_ns`.
    pub(super) fn dial(&mut self, slot: usize, load: Box<SlotLoad>, conn: usize, due_ns: u64) {
        // Without connections as load, the times of all are measured.
        let is_measured = !self.plan.has_churn() || self.schedule.is_in_window(due_ns);
        let since = self.schedule.clock.instant(due_ns);
        match self.dialer.start(self.poll.registry(), slot, conn, since) {
            Some(dialed) => self.dialed(slot, *load, dialed, is_measured),
            None => {
                self.set_awaiting_peer(slot, true);
                self.slots[slot].slot = Slot::Dialing { load, is_measured };
            }
        }
    }

    /// A connection of the slot is open, or was refused.
    pub(super) fn dialed(&mut self, slot: usize, mut load: SlotLoad, dialed: Dialed, is_measured: bool) {
        let now_ns = self.schedule.clock.now_ns();
        let tally = &mut self.state.tally;
        match dialed {
            Ok(Opened { stream, target, connect, handshake }) => {
                tally.dials.opened += 1;
                let is_replacement = std::mem::replace(&mut load.had_connection, true);
                tally.dials.replaced += u64::from(is_replacement && self.new_conns.is_none());
                self.open += 1;
                tally.targets[target].opened += 1;
                if is_measured {
                    tally.dials.record(connect, handshake);
                }
                let down_ns = load.up(now_ns);
                tally.dials.down_ns += down_ns;
                let connection = Connection::new(stream, self.plan.codec());
                let driver = ConnectionDriver::new(load, connection, target, &self.plan, now_ns);
                self.slots[slot].slot = Slot::Up(Box::new(driver));
                // No event follows for what has already arrived, and for the first packets.
                self.run_again.push(slot);
                self.wakeups.push(Reverse((now_ns, slot)));
                self.slots[slot].is_queued = true;
            }
            Err(Refused { target, problem, age }) => {
                tally.errors.add_refused(&problem);
                tally.targets[target].failed(&problem);
                let recording = &mut self.state.recording;
                recording.failed += 1;
                recording.note_failure(now_ns, || problem);
                if is_measured {
                    tally.dials.record_not_opened(age, 1);
                }
                let dial_at_ns = load.failed(now_ns);
                self.go_down(slot, load, dial_at_ns);
            }
        }
    }

    /// Starts the connections of the open loop of connections that are due.
    pub(super) fn open_due(&mut self, now_ns: u64) {
        while let Some(new) = self.new_conns.as_mut().and_then(|new_conns| new_conns.next(now_ns)) {
            match self.take(new.slot) {
                Slot::Idle(load) => self.dial(new.slot, load, new.conn, new.due_ns),
                other => self.slots[new.slot].slot = other,
            }
        }
    }

    /// Whether something may have to be done that no event announces.
    pub(super) fn needs_sweep(&self) -> bool {
        let has_times = self.plan.packet_timeout.is_some() || self.plan.conn_lifetime.is_some();
        let is_idle = self.new_conns.is_some() && self.active > 0;
        self.down > 0 || self.dialer.len() > 0 || self.closing.len() > 0 || has_times || is_idle
    }

    /// Does what no event announces: timeouts, lifetimes, and the end of slots without a connection.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        self.next_sweep_ns =
            now_ns + SWEEP_INTERVAL_NS + SWEEP_INTERVAL_PER_SLOT_NS * self.slots.len() as u64;
        let now = Instant::now();
        self.closing.sweep(now);
        for (slot, dialed) in self.dialer.sweep(self.poll.registry(), now) {
            match self.take(slot) {
                Slot::Dialing { load, is_measured } => self.dialed(slot, *load, dialed, is_measured),
                other => self.slots[slot].slot = other,
            }
        }
        for slot in 0..self.slots.len() {
            match self.take(slot) {
                Slot::Up(driver) => match driver.check_times(now_ns) {
                    Some(end) => self.end_connection(slot, *driver, &end),
                    None => self.slots[slot].slot = Slot::Up(driver),
                },
                Slot::Down { load, .. } if !load.needs_connection(now_ns) => {
                    self.down -= 1;
                    self.end_load(slot, &load, Cause::Failed);
                }
                // A connection whose time is measured is awaited like the answer to a packet.
                Slot::Dialing { load, is_measured }
                    if !(load.needs_connection(now_ns) || is_measured && self.plan.has_churn()) =>
                {
                    self.give_up(slot, &load, is_measured);
                }
                Slot::Idle(load) if !load.needs_connection(now_ns) => self.give_up(slot, &load, false),
                other => self.slots[slot].slot = other,
            }
        }
    }

    /// Ends a slot that has no connection.
    pub(super) fn give_up(&mut self, slot: usize, load: &SlotLoad, is_measured: bool) {
        if let Some(age) = self.dialer.cancel(slot).filter(|_| is_measured) {
            self.state.tally.dials.record_not_opened(age, 1);
        }
        self.end_load(slot, load, Cause::Failed);
    }
}
