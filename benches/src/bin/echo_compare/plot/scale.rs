//! A logarithmic axis: 2 and 0.5 are equally far from 1.

/// Converts ratios to positions, in pixels from the top.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    top: i32,
    bottom: i32,
}

impl Scale {
    /// Creates an axis from `top` down to `bottom` that shows all `values`, and at least the range from 0.8 to 1.25.
    pub(super) fn new(values: impl IntoIterator<Item = f64>, top: i32, bottom: i32) -> Self {
        let (mut low, mut high) = (0.8_f64, 1.25_f64);
        // Values without a logarithm cannot be on the axis.
        for value in values.into_iter().filter(|value| value.is_finite() && *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        Self { low, high, top, bottom }
    }

    /// The position of `value`. A value beyond the axis is at its nearer end.
    pub(super) fn y(&self, value: f64) -> i32 {
        let share = (value.clamp(self.low, self.high) / self.low).ln() / (self.high / self.low).ln();
        self.bottom - (share * f64::from(self.bottom - self.top)).round() as i32
    }

    /// The round values to mark: the coarsest set that has at least four on the axis, or the finest set.
    pub(super) fn ticks(&self) -> Vec<f64> {
        const STEPS: [&[f64]; 4] = [
            &[1.0],
            &[1.0, 2.0, 5.0],
            &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
            &[1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        ];
        let ticks = |steps: &[f64]| -> Vec<f64> {
            let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
            let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
            all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
        };
        let candidates = STEPS.map(ticks);
        candidates.iter().find(|ticks| ticks.len() >= 4).unwrap_or(&candidates[3]).clone()
    }
}

/// The value of a tick, without trailing zeros.
pub(super) fn tick_label(tick: f64) -> String {
    // Negative powers of ten are not exact.
    let digits = format!("{tick:.6}");
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A ratio in at most four characters, so that it fits above its bar.
pub(super) fn ratio_label(ratio: f64) -> String {
    match ratio {
        100.0.. => format!("{ratio:.0}"),
        9.995.. => format!("{ratio:.1}"),
        _ => format!("{ratio:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_and_one_half_are_equally_far_from_one() {
        let scale = Scale::new([0.5, 2.0], 100, 300);
        assert_eq!([2.0, 1.0, 0.5].map(|value| scale.y(value)), [100, 200, 300]);
    }

    #[test]
    fn values_without_a_logarithm_are_ignored() {
        let scale = Scale::new([0.0, -1.0, f64::NAN, f64::INFINITY], 100, 300);
        assert_eq!([9.0, 1.25, 0.8, 0.0].map(|value| scale.y(value)), [100, 100, 300, 300]);
    }

    #[test]
    fn ticks_are_round_and_at_least_four() {
        let ticks = |values: &[f64]| -> Vec<String> {
            Scale::new(values.iter().copied(), 0, 100).ticks().into_iter().map(tick_label).collect()
        };
        assert_eq!(ticks(&[1.0]), ["0.8", "0.9", "1", "1.1", "1.2"]);
        assert_eq!(ticks(&[0.7, 2.1]), ["0.7", "1", "1.5", "2"]);
        assert_eq!(ticks(&[0.9, 14.0]), ["1", "2", "5", "10"]);
        assert_eq!(ticks(&[0.05, 200.0]), ["0.1", "1", "10", "100"]);
    }

    #[test]
    fn a_ratio_has_at_most_four_characters() {
        let labels = [0.123, 1.0, 9.994, 9.996, 13.37, 99.94, 1234.5].map(ratio_label);
        assert_eq!(labels, ["0.12", "1.00", "9.99", "10.0", "13.4", "99.9", "1234"]);
    }
}
