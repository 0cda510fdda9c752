//! When the packets of an open loop are due: a function of time alone, not of the replies.

use std::{error::Error, fmt, time::Duration};

const NS_PER_S: u128 = 1_000_000_000;

/// Packets that are evenly spaced in time. The first one is due at the start.
///
/// ```text
/// rate 4/s for 1 s:   0        1        2        3        |
///                     0 s    0.25 s   0.5 s    0.75 s    1 s
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    rate_per_s: u64,
    packets: u64,
}

impl Schedule {
    /// Schedules `rate_per_s` packets per second for `duration`. No packet is due at its very end.
    pub fn new(rate_per_s: u64, duration: Duration) -> Self {
        Self { rate_per_s, packets: due_before(rate_per_s, duration.as_nanos()) }
    }

    /// Total number of packets.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// How long after the start packet `index`, counted from 0, is due.
    ///
    /// # Panics
    ///
    /// If the rate is 0.
    pub fn due_at(&self, index: u64) -> Duration {
        let ns = u128::from(index) * NS_PER_S / u128::from(self.rate_per_s);
        Duration::new((ns / NS_PER_S) as u64, (ns % NS_PER_S) as u32)
    }

    /// How many packets are due when `elapsed` has passed since the start.
    pub fn due_by(&self, elapsed: Duration) -> u64 {
        due_before(self.rate_per_s, elapsed.as_nanos() + 1).min(self.packets)
    }
}

/// How many packets are due before `limit_ns`.
fn due_before(rate_per_s: u64, limit_ns: u128) -> u64 {
    (limit_ns * u128::from(rate_per_s)).div_ceil(NS_PER_S) as u64
}

/// The server, or the client itself, did not keep up with the rate of an open loop. This is a result, not a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotKeptUp {
    /// How many packets are unanswered, in one line.
    pub reason: String,
}

impl NotKeptUp {
    /// Exit code of the client.
    pub const EXIT_CODE: u8 = 3;
}

impl fmt::Display for NotKeptUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error for NotKeptUp {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_evenly_spaced_from_the_start() {
        let schedule = Schedule::new(4, Duration::from_secs(1));
        let due: Vec<u128> =
            (0..schedule.packets()).map(|index| schedule.due_at(index).as_millis()).collect();
        assert_eq!(due, [0, 250, 500, 750]);
    }

    #[test]
    fn the_packets_are_those_that_are_due_before_the_end() {
        let packets = |rate, ms| Schedule::new(rate, Duration::from_millis(ms)).packets();
        assert_eq!(packets(1000, 3000), 3000);
        assert_eq!(packets(3, 1000), 3);
        assert_eq!(packets(3, 1001), 4);
        assert_eq!(packets(1, 10), 1);
        assert_eq!(packets(5, 0), 0);
    }

    #[test]
    fn a_packet_is_due_at_its_time_and_not_a_nanosecond_before() {
        // At this rate, the interval is not a whole number of nanoseconds.
        let schedule = Schedule::new(700_001, Duration::from_secs(3600));
        for index in [0, 1, 2, 699_999, 700_000, 700_001, 2_520_003_599] {
            let due_at = schedule.due_at(index);
            assert_eq!(schedule.due_by(due_at), index + 1, "packet {index}");
            let before = due_at.checked_sub(Duration::from_nanos(1));
            assert_eq!(before.map_or(0, |before| schedule.due_by(before)), index, "packet {index}");
        }
    }

    #[test]
    fn nothing_is_due_after_the_last_packet() {
        let schedule = Schedule::new(1000, Duration::from_secs(1));
        assert_eq!(schedule.due_by(Duration::from_secs(100)), 1000);
    }
}
