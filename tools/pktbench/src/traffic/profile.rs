//! The course of a rate over time, and how many packets are due by a time: N(t), and its inverse.
//!
//! ```text
//!   rate   __________          /\/\          segments: linear, constant, sine; a rate of 0 is a pause
//!         /          \________/    \
//!   N(t)  grows with the area below the rate; the packet at position p is due when N reaches p
//! ```
//!
//! Positions are packets over all connections, counted from the start of the measurement: those of ramp and warm-up are
//! negative. All connections of a run share one profile.

use std::f64::consts::TAU;

/// The due time of a packet that comes after the end of the profile.
pub(crate) const NEVER_NS: u64 = u64::MAX;

/// A length without an end.
pub(crate) const ENDLESS_NS: u64 = u64::MAX;

const NS_PER_S: f64 = 1e9;

/// Halley's method needs three or four steps. A sine that touches 0 needs more there, where hardly any packets are due.
const MAX_STEPS: usize = 100;

/// After a step of this share of the period, the error is below a millionth of a packet: each step leaves about the cube
/// of the error before.
const CLOSE_ENOUGH: f64 = 1e-6;

/// How the rate changes during a piece of a profile. Rates are in packets per second over all connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Constant(f64),
    Linear {
        from: f64,
        to: f64,
    },
    /// Starts in the middle, and rises first.
    Sine {
        low: f64,
        high: f64,
        period_ns: u64,
    },
}

/// A shape for a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) shape: Shape,
    /// [`ENDLESS_NS`] for no end.
    pub(crate) length_ns: u64,
}

/// The course of the rate of a run.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// In the order of time, without gaps.
    segments: Vec<Segment>,
}

/// A piece at its place in time. Its positions are from `start`, included, to `end`, not included.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    start_ns: u64,
    end_ns: u64,
    start: f64,
    end: f64,
    /// At a constant rate: positions before this one have equal gaps, and are due in this segment even after rounding.
    equal_gaps_until: f64,
    gap_ns: f64,
    curve: Curve,
}

/// A shape. Rates that change are in packets per ns.
#[derive(Clone, Copy, Debug)]
enum Curve {
    /// In packets per second.
    Constant(f64),
    Linear {
        from: f64,
        to: f64,
        length_ns: f64,
    },
    Sine {
        middle: f64,
        amplitude: f64,
        period_ns: f64,
    },
}

impl Shape {
    /// The rate at `ns` of a piece of `length_ns`.
    pub(crate) fn rate_at(self, ns: u64, length_ns: u64) -> f64 {
        match self {
            Self::Constant(rate) => rate,
            Self::Linear { from, to } => from + (to - from) * (ns as f64 / length_ns as f64),
            Self::Sine { low, high, period_ns } => {
                let (middle, amplitude) = (f64::midpoint(low, high), (high - low) / 2.0);
                middle + amplitude * (TAU * (ns % period_ns) as f64 / period_ns as f64).sin()
            }
        }
    }
}

impl Profile {
    /// The pieces before the measurement, and those of the measurement, which starts at position 0. A piece without a
    /// length is left out. At least one must have a length.
    pub(crate) fn new(before: &[Piece], measured: &[Piece]) -> Self {
        let mut profile = Self { segments: Vec::new() };
        let has_length = |piece: &&Piece| piece.length_ns > 0;
        let packets = |piece: &Piece| Curve::of(*piece).packets(piece.length_ns as f64);
        let mut position = -before.iter().filter(has_length).map(packets).sum::<f64>();
        before.iter().filter(has_length).for_each(|piece| profile.push(*piece, &mut position));
        // Exactly 0, whatever was rounded.
        position = 0.0;
        measured.iter().filter(has_length).for_each(|piece| profile.push(*piece, &mut position));
        profile
    }

    fn push(&mut self, piece: Piece, position: &mut f64) {
        let curve = Curve::of(piece);
        let (start_ns, start) = (self.segments.last().map_or(0, |last| last.end_ns), *position);
        if piece.length_ns != ENDLESS_NS {
            *position += curve.packets(piece.length_ns as f64);
        } else {
            *position = f64::INFINITY;
        }
        let (equal_gaps_until, gap_ns) = match curve {
            Curve::Constant(per_s) => (*position - 2.0 * per_s / NS_PER_S, NS_PER_S / per_s),
            _ => (f64::NEG_INFINITY, 0.0),
        };
        let end_ns = start_ns.saturating_add(piece.length_ns);
        let end = *position;
        self.segments.push(Segment { start_ns, end_ns, start, end, equal_gaps_until, gap_ns, curve });
    }

    /// N at the start: minus the packets before the measurement.
    pub(crate) fn first_position(&self) -> f64 {
        self.segments.first().map_or(0.0, |first| first.start)
    }

