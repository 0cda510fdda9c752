//! A run: the loop around epoll, and when packets are sent.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mio::{Events, Poll};
use pktconn_benches::{LoadReport, NotKeptUp, Schedule};

use crate::{Options, conn::Conn, load::Load};

/// How long after the last packet replies may still arrive.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

pub(crate) struct Run {
    poll: Poll,
    events: Events,
    conns: Vec<Conn>,
    load: Load,
    give_up_at: Instant,
}

impl Run {
    /// Connects; the clock starts once all connections stand, so that what this costs is not part of the figures.
    pub(crate) fn connect(options: &Options) -> Result<Self> {
        let poll = Poll::new()?;
        let pattern = options.pattern();
        let conns = (0..options.conns)
            .map(|index| Conn::open(options.connect, poll.registry(), index, pattern.trailer_len()))
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("cannot connect to {}", options.connect))?;
        let load = Load::new(pattern);
        let give_up_at = load.started + options.duration + DRAIN_LIMIT;
        Ok(Self { poll, events: Events::with_capacity(1024), conns, load, give_up_at })
    }

    /// Keeps `pipeline` packets outstanding on each connection: a reply is answered by a packet.
    pub(crate) fn closed_loop(mut self, pipeline: usize, duration: Duration) -> Result<LoadReport> {
        self.load.refill_until = Some(self.load.started + duration);
        for conn in &mut self.conns {
            self.load.send(conn, pipeline, self.load.started)?;
            conn.watch(self.poll.registry())?;
        }
        while self.load.outstanding > 0 {
            let left = self.give_up_at.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), self.unanswered());
            self.turn(left)?;
        }
        Ok(self.load.report())
    }

    /// Sends each packet when it is due, whatever was answered until then.
    ///
    /// Never sleeps: a wake-up would come later than the next packet is due.
    pub(crate) fn open_loop(mut self, schedule: &Schedule) -> Result<LoadReport> {
        let mut sent = 0;
        while sent < schedule.packets() || self.load.outstanding > 0 {
            sent =
                self.load.send_due(&mut self.conns, schedule, sent, Instant::now(), self.poll.registry())?;
            if Instant::now() >= self.give_up_at {
                let reason = format!("the rate is not kept up with: {}", self.unanswered());
                return Err(NotKeptUp { reason }.into());
            }
            self.turn(Duration::ZERO)?;
        }
        Ok(self.load.report())
    }

    /// Serves what epoll reports within `wait`.
    fn turn(&mut self, wait: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &self.events {
            let conn = &mut self.conns[event.token().0];
            self.load
                .turn(conn, event.is_read_closed())
                .and_then(|()| conn.watch(self.poll.registry()))
                .with_context(|| format!("connection {}", event.token().0))?;
        }
        Ok(())
    }

    fn unanswered(&self) -> String {
        format!("{} packets unanswered {DRAIN_LIMIT:?} after the last one", self.load.outstanding)
    }
}
