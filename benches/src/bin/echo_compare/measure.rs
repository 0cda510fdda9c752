//! The rounds: the servers run in turn, and their CPU time and memory are read.

use std::{
    env,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use pktconn_benches::{
    load::{LoadReport, NotKeptUp},
    plan::{
        ServerSpec, SizeRange, Workload, WorkloadKind, checked_servers, program_beside, standard_servers,
    },
    report::median,
    system::{
        CpuTime, HeldClient, Pinning, ServerProcess, clock_ticks_per_s, core_busy_ticks, peak_rss_bytes,
    },
};

use crate::certificate::Certificate;
use crate::options::Options;
use crate::results::{HalfRateRound, Round, ServerResult, WorkloadResult};

/// The least time of unmeasured rounds. Long enough for a server to grow its buffers and for the core's clock speed to rise.
const WARM_UP: Duration = Duration::from_millis(500);

/// Time for a server to sleep again after the last reply.
const SETTLE: Duration = Duration::from_millis(5);

/// Time for a server to close the client's short connections, so that this CPU time counts for the round that caused it.
const SETTLE_SHORT: Duration = Duration::from_millis(200);

/// How the client sends.
#[derive(Clone, Copy, PartialEq)]
enum Sending {
    /// One packet per reply.
    ClosedLoop,
    /// `rate_per_s` packets per second, regardless of replies.
    OpenLoop { rate_per_s: u64 },
}

pub(crate) struct Setup<'a> {
    options: &'a Options,
    executable: PathBuf,
    pinning: Pinning,
    client: String,
    certificate: Certificate,
}

impl<'a> Setup<'a> {
    pub(crate) fn new(options: &'a Options) -> Result<Self> {
        let pinning = Pinning { server_core: options.server_core, client_core: options.client_core };
        pinning.check()?;
        let executable = env::current_exe()?;
        let client = program_beside(&executable, "bare_epoll_client")?;
        let client = client
            .into_os_string()
            .into_string()
            .ok()
            .context("the path of the client is not valid UTF-8")?;
        Ok(Self { options, executable, pinning, client, certificate: Certificate::new()? })
    }

    fn servers(&self, kind: WorkloadKind) -> Result<Vec<ServerSpec>> {
        match self.options.servers.as_slice() {
            [] if self.options.check => checked_servers(&self.executable, kind),
            [] => standard_servers(&self.executable, kind),
            servers => Ok(servers.to_vec()),
        }
    }

    /// Runs all rounds of all servers with one workload. Each server is started once per workload, so that its peak
    /// memory is that of the workload.
    pub(crate) fn measure(&self, workload: Workload) -> Result<WorkloadResult> {
        let mut contenders = Vec::new();
        for spec in self.servers(workload.kind)? {
            let spec = spec.with_certificate(&self.certificate.cert, &self.certificate.key);
            contenders.push(Contender::start(&spec, self.pinning)?);
        }
        let warm_up = WARM_UP.div_duration_f64(self.options.duration).ceil() as u32;
        for contender in &mut contenders {
            for _ in 0..warm_up {
                self.run_client(contender, workload, Sending::ClosedLoop, self.options.seed)?;
            }
        }
        for round in 0..self.options.rounds {
            let mut first = None;
            for contender in &mut contenders {
                let measured = self.round(contender, workload, Sending::ClosedLoop, round, first.as_ref())?;
                first.get_or_insert_with(|| measured.clone());
                contender.rounds.push(measured);
            }
        }
        // The open loop is for connections that stay open.
        let half_rate_per_s = match self.options.half_rate && workload.kind != WorkloadKind::Short {
            true => Some(self.measure_half_rate(&mut contenders, workload)?),
            false => None,
        };
        let servers = contenders.into_iter().map(Contender::finish).collect::<Result<_>>()?;
        Ok(WorkloadResult { workload, sizes: self.sizes(workload), half_rate_per_s, servers })
    }

    /// Runs as many rounds at half the rate of the first server, and returns that rate.
    fn measure_half_rate(&self, contenders: &mut [Contender], workload: Workload) -> Result<u64> {
        let packets_per_s = contenders[0].rounds.iter().map(|round| round.load.packets_per_s);
        let half = median(packets_per_s).context("no round was measured")? / 2.0;
        let rate_per_s = (half.round() as u64).max(1);
        for round in 0..self.options.rounds {
            let mut first = None;
            for contender in &mut *contenders {
                let sending = Sending::OpenLoop { rate_per_s };
                let measured = match self.round(contender, workload, sending, round, first.as_ref()) {
                    Err(error) if error.is::<NotKeptUp>() => {
                        eprintln!("{error:#}");
                        None
                    }
                    measured => Some(measured?),
                };
                // Undisturbed, the first server handles twice the rate. Without it, the round has nothing to compare
                // with.
                if measured.is_none() && first.is_none() {
                    break;
                }
                first = first.or_else(|| measured.clone());
                contender.half_rate_rounds.push(HalfRateRound::new(measured, rate_per_s));
            }
        }
        Ok(rate_per_s)
    }

    fn sizes(&self, workload: Workload) -> SizeRange {
        workload.regime.sizes.unwrap_or(self.options.sizes)
    }

