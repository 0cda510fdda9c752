//! The event loop of a worker. It runs a connection when its socket is ready or its next packet is due.
//!
//! ```text
//!   queue of due times -- send_due ------.
//!                                        v
//!   poll: sockets, timer, conductor --> driver of a connection --> queue of due times
//!                                        '-- at the end of an interval: publish the recording to the conductor
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use tokio::sync::watch;

use crate::load::connection::Connection;
use crate::load::control::{Command, SharedProgress, StopReason};
use crate::load::driver::{ConnectionDriver, DriveResult, End, WorkerState};
use crate::load::stream::{ReadOutcome, Stream};
use crate::load::timer::Timer;
use crate::plan::Plan;
use crate::plan::schedule::Schedule;
use crate::record::recording::{Published, Recording};
use crate::record::saturation::CpuTime;
use crate::record::tally::Tally;
use crate::traffic::payload::PayloadBlock;

/// The token of the conductor's waker. The token of a connection is the index of its slot.
pub(crate) const WAKER: Token = Token(usize::MAX);

const TIMER: Token = Token(usize::MAX - 1);

/// The maximum number of events that one call of `poll` returns: enough for many sockets that are ready at once.
const MAX_EVENTS: usize = 1024;

/// How long to wait until all servers have closed their side. The load has ended by then: the wait changes no result.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The same after an interrupt: a user waits, and an overloaded server may have more answers than it can send in time.
const CLOSE_TIMEOUT_ABORTED: Duration = Duration::from_millis(200);

pub(crate) struct EventLoop<P> {
    poll: Poll,
    timer: Timer,
    command: watch::Receiver<Command>,
    schedule: Schedule,
    is_open_loop: bool,
    /// Read by the conductor.
    progress: Arc<SharedProgress>,
    /// The number of connections with outstanding packets or unsent bytes.
    conns_awaiting_peer: usize,
    publish: P,
    /// The interval that is recorded now.
    interval: u64,
    /// When the interval ends, or when the measurement starts or ends.
    next_boundary_ns: u64,
    /// The CPU time at the start of the measurement and at the end of sending.
    cpu: [Option<CpuTime>; 2],
    slots: Vec<Slot>,
    /// The number of active slots.
    active: usize,
    /// The number of closing slots.
    closing: usize,
    /// The due times of slots. Each slot has at most one entry.
    wakeups: BinaryHeap<Reverse<(u64, usize)>>,
    /// Slots to run again without an event. Events are edge-triggered: none announces bytes that were left unread.
    run_again: Vec<usize>,
    state: WorkerState,
    close_timeout: Duration,
}

enum Slot {
    /// A connection under load.
    Active(Box<ConnectionDriver>, Flags),
    /// Our FIN was sent. Waits for the FIN of the server, so that neither side resets the connection.
    Closing(Connection),
    Empty,
}

/// What the loop knows about a driver.
#[derive(Clone, Copy, Default)]
struct Flags {
    /// Whether it has an entry in `wakeups`.
    is_queued: bool,
    /// Whether it is counted in `conns_awaiting_peer`.
    is_awaiting_peer: bool,
}

impl<P: FnMut(Published)> EventLoop<P> {
    pub(crate) fn new(
        poll: Poll,
        command: watch::Receiver<Command>,
        plan: &Plan,
        schedule: Schedule,
        progress: Arc<SharedProgress>,
        publish: P,
    ) -> io::Result<Self> {
        let is_open_loop = plan.is_open();
        Ok(Self {
            timer: Timer::new(poll.registry(), TIMER)?,
            poll,
            command,
            schedule,
            is_open_loop,
            progress,
            conns_awaiting_peer: 0,
            publish,
            interval: 0,
            next_boundary_ns: schedule.measure_from_ns,
            cpu: [None; 2],
            slots: Vec::new(),
            active: 0,
            closing: 0,
            wakeups: BinaryHeap::new(),
            run_again: Vec::new(),
            state: WorkerState::new(is_open_loop),
            close_timeout: CLOSE_TIMEOUT,
        })
    }

