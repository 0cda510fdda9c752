//! The conductor: has the workers connect, starts them together, and ends the run.
//!
//! ```text
//!   connect --all are there--> go --all done, or interrupted, or out of patience--> stop --> sum
//!      '-- one cannot be made, or interrupted ------------------------------------^
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
use crate::load::control::{Control, Counts, Stop};
use crate::load::worker::{Event, Worker};
use crate::plan::Plan;
use crate::plan::schedule::Schedule;
use crate::record::tally::Tally;
use crate::report::output::Sinks;
use crate::report::status::{RunStatus, Running};
use crate::report::view::View;
use crate::result::config;
use crate::result::document::Errors;
use crate::run::files;
use crate::run::interrupt::Interrupts;
use crate::run::outcome::{Outcome, measured_time};
use crate::run::over_time::OverTime;
use crate::run::patience::Patience;
use crate::run::server::OwnServer;
use crate::traffic::payload::PayloadBlock;
use crate::traffic::verify::HISTORY_LEN;

/// How often the conductor looks up: often enough for a view that moves, and too rarely to be seen in the figures.
const TICK: Duration = Duration::from_millis(100);

/// What workers take from the word to go to the first packet: generous, as what is late is late in the figures.
const SET_UP: Duration = Duration::from_millis(10);
const SET_UP_A_CONN: Duration = Duration::from_micros(10);

pub(crate) fn run(plan: Plan, sinks: Sinks) -> anyhow::Result<(Outcome, Sinks)> {
    files::make_room(&plan)?;
    let plan = Arc::new(plan);
    // Kept to the end of the run.
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
    let ran = runtime.block_on(conductor.conduct(view));
    conductor.sum(ran)
}

struct Conductor {
    plan: Arc<Plan>,
    own_addr: Option<SocketAddr>,
    workers: Vec<Worker>,
    over_time: OverTime,
    /// Ends when all workers have.
    events: mpsc::UnboundedReceiver<Event>,
}

/// What happened to the run as a whole.
struct Ran {
    /// `None` where it did not begin.
    schedule: Option<Schedule>,
    ended_at: Instant,
    end: End,
}

enum End {
    /// All workers have ended: their connections are done or have failed.
    Done,
    /// What is outstanding has not come back in time.
    GaveUp,
    Interrupted,
    NotConnected(String),
}

