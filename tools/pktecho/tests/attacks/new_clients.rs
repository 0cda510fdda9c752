//! Clients that connect, echo one packet and close, while the server is attacked.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::limits::{SECOND, time_limit};

/// What became of new clients.
pub(crate) struct Served {
    clients: usize,
    /// How long each served client took from the connect to the reply, the fastest first.
    times: Vec<Duration>,
}

impl Served {
    /// The median time of the served clients.
    pub(crate) fn median(&self) -> Duration {
        self.times.get(self.times.len() / 2).copied().unwrap_or(Duration::MAX)
    }

    /// Asserts that at least `percent` of the clients were served.
    pub(crate) fn assert_served(&self, what: &str, percent: usize) {
        assert!(self.times.len() * 100 >= self.clients * percent, "{what}: {self}");
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let served = self.times.len();
        write!(f, "{served} of {} new clients served", self.clients)?;
        match self.times.last() {
            Some(slowest) => write!(f, ", median {:.1?}, slowest {slowest:.1?}", self.median()),
            None => Ok(()),
        }
    }
}

/// Starts `clients` new clients at even intervals, and waits for all of them. A client is served if it has its reply
/// within 2 s; without `PKTCONN_TIMES=1`, a slow machine gets more time.
pub(crate) fn serve_new_clients(client: &Client, clients: usize, interval: Duration) -> Served {
    let limit = time_limit(2 * SECOND);
    let serve = || {
        let started = Instant::now();
        let mut stream = client.connect(limit).ok()?;
        client.echo(&mut *stream, 1).ok()?;
        Some(started.elapsed()).filter(|time| *time <= limit)
    };
    let started = Instant::now();
    let mut times: Vec<_> = thread::scope(|scope| {
        let mut running = Vec::new();
        for number in 0..clients {
            let due = interval * u32::try_from(number).unwrap();
            thread::sleep(due.saturating_sub(started.elapsed()));
            running.push(scope.spawn(serve));
        }
        running.into_iter().filter_map(|client| client.join().unwrap()).collect()
    });
    times.sort();
    Served { clients, times }
}
