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
use pktconn_tools::printable::{print_error, print_warning};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use crate::judge::abort::AbortWatch;
use crate::load::control::{Command, Progress, StopReason};
use crate::load::target::Targets;
use crate::load::worker::{Event, Worker};
use crate::plan::Plan;
use crate::plan::schedule::Schedule;
use crate::record::saturation::host_watch::{HostUsage, HostWatch};
use crate::record::tally::Tally;
use crate::report::metrics::Metrics;
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
use crate::run::start::{Start, StartCheck};
use crate::run::time_series::{Measured, TimeSeries};
use crate::traffic::payload::PayloadBlock;
use crate::traffic::verify::HISTORY_LEN;

/// How often the conductor updates the view and checks the timeout: often enough for a live view, and too rarely to
/// affect the figures.
const TICK: Duration = Duration::from_millis(100);

/// From `Command::Go` to the first packet, for workers to get ready. Generous, because packets that a worker sends late
/// count as late in the figures.
const START_DELAY: Duration = Duration::from_millis(10);
const START_DELAY_PER_CONN: Duration = Duration::from_micros(10);

/// A run ends early when each connection has failed so often on average without a single answer: a longer run would show
/// nothing else.
const MAX_FAILURES_PER_CONN: u64 = 4;

/// Runs the load. `abort` may end it early.
pub(crate) fn run(plan: Plan, sinks: Sinks, abort: AbortWatch) -> anyhow::Result<(Outcome, Sinks)> {
    open_files::raise_limit(&plan)?;
    let plan = Arc::new(plan);
    // Must live until the end of the run.
    let own_server = match plan.has_own_server() {
        true => Some(OwnServer::start(ConnConfig::new().codec(plan.codec()), plan.server_threads)?),
        false => None,
    };
    let own_addr = own_server.as_ref().map(OwnServer::addr);
    let targets = Arc::new(match own_addr {
        Some(addr) => addr.into(),
        None => Targets::of(&plan)?,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime of the conductor")?;
    let metrics_url = sinks.metrics.as_ref().map(Metrics::url);
    let view = View::open(&plan, own_addr, metrics_url)?;
    let time_series = TimeSeries::new(&plan, sinks, abort);
    let mut conductor = Conductor::start(&plan, &targets, own_addr, time_series)?;
    let end = runtime.block_on(conductor.conduct(view));
    conductor.into_outcome(end)
}

struct Conductor {
    plan: Arc<Plan>,
    targets: Arc<Targets>,
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
    host: HostUsage,
}

enum EndReason {
    /// All workers have ended: their connections are done or have failed.
    Done,
    /// Outstanding packets have not come back within `--timeout`.
    TimedOut,
    /// Connections fail again and again, and none has had a single answer.
    NothingWorks,
    Interrupted,
    /// A condition of `--abort-on`.
    Aborted,
    /// Nobody reads the lines on standard output any more.
    OutputClosed,
    /// A connection could not be opened, or too late for `--start-at`. The text says why and what to do.
    NotStarted(String),
}

impl Conductor {
    fn start(
        plan: &Arc<Plan>,
        targets: &Arc<Targets>,
        own_addr: Option<SocketAddr>,
        time_series: TimeSeries,
    ) -> anyhow::Result<Self> {
        // A block is never freed, so the runs of a search, which have the same sizes, use the same one.
        static BLOCK: OnceLock<PayloadBlock> = OnceLock::new();
        let distinct = plan.most_outstanding() + HISTORY_LEN as usize;
        let block = *BLOCK.get_or_init(|| PayloadBlock::of(plan.sizes.distribution, distinct));
        let (sender, events) = mpsc::unbounded_channel();
        let workers =
            (0..plan.threads).map(|index| Worker::start(index, plan, targets, block, sender.clone()));
        Ok(Self {
            plan: Arc::clone(plan),
            targets: Arc::clone(targets),
            workers: workers.collect::<anyhow::Result<_>>()?,
            own_addr,
            time_series,
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
        let mut host = None;
        let (schedule, reason) = match connected {
            Err(reason) => (None, reason),
            Ok(()) => {
                let start = Instant::now() + self.start_delay();
                let schedule = self.plan.schedule(start);
                self.send_to_workers(Command::Go(schedule));
                host = HostWatch::start(schedule);
                let measure_from = schedule.clock.instant(schedule.measure_from_ns);
                let started = SystemTime::now() + (start - Instant::now());
                let measured_from = started + (measure_from - start);
                self.time_series.begin(&config::config(&self.plan, self.own_addr), started, measured_from);
                let reason = tokio::select! {
                    biased;
                    () = interrupts.next() => EndReason::Interrupted,
                    reason = self.wait_until_done(&schedule, &mut ticks, &mut view) => reason,
                };
                (Some(schedule), reason)
            }
        };
        let at = Instant::now();
        let host = host.map(HostWatch::finish).unwrap_or_default();
        drop(view);
        self.send_to_workers(Command::Stop(match reason {
            EndReason::TimedOut => StopReason::TimedOut,
            EndReason::Done
            | EndReason::NothingWorks
            | EndReason::Interrupted
            | EndReason::OutputClosed
            | EndReason::Aborted
            | EndReason::NotStarted(_) => StopReason::Aborted,
        }));
        // It ends: closing a connection has a timeout.
        while let Some(event) = self.events.recv().await {
            self.handle_event(event);
        }
        End { schedule, at, reason, host }
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
            if self.show(view, &RunStatus::Connecting(self.plan.conns)) {
                return Err(EndReason::Interrupted);
            }
        }
    }

    fn start_delay(&self) -> Duration {
        START_DELAY + START_DELAY_PER_CONN * self.plan.conns as u32
    }

    /// Waits until all connections are open. Fails if one cannot be opened, unless its address is dead and another is not.
    async fn wait_until_connected(&mut self, ticks: &mut Interval, view: &mut View) -> Result<(), EndReason> {
        // In an open loop of connections none is open before the start.
        let conns = if self.plan.conns_per_second.is_some() { 0 } else { self.plan.conns };
        let mut check = StartCheck::new(conns, self.targets.addresses().len());
        loop {
            match check.check() {
                Start::Wait => {}
                Start::Fail(problem) => return Err(EndReason::NotStarted(problem)),
                Start::Go { warnings } => {
                    warnings.iter().for_each(print_warning);
                    return Ok(());
                }
            }
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                _ = ticks.tick() => match self.show(view, &RunStatus::Connecting(check.opened())) {
                    true => return Err(EndReason::Interrupted),
                    false => continue,
                },
            };
            match event {
                Some(Event::Dialed { target, problem }) => check.add(target, problem),
                // Does not happen: no worker sends packets before all connections are open.
                Some(Event::Interval { .. }) => {}
                None => {
                    let problem = "a worker thread ended before its connections were open";
                    return Err(EndReason::NotStarted(problem.to_owned()));
                }
            }
        }
    }

    /// Waits until all workers have ended, a condition of `--abort-on` is met, or outstanding packets are overdue.
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
                        if self.time_series.aborted().is_some() {
                            return EndReason::Aborted;
                        }
                        continue;
                    }
                    None => return EndReason::Done,
                },
                _ = ticks.tick() => {}
            }
            let (now, Progress { sent, answers, is_awaiting_peer, failed: all_failed, open }) =
                (Instant::now(), self.progress());
            let (intervals, failed) = (self.time_series.rows(), self.time_series.failed_conns());
            let running = Running { elapsed: now - start, sent, answers, open, intervals, failed };
            if self.show(view, &RunStatus::Running(running)) {
                return EndReason::Interrupted;
            }
            if self.time_series.sinks().have_no_reader() {
                self.time_series.sinks().reader_left = true;
                return EndReason::OutputClosed;
            }
            if timeout.has_expired(answers, is_awaiting_peer, now) {
                return EndReason::TimedOut;
            }
            if answers == 0 && all_failed >= MAX_FAILURES_PER_CONN * self.plan.conns as u64 {
                return EndReason::NothingWorks;
            }
        }
    }

    /// Shows the status to people and in the metrics. Returns whether a key asks to end the run.
    fn show(&self, view: &mut View, status: &RunStatus<'_>) -> bool {
        self.time_series.show_status(status);
        view.show(status)
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
            failed: sum.failed + one.failed,
            open: sum.open + one.open,
        })
    }

    fn send_to_workers(&self, command: Command) {
        self.workers.iter().for_each(|worker| worker.send(command));
    }

    fn into_outcome(self, end: End) -> anyhow::Result<(Outcome, Sinks)> {
        let mut tally = Tally::new(self.plan.is_open(), self.targets.addresses().len());
        for worker in self.workers {
            tally.merge(worker.join()?);
        }
        let aborted =
            self.time_series.aborted().cloned().filter(|_| matches!(end.reason, EndReason::Aborted));
        if let (EndReason::NothingWorks, Some(first)) = (&end.reason, &tally.errors.first) {
            let failed = tally.errors.count();
            print_error(format_args!(
                "the run was ended early: {failed} connections failed, without a single answer; {first}"
            ));
        }
        let (interrupted, not_started) = match end.reason {
            EndReason::Done | EndReason::TimedOut | EndReason::NothingWorks | EndReason::Aborted => {
                (false, None)
            }
            EndReason::Interrupted | EndReason::OutputClosed => (true, None),
            EndReason::NotStarted(problem) => (false, Some(problem)),
        };
        if let Some(problem) = not_started {
            print_error(&problem);
            tally.errors.merge(Errors { connect: 1, first: Some(problem), ..Errors::default() });
        }
        let (measured_from, measured_time, drain_time) =
            end.schedule.map_or((SystemTime::now(), Duration::ZERO, Duration::ZERO), |schedule| {
                let (ended_at_ns, last_answer_ns) = (schedule.clock.ns_of(end.at), tally.last_answer_ns);
                let time = measured_time(
                    &schedule,
                    tally.last_sent_ns,
                    last_answer_ns,
                    ended_at_ns,
                    interrupted || aborted.is_some(),
                );
                // From the system clock as it is now, so that the end of the window is right.
                let measure_from = schedule.clock.instant(schedule.measure_from_ns);
                let measured_from = SystemTime::now() - measure_from.elapsed();
                (measured_from, time, drain_time(&schedule, last_answer_ns))
            });
        let Measured { total: recording, rows: intervals, stages, sinks } =
            self.time_series.finish(measured_time);
        let outcome = Outcome {
            plan: self.plan,
            own_addr: self.own_addr,
            addresses: self.targets.addresses().map(ToString::to_string).collect(),
            tally,
            host: end.host,
            recording,
            intervals,
            stages,
            measured_from,
            measured_time,
            drain_time,
            interrupted,
            aborted,
        };
        Ok((outcome, sinks))
    }
}
