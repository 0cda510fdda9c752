//! Durations and rates of options, with limits that keep every time and every count within what the clock can hold.

use std::time::Duration;

use pktconn_tools::values::parse_duration;

/// A longer time is a typing error. The limit also keeps all sums of times within the range of the clock.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The highest rate, in packets per second: more than any machine sends.
pub(crate) const MAX_RATE: f64 = 1e9;

pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(time) if time > MAX_TIME => Err("a time is at most 365 days".to_owned()),
        parsed => parsed,
    }
}

/// Parses a number per second. The lowest rate is one per year, as no time is longer.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix(['k', 'M']) {
        None => (text, 1.0),
        Some(number) if text.ends_with('k') => (number, 1e3),
        Some(number) => (number, 1e6),
    };
    let rate = number.parse::<f64>().map_or(f64::NAN, |number| number * factor);
    let problem = "write a number per second above 0 and up to 1000M, such as 500, 50k or 1.5M";
    (3e-8..=MAX_RATE).contains(&rate).then_some(rate).ok_or_else(|| problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_with_a_suffix_for_thousands_or_millions() {
        for (text, rate) in [("500", 500.0), ("50k", 50e3), ("1.5M", 1.5e6), ("0.1", 0.1)] {
            assert_eq!(parse_rate(text), Ok(rate));
        }
        for text in ["", "k", "-1", "0", "1e12", "inf", "NaN", "5G", "5 k"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
