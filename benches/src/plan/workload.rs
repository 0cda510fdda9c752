//! A workload: what the connections of a regime do.

use std::{fmt, str::FromStr};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::regime::Regime;

/// What the connections of a regime do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadKind {
    /// Connections that stay open and echo packets.
    Echo,
    /// The same over TLS.
    Tls,
    /// The same as `Echo`, with other servers: they show the cost of the limits for the open Internet.
    Edge,
    /// Connections that each send one packet, read its echo and close. Another one then takes their place.
    Short,
}

/// `64x1`: connections that echo packets; `tls:64x1`: the same over TLS; `edge:64x1`: the same with and without limits;
/// `short:64x1`: 64 short connections at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// What the connections do.
    pub kind: WorkloadKind,
    /// How many connections there are at a time, and how many packets are outstanding on each.
    pub regime: Regime,
}

/// The prefix of each kind.
const PREFIXES: [(&str, WorkloadKind); 3] =
    [("tls:", WorkloadKind::Tls), ("edge:", WorkloadKind::Edge), ("short:", WorkloadKind::Short)];

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let prefixed = PREFIXES.iter().find_map(|(prefix, kind)| Some((*kind, text.strip_prefix(prefix)?)));
        let (kind, regime) = prefixed.unwrap_or((WorkloadKind::Echo, text));
        let regime: Regime = regime.parse()?;
        let is_short = kind == WorkloadKind::Short;
        ensure!(!is_short || regime.pipeline == 1, "a short connection has 1 packet outstanding: short:64x1");
        Ok(Self { kind, regime })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = PREFIXES.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(prefix, _)| prefix);
        write!(f, "{prefix}{}", self.regime)
    }
}

impl Serialize for Workload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_parsed_as_it_is_printed() {
        for (text, kind) in [
            ("64x32", WorkloadKind::Echo),
            ("8x4:5-6", WorkloadKind::Echo),
            ("tls:64x32", WorkloadKind::Tls),
            ("edge:64x1", WorkloadKind::Edge),
            ("short:64x1:100-100", WorkloadKind::Short),
        ] {
            let workload: Workload = text.parse().unwrap();
            assert_eq!((workload.kind, workload.to_string().as_str()), (kind, text));
        }
    }

    #[test]
    fn short_connections_with_several_packets_and_unknown_kinds_are_refused() {
        for text in ["short:64x2", "tls:", "udp:64x1", "short64x1"] {
            assert!(text.parse::<Workload>().is_err(), "{text:?}");
        }
    }
}
