//! Durations of options, with a limit that keeps every time within what the clock can hold.

use std::time::Duration;

use pktconn_tools::values::parse_duration;

/// A longer time is a typing error. The limit also keeps all sums of times within the range of the clock.
const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(time) if time > MAX_TIME => Err("a time is at most 365 days".to_owned()),
        parsed => parsed,
    }
}
