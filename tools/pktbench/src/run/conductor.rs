//! The conductor: has the workers connect, starts them at the same time, ends the run and adds up the results.
//!
//! ```text
//!   connect --all are open--> go --all done, or interrupted, or timed out--> stop --> add up
//!      '-- one cannot be opened, or interrupted ------------------------------^
//! ```

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use pktconn::ConnConfig;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use crate::load::connect::Target;
use crate::load::control::{Command, Progress, StopReason};
use crate::load::worker::{Event, Worker};
use crate::plan::Plan;
use crate::plan::schedule::Schedule;
use crate::record::tally::Tally;
use crate::report::output::Sinks;
use crate::report::status::{RunStatus, Running};
use crate::report::view::View;
use crate::result::config;
use crate::result::document::Errors;
use crate::run::interrupt::Interrupts;
use crate::run::open_files;
use crate::run::outcome::{Outcome, drain_time, measured_time};
use crate::run::response_timeout::ResponseTimeout;
use crate::run::server::OwnServer;
use crate::run::time_series::TimeSeries;
use crate::traffic::payload::PayloadBlock;
use crate::traffic::verify::HISTORY_LEN;

/// How often the conductor updates the view and checks the timeout: often enough for a live view, and too rarely to
/// affect the figures.
const TICK: Duration = Duration::from_millis(100);

/// From `Command::Go` to the first packet, for workers to get ready. Generous, because packets that a worker sends late
/// count as late in the figures.
const START_DELAY: Duration = Duration::from_millis(10);
const START_DELAY_PER_CONN: Duration = Duration::from_micros(10);

