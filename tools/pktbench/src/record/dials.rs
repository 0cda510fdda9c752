//! How connections were opened: how many, and how long it took.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::plan::clock::whole_ns;
use crate::record::histogram::new_histogram;

/// If connections are the load, the times are those of connections that were due in the window. Otherwise they are those of
/// all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dials {
    /// Connections that were opened, in the whole run.
    pub(crate) opened: u64,
    /// Connections that were closed because they had sent all that they should.
    pub(crate) retired: u64,
    /// Connections that replaced one that had failed or was retired.
    pub(crate) replaced: u64,
    /// Open loop of connections: those that were due in the window and not started.
    pub(crate) missed: u64,
    /// Open loop of connections: those that were due in the window and started.
    pub(crate) started: u64,
    /// The time in the window in which places of `--conns` had no connection, added up.
    pub(crate) down_ns: u64,
    /// From when a connection was due to the established connection, in ns. `None` without one.
    pub(crate) connect: Option<Histogram<u64>>,
    /// The TLS handshakes, in ns. `None` without one.
    pub(crate) handshake: Option<Histogram<u64>>,
    /// The ages of the connections that were not opened: refused, timed out, given up at the end of the run, or missed.
    pub(crate) not_opened: Option<Histogram<u64>>,
}

impl Dials {
    /// Records the times of a connection that was opened.
    pub(crate) fn record(&mut self, connect: Duration, handshake: Option<Duration>) {
        record(&mut self.connect, connect);
        if let Some(handshake) = handshake {
            record(&mut self.handshake, handshake);
        }
    }

    /// Records the age of connections that were not opened.
    pub(crate) fn record_not_opened(&mut self, age: Duration, conns: u64) {
        self.not_opened.get_or_insert_with(new_histogram).saturating_record_n(whole_ns(age), conns);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let Self { opened, retired, replaced, missed, started, down_ns, connect, handshake, not_opened } =
            other;
        self.opened += opened;
        self.retired += retired;
        self.replaced += replaced;
        self.missed += missed;
        self.started += started;
        self.down_ns += down_ns;
        merge(&mut self.connect, connect.as_ref());
        merge(&mut self.handshake, handshake.as_ref());
        merge(&mut self.not_opened, not_opened.as_ref());
    }
}

fn record(histogram: &mut Option<Histogram<u64>>, time: Duration) {
    histogram.get_or_insert_with(new_histogram).saturating_record(whole_ns(time));
}

fn merge(sum: &mut Option<Histogram<u64>>, other: Option<&Histogram<u64>>) {
    if let Some(other) = other {
        *sum.get_or_insert_with(new_histogram) += other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_has_the_counts_and_times_of_both() {
        let mut one = Dials { opened: 1, ..Dials::default() };
        one.record(Duration::from_micros(10), None);
        let mut other = Dials { opened: 2, retired: 1, ..Dials::default() };
        other.record(Duration::from_micros(30), Some(Duration::from_millis(1)));
        other.record_not_opened(Duration::from_secs(1), 1);
        one.merge(&other);
        assert_eq!((one.opened, one.retired), (3, 1));
        let counts =
            [&one.connect, &one.handshake, &one.not_opened].map(|times| times.as_ref().unwrap().len());
        assert_eq!(counts, [2, 1, 1]);
    }
}
