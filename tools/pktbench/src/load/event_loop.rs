//! The event loop of a worker: gives each connection its turn when its socket is ready, or when a packet of it is due.
//!
//! ```text
//!   a queue of what is due next -- wake ---.
//!                                           v
//!   poll: sockets, alarm, conductor --> each load has its turn --> queue
//!                                           '-- at the end of an interval: the recording goes to the conductor
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use tokio::sync::watch;

use crate::load::alarm::Alarm;
use crate::load::connection::Connection;
use crate::load::control::{Control, Progress, Stop};
use crate::load::pacing::{End, Load, Tools, Turn};
use crate::load::stream::{Got, Stream};
use crate::plan::Plan;
use crate::plan::schedule::Schedule;
use crate::record::recording::{Published, Recording};
use crate::record::saturation::CpuTime;
use crate::record::tally::Tally;
use crate::traffic::payload::Block;

/// Of the conductor's waker. Connections have their place in the loop, counted from 0.
pub(crate) const WAKER: Token = Token(usize::MAX);

const ALARM: Token = Token(usize::MAX - 1);

/// Many sockets are ready in one call of the system.
const EVENTS: usize = 1024;

/// A close that takes longer is no longer of interest: what was to be measured has come back by then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct EventLoop<P> {
    poll: Poll,
    alarm: Alarm,
    control: watch::Receiver<Control>,
    schedule: Schedule,
    is_open: bool,
    /// For the conductor.
    progress: Arc<Progress>,
    /// Loads of which something has to be waited for.
    owed: usize,
    publish: P,
    /// The interval that is recorded.
    interval: u64,
    /// When one ends, or what counts begins or ends.
    next_mark_ns: u64,
    /// At the beginning of what counts, and at the end of sending.
    cpu: [Option<CpuTime>; 2],
    places: Vec<Place>,
    loading: usize,
    closing: usize,
    /// When which place is to be woken: each has one entry at most.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    /// Places that go on although nothing tells of them: sockets tell of what is new alone.
    again: Vec<usize>,
    tools: Tools,
}

enum Place {
    Loading(Box<Load>, Marks),
    /// Its FIN is on the way; waits for that of the server, so that neither side resets the other.
    Closing(Connection),
    Empty,
}

/// What the loop knows of a load.
#[derive(Clone, Copy, Default)]
struct Marks {
    /// Whether it is in the queue of what is due.
    is_queued: bool,
    is_owed: bool,
}

impl<P: FnMut(Published)> EventLoop<P> {
    pub(crate) fn new(
        poll: Poll,
        control: watch::Receiver<Control>,
        plan: &Plan,
        schedule: Schedule,
        progress: Arc<Progress>,
        publish: P,
    ) -> io::Result<Self> {
        let is_open = plan.is_open();
        Ok(Self {
            alarm: Alarm::new(poll.registry(), ALARM)?,
            poll,
            control,
            schedule,
            is_open,
            progress,
            owed: 0,
            publish,
            interval: 0,
            next_mark_ns: schedule.measure_from_ns,
            cpu: [None; 2],
            places: Vec::new(),
            loading: 0,
            closing: 0,
            due: BinaryHeap::new(),
            again: Vec::new(),
            tools: Tools::new(is_open),
        })
    }

    /// Takes connection `index`, which is loaded once the loop [runs](Self::run).
    pub(crate) fn add(&mut self, index: usize, stream: Stream, plan: &Plan, block: Block) -> io::Result<()> {
        let place = self.places.len();
        let connection = Connection::new(stream, plan.codec());
        let mut load = Box::new(Load::new(index, connection, plan, block, self.schedule));
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(load.connection().source(), Token(place), both)?;
        self.loading += 1;
        self.places.push(Place::Loading(load, Marks { is_queued: true, is_owed: false }));
        // Each has its first turn, if only to find that it has nothing to send.
        self.due.push(Reverse((0, place)));
        Ok(())
    }

    /// Runs until all loads have ended and their connections are closed.
    pub(crate) fn run(mut self) -> io::Result<Tally> {
        let mut events = Events::with_capacity(EVENTS);
        let mut close_deadline = None;
        loop {
            let mut now_ns = self.schedule.clock.now_ns();
            if now_ns >= self.next_mark_ns {
                self.pass_mark(now_ns);
            }
            if self.wake_due(now_ns) {
                now_ns = self.schedule.clock.now_ns();
            }
            let mut wait = self.until_mark(now_ns);
            if self.loading == 0 {
                self.take_cpu_time(now_ns, true);
                let deadline = *close_deadline.get_or_insert_with(|| Instant::now() + CLOSE_TIMEOUT);
                let left = deadline.saturating_duration_since(Instant::now());
                if self.closing == 0 || left.is_zero() {
                    return Ok(self.end());
                }
                wait = Some(left);
            }
            match self.due.peek() {
                _ if !self.again.is_empty() => wait = Some(Duration::ZERO),
                Some(Reverse((due_ns, _))) if *due_ns <= now_ns => wait = Some(Duration::ZERO),
                Some(Reverse((due_ns, _))) => wait = self.alarm.set(*due_ns, self.schedule.clock, wait)?,
                None => {}
            }
            self.progress.tell(&self.tools.tally, self.owed);
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            let again = std::mem::take(&mut self.again);
            for event in &events {
                match event.token() {
                    WAKER => self.look_at_control(),
                    ALARM => {}
                    Token(place) => self.turn(place, event.is_read_closed()),
                }
            }
            for place in again {
                self.turn(place, true);
            }
            // One that was told of too has had two turns.
            self.again.sort_unstable();
            self.again.dedup();
        }
    }

