//! Durations and rates of options, with limits that keep every time and every count within what the clock can hold. A
//! time without a unit is in seconds, as in other load generators.

use std::time::Duration;

use pktconn_tools::values::parse_duration;

/// A longer time is a typing error. The limit also keeps all sums of times within the range of the clock.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The highest rate, in packets per second: more than any machine sends.
pub(crate) const MAX_RATE: f64 = 1e9;

/// The units that may follow a number with a fraction, such as `1.5m`, in seconds.
const UNITS: [(&str, f64); 6] =
    [("", 1.0), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Parses a time of an option: `30s`, `500ms`, `1m 30s`, `0.5`, `1.5m`. A number alone is seconds.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let Some(time) = decimal(text).or_else(|| parse_duration(text).ok()) else {
        return Err(
            "a time is a number, in seconds or with its unit, such as 30, 30s, 500ms or 2m".to_owned()
        );
    };
    if time > MAX_TIME { Err("a time is at most 365 days".to_owned()) } else { Ok(time) }
}

/// A number with a unit or without, and maybe with a fraction.
fn decimal(text: &str) -> Option<Duration> {
    let is_digit = |c: char| c.is_ascii_digit();
    let (number, unit) = text.split_at(text.find(|c: char| !is_digit(c) && c != '.').unwrap_or(text.len()));
    if !number.starts_with(is_digit) || !number.ends_with(is_digit) {
        return None;
    }
    let (_, seconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    let seconds = number.parse::<f64>().ok()? * seconds;
    // Longer than any clock holds: the caller rejects it.
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
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
    fn a_number_without_a_unit_is_seconds() {
        let cases = [
            ("30", 30_000),
            ("0", 0),
            ("0.5", 500),
            ("2.25", 2250),
            ("30s", 30_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("0.5m", 30_000),
            ("1m 30s", 90_000),
            ("2h", 7_200_000),
        ];
        for (text, ms) in cases {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn other_text_is_rejected_with_an_example() {
        for text in ["", ".", ".5", "5.", "1.2.3", "-1", "s", "1e3", "5 parsecs", "1.5 apples", "inf", "NaN"]
        {
            let problem = parse_time(text).expect_err(text);
            assert!(problem.contains("such as 30, 30s, 500ms or 2m"), "{text}: {problem}");
        }
        for text in ["366days", "99999999999", "1e400", "99999999999999999999999999h"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        assert!(parse_time("99999999999").unwrap_err().contains("at most 365 days"));
    }

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
