//! An axis of a chart: maps values to positions and chooses the ticks. Ends and ticks are round numbers, and there are
//! only as many ticks as can be read.

use crate::result::units;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    is_log: bool,
    from: f64,
    to: f64,
    pub(super) ticks: Vec<(f64, String)>,
}

/// The smallest ratio of the largest to the smallest value for a logarithmic axis. Below it, a linear axis shows all
/// values well.
const MIN_LOG_RATIO: f64 = 12.0;

/// More labels would overlap.
const MAX_TICKS: f64 = 7.0;

impl Scale {
    /// From 0 to `max`, rounded up to a round number.
    pub(super) fn linear(max: f64, label: fn(f64) -> String) -> Self {
        let max = positive(max);
        let step = step(max);
        Self { to: (max / step).ceil() * step, ..Self::up_to(max, label) }.with_steps(step, label)
    }

    /// From 0 to exactly `max`.
    pub(super) fn up_to(max: f64, label: fn(f64) -> String) -> Self {
        let max = positive(max);
        Self { is_log: false, from: 0.0, to: max, ticks: Vec::new() }.with_steps(step(max), label)
    }

    /// Linear from 0, or logarithmic if the values are far apart.
    pub(super) fn fitting(values: impl Iterator<Item = f64> + Clone, label: fn(f64) -> String) -> Self {
        let max = values.clone().fold(1.0, f64::max);
        let min = values.fold(max, f64::min).max(1.0);
        if max / min < MIN_LOG_RATIO { Self::linear(max, label) } else { Self::log(min, max, label) }
    }

    fn log(min: f64, max: f64, label: fn(f64) -> String) -> Self {
        let (first, last) = (min.log10().floor() as i32, max.log10().ceil() as i32);
        let round = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
        let from = round.clone().filter(|value| *value <= min).fold(10_f64.powi(first), f64::max);
        let to = round.clone().filter(|value| *value >= max).fold(f64::INFINITY, f64::min);
        let within = |value: &f64| (from..=to).contains(value);
        let every = ((f64::from(last - first) / MAX_TICKS).ceil() as i32).max(1);
        let powers = (first..=last).step_by(every as usize).map(|power| 10_f64.powi(power));
        let ticks: Vec<f64> = match round.clone().filter(within).count() {
            count if count as f64 <= MAX_TICKS => round.filter(within).collect(),
            _ => powers.filter(within).collect(),
        };
        let ticks = ticks.into_iter().map(|value| (value, label(value))).collect();
        Self { is_log: true, from, to, ticks }
    }

    /// For values of `1 / (1 - quantile)`, up to the slowest of `samples`. The labels of 1, 10, 100 are p0, p90, p99.
    pub(super) fn percentiles(samples: f64) -> Self {
        let to = samples.max(10.0);
        let tails = (0..=to.log10() as i32).map(|nines| (10_f64.powi(nines), percentile_name(nines)));
        Self { is_log: true, from: 1.0, to, ticks: tails.collect() }
    }

    /// One category for each name, at the values 0, 1, 2 and so on.
    pub(super) fn categories(names: Vec<String>) -> Self {
        let to = names.len() as f64 - 0.5;
        let ticks = names.into_iter().enumerate().map(|(place, name)| (place as f64, name));
        Self { is_log: false, from: -0.5, to, ticks: ticks.collect() }
    }