    /// N(t).
    pub(crate) fn position_at(&self, ns: u64) -> f64 {
        let index = self.segments.partition_point(|segment| segment.end_ns <= ns);
        match self.segments.get(index) {
            Some(segment) => segment.start + segment.curve.packets((ns - segment.start_ns) as f64),
            None => self.segments.last().map_or(0.0, |last| last.end),
        }
    }

    /// How many of the packets at `position`, `position + gap` and so on are due before `end_ns`. Computed without a
    /// loop, because there may be very many.
    pub(crate) fn count_until(&self, position: f64, gap: f64, end_ns: u64) -> u64 {
        let packets = (self.position_at(end_ns) - position) / gap;
        let count = packets.ceil() as u64;
        // It may be wrong by 1, because positions and times are rounded.
        let is_due = |packet: u64| self.due_ns(position + packet as f64 * gap) < end_ns;
        if count > 0 && !is_due(count - 1) {
            count - 1
        } else if is_due(count) {
            count.saturating_add(1)
        } else {
            count
        }
    }

    /// The time at which the packet at `position` is due, or [`NEVER_NS`].
    pub(crate) fn due_ns(&self, position: f64) -> u64 {
        self.locate(position).1
    }

    /// The segment of a position, and its due time. After the end it is the last segment, and [`NEVER_NS`].
    pub(crate) fn locate(&self, position: f64) -> (&Segment, u64) {
        let from = self.segments.partition_point(|segment| segment.end <= position);
        // A packet that is due at the end of a segment after rounding belongs to the next one that is no pause.
        let due = |segment| Segment::due_ns(segment, position).map(|due_ns| (segment, due_ns));
        let found = self.segments[from..].iter().find_map(due);
        found.unwrap_or_else(|| (self.segments.last().expect("a profile has a segment"), NEVER_NS))
    }
}

impl Segment {
    /// The due time of a position that is not before this segment. `None` if it is after it. Called for every packet,
    /// so a constant rate has a short path.
    #[inline]
    pub(crate) fn due_ns(&self, position: f64) -> Option<u64> {
        if position < self.equal_gaps_until {
            return Some(self.after_start_ns((position - self.start) * self.gap_ns));
        }
        self.due_on_curve_ns(position)
    }

    #[inline(never)]
    fn due_on_curve_ns(&self, position: f64) -> Option<u64> {
        // A pause has no positions.
        if position >= self.end {
            return None;
        }
        let due_ns = self.after_start_ns(self.curve.ns(position - self.start));
        (due_ns < self.end_ns).then_some(due_ns)
    }

    /// Rounded to the nearest ns: a packet that is due at the end of the segment must not be due 1 ns before because
    /// of an error in the last digit.
    #[inline]
    fn after_start_ns(&self, ns: f64) -> u64 {
        // The conversion to `i64` is faster than that to `u64`. It saturates after 292 years.
        self.start_ns + (ns + 0.5).max(0.0) as i64 as u64
    }
}

impl Curve {
    fn of(piece: Piece) -> Self {
        match piece.shape {
            Shape::Constant(per_s) => Self::Constant(per_s),
            Shape::Linear { from, to } => {
                Self::Linear { from: from / NS_PER_S, to: to / NS_PER_S, length_ns: piece.length_ns as f64 }
            }
            Shape::Sine { low, high, period_ns } => Self::Sine {
                middle: f64::midpoint(low, high) / NS_PER_S,
                amplitude: (high - low) / 2.0 / NS_PER_S,
                period_ns: period_ns as f64,
            },
        }
    }

    /// The packets in the first `ns`.
    fn packets(self, ns: f64) -> f64 {
        match self {
            // Not by a rate per ns, which is rounded: 6 s at 20,000/s are exactly 120,000 packets.
            Self::Constant(per_s) => ns * per_s / NS_PER_S,
            Self::Linear { from, to, length_ns } => ns * (from + (to - from) * ns / length_ns / 2.0),
            Self::Sine { middle, amplitude, period_ns } => {
                // A whole period has as many packets as its middle rate.
                let angle = TAU * (ns % period_ns) / period_ns;
                middle * ns + amplitude * period_ns / TAU * (1.0 - angle.cos())
            }
        }
    }

    /// The time at which so many packets are reached, which is within the shape. The inverse of
    /// [`packets`](Self::packets).
    fn ns(self, packets: f64) -> f64 {
        match self {
            Self::Constant(per_s) => packets * (NS_PER_S / per_s),
            Self::Linear { from, to, length_ns } => {
                // This form of the root is exact for small differences of the rates, too.
                let root = (from * from + 2.0 * packets * (to - from) / length_ns).max(0.0).sqrt();
                if from + root > 0.0 { 2.0 * packets / (from + root) } else { 0.0 }
            }
            Self::Sine { middle, amplitude, period_ns } => {
                let periods = (packets / (middle * period_ns)).floor();
                let rest = packets - periods * middle * period_ns;
                periods * period_ns + ns_in_period(middle, amplitude, period_ns, rest)
            }
        }
    }
}