    /// Publishes the recording of an interval that is over, and takes the CPU time where what counts begins and ends.
    fn pass_mark(&mut self, now_ns: u64) {
        let schedule = self.schedule;
        let interval = schedule.interval(now_ns);
        if interval > self.interval {
            self.publish(interval);
        }
        self.take_cpu_time(now_ns, schedule.is_stopped(now_ns));
        let stop_at_ns = schedule.stop_at_ns.filter(|stop_at_ns| *stop_at_ns > now_ns);
        let marks = [schedule.end_of_interval(interval), stop_at_ns];
        self.next_mark_ns = marks.into_iter().flatten().min().unwrap_or(u64::MAX);
    }

    /// Once at the beginning and once at the end, which may be the same moment.
    fn take_cpu_time(&mut self, now_ns: u64, at_end: bool) {
        let [start, end] = &mut self.cpu;
        start.get_or_insert_with(|| CpuTime::of_this_thread(now_ns));
        if at_end {
            end.get_or_insert_with(|| CpuTime::of_this_thread(now_ns));
        }
    }

    fn publish(&mut self, next: u64) {
        let recording = std::mem::replace(&mut self.tools.recording, Recording::new(self.is_open));
        (self.publish)(Published { interval: self.interval, next, recording });
        self.interval = next;
    }

    fn end(mut self) -> Tally {
        if let [Some(start), Some(end)] = self.cpu {
            self.tools.tally.client.add_cpu(start, end);
        }
        self.publish(u64::MAX);
        self.progress.tell(&self.tools.tally, 0);
        self.tools.tally
    }

    fn until_mark(&self, now_ns: u64) -> Option<Duration> {
        let left_ns = self.next_mark_ns.saturating_sub(now_ns);
        (self.next_mark_ns < u64::MAX).then(|| Duration::from_nanos(left_ns))
    }

    /// Wakes the loads of which packets are due. Whether there were any.
    fn wake_due(&mut self, now_ns: u64) -> bool {
        let mut any = false;
        // Those that are due again by now have their next turn after the answers of others.
        let mut most = self.due.len();
        while let Some(&Reverse((due_ns, place))) = self.due.peek() {
            if due_ns > now_ns || most == 0 {
                break;
            }
            most -= 1;
            any = true;
            self.due.pop();
            match std::mem::replace(&mut self.places[place], Place::Empty) {
                Place::Loading(mut load, marks) => {
                    let turn = load.wake(&mut self.tools);
                    self.go_on(place, load, Marks { is_queued: false, ..marks }, turn);
                }
                other => self.places[place] = other,
            }
        }
        any
    }

    fn turn(&mut self, place: usize, read_closed: bool) {
        match std::mem::replace(&mut self.places[place], Place::Empty) {
            Place::Loading(mut load, marks) => {
                let turn = load.turn(&mut self.tools, read_closed);
                self.go_on(place, load, marks, turn);
            }
            Place::Closing(connection) => {
                self.closing -= 1;
                self.close(place, connection);
            }
            Place::Empty => {}
        }
    }

    fn go_on(&mut self, place: usize, load: Box<Load>, mut marks: Marks, turn: Turn) {
        self.owed -= usize::from(marks.is_owed);
        match turn {
            Turn::Waits => {}
            Turn::Again => self.again.push(place),
            Turn::Ended(end) => return self.finish(place, *load, end),
        }
        marks.is_owed = load.is_owed();
        self.owed += usize::from(marks.is_owed);
        if !marks.is_queued {
            let wakes_at = load.wakes_at();
            self.due.extend(wakes_at.map(|at_ns| Reverse((at_ns, place))));
            marks.is_queued = wakes_at.is_some();
        }
        self.places[place] = Place::Loading(load, marks);
    }

    fn finish(&mut self, place: usize, load: Load, end: End) {
        self.loading -= 1;
        let failed_before = self.tools.tally.errors.count();
        let connection = load.finish(end, &mut self.tools.tally);
        self.tools.recording.failed += self.tools.tally.errors.count() - failed_before;
        if let Some(mut connection) = connection {
            // Where it fails, the connection is no more, and so closed.
            if connection.shutdown().is_ok() {
                self.close(place, connection);
            }
        }
    }

    /// Reads and discards what is there, and waits for more until the server has closed its side.
    fn close(&mut self, place: usize, mut connection: Connection) {
        match connection.discard(&mut self.tools.buffer) {
            Ok(Got::Nothing) => {}
            Ok(_) => self.again.push(place),
            Err(_closed) => return,
        }
        self.closing += 1;
        self.places[place] = Place::Closing(connection);
    }

    fn look_at_control(&mut self) {
        let control = *self.control.borrow();
        if let Control::Stop(stop) = control {
            self.stop(stop);
        }
    }

    fn stop(&mut self, stop: Stop) {
        self.owed = 0;
        for place in 0..self.places.len() {
            match std::mem::replace(&mut self.places[place], Place::Empty) {
                Place::Loading(load, _) => self.finish(place, *load, End::Stopped(stop)),
                other => self.places[place] = other,
            }
        }
    }
}
