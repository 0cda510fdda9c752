//! The event loop of a worker: gives each connection its turn when its socket is ready.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use tokio::sync::watch;

use crate::connection::Connection;
use crate::load::{End, Load, Tools, Turn};
use crate::payload::Block;
use crate::plan::{Plan, Schedule};
use crate::stream::{Got, Stream};
use crate::tally::Tally;
use crate::worker::{Control, Stop};

/// Of the conductor's waker. Connections have their place in the loop, counted from 0.
pub(crate) const WAKER: Token = Token(usize::MAX);

/// Many sockets are ready in one call of the system.
const EVENTS: usize = 1024;

/// A close that takes longer is no longer of interest: what was to be measured has come back by then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct EventLoop {
    poll: Poll,
    control: watch::Receiver<Control>,
    /// For the conductor.
    answers: Arc<AtomicU64>,
    places: Vec<Place>,
    loading: usize,
    closing: usize,
    /// Places that go on although nothing tells of them: sockets tell of what is new alone.
    again: Vec<usize>,
    tools: Tools,
}

enum Place {
    Loading(Box<Load>),
    /// Its FIN is on the way; waits for that of the server, so that neither side resets the other.
    Closing(Connection),
    Empty,
}

impl EventLoop {
    pub(crate) fn new(poll: Poll, control: watch::Receiver<Control>, answers: Arc<AtomicU64>) -> Self {
        let (places, again, tools) = (Vec::new(), Vec::new(), Tools::new());
        Self { poll, control, answers, places, loading: 0, closing: 0, again, tools }
    }

    /// Starts to load connection `index`.
    pub(crate) fn add(
        &mut self,
        index: usize,
        stream: Stream,
        plan: &Plan,
        block: Block,
        schedule: Schedule,
    ) -> io::Result<()> {
        let place = self.places.len();
        let connection = Connection::new(stream, plan.codec());
        let mut load = Box::new(Load::new(index, connection, plan, block, schedule));
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(load.connection().source(), Token(place), both)?;
        self.loading += 1;
        let turn = load.start(&mut self.tools);
        self.places.push(Place::Empty);
        self.go_on(place, load, turn);
        Ok(())
    }

    /// Runs until all loads have ended and their connections are closed.
    pub(crate) fn run(mut self) -> io::Result<Tally> {
        let mut events = Events::with_capacity(EVENTS);
        let mut close_deadline = None;
        loop {
            let mut wait = None;
            if self.loading == 0 {
                let deadline = *close_deadline.get_or_insert_with(|| Instant::now() + CLOSE_TIMEOUT);
                let left = deadline.saturating_duration_since(Instant::now());
                if self.closing == 0 || left.is_zero() {
                    return Ok(self.tools.tally);
                }
                wait = Some(left);
            }
            if !self.again.is_empty() {
                wait = Some(Duration::ZERO);
            }
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            let again = std::mem::take(&mut self.again);
            for event in &events {
                match event.token() {
                    WAKER => self.look_at_control(),
                    Token(place) => self.turn(place, event.is_read_closed()),
                }
            }
            for place in again {
                self.turn(place, true);
            }
            // One that was told of too has had two turns.
            self.again.sort_unstable();
            self.again.dedup();
            self.answers.store(self.tools.tally.answers, Relaxed);
        }
    }

    fn turn(&mut self, place: usize, read_closed: bool) {
        match std::mem::replace(&mut self.places[place], Place::Empty) {
            Place::Loading(mut load) => {
                let turn = load.turn(&mut self.tools, read_closed);
                self.go_on(place, load, turn);
            }
            Place::Closing(connection) => {
                self.closing -= 1;
                self.close(place, connection);
            }
            Place::Empty => {}
        }
    }

    fn go_on(&mut self, place: usize, load: Box<Load>, turn: Turn) {
        match turn {
            Turn::Waits => {}
            Turn::Again => self.again.push(place),
            Turn::Ended(end) => return self.finish(place, *load, end),
        }
        self.places[place] = Place::Loading(load);
    }

    fn finish(&mut self, place: usize, load: Load, end: End) {
        self.loading -= 1;
        if let Some(mut connection) = load.finish(end, &mut self.tools.tally) {
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
        for place in 0..self.places.len() {
            match std::mem::replace(&mut self.places[place], Place::Empty) {
                Place::Loading(load) => self.finish(place, *load, End::Stopped(stop)),
                other => self.places[place] = other,
            }
        }
    }
}