/// Halley's method, within bounds that get closer with every step. Where a step leaves the bounds, it is their middle.
fn ns_in_period(middle: f64, amplitude: f64, period_ns: f64, packets: f64) -> f64 {
    let (mut low, mut high) = (0.0, period_ns);
    let mut ns = (packets / middle).clamp(low, high);
    for _ in 0..MAX_STEPS {
        let (sin, cos) = (TAU * ns / period_ns).sin_cos();
        let error = middle * ns + amplitude * period_ns / TAU * (1.0 - cos) - packets;
        *(if error > 0.0 { &mut high } else { &mut low }) = ns;
        let rate = middle + amplitude * sin;
        let newton = error / rate;
        let next = ns - newton / (1.0 - newton * amplitude * TAU / period_ns * cos / (2.0 * rate));
        // Where the rate is 0, the step may be no number.
        let is_within = next >= low && next <= high;
        if is_within && (next - ns).abs() < CLOSE_ENOUGH * period_ns {
            return next;
        }
        ns = if is_within { next } else { f64::midpoint(low, high) };
    }
    ns
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    pub(crate) fn piece(shape: Shape, seconds: f64) -> Piece {
        Piece { shape, length_ns: (seconds * 1e9) as u64 }
    }

    /// A profile that lives as long as the tests.
    pub(crate) fn profile(before: &[Piece], measured: &[Piece]) -> &'static Profile {
        Box::leak(Box::new(Profile::new(before, measured)))
    }

    /// The packets due in each second, of the positions 0, 1, 2, ...
    fn per_second(profile: &Profile, seconds: u64) -> Vec<u64> {
        let mut counts = vec![0; seconds as usize];
        let due = (0..).map(|position| profile.due_ns(f64::from(position)));
        for due_ns in due.take_while(|due_ns| *due_ns < seconds * SECOND_NS) {
            counts[(due_ns / SECOND_NS) as usize] += 1;
        }
        counts
    }

    #[test]
    fn a_constant_rate_has_equal_gaps() {
        let profile = Profile::new(&[], &[piece(Shape::Constant(3.0), 2.0)]);
        let due: Vec<_> = (0..7).map(|position| profile.due_ns(f64::from(position))).collect();
        let thirds = [0, 333_333_333, 666_666_667, 1_000_000_000, 1_333_333_333, 1_666_666_667];
        assert_eq!(due, [&thirds[..], &[NEVER_NS]].concat());
        assert_eq!(profile.position_at(SECOND_NS / 2), 1.5);
        assert_eq!(profile.position_at(5 * SECOND_NS), 6.0, "after the end");
    }

    #[test]
    fn a_ramp_has_the_area_below_its_rate_upwards_and_downwards() {
        let up = Profile::new(&[], &[piece(Shape::Linear { from: 0.0, to: 1000.0 }, 4.0)]);
        assert_eq!(per_second(&up, 4), [125, 375, 625, 875]);
        // Position 500 is reached when t^2 * 125 is 500.
        assert_eq!((up.due_ns(0.0), up.due_ns(500.0)), (0, 2 * SECOND_NS));
        let down = Profile::new(&[], &[piece(Shape::Linear { from: 1000.0, to: 0.0 }, 4.0)]);
        assert_eq!(per_second(&down, 4), [875, 625, 375, 125]);
        let level = Profile::new(&[], &[piece(Shape::Linear { from: 100.0, to: 100.0 }, 4.0)]);
        assert_eq!(per_second(&level, 4), [100; 4]);
    }

    #[test]
    fn a_sine_starts_in_the_middle_and_rises_first() {
        let shape = Shape::Sine { low: 0.0, high: 2000.0, period_ns: 8 * SECOND_NS };
        let profile = Profile::new(&[], &[piece(shape, 16.0)]);
        // 1,000 t + 8,000 / 2 pi (1 - cos(2 pi t / 8)), rounded up.
        let half = [1372.92, 1900.32, 1900.32, 1372.92];
        let mut sum: f64 = 0.0;
        let counts: Vec<u64> = half
            .iter()
            .chain(&half.map(|rise| 2000.0 - rise))
            .cycle()
            .take(16)
            .map(|packets| {
                let before = sum;
                sum += packets;
                // The hand-calculated values have two digits after the point.
                ((sum - 0.05).ceil() - f64::max(before - 0.05, 0.0).ceil()) as u64
            })
            .collect();
        assert_eq!(per_second(&profile, 16), counts);
        assert!((profile.position_at(8 * SECOND_NS) - 8000.0).abs() < 1e-6);
        assert_eq!(shape.rate_at(2 * SECOND_NS, 16 * SECOND_NS), 2000.0);
        assert!(shape.rate_at(14 * SECOND_NS, 16 * SECOND_NS).abs() < 1e-9);
    }

    #[test]
    fn a_spike_starts_to_the_ns_and_a_pause_has_no_packets() {
        let pieces = [
            piece(Shape::Constant(20_000.0), 6.0),
            piece(Shape::Constant(0.0), 10.0),
            piece(Shape::Constant(50_000.0), 1.0),
            piece(Shape::Linear { from: 0.0, to: 0.0 }, 1.0),
            piece(Shape::Constant(7.0), 1.0),
        ];
        let profile = Profile::new(&[], &pieces);
        assert_eq!(profile.due_ns(119_999.0), 6 * SECOND_NS - 50_000);
        assert_eq!(profile.due_ns(120_000.0), 16 * SECOND_NS);
        assert_eq!(profile.due_ns(120_001.0), 16 * SECOND_NS + 20_000);
        assert_eq!(profile.due_ns(170_000.0), 18 * SECOND_NS);
        assert_eq!(profile.due_ns(170_007.0), NEVER_NS);
        let counts = per_second(&profile, 20);
        assert_eq!(counts, [vec![20_000; 6], vec![0; 10], vec![50_000, 0, 7, 0]].concat());
    }

    #[test]
    fn ramp_and_warm_up_have_negative_positions() {
        let before = [piece(Shape::Linear { from: 0.0, to: 10.0 }, 2.0), piece(Shape::Constant(10.0), 1.0)];
        let profile = Profile::new(&before, &[piece(Shape::Constant(10.0), 5.0)]);
        assert_eq!((profile.first_position(), profile.due_ns(-20.0)), (-20.0, 0));
        assert_eq!((profile.due_ns(-10.0), profile.due_ns(0.0)), (2 * SECOND_NS, 3 * SECOND_NS));
        assert_eq!(profile.position_at(3 * SECOND_NS), 0.0);
    }

    #[test]
    fn pieces_without_a_length_and_pauses_before_the_measurement_have_no_packets() {
        let before = [piece(Shape::Linear { from: 0.0, to: 10.0 }, 0.0), piece(Shape::Constant(0.0), 1.0)];
        let profile = Profile::new(&before, &[piece(Shape::Linear { from: 0.0, to: 10.0 }, 2.0)]);
        assert_eq!((profile.first_position(), profile.due_ns(0.0)), (0.0, SECOND_NS));
        assert_eq!((profile.due_ns(10.0), profile.position_at(3 * SECOND_NS)), (NEVER_NS, 10.0));
    }

    #[test]
    fn times_grow_with_positions_and_are_the_inverse_of_the_packets_in_every_shape() {
        let day = 24.0 * 3600.0;
        let sine = |low, high, period_s: u64| Shape::Sine { low, high, period_ns: period_s * SECOND_NS };
        let shapes = [
            Shape::Constant(123_456.789),
            Shape::Linear { from: 0.0, to: 1e6 },
            Shape::Linear { from: 1e6, to: 0.0 },
            Shape::Linear { from: 5e5, to: 5e5 + 1e-6 },
            sine(5e3, 15e3, 60),
            sine(0.0, 1e6, 7),
            sine(0.0, 3e4, 86_400),
            sine(99_999.0, 100_000.0, 1),
        ];
        for shape in shapes {
            let profile = Profile::new(&[], &[piece(shape, day)]);
            let total = profile.position_at(day as u64 * SECOND_NS);
            let mut before = 0;
            for step in 0..20_000_u64 {
                // Steps of different sizes, and neighbours.
                let position = (total * (step / 2) as f64 / 10_000.0).floor() + (step % 2) as f64;
                let due_ns = profile.due_ns(position);
                assert!(due_ns >= before, "{shape:?}: {position} is due at {due_ns}, before {before}");
                before = due_ns;
                // Half a ns, and the precision of a number of this size.
                let error = (profile.position_at(due_ns) - position).abs();
                assert!(due_ns == NEVER_NS || error < 1e-3 + total * 1e-15, "{shape:?}: {position}: {error}");
            }
        }
    }

    #[test]
    fn a_long_list_of_segments_is_one_curve() {
        let steps: Vec<_> = (1..=500).map(|rate| piece(Shape::Constant(f64::from(rate)), 0.5)).collect();
        let profile = Profile::new(&[], &steps);
        let total = 500.0 * 501.0 / 4.0;
        assert_eq!(profile.position_at(250 * SECOND_NS), total);
        let mut last = 0;
        for position in 0..total as u64 {
            let due_ns = profile.due_ns(position as f64);
            assert!(due_ns >= last);
            last = due_ns;
        }
    }
}