    /// The position of `value` on the axis, from 0 to 1.
    pub(super) fn at(&self, value: f64) -> f64 {
        let of = |value: f64| if self.is_log { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let (from, to) = (of(self.from), of(self.to));
        ((of(value) - from) / (to - from)).clamp(0.0, 1.0)
    }

    fn with_steps(self, step: f64, label: fn(f64) -> String) -> Self {
        // 1e-9: rounding must not drop the tick at the end.
        let last = (self.to / step + 1e-9).floor() as usize;
        let ticks = (0..=last).map(|index| index as f64 * step).map(|value| (value, label(value)));
        Self { ticks: ticks.collect(), ..self }
    }
}

/// `max`, or 1 if an axis cannot have that length.
fn positive(max: f64) -> f64 {
    // A step of a smaller length would be rounded to 0.
    if max > 1e-300 && max < f64::MAX / 10.0 { max } else { 1.0 }
}

/// The distance between two ticks: the largest of 1, 2 or 5 times a power of ten that fits into `max` 4 to 10 times.
fn step(max: f64) -> f64 {
    let rough = max / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let digit = [5.0, 2.0, 1.0].into_iter().find(|digit| digit * power <= rough);
    digit.unwrap_or(1.0) * power
}

/// `p0`, `p90`, `p99`, `p99.9` for 0, 1, 2, 3 nines.
fn percentile_name(nines: i32) -> String {
    match nines {
        0 => "p0".to_owned(),
        1 | 2 => format!("p{}", "9".repeat(nines as usize) + if nines == 1 { "0" } else { "" }),
        _ => format!("p99.{}", "9".repeat(nines as usize - 2)),
    }
}

/// `500 µs`, `1 ms`, `2.5 s`: a time without trailing zeros.
pub(super) fn time(ns: f64) -> String {
    let text = units::time(ns);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// `0.5`, `20`, `9,500`, `150k`, `1.2M`.
pub(super) fn count(count: f64) -> String {
    match count {
        1e6.. => format!("{}M", (count / 1e5).round() / 10.0),
        1e4.. => format!("{}k", (count / 1e2).round() / 10.0),
        1e3.. => units::count(count as u64),
        _ => ((count * 1e6).round() / 1e6).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn values_close_to_each_other_get_a_linear_axis_from_zero() {
        let scale = Scale::fitting([120e3, 480e3].into_iter(), time);
        assert_eq!(names(&scale), ["0 ns", "100 µs", "200 µs", "300 µs", "400 µs", "500 µs"]);
        assert_eq!((scale.at(0.0), scale.at(250e3), scale.at(1e9)), (0.0, 0.5, 1.0));
    }

    #[test]
    fn values_far_from_each_other_get_a_logarithmic_axis() {
        let scale = Scale::fitting([30e3, 900e3].into_iter(), time);
        assert_eq!(names(&scale), ["20 µs", "50 µs", "100 µs", "200 µs", "500 µs", "1 ms"]);
        let scale = Scale::fitting([1.0, 3.6e12].into_iter(), time);
        assert_eq!(names(&scale), ["1 ns", "100 ns", "10 µs", "1 ms", "100 ms", "10 s", "1000 s"]);
        assert!((scale.at(1e6) - 6.0 / scale.to.log10()).abs() < 1e-9);
    }

    #[test]
    fn an_axis_of_time_ends_where_the_time_does() {
        let scale = Scale::up_to(29.7, count);
        assert_eq!(names(&scale), ["0", "5", "10", "15", "20", "25"]);
        assert_eq!(scale.at(29.7), 1.0);
    }

    #[test]
    fn percentiles_have_a_tick_for_each_nine() {
        let scale = Scale::percentiles(123_456.0);
        assert_eq!(names(&scale), ["p0", "p90", "p99", "p99.9", "p99.99", "p99.999"]);
        assert!((scale.at(1e4) - 2.0 * scale.at(1e2)).abs() < 1e-9);
    }

    #[test]
    fn every_value_gives_an_axis_with_a_length() {
        for value in [0.0, -1.0, 1.0, f64::MAX, f64::INFINITY, f64::NAN, f64::MIN_POSITIVE] {
            for scale in [Scale::linear(value, count), Scale::up_to(value, count)] {
                assert!(
                    scale.from < scale.to && scale.at(value) >= 0.0 || value.is_nan(),
                    "{value}: {scale:?}"
                );
                assert!((2..=11).contains(&scale.ticks.len()), "{value}: {scale:?}");
            }
        }
        let all_zero = Scale::fitting([0.0].into_iter(), time);
        assert!(all_zero.from < all_zero.to, "{all_zero:?}");
    }

    #[test]
    fn ticks_have_no_trailing_zeros() {
        assert_eq!([1e6, 25e2, 5e8].map(time), ["1 ms", "2.5 µs", "500 ms"]);
        assert_eq!([0.0, 0.5, 9500.0, 150e3, 1.25e6].map(count), ["0", "0.5", "9,500", "150k", "1.3M"]);
    }
}
