//! Durations of options, with a limit that keeps every time within what the clock can hold. A number without a unit is
//! seconds, as in other load generators.

use std::time::Duration;

use pktconn_tools::values::parse_duration;

/// A longer time is a typing error. The limit also keeps all sums of times within the range of the clock.
const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

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
}
