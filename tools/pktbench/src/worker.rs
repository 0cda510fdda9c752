//! A thread of the load, with its share of the connections.
//!
//! ```text
//!   connect -> wait for the others -> turns of an event loop, until the last load has ended -> close
//!      '------------------- until the conductor says stop -------------'
//! ```
//!
//! While packets move, a worker shares nothing with others but the number of answers, which it tells once a turn.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use anyhow::Context;
use mio::{Poll, Waker};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

use crate::connect::{Target, connect};
use crate::event_loop::{EventLoop, WAKER};
use crate::payload::Block;
use crate::plan::{Plan, Schedule};
use crate::stream::Stream;
use crate::tally::Tally;

/// What the conductor has all connections do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Control {
    Connect,
    Go(Schedule),
    Stop(Stop),
}

/// Why connections that are not done are to end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// What is outstanding has not come back in time.
    GaveUp,
    /// Nobody waits for it any more.
    Interrupted,
}

/// What a worker tells the conductor. That it has ended it tells by dropping its sender.
pub(crate) enum Event {
    Connected,
    /// A connection could not be made; the line says why and what to do.
    NotConnected(String),
}

/// A worker as the conductor sees it.
pub(crate) struct Worker {
    control: watch::Sender<Control>,
    /// Has the event loop look at the control.
    waker: Waker,
    answers: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<Tally>>,
}

/// A worker as its thread sees it.
struct Work {
    index: usize,
    plan: Arc<Plan>,
    targets: Arc<[Target]>,
    block: Block,
    control: watch::Receiver<Control>,
    events: mpsc::UnboundedSender<Event>,
    answers: Arc<AtomicU64>,
}

impl Worker {
    pub(crate) fn start(
        index: usize,
        plan: &Arc<Plan>,
        targets: &Arc<[Target]>,
        block: Block,
        events: mpsc::UnboundedSender<Event>,
    ) -> anyhow::Result<Self> {
        const CANNOT_START: &str = "cannot start a thread of the load";
        // That of the connecting alone.
        let runtime = Builder::new_current_thread().enable_all().build().context(CANNOT_START)?;
        let poll = Poll::new().context(CANNOT_START)?;
        let waker = Waker::new(poll.registry(), WAKER).context(CANNOT_START)?;
        let (control, receiver) = watch::channel(Control::Connect);
        let answers = Arc::new(AtomicU64::new(0));
        let work = Work {
            index,
            plan: Arc::clone(plan),
            targets: Arc::clone(targets),
            block,
            control: receiver,
            events,
            answers: Arc::clone(&answers),
        };
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || work.run(runtime, poll))
            .context(CANNOT_START)?;
        Ok(Self { control, waker, answers, thread })
    }

    pub(crate) fn control(&self, control: Control) {
        self.control.send_replace(control);
        // A loop that cannot be woken is one that is gone.
        let _ = self.waker.wake();
    }

    /// How many packets have been answered by now.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }

    /// Waits for the end of the thread, and gives its tally.
    pub(crate) fn join(self) -> anyhow::Result<Tally> {
        let name = self.thread.thread().name().unwrap_or("a worker").to_owned();
        let tally =
            self.thread.join().map_err(|_panic| anyhow::anyhow!("{name} panicked; its counts are lost"))?;
        tally.with_context(|| format!("{name} failed; its counts are lost"))
    }
}

impl Work {
    fn run(mut self, runtime: Runtime, poll: Poll) -> io::Result<Tally> {
        let Some((streams, schedule)) = runtime.block_on(self.prepare()) else { return Ok(Tally::new()) };
        drop(runtime);
        let mut event_loop = EventLoop::new(poll, self.control, self.answers);
        for (index, stream) in streams {
            event_loop.add(index, stream, &self.plan, self.block, schedule)?;
        }
        event_loop.run()
    }

    /// Connects, and waits for the start; `None` where there is none.
    async fn prepare(&mut self) -> Option<(Vec<(usize, Stream)>, Schedule)> {
        let connecting = connect(&self.targets, self.plan.conns_of(self.index), self.plan.timeout, || {
            self.tell(Event::Connected);
        });
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
            // Stopped, or the conductor is gone.
            _ => None,
        }
    }

    fn tell(&self, event: Event) {
        // A conductor that is gone wants to know no more.
        let _ = self.events.send(event);
    }
}