pub(crate) fn run(plan: Plan, sinks: Sinks) -> anyhow::Result<(Outcome, Sinks)> {
    open_files::raise_limit(&plan)?;
    let plan = Arc::new(plan);
    // Must live until the end of the run.
    let own_server = match plan.has_own_server() {
        true => Some(OwnServer::start(ConnConfig::new().codec(plan.codec()), plan.server_threads)?),
        false => None,
    };
    let own_addr = own_server.as_ref().map(OwnServer::addr);
    let targets = match own_addr {
        Some(addr) => vec![addr.into()],
        None => Target::of(&plan)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime of the conductor")?;
    let view = View::open(&plan, own_addr)?;
    let mut conductor = Conductor::start(&plan, &targets.into(), own_addr, sinks)?;
    let end = runtime.block_on(conductor.conduct(view));
    conductor.into_outcome(end)
}

struct Conductor {
    plan: Arc<Plan>,
    own_addr: Option<SocketAddr>,
    workers: Vec<Worker>,
    time_series: TimeSeries,
    /// Closed when all workers have ended.
    events: mpsc::UnboundedReceiver<Event>,
}

/// How and when the run ended.
struct End {
    /// `None` if the run ended before its start.
    schedule: Option<Schedule>,
    at: Instant,
    reason: EndReason,
}

enum EndReason {
    /// All workers have ended: their connections are done or have failed.
    Done,
    /// Outstanding packets have not come back within `--timeout`.
    TimedOut,
    Interrupted,
    /// Nobody reads the lines on standard output any more.
    OutputClosed,
    /// A connection could not be opened, or too late for `--start-at`. The text says why and what to do.
    NotStarted(String),
}

impl Conductor {
    fn start(
        plan: &Arc<Plan>,
        targets: &Arc<[Target]>,
        own_addr: Option<SocketAddr>,
        sinks: Sinks,
    ) -> anyhow::Result<Self> {
        // A block is never freed, so the runs of a search, which have the same sizes, use the same one.
        static BLOCK: OnceLock<PayloadBlock> = OnceLock::new();
        let distinct = plan.most_outstanding() + HISTORY_LEN as usize;
        let block = *BLOCK.get_or_init(|| PayloadBlock::new(plan.sizes.distribution.max_len(), distinct));
        let (sender, events) = mpsc::unbounded_channel();
        let workers =
            (0..plan.threads).map(|index| Worker::start(index, plan, targets, block, sender.clone()));
        Ok(Self {
            plan: Arc::clone(plan),
            workers: workers.collect::<anyhow::Result<_>>()?,
            own_addr,
            time_series: TimeSeries::new(plan, sinks),
            events,
        })
    }

    async fn conduct(&mut self, mut view: View) -> End {
        let mut interrupts = Interrupts::listen();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let connected = tokio::select! {
            biased;
            () = interrupts.next() => Err(EndReason::Interrupted),
            connected = self.wait_for_start(&mut ticks, &mut view) => connected,
        };
        let (schedule, reason) = match connected {
            Err(reason) => (None, reason),
            Ok(()) => {
                let start = Instant::now() + self.start_delay();
                let schedule = self.plan.schedule(start);
                self.send_to_workers(Command::Go(schedule));
                let measure_from = schedule.clock.instant(schedule.measure_from_ns);
                let measured_from = SystemTime::now() + (measure_from - Instant::now());
                self.time_series.begin(&config::config(&self.plan, self.own_addr), measured_from);
                let reason = tokio::select! {
                    biased;
                    () = interrupts.next() => EndReason::Interrupted,
                    reason = self.wait_until_done(&schedule, &mut ticks, &mut view) => reason,
                };
                (Some(schedule), reason)
            }
        };
        let at = Instant::now();
        drop(view);
        self.send_to_workers(Command::Stop(match reason {
            EndReason::TimedOut => StopReason::TimedOut,
            EndReason::Done | EndReason::Interrupted | EndReason::OutputClosed | EndReason::NotStarted(_) => {
                StopReason::Aborted
            }
        }));
        // It ends: closing a connection has a timeout.
        while let Some(event) = self.events.recv().await {
            self.handle_event(event);
        }
        End { schedule, at, reason }
    }

    /// Waits until all connections are open and `--start-at` has come.
    async fn wait_for_start(&mut self, ticks: &mut Interval, view: &mut View) -> Result<(), EndReason> {
        self.wait_until_connected(ticks, view).await?;
        let Some(start_at) = self.plan.start_at else { return Ok(()) };
        let left = start_at.duration_since(SystemTime::now() + self.start_delay()).map_err(|late| {
            let late = Duration::from_millis(late.duration().as_millis() as u64);
            let late = humantime::format_duration(late);
            EndReason::NotStarted(format!(
                "the connections were ready {late} after --start-at; give it more time"
            ))
        })?;
        let mut started = pin!(tokio::time::sleep(left));
        loop {
            tokio::select! {
                biased;
                () = &mut started => return Ok(()),
                _ = ticks.tick() => {}
            }
            if view.show(&RunStatus::Connecting(self.plan.conns)) {
                return Err(EndReason::Interrupted);
            }
        }
    }

    fn start_delay(&self) -> Duration {
        START_DELAY + START_DELAY_PER_CONN * self.plan.conns as u32
    }

    /// Waits until all connections are open. Fails with the first one that cannot be opened.
    async fn wait_until_connected(&mut self, ticks: &mut Interval, view: &mut View) -> Result<(), EndReason> {
        let mut open = 0;
        while open < self.plan.conns {
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                _ = ticks.tick() => match view.show(&RunStatus::Connecting(open)) {
                    true => return Err(EndReason::Interrupted),
                    false => continue,
                },
            };
            match event {
                Some(Event::Connected) => open += 1,
                Some(Event::NotConnected(problem)) => return Err(EndReason::NotStarted(problem)),
                // Does not happen: no worker sends packets before all connections are open.
                Some(Event::Interval { .. }) => {}
                None => {
                    let problem = "a worker thread ended before its connections were open";
                    return Err(EndReason::NotStarted(problem.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Waits until all workers have ended, or until outstanding packets are overdue.
    async fn wait_until_done(
        &mut self,
        schedule: &Schedule,
        ticks: &mut Interval,
        view: &mut View,
    ) -> EndReason {
        let start = Instant::now();
        let stop_at = schedule.stop_at_ns.map(|stop_at_ns| schedule.clock.instant(stop_at_ns));
        let mut timeout = ResponseTimeout::new(self.plan.timeout, stop_at, start);
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => {
                        self.handle_event(event);
                        continue;
                    }
                    None => return EndReason::Done,
                },
                _ = ticks.tick() => {}
            }
            let (now, Progress { sent, answers, is_awaiting_peer }) = (Instant::now(), self.progress());
            let (intervals, failed) = (self.time_series.rows(), self.time_series.failed_conns());
            let running = Running { elapsed: now - start, sent, answers, intervals, failed };
            if view.show(&RunStatus::Running(running)) {
                return EndReason::Interrupted;
            }
            if self.time_series.sinks().have_no_reader() {
                self.time_series.sinks().reader_left = true;
                return EndReason::OutputClosed;
            }
            if timeout.has_expired(answers, is_awaiting_peer, now) {
                return EndReason::TimedOut;
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        if let Event::Interval { worker, published } = event {
            self.time_series.add(worker, *published);
        }
    }

    /// The sum over all workers.
    fn progress(&self) -> Progress {
        self.workers.iter().map(Worker::progress).fold(Progress::default(), |sum, one| Progress {
            sent: sum.sent + one.sent,
            answers: sum.answers + one.answers,
            is_awaiting_peer: sum.is_awaiting_peer || one.is_awaiting_peer,
        })
    }

    fn send_to_workers(&self, command: Command) {
        self.workers.iter().for_each(|worker| worker.send(command));
    }

    fn into_outcome(self, end: End) -> anyhow::Result<(Outcome, Sinks)> {
        let mut tally = Tally::new(self.plan.is_open());
        for worker in self.workers {
            tally.merge(worker.join()?);
        }
        let (interrupted, not_started) = match end.reason {
            EndReason::Done | EndReason::TimedOut => (false, None),
            EndReason::Interrupted | EndReason::OutputClosed => (true, None),
            EndReason::NotStarted(problem) => (false, Some(problem)),
        };
        if let Some(problem) = not_started {
            eprintln!("error: {problem}");
            tally.errors.merge(Errors { connect: 1, first: Some(problem), ..Errors::default() });
        }
        let (measured_from, measured_time, drain_time) =
            end.schedule.map_or((SystemTime::now(), Duration::ZERO, Duration::ZERO), |schedule| {
                let (ended_at_ns, last_answer_ns) = (schedule.clock.ns_of(end.at), tally.last_answer_ns);
                let time = measured_time(&schedule, last_answer_ns, ended_at_ns, interrupted);
                // From the system clock as it is now, so that the end of the window is right.
                let measure_from = schedule.clock.instant(schedule.measure_from_ns);
                let measured_from = SystemTime::now() - measure_from.elapsed();
                (measured_from, time, drain_time(&schedule, last_answer_ns))
            });
        let (recording, intervals, sinks) = self.time_series.finish(measured_time);
        let outcome = Outcome {
            plan: self.plan,
            own_addr: self.own_addr,
            tally,
            recording,
            intervals,
            measured_from,
            measured_time,
            drain_time,
            interrupted,
        };
        Ok((outcome, sinks))
    }
}