    fn round(
        &self,
        contender: &mut Contender,
        workload: Workload,
        sending: Sending,
        round: u32,
        first: Option<&Round>,
    ) -> Result<Round> {
        let (pid, core) = (contender.process.pid(), self.pinning.server_core);
        let seed = self.options.seed.wrapping_add(u64::from(round));
        self.hold_client(contender, workload, sending)?;
        let (started, cpu_before, busy_before) = (Instant::now(), CpuTime::of(pid)?, core_busy_ticks(core)?);
        let load = self.run_client(contender, workload, sending, seed)?;
        let cpu_ns = CpuTime::of(pid)?.ns_since(&cpu_before);
        let (busy_ticks, wall_ns) = (core_busy_ticks(core)? - busy_before, started.elapsed().as_nanos());
        // The ticks may be one too many.
        let busy_ns = busy_ticks.saturating_sub(1) * 1_000_000_000 / clock_ticks_per_s();
        let foreign_share = busy_ns.saturating_sub(cpu_ns) as f64 / wall_ns as f64;
        let cpu_ns_per_packet = cpu_ns as f64 / load.packets as f64;
        let measured = Round { cpu_ns, cpu_ns_per_packet, ratio: 1.0, p99_ratio: 1.0, foreign_share, load }
            .with_ratios_to(first);
        self.print_round(&contender.spec.name, workload, sending, round, &measured);
        Ok(measured)
    }

    /// Connects the client of a server, unless it is connected and sends in this way.
    fn hold_client(&self, contender: &mut Contender, workload: Workload, sending: Sending) -> Result<()> {
        if contender.client.as_ref().is_some_and(|(known, _)| *known == sending) {
            return Ok(());
        }
        contender.client = None;
        let arguments = [
            ("--connect", contender.process.address().to_string()),
            ("--conns", workload.regime.conns.to_string()),
            ("--duration", format!("{}ns", self.options.duration.as_nanos())),
            ("--sizes", self.sizes(workload).to_string()),
        ];
        let mut arguments: Vec<_> =
            arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        arguments.push("--hold".to_owned());
        match (workload.kind, sending) {
            (WorkloadKind::Short, _) => arguments.push("--short".to_owned()),
            (_, Sending::ClosedLoop) => {
                arguments.extend(["--pipeline".to_owned(), workload.regime.pipeline.to_string()]);
            }
            (_, Sending::OpenLoop { rate_per_s }) => {
                arguments.extend(["--rate".to_owned(), rate_per_s.to_string()]);
            }
        }
        if workload.kind == WorkloadKind::Tls {
            arguments.extend(["--tls-ca".to_owned(), self.certificate.cert.clone()]);
        }
        if contender.spec.has_checksum() {
            arguments.push("--crc".to_owned());
        }
        let client = self.pinning.hold_client(&self.client, &arguments);
        let client = client.or_else(|error| contender.explain(error, workload))?;
        contender.client = Some((sending, client));
        Ok(())
    }

    /// Lets the client of a server send for the duration of a round.
    fn run_client(
        &self,
        contender: &mut Contender,
        workload: Workload,
        sending: Sending,
        seed: u64,
    ) -> Result<LoadReport> {
        self.hold_client(contender, workload, sending)?;
        let (_, mut client) = contender.client.take().context("no client is connected")?;
        let report = client.run(seed).or_else(|error| contender.explain(error, workload))?;
        contender.client = Some((sending, client));
        thread::sleep(if workload.kind == WorkloadKind::Short { SETTLE_SHORT } else { SETTLE });
        contender.process.check_alive()?;
        let name = &contender.spec.name;
        serde_json::from_str(&report).with_context(|| format!("the client printed no report for {name:?}"))
    }

    fn print_round(&self, name: &str, workload: Workload, sending: Sending, round: u32, measured: &Round) {
        let (round, rounds) = (round + 1, self.options.rounds);
        let half_rate = match sending {
            Sending::ClosedLoop => String::new(),
            Sending::OpenLoop { rate_per_s } => format!(" at {rate_per_s}/s"),
        };
        let (cpu_ns, ratio) = (measured.cpu_ns_per_packet, measured.ratio);
        let (p99_us, p99_ratio) = (measured.load.p99_ns as f64 / 1e3, measured.p99_ratio);
        eprintln!(
            "{workload}{half_rate} round {round}/{rounds} {name}: {cpu_ns:.0} ns/packet, ratio {ratio:.3}; \
             p99 {p99_us:.0} us, {p99_ratio:.3}"
        );
    }
}

/// A running server, its client, and its results so far.
struct Contender {
    spec: ServerSpec,
    process: ServerProcess,
    /// How the client sends. `None` if none is connected.
    client: Option<(Sending, HeldClient)>,
    rounds: Vec<Round>,
    half_rate_rounds: Vec<HalfRateRound>,
}

impl Contender {
    fn start(spec: &ServerSpec, pinning: Pinning) -> Result<Self> {
        let process = ServerProcess::start(spec, pinning)?;
        let (rounds, half_rate_rounds) = (Vec::new(), Vec::new());
        Ok(Self { spec: spec.clone(), process, client: None, rounds, half_rate_rounds })
    }

    /// Explains an error of the client: a server that died explains every one.
    fn explain<T>(&mut self, error: anyhow::Error, workload: Workload) -> Result<T> {
        self.process.check_alive()?;
        let name = &self.spec.name;
        Err(error.context(format!("server {name:?} with workload {workload}")))
    }

    fn finish(self) -> Result<ServerResult> {
        let peak_rss_bytes = peak_rss_bytes(self.process.pid())?;
        let ServerSpec { name, command } = self.spec;
        let (rounds, half_rate_rounds) = (self.rounds, self.half_rate_rounds);
        Ok(ServerResult { name, command, peak_rss_bytes, rounds, half_rate_rounds })
    }
}
