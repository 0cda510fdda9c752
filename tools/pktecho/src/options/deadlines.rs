//! The options that end connections after a time, or because the client is too slow.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use pktconn::ConnConfig;
use pktconn_tools::values::parse_duration;

#[derive(Debug, Args)]
pub(crate) struct DeadlineOptions {
    /// Timeout of the TLS handshake and of the PROXY header, or 'off'
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    handshake_timeout: Timeout,

    /// Maximum time from the first to the last byte of a packet, or 'off'
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    frame_timeout: Timeout,

    /// Maximum time in which the client sends nothing and receives nothing, or 'off' [default: off; 5m with --edge]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    idle_timeout: Option<Timeout>,

    /// Maximum time in which the client reads none of the waiting replies, or 'off'
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    write_timeout: Timeout,

    /// Maximum time from the start of a connection, after its handshakes, to the end of its first packet, or 'off'
    /// [default: off; 10s with --edge]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    first_packet_timeout: Option<Timeout>,

    /// Minimum rate at which a client must send a packet that it has begun, in bytes per second, such as 500, 1KiB or
    /// 1KiB:10s, or 'off'. It is measured over the given window, or 5s [default: off; 500 with --edge]
    #[arg(long, value_name = "SIZE[:WINDOW]", value_parser = parse_rate)]
    min_recv_rate: Option<Rate>,

    /// Minimum rate at which a client must read waiting replies, in bytes per second, such as 8KiB or 8KiB:1m, or 'off'.
    /// It is measured over the given window, or 30s [default: off; 4KiB:1m with --edge]
    #[arg(long, value_name = "SIZE[:WINDOW]", value_parser = parse_rate)]
    min_send_rate: Option<Rate>,

    /// Maximum age of a connection, up to a tenth more or less, or 'off'. It then ends once what has arrived is echoed
    #[arg(long, value_name = "DURATION", default_value = "off", value_parser = parse_timeout)]
    max_connection_age: Timeout,

    /// How long a connection may stay open after its maximum age
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    max_connection_age_grace: Duration,
}

/// A duration, or `None` for 'off'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timeout(Option<Duration>);

/// Bytes per second and the window over which they are measured, or `None` for 'off'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(Option<(u64, Option<Duration>)>);

impl Rate {
    fn bytes_per_second(self) -> Option<u64> {
        self.0.map(|(bytes, _)| bytes)
    }

    fn window(self, default: Duration) -> Duration {
        self.0.and_then(|(_, window)| window).unwrap_or(default)
    }
}

/// Longer than the interruptions of a mobile link.
const RECV_RATE_WINDOW: Duration = Duration::from_secs(5);

/// Long enough for a kernel to report progress at the rates that make sense: it does so in steps of up to 128 KiB.
const SEND_RATE_WINDOW: Duration = Duration::from_secs(30);

impl DeadlineOptions {
    /// Sets the deadlines. Those that were not given keep the values of `config`.
    pub(super) fn apply(&self, config: ConnConfig) -> ConnConfig {
        let mut config = config
            .handshake_timeout(self.handshake_timeout.0)
            .frame_timeout(self.frame_timeout.0)
            .write_timeout(self.write_timeout.0)
            .max_connection_age(self.max_connection_age.0)
            .max_connection_age_grace(self.max_connection_age_grace);
        if let Some(timeout) = self.idle_timeout {
            config = config.idle_timeout(timeout.0);
        }
        if let Some(timeout) = self.first_packet_timeout {
            config = config.first_packet_timeout(timeout.0);
        }
        if let Some(rate) = self.min_recv_rate {
            config = config.min_recv_rate(rate.bytes_per_second(), rate.window(RECV_RATE_WINDOW));
        }
        if let Some(rate) = self.min_send_rate {
            config = config.min_send_rate(rate.bytes_per_second(), rate.window(SEND_RATE_WINDOW));
        }
        config
    }
}

fn parse_timeout(text: &str) -> Result<Timeout, String> {
    match parse_duration(text) {
        _ if text == "off" => Ok(Timeout(None)),
        Ok(Duration::ZERO) => Err("the timeout must be longer than 0s; 'off' turns it off".to_owned()),
        Ok(duration) => Ok(Timeout(Some(duration))),
        Err(_) => Err("expected a duration with a unit, such as 500ms, 30s or 5m, or 'off'".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "off" {
        return Ok(Rate(None));
    }
    let (size, window) = match text.split_once(':') {
        Some((size, window)) => (size, Some(window)),
        None => (text, None),
    };
    let bytes = size.parse::<ByteSize>().ok().map(|size| size.as_u64()).filter(|&bytes| bytes > 0);
    let window = window.map(|window| parse_duration(window).ok().filter(|window| !window.is_zero()));
    match (bytes, window) {
        (Some(bytes), None) => Ok(Rate(Some((bytes, None)))),
        (Some(bytes), Some(Some(window))) => Ok(Rate(Some((bytes, Some(window))))),
        _ => {
            Err("expected bytes per second, such as 500, 1KiB, or with a window 1KiB:10s, or 'off'"
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_sizes_with_an_optional_window_or_off() {
        let seconds = Duration::from_secs;
        for (text, rate) in [
            ("off", None),
            ("500", Some((500, None))),
            ("1KiB", Some((1024, None))),
            ("8kB:1m", Some((8000, Some(seconds(60))))),
        ] {
            assert_eq!(parse_rate(text), Ok(Rate(rate)), "{text}");
        }
        for text in ["", "0", "fast", "1KiB:", "1KiB:0s", "1KiB:10", ":5s", "1KiB/s"] {
            assert!(parse_rate(text).is_err(), "{text:?}");
        }
        assert_eq!(Rate(Some((1, None))).window(seconds(5)), seconds(5));
        assert_eq!(Rate(Some((1, Some(seconds(9))))).window(seconds(5)), seconds(9));
    }

    #[test]
    fn timeouts_are_durations_or_off() {
        assert_eq!(parse_timeout("30s"), Ok(Timeout(Some(Duration::from_secs(30)))));
        assert_eq!(parse_timeout("off"), Ok(Timeout(None)));
        for text in ["", "30", "0s", "never"] {
            assert!(parse_timeout(text).is_err(), "{text:?}");
        }
    }
}
