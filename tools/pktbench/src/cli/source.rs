//! The options that take the packets of the load from files: `--payload` and `--replay`.

use std::path::{Path, PathBuf};

use clap::Args;
use pktconn::CodecConfig;
use pktconn_tools::input;
use pktconn_tools::values::whole_number;

use crate::traffic::capture;
use crate::traffic::own_payloads::OwnPayloads;
use crate::traffic::recorded::{Replay, parse_speed};

/// A constant rather than a doc comment, so that `--help` keeps the lines.
const PAYLOAD_HELP: &str = "\
Payloads to send, instead of pseudo-random ones of --sizes; up to 1 GiB in total

  file:DIR            each file in DIR, in the order of their names
  file:FILE.ndjson    each line that is not empty, without its line end; also .jsonl
  file:FILE           the whole file
  hex:0a0b            these bytes

They are repeated. The first connection begins with the first one; the others begin at evenly spread places.";

#[derive(Debug, Args)]
pub(super) struct SourceOptions {
    #[arg(
        help_heading = "Payloads",
        long,
        value_name = "PAYLOAD",
        conflicts_with = "sizes",
        help = "Payloads to send: file:DIR, file:FILE.ndjson, file:FILE or hex:0a0b",
        long_help = PAYLOAD_HELP
    )]
    payload: Option<OwnPayloads>,

    /// Send packets with the sizes and at the times of a capture (pcap or pcapng); needs --tcp-port
    ///
    /// Replays what clients sent to --tcp-port, with one connection for each captured one. The frames in it must have
    /// the same --header and --crc. If they do not, each TCP segment is one packet. An open loop: packets are sent when
    /// they are due, regardless of responses. The contents are pseudo-random. Cannot be combined with --conns, --rate,
    /// --duration, --packets, --pipeline, --sizes, --payload, --ramp, --warmup, --arrival or --search-max.
    ///
    /// Example: tcpdump -s 0 -w load.pcap tcp port 14572; pktbench --replay load.pcap --tcp-port 14572
    #[arg(help_heading = "Payloads", long, value_name = "FILE", requires = "tcp_port", conflicts_with_all = [
        "conns", "rate", "duration", "packets", "pipeline", "sizes", "payload", "ramp", "warmup", "arrival", "search_max",
    ])]
    replay: Option<PathBuf>,

    /// Port of the server in the capture of --replay
    #[arg(help_heading = "Payloads", long, value_name = "N", requires = "replay", value_parser = whole_number::<u16>(1.., 14_572))]
    tcp_port: Option<u16>,

    /// How fast to replay, such as 2x for half of the time between packets [default: 1x]
    #[arg(help_heading = "Payloads", long, value_name = "FACTOR", requires = "replay", value_parser = parse_speed)]
    speed: Option<f64>,
}

/// What was read from a capture, and a line for each thing that is not replayed as it was sent.
pub(super) struct Recording {
    pub(super) replay: Replay,
    pub(super) warnings: Vec<String>,
}

impl SourceOptions {
    /// The file of `--replay`.
    pub(super) fn capture(&self) -> Option<&Path> {
        self.replay.as_deref()
    }

    /// The file of `--payload`, if it is one.
    pub(super) fn payload_file(&self) -> Option<&'static Path> {
        self.payload.and_then(|own| own.text.strip_prefix("file:")).map(Path::new)
    }

    pub(super) fn payload(&self) -> Option<OwnPayloads> {
        self.payload
    }

    /// Reads the capture. `codec` is the wire format of the packets in it.
    pub(super) fn recording(&self, codec: &CodecConfig) -> Result<Option<Recording>, String> {
        let (Some(path), Some(tcp_port)) = (&self.replay, self.tcp_port) else { return Ok(None) };
        let name = path.display().to_string();
        let file = input::open(path).map_err(|error| format!("--replay: cannot read {name}: {error}"))?;
        let capture = capture::read(file, tcp_port, codec);
        let capture = capture.map_err(|problem| format!("--replay {name}: {problem}"))?;
        let warnings = capture.notes.lines().iter().map(|line| format!("--replay {name}: {line}")).collect();
        let replay = Replay {
            file: name.leak(),
            tcp_port,
            speed: self.speed.unwrap_or(1.0),
            by_segment: capture.notes.by_segment() as usize,
            flows: capture.flows.leak(),
        };
        Ok(Some(Recording { replay, warnings }))
    }
}
