//! The command line of `pktbench conform`, and what it asks for.

use std::time::Duration;

use clap::Args;
use pktconn::{Addr, CodecConfig, HeaderFormat};

use crate::conform::wire::Format;
use crate::traffic::parse::{parse_addr, parse_size, parse_time};

/// Which server to judge, and what it says it speaks.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The server to judge, HOST:PORT or unix:PATH
    #[arg(value_name = "ADDR", value_parser = parse_addr)]
    addr: Addr,

    /// Put a CRC-32 behind each packet, and expect one; the server must do the same
    #[arg(long)]
    crc: bool,

    /// The length in front of each packet: u32le, u32be, u16le or u16be; the server must do the same
    #[arg(long, value_name = "FORMAT", default_value_t = HeaderFormat::U32Le)]
    header: HeaderFormat,

    /// The server's limit on a payload: sizes are tried up to it, and what is over it must be refused [default: 32MiB, or what
    /// --header can say]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_payload: Option<u32>,

    /// How long each case may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    timeout: Duration,

    /// Print the result as one JSON document
    #[arg(long)]
    json: bool,
}

/// What is to be judged, and how.
pub(crate) struct Plan {
    pub(crate) addr: Addr,
    pub(crate) format: Format,
    pub(crate) timeout: Duration,
    pub(crate) json: bool,
}

impl Options {
    /// Refuses what cannot work. The error says what, and what to do.
    pub(crate) fn into_plan(self) -> Result<Plan, String> {
        let sayable = u32::try_from(self.header.max_payload_len()).unwrap_or(u32::MAX);
        if let Some(len) = self.max_payload.filter(|&len| len > sayable) {
            return Err(format!(
                "--max-payload {len} is more than --header {} can say, {sayable}",
                self.header
            ));
        }
        if self.timeout.is_zero() {
            return Err("--timeout 0s waits for no answer; give it a time, such as 5s".to_owned());
        }
        let default = CodecConfig::DEFAULT_MAX_PAYLOAD_LEN as u32;
        let max_payload_len = self.max_payload.unwrap_or(default).min(sayable);
        let format = Format { header: self.header, crc: self.crc, max_payload_len };
        Ok(Plan { addr: self.addr, format, timeout: self.timeout, json: self.json })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn plan(line: &str) -> Result<Plan, String> {
        Line::try_parse_from(["conform", "127.0.0.1:1"].into_iter().chain(line.split_whitespace()))
            .map_err(|error| error.to_string())?
            .options
            .into_plan()
    }

    #[test]
    fn the_limit_is_the_servers_own_default_or_what_the_header_can_say() {
        assert_eq!(plan("").unwrap().format.max_payload_len, 32 << 20);
        assert_eq!(plan("--header u16be").unwrap().format.max_payload_len, 65_535);
        assert_eq!(plan("--header u16be --max-payload 1KiB").unwrap().format.max_payload_len, 1024);
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_way_out() {
        for (line, expected) in [
            ("--header u16le --max-payload 64KiB", "more than --header u16le can say, 65535"),
            ("--timeout 0s", "such as 5s"),
            ("--timeout 5", "such as 30s"),
            ("--max-payload many", "no size"),
        ] {
            let problem = plan(line).err().unwrap_or_else(|| panic!("{line} was accepted"));
            assert!(problem.contains(expected), "{line}: {problem}");
        }
    }
}