    /// Adds connection `index`. Its load starts with [`run`](Self::run).
    pub(crate) fn add(
        &mut self,
        index: usize,
        stream: Stream,
        plan: &Plan,
        block: PayloadBlock,
    ) -> io::Result<()> {
        let slot = self.slots.len();
        let connection = Connection::new(stream, plan.codec());
        let mut driver = Box::new(ConnectionDriver::new(index, connection, plan, block, self.schedule));
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(driver.connection().source(), Token(slot), both)?;
        self.active += 1;
        self.slots.push(Slot::Active(driver, Flags { is_queued: true, is_awaiting_peer: false }));
        // Due at once: a connection without packets to send ends its load then.
        self.wakeups.push(Reverse((0, slot)));
        Ok(())
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
            let mut wait = self.until_boundary(now_ns);
            if self.active == 0 {
                self.record_cpu_time(now_ns, true);
                self.state.record_unanswered(now_ns);
                let deadline = *close_deadline.get_or_insert_with(|| Instant::now() + self.close_timeout);
                let left = deadline.saturating_duration_since(Instant::now());
                if self.closing == 0 || left.is_zero() {
                    return Ok(self.end());
                }
                wait = Some(left);
            }
            match self.wakeups.peek() {
                _ if !self.run_again.is_empty() => wait = Some(Duration::ZERO),
                Some(Reverse((due_ns, _))) if *due_ns <= now_ns => wait = Some(Duration::ZERO),
                Some(Reverse((due_ns, _))) => wait = self.timer.set(*due_ns, self.schedule.clock, wait)?,
                None => {}
            }
            self.progress.store(&self.state.tally, self.conns_awaiting_peer);
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            let again = std::mem::take(&mut self.run_again);
            // The conductor's waker has no connection.
            self.check_command();
            for event in &events {
                match event.token() {
                    WAKER | TIMER => {}
                    Token(slot) => self.drive(slot, event.is_read_closed()),
                }
            }
            for slot in again {
                self.drive(slot, true);
            }
            // A slot may be in the list twice, if it had an event too.
            self.run_again.sort_unstable();
            self.run_again.dedup();
        }
    }

    /// Publishes the recording if its interval is over, and records the CPU time at the start and the end of the
    /// measurement.
    fn cross_boundary(&mut self, now_ns: u64) {
        let schedule = self.schedule;
        let interval = schedule.interval(now_ns);
        if interval > self.interval {
            self.publish(interval);
        }
        self.record_cpu_time(now_ns, schedule.is_stopped(now_ns));
        let stop_at_ns = schedule.stop_at_ns.filter(|stop_at_ns| *stop_at_ns > now_ns);
        let boundaries = [schedule.end_of_interval(interval), stop_at_ns];
        self.next_boundary_ns = boundaries.into_iter().flatten().min().unwrap_or(u64::MAX);
    }

    /// Records the CPU time once at the start and once at the end. Both may be the same moment.
    fn record_cpu_time(&mut self, now_ns: u64, at_end: bool) {
        let [start, end] = &mut self.cpu;
        start.get_or_insert_with(|| CpuTime::of_this_thread(now_ns));
        if at_end {
            end.get_or_insert_with(|| CpuTime::of_this_thread(now_ns));
        }
    }

    /// Publishes the recording, and starts that of interval `next`.
    fn publish(&mut self, next: u64) {
        let recording = std::mem::replace(&mut self.state.recording, Recording::new(self.is_open_loop));
        (self.publish)(Published { interval: self.interval, next, recording });
        self.interval = next;
    }

    fn end(mut self) -> Tally {
        if let [Some(start), Some(end)] = self.cpu {
            self.state.tally.client.add_cpu(start, end);
        }
        self.publish(u64::MAX);
        self.progress.store(&self.state.tally, 0);
        self.state.tally
    }

    /// The time until the next boundary, if there is one.
    fn until_boundary(&self, now_ns: u64) -> Option<Duration> {
        let left_ns = self.next_boundary_ns.saturating_sub(now_ns);
        (self.next_boundary_ns < u64::MAX).then(|| Duration::from_nanos(left_ns))
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
            self.check_command();
            left -= 1;
            any = true;
            self.wakeups.pop();
            match std::mem::replace(&mut self.slots[slot], Slot::Empty) {
                Slot::Active(mut driver, flags) => {
                    let result = driver.send_due(&mut self.state);
                    self.reschedule(slot, driver, Flags { is_queued: false, ..flags }, result);
                }
                other => self.slots[slot] = other,
            }
        }
        any
    }

    /// Runs the connection of a slot after an event.
    fn drive(&mut self, slot: usize, read_closed: bool) {
        self.check_command();
        match std::mem::replace(&mut self.slots[slot], Slot::Empty) {
            Slot::Active(mut driver, flags) => {
                let result = driver.drive(&mut self.state, read_closed);
                self.reschedule(slot, driver, flags, result);
            }
            Slot::Closing(connection) => {
                self.closing -= 1;
                self.close(slot, connection);
            }
            Slot::Empty => {}
        }
    }

    /// Puts the driver back into its slot, and queues it for its next packet.
    fn reschedule(
        &mut self,
        slot: usize,
        driver: Box<ConnectionDriver>,
        mut flags: Flags,
        result: DriveResult,
    ) {
        self.conns_awaiting_peer -= usize::from(flags.is_awaiting_peer);
        match result {
            DriveResult::WaitForSocket => {}
            DriveResult::RunAgain => self.run_again.push(slot),
            DriveResult::Ended(end) => return self.finish(slot, *driver, end),
        }
        flags.is_awaiting_peer = driver.is_awaiting_peer();
        self.conns_awaiting_peer += usize::from(flags.is_awaiting_peer);
        if !flags.is_queued {
            let next_send_ns = driver.next_send_ns();
            self.wakeups.extend(next_send_ns.map(|at_ns| Reverse((at_ns, slot))));
            flags.is_queued = next_send_ns.is_some();
        }
        self.slots[slot] = Slot::Active(driver, flags);
    }

    /// Ends the load of a connection and starts to close it.
    fn finish(&mut self, slot: usize, driver: ConnectionDriver, end: End) {
        self.active -= 1;
        let failed_before = self.state.tally.errors.failed_conns();
        let connection = driver.finish(end, &mut self.state);
        self.state.recording.failed += self.state.tally.errors.failed_conns() - failed_before;
        if let Some(mut connection) = connection {
            // If this fails, the connection is already gone.
            if connection.shutdown().is_ok() {
                self.close(slot, connection);
            }
        }
    }

    /// Reads and discards what was received. Keeps the slot until the server has closed its side.
    fn close(&mut self, slot: usize, mut connection: Connection) {
        match connection.discard(&mut self.state.buffer) {
            Ok(ReadOutcome::WouldBlock) => {}
            Ok(_) => self.run_again.push(slot),
            Err(_closed) => return,
        }
        self.closing += 1;
        self.slots[slot] = Slot::Closing(connection);
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

    /// Ends the load of all connections. The loop goes on until they are closed.
    fn stop(&mut self, reason: StopReason) {
        self.conns_awaiting_peer = 0;
        if reason == StopReason::Aborted {
            self.close_timeout = CLOSE_TIMEOUT_ABORTED;
        }
        for slot in 0..self.slots.len() {
            match std::mem::replace(&mut self.slots[slot], Slot::Empty) {
                Slot::Active(driver, _) => self.finish(slot, *driver, End::Stopped(reason)),
                other => self.slots[slot] = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::net::{TcpListener, TcpStream};

    use crate::load::stream::Socket;
    use crate::plan::{Amount, Pace, tests::plan};
    use crate::traffic::arrivals::Arrival;

    const CONNS: usize = 50;

    /// Runs an extreme overload, at a server that reads nothing. `on_publish` gets the recording of each turn of the
    /// loop, the first one before any packet is sent, and the sender of the command.
    fn overload(on_publish: impl Fn(&Recording, &watch::Sender<Command>)) -> Tally {
        let pace = Pace::Open { rate: 1e9, arrival: Arrival::Constant, max_outstanding: 1024 };
        let plan = Plan {
            conns: CONNS,
            pace,
            amount: Amount::Time(Duration::from_secs(3600)),
            // The first interval ends at once, and publishes.
            interval: Duration::from_nanos(1),
            ..plan()
        };
        let schedule = plan.schedule(Instant::now() - Duration::from_secs(1));
        let (sender, command) = watch::channel(Command::Go(schedule));
        let poll = Poll::new().unwrap();
        let _waker = mio::Waker::new(poll.registry(), WAKER).unwrap();
        let publish = |published: Published| on_publish(&published.recording, &sender);
        let mut event_loop = EventLoop::new(poll, command, &plan, schedule, Arc::default(), publish).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let block = PayloadBlock::new(plan.sizes.distribution.max_len(), 2048);
        let mut peers = Vec::new();
        for conn in 0..CONNS {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            stream.set_nonblocking(true).unwrap();
            peers.push(listener.accept().unwrap());
            let stream = Stream::new(Socket::Tcp(mio::net::TcpStream::from_std(stream)), None);
            event_loop.add(conn, stream, &plan, block).unwrap();
        }
        event_loop.run().unwrap()
    }

    #[test]
    fn nothing_is_sent_after_the_command_to_stop_however_many_packets_are_due() {
        let is_stopped = Cell::new(false);
        let tally = overload(|_, sender| {
            is_stopped.set(true);
            sender.send_replace(Command::Stop(StopReason::Aborted));
        });
        assert!(is_stopped.get());
        assert_eq!((tally.sent, tally.errors.count()), (0, 0), "packets sent after the command");
        assert!(tally.client.missed.count() > 0, "packets were due");
    }

    #[test]
    fn a_connection_with_packets_that_were_not_answered_in_time_has_not_failed() {
        let (turns, failed) = (Cell::new(0), Cell::new(0));
        let tally = overload(|recording, sender| {
            turns.set(turns.get() + 1);
            failed.set(failed.get() + recording.failed);
            if turns.get() == 2 {
                sender.send_replace(Command::Stop(StopReason::TimedOut));
            }
        });
        assert_eq!((tally.errors.timeout, failed.get()), (CONNS as u64, 0));
    }
}
