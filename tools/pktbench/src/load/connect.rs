//! Opens the connections of a worker before its load starts, and waits for the start.
//!
//! ```text
//!   dial, at most 32 at a time or at --connect-rate --> all opened or refused --> wait for Go
//! ```

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use tokio::sync::watch;

use crate::load::control::Command;
use crate::load::dialer::{Dialed, Dialer, Opened, Refused};
use crate::plan::schedule::Schedule;

/// Concurrent connection attempts of a worker without `--connect-rate`: enough to hide the round-trip time of a distant
/// server, and few compared with the backlog of a listener even with many workers.
const MAX_CONCURRENT: usize = 32;

/// How often what no event announces is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(1);

/// The connections of a worker before the start.
pub(crate) struct Connected {
    pub(crate) schedule: Schedule,
    /// For each slot of the worker: its connection, or why it has none.
    pub(crate) slots: Vec<Dialed>,
}

/// Opens one connection for each slot. Slot `n` has the token `n` and the connection `conns[n]`, which with a `rate` is
/// started `conns[n] / rate` seconds after the call. Calls `ended` after each. Returns when the load starts, or `None` if it
/// does not.
pub(crate) fn connect(
    poll: &mut Poll,
    command: &watch::Receiver<Command>,
    dialer: &mut Dialer,
    conns: &[usize],
    rate: Option<f64>,
    mut ended: impl FnMut(&Dialed),
) -> io::Result<Option<Connected>> {
    let mut slots: Vec<Option<Dialed>> = conns.iter().map(|_| None).collect();
    let (mut left, mut next) = (conns.len(), 0);
    let mut events = Events::with_capacity(1024);
    let start = Instant::now();
    let due =
        |slot: usize| rate.map_or(start, |rate| start + Duration::from_secs_f64(conns[slot] as f64 / rate));
    loop {
        match *command.borrow() {
            Command::Connect => {}
            Command::Go(schedule) => {
                let slots = slots.into_iter().flatten().collect();
                return Ok(Some(Connected { schedule, slots }));
            }
            Command::Stop(_) => return Ok(None),
        }
        let mut done = Vec::new();
        while next < conns.len() && (rate.is_some() || dialer.len() < MAX_CONCURRENT) {
            let due = due(next);
            if due > Instant::now() {
                break;
            }
            // Before the load, the time in which the load generator itself is late is not part of the times.
            let dialed = dialer.start(poll.registry(), next, conns[next], Instant::now());
            done.extend(dialed.map(|dialed| (next, dialed)));
            next += 1;
        }
        let wait = match left > done.len() {
            true => Some(SWEEP_INTERVAL),
            // The waker ends the wait for the command.
            false => None,
        };
        // A command that came before is not missed: the waker has made an event for it.
        match poll.poll(&mut events, if done.is_empty() { wait } else { Some(Duration::ZERO) }) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            polled => polled?,
        }
        for event in &events {
            let Token(token) = event.token();
            done.extend(dialer.drive(poll.registry(), token).map(|dialed| (token, dialed)));
        }
        done.extend(dialer.sweep(poll.registry(), Instant::now()));
        for (slot, dialed) in done {
            left -= 1;
            ended(&dialed);
            slots[slot] = Some(dialed);
        }
    }
}

/// What the conductor is told of a connection: the index of its address, and the problem.
pub(crate) fn problem(dialed: &Dialed) -> (usize, Option<String>) {
    match dialed {
        Ok(Opened { target, .. }) => (*target, None),
        Err(Refused { target, problem, .. }) => (*target, Some(problem.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::control::StopReason;
    use crate::load::event_loop::WAKER;
    use crate::load::target::Targets;
    use mio::Waker;
    use std::net::TcpListener;
    use std::sync::Arc;

    /// Opens these connections, and stops. Returns when each one was open.
    fn opened(conns: &[usize], rate: Option<f64>) -> Vec<Duration> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let targets: Targets = listener.local_addr().unwrap().into();
        let mut dialer = Dialer::new(Arc::new(targets), Vec::new(), Duration::from_secs(10));
        let mut poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), WAKER).unwrap();
        let (sender, command) = watch::channel(Command::Connect);
        let (start, mut times) = (Instant::now(), Vec::new());
        let connected = connect(&mut poll, &command, &mut dialer, conns, rate, |dialed| {
            assert!(dialed.is_ok());
            times.push(start.elapsed());
            if times.len() == conns.len() {
                sender.send_replace(Command::Stop(StopReason::Aborted));
                waker.wake().unwrap();
            }
        });
        assert!(connected.unwrap().is_none(), "the load does not start");
        times
    }

    #[test]
    fn all_connections_are_opened() {
        assert_eq!(opened(&[0; 100], None).len(), 100);
    }

    #[test]
    fn with_a_rate_no_connection_starts_before_its_time() {
        // The connections of the second worker of two.
        let times = opened(&[1, 3, 5], Some(100.0));
        let due = [10, 30, 50].map(Duration::from_millis);
        assert!(times.iter().zip(due).all(|(time, due)| *time >= due), "{times:?}");
    }
}
