//! The operations that are counted.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use pktconn::{Checksum, CodecConfig, Packet, PacketCodec, PacketMut};

use crate::echo::{self, Mode};

/// Each operation runs this many times and [`MORE`] times. The difference does not contain what happens only once.
pub(crate) const FEWER: u32 = 1000;

/// 10,000 more operations: a connection uses up and replaces its read buffer more than ten times.
pub(crate) const MORE: u32 = 11_000;

/// Packets per batch.
const BATCH: u32 = 32;

pub(crate) struct Case {
    pub(crate) name: String,
    /// Packets per operation. The figures are per packet.
    pub(crate) packets: u32,
    /// Over how many heap layouts the figure is a mean: 1 if the operation rarely allocates. Tokio aligns a task to 128
    /// bytes, and malloc allocates in steps of 16, so 8 layouts are all that there are for a new task.
    pub(crate) heap_layouts: u32,
    /// Runs the operation as many times as its argument says.
    pub(crate) run: Box<dyn Fn(u32)>,
}

impl Case {
    fn new(name: String, run: impl Fn(u32) + 'static) -> Self {
        Self { name, packets: 1, heap_layouts: 1, run: Box::new(run) }
    }
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (checksum, suffix) in [(Checksum::None, ""), (Checksum::Crc32, "-crc32")] {
        for payload_len in [0, 64, 512, 2048] {
            let name = format!("decode-{payload_len}{suffix}");
            cases.push(Case::new(name, move |times| decode(checksum, payload_len, times)));
        }
    }
    for payload_len in [64, 2048] {
        cases.push(Case::new(format!("encode-ready-{payload_len}"), move |times| {
            encode(&framed(Checksum::None, payload_len), times);
        }));
    }
    for payload_len in [64, 2048] {
        cases.push(Case::new(format!("encode-bytes-{payload_len}"), move |times| {
            encode(&Bytes::from(payload(payload_len)).into(), times);
        }));
    }
    for payload_len in [64, 2048] {
        cases.push(Case::new(format!("echo-{payload_len}"), move |times| {
            echo::run(Mode::OneByOne, &frames(Checksum::None, payload_len, 1), times);
        }));
    }
    let short = |times| echo::run_short(&frames(Checksum::None, 64, 1), times);
    cases.push(Case { heap_layouts: 8, ..Case::new("connection-64".to_owned(), short) });
    let batch = |times| echo::run(Mode::InBatches, &frames(Checksum::None, 64, BATCH), times);
    cases.push(Case { packets: BATCH, ..Case::new("echo-64-batch".to_owned(), batch) });
    cases
}

fn codec(checksum: Checksum) -> PacketCodec {
    PacketCodec::new(CodecConfig::new().checksum(checksum))
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| i as u8).collect()
}

/// A packet that is already framed, like one that was received or built with `PacketMut`.
fn framed(checksum: Checksum, payload_len: usize) -> Packet {
    let mut packet = PacketMut::with_capacity(payload_len);
    packet.write_bytes(&payload(payload_len));
    packet.freeze_for(&CodecConfig::new().checksum(checksum))
}

fn frames(checksum: Checksum, payload_len: usize, count: u32) -> BytesMut {
    let (codec, packet) = (codec(checksum), framed(checksum, payload_len));
    let mut wire = BytesMut::with_capacity((payload_len + 8) * count as usize);
    for _ in 0..count {
        codec.encode_frame(&packet, &mut wire).expect("the payload is below the limit");
    }
    wire
}

fn decode(checksum: Checksum, payload_len: usize, times: u32) {
    // The same number of frames in both runs, so that encoding them cancels out.
    let mut wire = frames(checksum, payload_len, times.max(MORE));
    let mut codec = codec(checksum);
    for _ in 0..times {
        black_box(codec.decode_frame(black_box(&mut wire)).expect("the frame is valid"));
    }
}

fn encode(packet: &Packet, times: u32) {
    let codec = codec(Checksum::None);
    let mut buffer = BytesMut::with_capacity(4096);
    for _ in 0..times {
        buffer.clear();
        codec.encode_frame(black_box(packet), &mut buffer).expect("the payload is below the limit");
        black_box(&buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_runs_and_has_a_unique_name() {
        let cases = all();
        let names: std::collections::BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            (case.run)(3);
        }
    }
}
