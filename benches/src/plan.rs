//! What to run, as it stands on a command line: `64x32`, `8x4:1048576`, `0-2048`, `name=command`.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::MAX_PAYLOAD_LEN;

/// How many connections there are, and how many packets each keeps outstanding: `64x32`; with payload sizes of its own,
/// `8x4:1048576-1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regime {
    /// Connections, at least 1.
    pub conns: usize,
    /// Packets outstanding on each connection, at least 1.
    pub pipeline: usize,
    /// Payload sizes, where they are not those of the other regimes.
    pub sizes: Option<SizeRange>,
}

impl FromStr for Regime {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (counts, sizes) = match text.split_once(':') {
            Some((counts, sizes)) => (counts, Some(sizes.parse().context("the sizes of a regime")?)),
            None => (text, None),
        };
        let (conns, pipeline) =
            counts.split_once('x').context("a regime reads CONNSxPIPELINE[:SIZES], as in 64x32")?;
        let conns = conns.parse().context("the number of connections")?;
        let pipeline = pipeline.parse().context("the number of packets outstanding")?;
        ensure!(conns > 0 && pipeline > 0, "a regime needs at least 1 connection and 1 packet outstanding");
        Ok(Self { conns, pipeline, sizes })
    }
}

impl fmt::Display for Regime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.conns, self.pipeline)?;
        self.sizes.map_or(Ok(()), |sizes| write!(f, ":{sizes}"))
    }
}

impl Serialize for Regime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Payload sizes in bytes, drawn uniformly, both ends included: `0-2048`; a number alone is both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeRange {
    min: u32,
    max: u32,
}

impl SizeRange {
    /// The bytes that a payload may have.
    pub fn range(&self) -> RangeInclusive<u32> {
        self.min..=self.max
    }
}

impl FromStr for SizeRange {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(!text.is_empty(), "sizes read MIN-MAX in bytes, as in 0-2048");
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let (min, max) =
            (min.parse().context("the smallest size")?, max.parse().context("the largest size")?);
        ensure!(min <= max, "the smallest size, {min}, is above the largest, {max}");
        ensure!(max as usize <= MAX_PAYLOAD_LEN, "{max} bytes is above the limit of {MAX_PAYLOAD_LEN}");
        Ok(Self { min, max })
    }
}

impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl Serialize for SizeRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A server to compare: `name=command line`, the words of the command parted by blanks, without quoting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// What the results call it.
    pub name: String,
    /// The program and its arguments, never empty.
    pub command: Vec<String>,
}

impl ServerSpec {
    /// Whether its packets have a checksum, which its name tells: it ends in `+crc`.
    pub fn has_checksum(&self) -> bool {
        self.name.ends_with("+crc")
    }
}

impl FromStr for ServerSpec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, command) = text.split_once('=').context("a server reads NAME=COMMAND LINE")?;
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        ensure!(!name.trim().is_empty(), "the server {text:?} has no name");
        ensure!(!command.is_empty(), "the server {name:?} has no command");
        Ok(Self { name: name.trim().to_owned(), command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regime_reads_as_it_prints() {
        let regime: Regime = "1000x32".parse().unwrap();
        assert_eq!(regime, Regime { conns: 1000, pipeline: 32, sizes: None });
        assert_eq!(regime.to_string(), "1000x32");
    }

    #[test]
    fn a_regime_may_have_sizes_of_its_own() {
        let regime: Regime = "8x4:1048576-1048577".parse().unwrap();
        assert_eq!((regime.conns, regime.pipeline), (8, 4));
        assert_eq!(regime.sizes.unwrap().range(), 1_048_576..=1_048_577);
        assert_eq!(regime.to_string(), "8x4:1048576-1048577");
    }

    #[test]
    fn a_regime_of_nothing_is_refused() {
        for text in ["", "64", "x1", "64x", "0x1", "1x0", "-1x1", "1x1x1", "1x1:", "1x1:2-1", ":5", "1x1:5:5"]
        {
            assert!(text.parse::<Regime>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_include_both_ends() {
        assert_eq!("0-2048".parse::<SizeRange>().unwrap().range(), 0..=2048);
        assert_eq!("7-7".parse::<SizeRange>().unwrap().range(), 7..=7);
    }

    #[test]
    fn a_single_size_stands_for_both_ends() {
        assert_eq!("1048576".parse::<SizeRange>().unwrap(), "1048576-1048576".parse().unwrap());
    }

    #[test]
    fn sizes_that_no_packet_can_have_are_refused() {
        for text in ["", "-", "5-", "-5", "2-1", "0-33554433", "33554433"] {
            assert!(text.parse::<SizeRange>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_command_may_contain_equal_signs() {
        let spec: ServerSpec = "go=echo --listen=127.0.0.1:0  -v".parse().unwrap();
        assert_eq!(spec.name, "go");
        assert_eq!(spec.command, ["echo", "--listen=127.0.0.1:0", "-v"]);
    }

    #[test]
    fn a_name_tells_whether_packets_have_a_checksum() {
        let has_checksum = |text: &str| text.parse::<ServerSpec>().unwrap().has_checksum();
        assert!(has_checksum("pktecho+crc=pktecho --crc"));
        assert!(!has_checksum("pktecho=pktecho --crc"));
        assert!(!has_checksum("+crc32=pktecho"));
    }

    #[test]
    fn a_server_without_name_or_command_is_refused() {
        for text in ["echo", "=echo", "go=", "go=  "] {
            assert!(text.parse::<ServerSpec>().is_err(), "{text:?}");
        }
    }
}
