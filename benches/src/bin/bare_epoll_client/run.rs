//! Runs over the same connections: the event loop, and when packets are sent.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mio::{Events, Poll};
use pktconn_benches::load::{LoadReport, NotKeptUp, Schedule};

use crate::{connection::Conn, load::Load, options::Options, transport::tls_config};

/// How long to wait for replies after the last packet.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

pub(crate) struct Run<'a> {
    options: &'a Options,
    poll: Poll,
    events: Events,
    conns: Vec<Conn>,
    /// What the current run has measured.
    load: Load,
    give_up_at: Instant,
}

impl<'a> Run<'a> {
    /// Connects. Connecting is not part of the figures.
    pub(crate) fn connect(options: &'a Options) -> Result<Self> {
        let poll = Poll::new()?;
        let generator = options.generator(options.seed);
        let tls = options.tls_ca.as_deref().map(tls_config).transpose()?;
        let conn = |index| {
            Conn::open(options.connect, tls.as_ref(), poll.registry(), index, generator.trailer_len())
        };
        let conns = (0..options.conns)
            .map(conn)
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("cannot connect to {}", options.connect))?;
        let (events, load, give_up_at) = (Events::with_capacity(1024), Load::new(generator), Instant::now());
        Ok(Self { options, poll, events, conns, load, give_up_at })
    }

    /// Sends for the `--duration`, and reads all replies.
    pub(crate) fn run(&mut self, seed: u64) -> Result<LoadReport> {
        let duration = self.options.duration;
        self.load = Load::new(self.options.generator(seed));
        self.give_up_at = self.load.started + duration + DRAIN_LIMIT;
        match self.options.rate {
            None => self.closed_loop(self.options.pipeline, duration),
            Some(rate_per_s) => self.open_loop(&Schedule::new(rate_per_s, duration)),
        }
    }

    /// Keeps `pipeline` packets outstanding on each connection: each reply is followed by a new packet.
    fn closed_loop(&mut self, pipeline: usize, duration: Duration) -> Result<LoadReport> {
        self.load.refill_until = Some(self.load.started + duration);
        for conn in &mut self.conns {
            self.load.send(conn, pipeline, self.load.started)?;
            conn.watch(self.poll.registry())?;
        }
        while self.load.outstanding > 0 {
            let left = self.give_up_at.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), self.unanswered());
            self.serve_ready(left)?;
        }
        Ok(self.load.report())
    }

    /// Sends each packet when it is due, regardless of replies. Packet `k` goes to connection `k` modulo their number.
    ///
    /// A latency counts from when the packet was due, not from when it was written. So it includes the time that a
    /// packet waits because the server or this client is behind (no coordinated omission).
    ///
    /// This never sleeps: a wake-up would come later than the next packet is due.
    fn open_loop(&mut self, schedule: &Schedule) -> Result<LoadReport> {
        let mut sent = 0;
        while sent < schedule.packets() || self.load.outstanding > 0 {
            sent =
                self.load.send_due(&mut self.conns, schedule, sent, Instant::now(), self.poll.registry())?;
            if Instant::now() >= self.give_up_at {
                let reason = format!("the rate was not reached: {}", self.unanswered());
                return Err(NotKeptUp { reason }.into());
            }
            self.serve_ready(Duration::ZERO)?;
        }
        Ok(self.load.report())
    }

    /// Serves the connections that are ready within `wait`.
    fn serve_ready(&mut self, wait: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &self.events {
            let conn = &mut self.conns[event.token().0];
            self.load
                .serve(conn, event.is_read_closed())
                .and_then(|()| conn.watch(self.poll.registry()))
                .with_context(|| format!("connection {}", event.token().0))?;
        }
        Ok(())
    }

    fn unanswered(&self) -> String {
        format!("{} packets unanswered {DRAIN_LIMIT:?} after the last one", self.load.outstanding)
    }
}
