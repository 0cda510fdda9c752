//! A thread of the load, with a runtime of its own and its share of the connections.
//!
//! What the connections of a worker share is touched by its thread alone while packets move. It stands behind locks
//! and `Arc`s because tasks have to be `Send`; nobody contends for them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::connection;
use crate::payload::Block;
use crate::plan::{Plan, Schedule};
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

/// What the connections of a worker share.
pub(crate) struct Shared {
    pub(crate) plan: Arc<Plan>,
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) block: Block,
    pub(crate) control: watch::Receiver<Control>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    /// Bounds the connections that are being made at the same time.
    pub(crate) connecting: Semaphore,
    tally: Arc<Mutex<Tally>>,
}

/// A worker as the conductor sees it.
pub(crate) struct Worker {
    control: watch::Sender<Control>,
    tally: Arc<Mutex<Tally>>,
    thread: JoinHandle<()>,
}

/// Enough to hide the way to a distant server, and with many workers still few against the backlog of a listener.
const CONNECTING_AT_ONCE: usize = 32;

impl Worker {
    pub(crate) fn start(
        index: usize,
        plan: &Arc<Plan>,
        addrs: &[SocketAddr],
        block: Block,
        events: mpsc::UnboundedSender<Event>,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime of a worker")?;
        let (control, receiver) = watch::channel(Control::Connect);
        let tally = Arc::new(Mutex::new(Tally::new()));
        let shared = Arc::new(Shared {
            plan: Arc::clone(plan),
            addrs: addrs.to_vec(),
            block,
            control: receiver,
            events,
            connecting: Semaphore::new(CONNECTING_AT_ONCE),
            tally: Arc::clone(&tally),
        });
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || runtime.block_on(run(index, shared)))
            .context("cannot start the thread of a worker")?;
        Ok(Self { control, tally, thread })
    }

    pub(crate) fn control(&self, control: Control) {
        self.control.send_replace(control);
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Waits for the end of the thread, and gives its tally.
    pub(crate) fn join(self) -> anyhow::Result<Tally> {
        let name = self.thread.thread().name().unwrap_or("a worker").to_owned();
        self.thread.join().map_err(|_panic| anyhow::anyhow!("{name} panicked; its counts are lost"))?;
        let tally = lock(&self.tally).clone();
        Ok(tally)
    }
}

impl Shared {
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    pub(crate) fn tell(&self, event: Event) {
        // A conductor that is gone wants to know no more.
        let _ = self.events.send(event);
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(index: usize, shared: Arc<Shared>) {
    let mut conns = JoinSet::new();
    for conn in shared.plan.conns_of(index) {
        conns.spawn(connection::run(conn, Arc::clone(&shared)));
    }
    drop(shared);
    while let Some(ended) = conns.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}
