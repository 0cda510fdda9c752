//! Parsers of option values, for `#[arg(value_parser = ...)]`. Every error says what is expected, with an example.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use bytesize::ByteSize;
use pktconn::Addr;

/// Parses the address of a server to connect to: `HOST:PORT`, with a port from 1, or `unix:PATH`.
///
/// # Errors
///
/// Any other text. Host names are not resolved here.
pub fn parse_connect_addr(text: &str) -> Result<Addr, String> {
    let addr = parse_addr(text, |host, port| !host.is_empty() && port > 0).ok_or_else(|| {
        "an address is HOST:PORT, such as 127.0.0.1:14572 or [::1]:14572, or unix:PATH".to_owned()
    })?;
    check_unix(addr, Addr::check_connect)
}

/// Parses an address to listen on: `HOST:PORT`, where port 0 asks for a free port, or `unix:PATH`, with or without
/// [options](Addr#unix-sockets).
///
/// # Errors
///
/// Any other text. Host names are not resolved here.
pub fn parse_listen_addr(text: &str) -> Result<Addr, String> {
    let addr = parse_addr(text, |_host, _port| true).ok_or_else(|| {
        "an address is HOST:PORT, such as 127.0.0.1:14572 or [::1]:0, or unix:PATH".to_owned()
    })?;
    check_unix(addr, Addr::check_listen)
}

/// Checks the path of a Unix socket and the options after it.
fn check_unix(addr: Addr, check: impl Fn(&Addr) -> Result<(), pktconn::Error>) -> Result<Addr, String> {
    if addr.unix_path().is_some() {
        check(&addr).map_err(|error| error.to_string())?;
    }
    Ok(addr)
}

/// Parses a TCP address to listen on: `HOST:PORT`, where port 0 asks for a free port.
///
/// # Errors
///
/// Any other text, and `unix:PATH`. Host names are not resolved here.
pub fn parse_tcp_addr(text: &str) -> Result<Addr, String> {
    let addr = parse_listen_addr(text).ok().filter(|addr| addr.unix_path().is_none());
    addr.ok_or_else(|| "expected HOST:PORT, such as 127.0.0.1:9100".to_owned())
}

fn parse_addr(text: &str, is_allowed: impl Fn(&str, u16) -> bool) -> Option<Addr> {
    let addr = Addr::from(text);
    let is_valid = match addr.unix_path() {
        Some(path) => !path.as_os_str().is_empty(),
        None => {
            let (host, port) = text.rsplit_once(':')?;
            is_allowed(host, port.parse().ok()?)
        }
    };
    is_valid.then_some(addr)
}

/// Parses the size of a payload: a number of bytes, with an optional suffix. `64KiB` is 65,536 bytes, `64kB` is 64,000.
///
/// # Errors
///
/// The text is not a size, or the size exceeds `u32::MAX`, the largest length that a header can hold.
pub fn parse_size(text: &str) -> Result<u32, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| format!("'{text}' is not a size; write bytes, such as 512, 64KiB or 1MiB"))?;
    u32::try_from(size.as_u64())
        .map_err(|_| format!("{text} exceeds the largest possible packet, {} bytes", u32::MAX))
}

/// Parses a duration, such as `30s`, `500ms` or `1m 30s`.
///
/// # Errors
///
/// Any other text, also a number without a unit.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "a time is a number with its unit, such as 30s, 500ms or 2m".to_owned())
}

