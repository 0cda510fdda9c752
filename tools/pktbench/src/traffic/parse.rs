//! Parses values of options: addresses, times and sizes.

use std::time::Duration;

use bytesize::ByteSize;
use pktconn::Addr;

/// A longer time is a typing error. The limit also keeps all sums of times within the range of the clock.
const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub(crate) fn parse_addr(text: &str) -> Result<Addr, String> {
    let addr = Addr::from(text);
    let is_addr = match addr.unix_path() {
        Some(path) => !path.as_os_str().is_empty(),
        None => text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0)),
    };
    let problem = "an address is HOST:PORT, such as 127.0.0.1:14572 or [::1]:14572, or unix:PATH";
    is_addr.then_some(addr).ok_or_else(|| problem.to_owned())
}

pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= MAX_TIME => Ok(time),
        Ok(_) => Err("a time is at most 365 days".to_owned()),
        Err(_) => Err("a time is a number with its unit, such as 30s, 500ms or 2m".to_owned()),
    }
}

/// Parses a number of bytes, with a binary or a decimal suffix: `64KiB` is 65,536 bytes, `64kB` is 64,000.
pub(crate) fn parse_size(text: &str) -> Result<u32, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| format!("'{text}' is not a size; write bytes, such as 512, 64KiB or 1MiB"))?;
    u32::try_from(size.as_u64())
        .map_err(|_| format!("{text} exceeds the largest possible packet, {} bytes", u32::MAX))
}
