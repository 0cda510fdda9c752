//! A worker: a thread with its share of the connections.
//!
//! ```text
//!   connect -> wait for Go -> event loop, until the load of the last connection has ended -> close
//!      '------------------- until the conductor says Stop -------------'
//! ```
//!
//! While packets are sent, a worker shares only a few counters, which it updates on each turn of the event loop, and a
//! recording per interval.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use mio::{Poll, Waker};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

use crate::load::connect::{Target, connect};
use crate::load::control::{Control, Counts, Progress};
use crate::load::event_loop::{EventLoop, WAKER};
use crate::load::stream::Stream;
use crate::plan::Plan;
use crate::plan::schedule::Schedule;
use crate::record::recording::Published;
use crate::record::tally::Tally;
use crate::traffic::payload::PayloadBlock;

/// What a worker tells the conductor. A worker that has ended drops its sender.
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
    control: watch::Sender<Control>,
    /// Makes the event loop check `control`.
    waker: Waker,
    progress: Arc<Progress>,
    thread: JoinHandle<io::Result<Tally>>,
}

/// A worker as its thread sees it.
struct WorkerThread {
    index: usize,
    plan: Arc<Plan>,
    targets: Arc<[Target]>,
    block: PayloadBlock,
    control: watch::Receiver<Control>,
    events: mpsc::UnboundedSender<Event>,
    progress: Arc<Progress>,
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
        // Only for making the connections.
        let runtime = Builder::new_current_thread().enable_all().build().context(CANNOT_START)?;
        let poll = Poll::new().context(CANNOT_START)?;
        let waker = Waker::new(poll.registry(), WAKER).context(CANNOT_START)?;
        let (control, receiver) = watch::channel(Control::Connect);
        let progress = Arc::new(Progress::default());
        let work = WorkerThread {
            index,
            plan: Arc::clone(plan),
            targets: Arc::clone(targets),
            block,
            control: receiver,
            events,
            progress: Arc::clone(&progress),
        };
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || work.run(runtime, poll))
            .context(CANNOT_START)?;
        Ok(Self { control, waker, progress, thread })
    }

    pub(crate) fn control(&self, control: Control) {
        self.control.send_replace(control);
        // If this fails, the loop has ended.
        let _ = self.waker.wake();
    }

    pub(crate) fn counts(&self) -> Counts {
        let Progress { sent, answers, awaiting_peer } = &*self.progress;
        // Answers are read first. In this order there are never more answers than sent packets.
        let answers = answers.load(Relaxed);
        Counts { sent: sent.load(Relaxed), answers, has_outstanding: awaiting_peer.load(Relaxed) > 0 }
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
        let Self { index: worker, plan, block, control, events, progress, .. } = self;
        let mut event_loop = EventLoop::new(poll, control, &plan, schedule, progress, |published| {
            // If this fails, the conductor has ended.
            let _ = events.send(Event::Interval { worker, published: Box::new(published) });
        })?;
        for (index, stream) in streams {
            event_loop.add(index, stream, &plan, block)?;
        }
        // Wait for the start of the run. The time until here was for the setup.
        std::thread::sleep(schedule.clock.instant(0).saturating_duration_since(Instant::now()));
        event_loop.run()
    }

    /// Makes the connections and waits for the start. `None` if the run does not start.
    async fn prepare(&mut self) -> Option<(Vec<(usize, Stream)>, Schedule)> {
        let connecting = connect(
            &self.targets,
            self.plan.conns_of(self.index),
            self.plan.connect_rate,
            self.plan.timeout,
            || self.tell(Event::Connected),
        );
        let mut control = self.control.clone();
        let connected = tokio::select! {
            biased;
            _ = control.wait_for(|control| matches!(control, Control::Stop(_))) => return None,
            connected = connecting => connected,
        };
        let streams = match connected {
            Ok(streams) => streams,
            Err(problem) => {
                self.tell(Event::NotConnected(problem));
                return None;
            }
        };
        match control.wait_for(|control| !matches!(control, Control::Connect)).await.as_deref() {
            Ok(Control::Go(schedule)) => Some((streams, *schedule)),
            // Stopped, or the conductor has ended.
            _ => None,
        }
    }

    fn tell(&self, event: Event) {
        // If this fails, the conductor has ended.
        let _ = self.events.send(event);
    }
}