impl Conductor {
    fn start(
        plan: &Arc<Plan>,
        targets: &Arc<[Target]>,
        own_addr: Option<SocketAddr>,
        sinks: Sinks,
    ) -> anyhow::Result<Self> {
        // A search has several runs of the same sizes, and a block is never freed.
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
            over_time: OverTime::new(plan, sinks),
            events,
        })
    }

    async fn conduct(&mut self, mut view: View) -> Ran {
        let mut interrupts = Interrupts::listen();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let connected = tokio::select! {
            biased;
            () = interrupts.next() => Err(End::Interrupted),
            connected = self.all_ready(&mut ticks, &mut view) => connected,
        };
        let (schedule, end) = match connected {
            Err(end) => (None, end),
            Ok(()) => {
                let start = Instant::now() + self.set_up();
                let schedule = self.plan.schedule(start);
                self.control(Control::Go(schedule));
                let measure_from = schedule.clock.instant(schedule.measure_from_ns);
                let since = SystemTime::now() + (measure_from - Instant::now());
                self.over_time.begin(&config::config(&self.plan, self.own_addr), since);
                let end = tokio::select! {
                    biased;
                    () = interrupts.next() => End::Interrupted,
                    end = self.watch(&schedule, &mut ticks, &mut view) => end,
                };
                (Some(schedule), end)
            }
        };
        let ended_at = Instant::now();
        drop(view);
        let waited = matches!(end, End::GaveUp);
        self.control(Control::Stop(if waited { Stop::GaveUp } else { Stop::Interrupted }));
        // Each connection takes its close timeout at most.
        while let Some(event) = self.events.recv().await {
            self.take(event);
        }
        Ran { schedule, ended_at, end }
    }

    /// Waits until all connections are made and it is time to start.
    async fn all_ready(&mut self, ticks: &mut Interval, view: &mut View) -> Result<(), End> {
        self.all_connected(ticks, view).await?;
        let Some(start_at) = self.plan.start_at else { return Ok(()) };
        let left = start_at.duration_since(SystemTime::now() + self.set_up()).map_err(|late| {
            let late = Duration::from_millis(late.duration().as_millis() as u64);
            let late = humantime::format_duration(late);
            End::NotConnected(format!("the connections were made {late} after --start-at; give it more time"))
        })?;
        let mut started = pin!(tokio::time::sleep(left));
        loop {
            tokio::select! {
                biased;
                () = &mut started => return Ok(()),
                _ = ticks.tick() => {}
            }
            if view.show(&RunStatus::Connecting(self.plan.conns)) {
                return Err(End::Interrupted);
            }
        }
    }

    fn set_up(&self) -> Duration {
        SET_UP + SET_UP_A_CONN * self.plan.conns as u32
    }

    /// Waits until all connections are made, or the first one cannot be, and says why.
    async fn all_connected(&mut self, ticks: &mut Interval, view: &mut View) -> Result<(), End> {
        let mut made = 0;
        while made < self.plan.conns {
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                _ = ticks.tick() => match view.show(&RunStatus::Connecting(made)) {
                    true => return Err(End::Interrupted),
                    false => continue,
                },
            };
            match event {
                Some(Event::Connected) => made += 1,
                Some(Event::NotConnected(problem)) => return Err(End::NotConnected(problem)),
                // None works before all have been made.
                Some(Event::Interval { .. }) => {}
                None => {
                    let problem = "a worker ended before its connections were made";
                    return Err(End::NotConnected(problem.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Waits until all workers have ended, or it is of no use to wait any longer.
    async fn watch(&mut self, schedule: &Schedule, ticks: &mut Interval, view: &mut View) -> End {
        let start = Instant::now();
        let stop_at = schedule.stop_at_ns.map(|stop_at_ns| schedule.clock.instant(stop_at_ns));
        let mut patience = Patience::new(self.plan.timeout, stop_at, start);
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => {
                        self.take(event);
                        continue;
                    }
                    None => return End::Done,
                },
                _ = ticks.tick() => {}
            }
            let (now, Counts { sent, answers, has_outstanding }) = (Instant::now(), self.counts());
            let (intervals, failed) = (self.over_time.so_far(), self.over_time.failed());
            let running = Running { elapsed: now - start, sent, answers, intervals, failed };
            if view.show(&RunStatus::Running(running)) {
                return End::Interrupted;
            }
            if patience.is_over(answers, has_outstanding, now) {
                return End::GaveUp;
            }
        }
    }

    fn take(&mut self, event: Event) {
        if let Event::Interval { worker, published } = event {
            self.over_time.add(worker, *published);
        }
    }

    fn counts(&self) -> Counts {
        self.workers.iter().map(Worker::counts).fold(Counts::default(), |sum, one| Counts {
            sent: sum.sent + one.sent,
            answers: sum.answers + one.answers,
            has_outstanding: sum.has_outstanding || one.has_outstanding,
        })
    }

    fn control(&self, control: Control) {
        self.workers.iter().for_each(|worker| worker.control(control));
    }

    fn sum(self, ran: Ran) -> anyhow::Result<(Outcome, Sinks)> {
        let mut tally = Tally::new(self.plan.is_open());
        for worker in self.workers {
            tally.merge(worker.join()?);
        }
        let (interrupted, not_connected) = match ran.end {
            End::Done | End::GaveUp => (false, None),
            End::Interrupted => (true, None),
            End::NotConnected(problem) => (false, Some(problem)),
        };
        if let Some(problem) = not_connected {
            eprintln!("error: {problem}");
            tally.errors.merge(Errors { connect: 1, first: Some(problem), ..Errors::default() });
        }
        let (since, time) = ran.schedule.map_or((SystemTime::now(), Duration::ZERO), |schedule| {
            let ended_at_ns = schedule.clock.ns_of(ran.ended_at);
            let time = measured_time(&schedule, tally.last_answer_ns, ended_at_ns, interrupted);
            // By the clock as it stands now, so that the end of the window is right.
            let measure_from = schedule.clock.instant(schedule.measure_from_ns);
            (SystemTime::now() - measure_from.elapsed(), time)
        });
        let (recording, intervals, sinks) = self.over_time.end(time);
        let outcome = Outcome {
            plan: self.plan,
            own_addr: self.own_addr,
            tally,
            recording,
            intervals,
            since,
            time,
            interrupted,
        };
        Ok((outcome, sinks))
    }
}
