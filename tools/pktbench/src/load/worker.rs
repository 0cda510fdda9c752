//! A worker: a thread with its share of the connections.
//!
//! ```text
//!   connect -> wait for Go -> event loop, until the load of the last slot has ended -> close
//!      '------------------------------ Stop, at any time ---------------------------------^
//! ```
//!
//! While packets are sent, a worker shares only its progress, which it updates on each turn of the event loop, and a
//! recording per interval.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use mio::{Poll, Waker};
use tokio::sync::{mpsc, watch};

use crate::load::connect::{Connected, connect, problem};
use crate::load::control::{Command, Progress, SharedProgress};
use crate::load::dialer::Dialer;
use crate::load::event_loop::{EventLoop, Shared, WAKER};
use crate::load::new_conns::NewConns;
use crate::load::slot::SlotLoad;
use crate::load::target::Targets;
use crate::plan::Plan;
use crate::record::recording::Published;
use crate::record::tally::Tally;
use crate::traffic::payload::PayloadBlock;

/// A message from a worker to the conductor. A worker that has ended drops its sender.
pub(crate) enum Event {
    /// One more connection before the start is open, or was refused: the index of its address, and the problem, one line
    /// that says what to do.
    Dialed { target: usize, problem: Option<String> },
    /// The recording of an interval of the worker, the last one included.
    Interval { worker: usize, published: Box<Published> },
}

/// A worker as the conductor sees it.
pub(crate) struct Worker {
    command: watch::Sender<Command>,
    /// Makes the event loop check `command`.
    waker: Waker,
    progress: Arc<SharedProgress>,
    thread: JoinHandle<io::Result<Tally>>,
}

/// A worker as its thread sees it.
struct WorkerThread {
    index: usize,
    plan: Arc<Plan>,
    targets: Arc<Targets>,
    block: PayloadBlock,
    command: watch::Receiver<Command>,
    events: mpsc::UnboundedSender<Event>,
    progress: Arc<SharedProgress>,
}

impl Worker {
    pub(crate) fn start(
        index: usize,
        plan: &Arc<Plan>,
        targets: &Arc<Targets>,
        block: PayloadBlock,
        events: mpsc::UnboundedSender<Event>,
    ) -> anyhow::Result<Self> {
        const CANNOT_START: &str = "cannot start a worker thread";
        let poll = Poll::new().context(CANNOT_START)?;
        let waker = Waker::new(poll.registry(), WAKER).context(CANNOT_START)?;
        let (command, receiver) = watch::channel(Command::Connect);
        let progress = Arc::new(SharedProgress::default());
        let work = WorkerThread {
            index,
            plan: Arc::clone(plan),
            targets: Arc::clone(targets),
            block,
            command: receiver,
            events,
            progress: Arc::clone(&progress),
        };
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || work.run(poll))
            .context(CANNOT_START)?;
        Ok(Self { command, waker, progress, thread })
    }

    pub(crate) fn send(&self, command: Command) {
        self.command.send_replace(command);
        // If this fails, the loop has ended.
        let _ = self.waker.wake();
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.load()
    }

    /// Waits for the end of the thread, and returns its tally.
    pub(crate) fn join(self) -> anyhow::Result<Tally> {
        let name = self.thread.thread().name().unwrap_or("a worker").to_owned();
        let tally =
            self.thread.join().map_err(|_panic| anyhow::anyhow!("{name} panicked; its counts are lost"))?;
        tally.with_context(|| format!("{name} failed; its counts are lost"))
    }
}

impl WorkerThread {
    fn run(self, mut poll: Poll) -> io::Result<Tally> {
        let Self { index: worker, plan, targets, block, command, events, progress } = self;
        let conns: Vec<_> = plan.conns_of(worker).collect();
        // In an open loop of connections, none is open before the start.
        let at_once = if plan.conns_per_second.is_some() { &[][..] } else { &conns };
        let mut dialer = Dialer::new(Arc::clone(&targets), plan.source_addrs.clone(), plan.timeout);
        let connected = connect(&mut poll, &command, &mut dialer, at_once, plan.connect_rate, |dialed| {
            let (target, problem) = problem(dialed);
            // If this fails, the conductor has ended.
            let _ = events.send(Event::Dialed { target, problem });
        })?;
        let Some(Connected { schedule, slots }) = connected else {
            return Ok(Tally::new(plan.is_open(), targets.addresses().len()));
        };
        let new_conns = NewConns::new(&plan, worker, schedule);
        let shared = Shared { plan: Arc::clone(&plan), command, progress };
        let mut event_loop = EventLoop::new(poll, schedule, dialer, new_conns, shared, |published| {
            let _ = events.send(Event::Interval { worker, published: Box::new(published) });
        })?;
        let mut slots = slots.into_iter();
        for conn in conns {
            let load = SlotLoad::new(conn, &plan, block, schedule);
            match slots.next() {
                Some(dialed) => event_loop.add(load, dialed),
                None => event_loop.add_idle(load),
            }
        }
        // Instant 0 is later than `Go`, to leave time for this setup.
        std::thread::sleep(schedule.clock.instant(0).saturating_duration_since(Instant::now()));
        event_loop.run()
    }
}
