//! The options of `pktbench conform`, and the check that turns them into a [`TestPlan`].

use std::time::Duration;

use clap::Args;
use pktconn::{Addr, CodecConfig, HeaderFormat};
use pktconn_tools::values::{parse_connect_addr, parse_size};

use crate::conform::wire::WireFormat;
use crate::traffic::parse::parse_time;

/// The server to test, and the wire format that it should have.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Server to test: HOST:PORT or unix:PATH, such as 127.0.0.1:14572
    #[arg(value_name = "ADDR", value_parser = parse_connect_addr)]
    addr: Addr,

    /// Append a CRC-32 to each packet and require one in each response; the server must do the same
    #[arg(long)]
    crc: bool,

    /// Length field before each payload: u32le, u32be, u16le or u16be; the server must use the same
    #[arg(long, value_name = "FORMAT", default_value_t = HeaderFormat::U32Le)]
    header: HeaderFormat,

    /// Largest payload that the server accepts, in bytes or such as 1MiB [default: 32MiB; 65535 with u16le and u16be]
    ///
    /// The server must echo payloads up to this size. After a header with a greater length it must close the
    /// connection. pktbench needs about twice this much memory.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_payload: Option<u32>,

    /// Time limit for connecting, and then for each connection of a case; raise it for a slow server or large payloads
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    timeout: Duration,

    /// Print the result as one JSON document at the end
    #[arg(long)]
    json: bool,
}

/// The checked options.
pub(crate) struct TestPlan {
    pub(crate) addr: Addr,
    pub(crate) format: WireFormat,
    pub(crate) timeout: Duration,
    pub(crate) json: bool,
}

impl Options {
    /// Rejects options that cannot work. The error says what is wrong and what to do.
    pub(crate) fn into_plan(self) -> Result<TestPlan, String> {
        // Does not saturate: no length field has more than 32 bits.
        let header_max = u32::try_from(self.header.max_payload_len()).unwrap_or(u32::MAX);
        if let Some(len) = self.max_payload.filter(|&len| len > header_max) {
            return Err(format!(
                "--max-payload {len} is above {header_max}, the maximum of --header {}; lower it, or leave it out",
                self.header
            ));
        }
        if self.timeout.is_zero() {
            return Err("--timeout 0s leaves no time for an answer; give it a time, such as 5s".to_owned());
        }
        let default = CodecConfig::DEFAULT_MAX_PAYLOAD_LEN as u32;
        let max_payload_len = self.max_payload.unwrap_or(default).min(header_max);
        let format = WireFormat { header: self.header, crc: self.crc, max_payload_len };
        Ok(TestPlan { addr: self.addr, format, timeout: self.timeout, json: self.json })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct TestCli {
        #[command(flatten)]
        options: Options,
    }

    fn plan(line: &str) -> Result<TestPlan, String> {
        TestCli::try_parse_from(["conform", "127.0.0.1:1"].into_iter().chain(line.split_whitespace()))
            .map_err(|error| error.to_string())?
            .options
            .into_plan()
    }

    #[test]
    fn the_default_limit_is_that_of_pktconn_or_the_maximum_of_the_header() {
        assert_eq!(plan("").unwrap().format.max_payload_len, 32 << 20);
        assert_eq!(plan("--header u16be").unwrap().format.max_payload_len, 65_535);
        assert_eq!(plan("--header u16be --max-payload 1KiB").unwrap().format.max_payload_len, 1024);
    }

    #[test]
    fn options_that_cannot_work_are_rejected_with_advice() {
        for (line, expected) in [
            ("--header u16le --max-payload 64KiB", "is above 65535, the maximum of --header u16le"),
            ("--timeout 0s", "such as 5s"),
            ("--timeout soon", "such as 30, 30s"),
            ("--max-payload many", "not a size"),
        ] {
            let problem = plan(line).err().unwrap_or_else(|| panic!("{line} was accepted"));
            assert!(problem.contains(expected), "{line}: {problem}");
        }
    }
}
