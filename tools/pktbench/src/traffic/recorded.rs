//! The due times of a replay: the times of a capture, divided by the speed.
//!
//! ```text
//!   captured   0 ms    10 ms  12 ms          30 ms
//!   at 2x      0 ms 5 ms 6 ms     15 ms
//! ```

use crate::traffic::arrivals::Arrivals;
use crate::traffic::capture::{Flow, RecordedPacket};

/// The slowest and the fastest `--speed`.
const SPEEDS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

/// What `--replay` sends, for all connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Replay {
    /// The name of the capture.
    pub(crate) file: &'static str,
    /// The port whose data was taken.
    pub(crate) tcp_port: u16,
    pub(crate) speed: f64,
    /// One for each connection.
    pub(crate) flows: &'static [Flow],
    /// The number of flows of which each TCP segment is one packet, because no frames were found in their bytes.
    pub(crate) by_segment: usize,
}

impl Replay {
    /// The number of packets of all connections.
    pub(crate) fn packets(&self) -> u64 {
        self.flows.iter().map(|flow| flow.packets.len() as u64).sum()
    }

    /// When the last packet is due, in ns from the start.
    pub(crate) fn last_due_ns(&self) -> u64 {
        let last =
            self.flows.iter().filter_map(|flow| flow.packets.last()).map(|packet| packet.offset_ns).max();
        due_ns(last.unwrap_or_default(), self.speed)
    }

    /// The due times of a connection.
    pub(crate) fn flow(&self, conn: usize) -> Recorded {
        Recorded { packets: &self.flows[conn].packets, speed: self.speed }
    }
}

/// Parses `2x`, `0.5x` or `2`.
pub(crate) fn parse_speed(text: &str) -> Result<f64, String> {
    let speed = text.strip_suffix('x').unwrap_or(text).parse().ok();
    speed
        .filter(|speed| SPEEDS.contains(speed))
        .ok_or_else(|| "write a factor from 0.000001x to 1000000x, such as 2x or 0.5x".to_owned())
}

fn due_ns(offset_ns: u64, speed: f64) -> u64 {
    // 1 is exact for all times.
    if speed == 1.0 { offset_ns } else { (offset_ns as f64 / speed) as u64 }
}

/// The due times of the packets of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// From the next packet on.
    packets: &'static [RecordedPacket],
    speed: f64,
}

impl Recorded {
    fn due_ns(&self) -> u64 {
        self.packets.first().map_or(u64::MAX, |packet| due_ns(packet.offset_ns, self.speed))
    }

    fn count_until(&self, end_ns: u64) -> u64 {
        self.packets.partition_point(|packet| due_ns(packet.offset_ns, self.speed) < end_ns) as u64
    }
}

/// When the packets of a connection are due in an open loop.
#[derive(Clone, Debug)]
pub(crate) enum DueTimes {
    Computed(Arrivals),
    Recorded(Recorded),
}

impl DueTimes {
    /// The due time of the next packet, in ns from the start. After the last packet of a replay, the end of time.
    pub(crate) fn due_ns(&self) -> u64 {
        match self {
            Self::Computed(arrivals) => arrivals.due_ns(),
            Self::Recorded(recorded) => recorded.due_ns(),
        }
    }

    /// Moves on to the following packet.
    pub(crate) fn advance(&mut self) {
        match self {
            Self::Computed(arrivals) => arrivals.advance(),
            Self::Recorded(recorded) => recorded.packets = recorded.packets.get(1..).unwrap_or_default(),
        }
    }

    /// How many packets are due from the next one until `end_ns`.
    pub(crate) fn count_until(&self, end_ns: u64) -> u64 {
        match self {
            Self::Computed(arrivals) => arrivals.count_until(end_ns),
            Self::Recorded(recorded) => recorded.count_until(end_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_times(offsets_ns: &[u64], speed: f64) -> DueTimes {
        let packets = offsets_ns.iter().map(|&offset_ns| RecordedPacket { offset_ns, len: 1 }).collect();
        let flows = vec![Flow { packets }].leak();
        DueTimes::Recorded(Replay { file: "x", tcp_port: 1, speed, flows, by_segment: 0 }.flow(0))
    }

    #[test]
    fn packets_are_due_at_their_times_divided_by_the_speed() {
        for (speed, expected) in [(1.0, [0, 10, 10, 30]), (2.0, [0, 5, 5, 15]), (0.1, [0, 100, 100, 300])] {
            let mut times = due_times(&[0, 10, 10, 30], speed);
            for (number, due_ns) in expected.into_iter().enumerate() {
                assert_eq!(times.due_ns(), due_ns, "{speed}x");
                let left = expected[number..].iter().filter(|due_ns| **due_ns < expected[3]).count();
                assert_eq!(times.count_until(expected[3]), left as u64, "{speed}x");
                assert_eq!(times.count_until(expected[3] + 1), 4 - number as u64, "{speed}x");
                times.advance();
            }
            times.advance();
            assert_eq!((times.due_ns(), times.count_until(u64::MAX)), (u64::MAX, 0));
        }
    }

    #[test]
    fn times_of_a_long_capture_are_exact_at_normal_speed() {
        assert_eq!(due_times(&[u64::MAX / 3], 1.0).due_ns(), u64::MAX / 3);
    }

    #[test]
    fn a_speed_is_a_factor() {
        for (text, speed) in [("2x", 2.0), ("0.5x", 0.5), ("10", 10.0), ("1e3x", 1000.0)] {
            assert_eq!(parse_speed(text), Ok(speed));
        }
        for text in ["", "x", "0x", "-1x", "infx", "NaN", "2X", "2 x", "1e9x"] {
            assert!(parse_speed(text).unwrap_err().contains("such as 2x"), "{text}");
        }
    }
}
