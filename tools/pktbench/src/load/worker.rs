//! A worker: a thread with its share of the connections.
//!
//! ```text
//!   connect -> wait for Go -> event loop, until the load of the last connection has ended -> close
//!      '------------------------------ Stop, at any time --------------------------------------^
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
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

use crate::load::connect::{Target, connect};
use crate::load::control::{Command, Progress, SharedProgress};
use crate::load::event_loop::{EventLoop, WAKER};
use crate::load::stream::Stream;
use crate::plan::Plan;
use crate::plan::schedule::Schedule;
use crate::record::recording::Published;
use crate::record::tally::Tally;
use crate::traffic::payload::PayloadBlock;

/// A message from a worker to the conductor. A worker that has ended drops its sender.
pub(crate) enum Event {
    /// One more connection was made.
    Connected,
    /// A connection could not be made. The line says why and what to do.
    NotConnected(String),
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
    targets: Arc<[Target]>,
    block: PayloadBlock,
    command: watch::Receiver<Command>,
    events: mpsc::UnboundedSender<Event>,
    progress: Arc<SharedProgress>,
}

impl Worker {
    pub(crate) fn start(
        index: usize,
        plan: &Arc<Plan>,
        targets: &Arc<[Target]>,
        block: PayloadBlock,
        events: mpsc::UnboundedSender<Event>,
    ) -> anyhow::Result<Self> {
        const CANNOT_START: &str = "cannot start a worker thread";
        // Only for making the connections. The load runs in an `EventLoop`.
        let runtime = Builder::new_current_thread().enable_all().build().context(CANNOT_START)?;
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
            .spawn(move || work.run(runtime, poll))
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
    fn run(mut self, runtime: Runtime, poll: Poll) -> io::Result<Tally> {
        let Some((streams, schedule)) = runtime.block_on(self.prepare()) else {
            return Ok(Tally::new(self.plan.is_open()));
        };
        drop(runtime);
        let Self { index: worker, plan, block, command, events, progress, .. } = self;
        let mut event_loop = EventLoop::new(poll, command, &plan, schedule, progress, |published| {
            // If this fails, the conductor has ended.
            let _ = events.send(Event::Interval { worker, published: Box::new(published) });
        })?;
        for (index, stream) in streams {
            event_loop.add(index, stream, &plan, block)?;
        }
        // Instant 0 is later than `Go`, to leave time for this setup.
        std::thread::sleep(schedule.clock.instant(0).saturating_duration_since(Instant::now()));
        event_loop.run()
    }

    /// Makes the connections and waits for `Go`. `None` if the run does not start.
    async fn prepare(&mut self) -> Option<(Vec<(usize, Stream)>, Schedule)> {
        let connecting = connect(
            &self.targets,
            self.plan.conns_of(self.index),
            self.plan.connect_rate,
            self.plan.timeout,
            || self.send(Event::Connected),
        );
        let mut command = self.command.clone();
        let connected = tokio::select! {
            biased;
            _ = command.wait_for(|command| matches!(command, Command::Stop(_))) => return None,
            connected = connecting => connected,
        };
        let streams = match connected {
            Ok(streams) => streams,
            Err(problem) => {
                self.send(Event::NotConnected(problem));
                return None;
            }
        };
        match command.wait_for(|command| !matches!(command, Command::Connect)).await.as_deref() {
            Ok(Command::Go(schedule)) => Some((streams, *schedule)),
            // `Stop`, or the conductor has ended.
            _ => None,
        }
    }

    fn send(&self, event: Event) {
        // If this fails, the conductor has ended.
        let _ = self.events.send(event);
    }
}