/// Returns a parser of whole numbers within `limits`, of which `example` is shown in errors.
///
/// Limits without an end go up to the largest number of the type.
pub fn whole_number<T>(
    limits: impl RangeBounds<T> + Clone + Send + Sync + 'static,
    example: T,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: TryFrom<i128> + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| match text.parse::<i128>().map(|number| (number, T::try_from(number))) {
        Ok((_, Ok(number))) if limits.contains(&number) => Ok(number),
        Ok((number, Err(_))) if number > 0 && limits.end_bound() == Bound::Unbounded => {
            Err(format!("the number is too large; expected a number such as {example}"))
        }
        _ => {
            let range = match (limits.start_bound(), limits.end_bound()) {
                (Bound::Included(min), Bound::Included(max)) => format!(" from {min} to {max}"),
                (Bound::Included(min), _) => format!(" of at least {min}"),
                _ => String::new(),
            };
            Err(format!("expected a whole number{range}, such as {example}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_connect_to_has_a_host_and_a_port() {
        for text in ["", "localhost", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", ":80", "14572", "unix:"]
        {
            let problem = parse_connect_addr(text).expect_err(text);
            assert!(problem.contains("HOST:PORT, such as 127.0.0.1:14572"), "{text:?}: {problem}");
        }
        for text in ["127.0.0.1:1", "[::1]:14572", "localhost:80", "unix:socket"] {
            assert_eq!(parse_connect_addr(text), Ok(Addr::from(text)));
        }
        assert!(parse_connect_addr("unix:socket?mode=0660").unwrap_err().contains("only for listening"));
    }

    #[test]
    fn an_address_to_listen_on_may_have_port_0() {
        for text in ["", "localhost", "127.0.0.1:", "127.0.0.1:65536", "14572", "unix:", "/run/socket"] {
            let problem = parse_listen_addr(text).expect_err(text);
            assert!(problem.contains("[::1]:0"), "{text:?}: {problem}");
        }
        for text in ["127.0.0.1:0", "[::1]:14572", "localhost:80", "unix:socket", "unix:socket?mode=0660"] {
            assert_eq!(parse_listen_addr(text), Ok(Addr::from(text)));
        }
        assert!(parse_listen_addr("unix:socket?mode=rw").unwrap_err().contains("such as 0660"));
    }

    #[test]
    fn a_suffix_is_a_binary_or_a_decimal_multiple() {
        let cases = [("0", 0), ("512", 512), ("64KiB", 65_536), ("64kB", 64_000), ("1MiB", 1_048_576)];
        for (text, len) in cases {
            assert_eq!(parse_size(text), Ok(len), "{text}");
        }
        assert_eq!(parse_size("4294967295"), Ok(u32::MAX));
    }

    #[test]
    fn a_size_that_no_header_can_hold_is_refused() {
        for text in ["", "KiB", "-1", "many", "99999999999999999999"] {
            assert!(parse_size(text).expect_err(text).contains("such as 512, 64KiB or 1MiB"), "{text:?}");
        }
        for text in ["4096MiB", "4294967296"] {
            assert!(parse_size(text).expect_err(text).contains("4294967295 bytes"), "{text:?}");
        }
    }

    #[test]
    fn a_duration_needs_a_unit() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1m 500ms"), Ok(Duration::from_millis(60_500)));
        for text in ["", "30", "s", "-1s", "soon"] {
            let problem = parse_duration(text).expect_err(text);
            assert!(problem.contains("such as 30s, 500ms or 2m"), "{text:?}: {problem}");
        }
    }

    #[test]
    fn a_whole_number_outside_of_its_limits_names_them() {
        let threads = whole_number::<u16>(1..=1024, 4);
        for (text, number) in [("1", 1), ("64", 64), ("1024", 1024)] {
            assert_eq!(threads(text), Ok(number));
        }
        for text in ["", "x", "0", "-1", "1.5", "1025", "65536", "1e2"] {
            assert_eq!(
                threads(text).unwrap_err(),
                "expected a whole number from 1 to 1024, such as 4",
                "{text}"
            );
        }
    }

    #[test]
    fn a_whole_number_without_an_upper_limit_fits_its_type() {
        let conns = whole_number::<u32>(1.., 64);
        assert_eq!(conns("4294967295"), Ok(u32::MAX));
        assert_eq!(conns("4294967296").unwrap_err(), "the number is too large; expected a number such as 64");
        for text in ["x", "0", "-1"] {
            assert_eq!(
                conns(text).unwrap_err(),
                "expected a whole number of at least 1, such as 64",
                "{text}"
            );
        }
        let seed = whole_number::<u64>(0.., 1);
        assert_eq!(seed("0"), Ok(0));
        assert_eq!(seed("-1").unwrap_err(), "expected a whole number of at least 0, such as 1");
    }
}
