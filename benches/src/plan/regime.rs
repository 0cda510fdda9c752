//! A regime: the number of connections, and of packets outstanding on each.

use std::{fmt, str::FromStr};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::sizes::SizeRange;

/// `64x32` means 64 connections with 32 packets outstanding on each. `8x4:1048576-1048576` also sets the payload sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regime {
    /// Connections, at least 1.
    pub conns: usize,
    /// Packets outstanding on each connection, at least 1.
    pub pipeline: usize,
    /// Payload sizes, if they differ from those of the command line.
    pub sizes: Option<SizeRange>,
}

impl FromStr for Regime {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (counts, sizes) = match text.split_once(':') {
            Some((counts, sizes)) => (counts, Some(sizes.parse().context("invalid sizes of a regime")?)),
            None => (text, None),
        };
        let (conns, pipeline) =
            counts.split_once('x').context("expected CONNSxPIPELINE[:SIZES], such as 64x32")?;
        let conns = conns.parse().context("invalid number of connections")?;
        let pipeline = pipeline.parse().context("invalid number of packets outstanding")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regime_is_parsed_as_it_is_printed() {
        let regime: Regime = "1000x32".parse().unwrap();
        assert_eq!(regime, Regime { conns: 1000, pipeline: 32, sizes: None });
        assert_eq!(regime.to_string(), "1000x32");
    }

    #[test]
    fn a_regime_may_have_its_own_sizes() {
        let regime: Regime = "8x4:1048576-1048577".parse().unwrap();
        assert_eq!((regime.conns, regime.pipeline), (8, 4));
        assert_eq!(regime.sizes.unwrap().range(), 1_048_576..=1_048_577);
        assert_eq!(regime.to_string(), "8x4:1048576-1048577");
    }

    #[test]
    fn an_incomplete_or_empty_regime_is_refused() {
        for text in ["", "64", "x1", "64x", "0x1", "1x0", "-1x1", "1x1x1", "1x1:", "1x1:2-1", ":5", "1x1:5:5"]
        {
            assert!(text.parse::<Regime>().is_err(), "{text:?}");
        }
    }
}
