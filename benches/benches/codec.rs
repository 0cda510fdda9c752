//! Micro-benchmarks of the codec: decode, encode, typed reads and writes, compared to `LengthDelimitedCodec` of
//! tokio-util.
//!
//! Run `cargo bench -p pktconn-benches --bench codec`, optionally with a filter such as `-- decode/many/64`. Each
//! timing is one pass over a buffer with one packet, or with as many as fill 64 KiB. The throughput is in packets.

#![allow(missing_docs, reason = "the macro generates a function without docs")]

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use pktconn_codec::{Checksum, CodecConfig, Packet, PacketCodec, PacketMut};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

const PAYLOAD_LENS: [usize; 6] = [0, 64, 512, 2048, 64 * 1024, 1024 * 1024];

/// Read buffer of a connection, in bytes.
const BUFFER_LEN: usize = 64 * 1024;

/// The wire format of the default configuration.
fn length_delimited() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().little_endian().max_frame_length(32 * 1024 * 1024).new_codec()
}

fn codec(checksum: Checksum) -> PacketCodec {
    PacketCodec::new(CodecConfig::new().checksum(checksum))
}

fn name(checksum: Checksum) -> &'static str {
    match checksum {
        Checksum::None => "pktconn",
        Checksum::Crc32 => "pktconn-crc32",
        _ => "pktconn-other",
    }
}

/// A payload in which no two cache lines are equal.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 64) as u8).collect()
}

/// Number of packets per pass: one, and as many as fill the read buffer.
fn counts(payload_len: usize) -> Vec<(&'static str, usize)> {
    let many = BUFFER_LEN / (payload_len + 4);
    if many > 1 { vec![("one", 1), ("many", many)] } else { vec![("one", 1)] }
}

fn frames(checksum: Checksum, payload_len: usize, count: usize) -> BytesMut {
    let mut wire = BytesMut::new();
    codec(checksum)
        .encode(Packet::from(payload(payload_len)), &mut wire)
        .expect("the payload is below the limit");
    wire.repeat(count).as_slice().into()
}

/// Creates a group per payload length and count, so that criterion compares the codecs within each group.
fn each_size(c: &mut Criterion, what: &str, bench: impl Fn(&mut BenchmarkGroup<'_, WallTime>, usize, usize)) {
    for payload_len in PAYLOAD_LENS {
        for (form, count) in counts(payload_len) {
            let mut group = c.benchmark_group(format!("{what}/{form}/{payload_len}"));
            group.throughput(Throughput::Elements(count as u64));
            bench(&mut group, payload_len, count);
            group.finish();
        }
    }
}

fn decode(c: &mut Criterion) {
    each_size(c, "decode", |group, payload_len, count| {
        let wire = frames(Checksum::None, payload_len, count);
        group.bench_function("length-delimited", |b| {
            let mut codec = length_delimited();
            b.iter_batched_ref(
                || wire.clone(),
                |buffer| {
                    while let Some(frame) = codec.decode(buffer).expect("the frames are valid") {
                        black_box(&frame);
                    }
                },
                BatchSize::SmallInput,
            );
        });
        for checksum in [Checksum::None, Checksum::Crc32] {
            let wire = frames(checksum, payload_len, count);
            group.bench_function(name(checksum), |b| {
                let mut codec = codec(checksum);
                b.iter_batched_ref(
                    || wire.clone(),
                    |buffer| {
                        while let Some(packet) = codec.decode(buffer).expect("the frames are valid") {
                            black_box(&packet);
                        }
                    },
                    BatchSize::SmallInput,
                );
            });
            group.bench_function(format!("{}-batch", name(checksum)), |b| {
                let (mut codec, mut packets) = (codec(checksum), Vec::new());
                b.iter_batched_ref(
                    || wire.clone(),
                    |buffer| {
                        while codec.decode_many(buffer, 64, &mut packets).expect("the frames are valid") > 0 {
                            black_box(&packets);
                            packets.clear();
                        }
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    });
}

fn encode(c: &mut Criterion) {
    each_size(c, "encode", |group, payload_len, count| {
        let bytes = Bytes::from(payload(payload_len));
        let mut buffer = BytesMut::with_capacity(count * (payload_len + 8));
        group.bench_function("length-delimited", |b| {
            let mut codec = length_delimited();
            b.iter(|| {
                buffer.clear();
                for _ in 0..count {
                    codec
                        .encode(black_box(&bytes).clone(), &mut buffer)
                        .expect("the payload is below the limit");
                }
                black_box(&buffer);
            });
        });
        for checksum in [Checksum::None, Checksum::Crc32] {
            // Framed: received, or built with `PacketMut`. Bare: made from bytes of the application.
            let mut writer = PacketMut::with_capacity(payload_len);
            writer.write_bytes(&bytes);
            let framed = writer.freeze_for(&CodecConfig::new().checksum(checksum));
            let bare = Packet::from(bytes.clone());
            for (origin, packet) in [("ready", framed), ("bare", bare)] {
                group.bench_function(format!("{}-{origin}", name(checksum)), |b| {
                    let codec = codec(checksum);
                    b.iter(|| {
                        buffer.clear();
                        for _ in 0..count {
                            codec
                                .encode_frame(black_box(&packet), &mut buffer)
                                .expect("the payload is below the limit");
                        }
                        black_box(&buffer);
                    });
                });
            }
        }
    });
}

fn typed(c: &mut Criterion) {
    let mut group = c.benchmark_group("typed");
    group.bench_function("write", |b| {
        b.iter(|| {
            let mut packet = PacketMut::new();
            packet.write_u16(black_box(7));
            packet.write_u64(black_box(1 << 40));
            packet.write_f32(black_box(0.5));
            packet.write_var_str_u16(black_box("a name of some length")).expect("the string is short");
            black_box(packet.freeze())
        });
    });
    group.bench_function("read", |b| {
        let mut written = PacketMut::new();
        written.write_u16(7);
        written.write_u64(1 << 40);
        written.write_f32(0.5);
        written.write_var_str_u16("a name of some length").expect("the string is short");
        let written = written.freeze();
        b.iter(|| {
            let mut packet = black_box(&written).clone();
            black_box(packet.read_u16().expect("the field was written"));
            black_box(packet.read_u64().expect("the field was written"));
            black_box(packet.read_f32().expect("the field was written"));
            black_box(packet.read_var_str_u16().expect("the field was written"));
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = decode, encode, typed
}
criterion_main!(benches);
