//! Tests the wire format against bytes captured from the Go library: see `vectors/README.md`.
//!
//! Encoding must return exactly the captured bytes, for packets made in any way. Decoding the captured bytes must
//! return exactly the payload, in any chunks.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Typed, decode, encode, packets_of, payloads};
use pktconn_codec::{Checksum, CodecConfig, HeaderFormat, PacketMut};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Vectors {
    frames: Vec<SmallFrame>,
    large: Vec<LargeFrame>,
    typed: Vec<TypedPayload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SmallFrame {
    name: String,
    payload_hex: String,
    wire_hex: String,
    wire_crc_hex: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LargeFrame {
    payload_len: usize,
    pattern_seed: usize,
    wire_len: usize,
    wire_crc_len: usize,
    wire_sha256: String,
    wire_crc_sha256: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TypedPayload {
    name: String,
    ops: Vec<(String, Value)>,
    payload_hex: String,
}

#[derive(Deserialize)]
struct StreamPacket {
    len: usize,
    crc32: u32,
}

fn plain() -> CodecConfig {
    CodecConfig::new()
}

fn checked() -> CodecConfig {
    CodecConfig::new().checksum(Checksum::Crc32)
}

fn vector_bytes(name: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "vectors", name].iter().collect();
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn vector_json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&vector_bytes(name)).unwrap()
}

fn vectors() -> Vectors {
    vector_json("vectors.json")
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len() % 2 == 0, "odd number of hex digits: {text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The pattern payload of the vectors. It repeats every 256 bytes.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..256).map(|i| ((i * 131 + seed * 17 + 7) % 256) as u8).collect();
    let mut payload = period.repeat(len.div_ceil(256));
    payload.truncate(len);
    payload
}

#[test]
fn small_frames_are_the_captured_bytes_in_both_directions() {
    for vector in vectors().frames {
        let payload = unhex(&vector.payload_hex);
        if vector.name == "pattern" {
            assert_eq!(payload, pattern(payload.len(), payload.len()));
        }
        for (config, wire) in [(plain(), unhex(&vector.wire_hex)), (checked(), unhex(&vector.wire_crc_hex))] {
            for (origin, packet) in packets_of(&payload) {
                assert_eq!(encode(&config, &packet).unwrap(), wire, "{}, {origin}", vector.name);
            }
            let (packets, end) = decode(&config, [&wire[..]]);
            assert_eq!(payloads(&packets), [&payload], "{}", vector.name);
            assert_eq!(end, Ok(()));
        }
    }
}

/// Encodes and decodes every large vector. `expected` returns the length and the hash of its frame.
fn check_large_frames(config: &CodecConfig, expected: impl Fn(&LargeFrame) -> (usize, &str)) {
    for vector in vectors().large {
        let payload = pattern(vector.payload_len, vector.pattern_seed);
        let wire = encode(config, &payload.clone().into()).unwrap();
        assert_eq!((wire.len(), &sha256(&wire)[..]), expected(&vector), "{} bytes", vector.payload_len);
        // With 32 MiB, trying every origin would take longer than all other tests together.
        if payload.len() <= 1024 * 1024 {
            for (origin, packet) in packets_of(&payload) {
                assert!(encode(config, &packet).unwrap() == wire, "{} bytes, {origin}", payload.len());
            }
        }
        for chunk_len in [65_536, wire.len()] {
            let (packets, end) = decode(config, wire.chunks(chunk_len));
            assert_eq!((packets.len(), end), (1, Ok(())), "{} bytes in chunks of {chunk_len}", payload.len());
            assert!(packets[0].payload() == payload, "{} bytes in chunks of {chunk_len}", payload.len());
        }
    }
}

#[test]
fn large_frames_have_the_captured_hash_and_decode_to_their_payload() {
    check_large_frames(&plain(), |vector| (vector.wire_len, &vector.wire_sha256));
}

#[test]
fn large_frames_with_the_checksum_have_the_captured_hash_and_decode_to_their_payload() {
    check_large_frames(&checked(), |vector| (vector.wire_crc_len, &vector.wire_crc_sha256));
}

/// Parses an entry of `Ops`.
fn typed(kind: &str, value: &Value) -> Typed {
    fn number<T>(value: &Value) -> T
    where
        T: std::str::FromStr<Err: std::fmt::Debug>,
    {
        // A number, or a string with a number: JSON numbers are exact only up to 2^53 and cannot be infinite.
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.parse().unwrap()
    }
    let text = || value.as_str().unwrap();
    match kind {
        "bool" => Typed::Bool(value.as_bool().unwrap()),
        "u8" => Typed::U8(number(value)),
        "u16" => Typed::U16(number(value)),
        "i16" => Typed::I16(number(value)),
        "u32" => Typed::U32(number(value)),
        "i32" => Typed::I32(number(value)),
        "u64" => Typed::U64(number(value)),
        "i64" => Typed::I64(number(value)),
        "f32" => Typed::F32(number(value)),
        "f64" => Typed::F64(number(value)),
        "bytes" => Typed::Bytes(unhex(text()).into()),
        "var_bytes_u16" => Typed::VarBytesU16(unhex(text()).into()),
        "var_bytes_u32" => Typed::VarBytesU32(unhex(text()).into()),
        "var_str_u16" => Typed::VarStrU16(text().to_owned()),
        "var_str_u32" => Typed::VarStrU32(text().to_owned()),
        other => panic!("unknown type of value: {other}"),
    }
}

#[test]
fn typed_values_are_the_captured_payload_in_both_directions() {
    for vector in vectors().typed {
        let payload = unhex(&vector.payload_hex);
        let values: Vec<Typed> = vector.ops.iter().map(|(kind, value)| typed(kind, value)).collect();

        let mut written = PacketMut::new();
        for value in &values {
            value.write(&mut written).unwrap();
        }
        assert_eq!(written.payload(), payload, "{}", vector.name);

        for (origin, mut packet) in packets_of(&payload) {
            for value in &values {
                assert_eq!(
                    value.read_same_type(&mut packet).as_ref(),
                    Ok(value),
                    "{}, {origin}",
                    vector.name
                );
            }
            assert_eq!(packet.unread(), b"", "{}, {origin}", vector.name);
        }
    }
}

/// Decodes the captured stream in chunks of several lengths. Then encodes its packets again in each format of
/// `forwarded` and compares the result with the bytes given there.
fn check_stream(config: &CodecConfig, wire: &[u8], forwarded: &[(CodecConfig, &[u8])]) {
    let expected: Vec<StreamPacket> = vector_json("stream.json");
    for chunk_len in [1, 2, 3, 7, 1460, 65_536] {
        let (packets, end) = decode(config, wire.chunks(chunk_len));
        assert_eq!((packets.len(), end), (expected.len(), Ok(())), "in chunks of {chunk_len}");
        for (i, (packet, expected)) in packets.iter().zip(&expected).enumerate() {
            let payload = packet.payload();
            assert_eq!(payload.len(), expected.len, "packet {i} in chunks of {chunk_len}");
            assert_eq!(payload, pattern(expected.len, i), "packet {i} in chunks of {chunk_len}");
            assert_eq!(crc32fast::hash(payload), expected.crc32, "packet {i} in chunks of {chunk_len}");
        }
        for (other, other_wire) in forwarded {
            let encoded: Vec<Vec<u8>> = packets.iter().map(|packet| encode(other, packet).unwrap()).collect();
            assert!(
                encoded.concat() == *other_wire,
                "forwarded in {other:?}, received in chunks of {chunk_len}"
            );
        }
    }
}

#[test]
fn a_stream_decodes_in_any_chunks_and_encodes_to_the_captured_bytes() {
    let (plain_wire, checked_wire) = (vector_bytes("stream.bin"), vector_bytes("stream-crc.bin"));
    check_stream(&plain(), &plain_wire, &[(plain(), &plain_wire), (checked(), &checked_wire)]);
}

#[test]
fn a_stream_with_the_checksum_decodes_in_any_chunks_and_encodes_to_the_captured_bytes() {
    let (plain_wire, checked_wire) = (vector_bytes("stream.bin"), vector_bytes("stream-crc.bin"));
    check_stream(&checked(), &checked_wire, &[(checked(), &checked_wire), (plain(), &plain_wire)]);
}

/// Splits `wire` after byte `i` for each bit `i` of `cuts`.
fn split(wire: &[u8], cuts: u32) -> Vec<&[u8]> {
    let ends = (1..wire.len()).filter(|end| cuts >> (end - 1) & 1 == 1).chain([wire.len()]);
    let mut start = 0;
    ends.map(|end| &wire[std::mem::replace(&mut start, end)..end]).collect()
}

/// Decodes `wire`, split in every possible way.
fn check_all_splits(config: &CodecConfig, wire: &[u8], expected: &[&[u8]]) {
    assert!(wire.len() <= 16, "{} bytes can be split in too many ways", wire.len());
    for cuts in 0..1 << (wire.len() - 1) {
        let (packets, end) = decode(config, split(wire, cuts));
        assert_eq!(payloads(&packets), expected, "split at {cuts:b}");
        assert_eq!(end, Ok(()), "split at {cuts:b}");
    }
}

#[test]
fn a_short_stream_decodes_to_the_same_packets_in_every_split() {
    check_all_splits(&plain(), b"\x01\0\0\0a\0\0\0\0\x03\0\0\0bcd", &[b"a", b"", b"bcd"]);
    check_all_splits(&plain(), b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", &[b"", b"", b"", b""]);
    let u16_be = plain().header(HeaderFormat::U16Be);
    check_all_splits(&u16_be, b"\0\x02ab\0\0\0\x01c\0\x05defgh", &[b"ab", b"", b"c", b"defgh"]);
}

#[test]
fn a_short_stream_with_the_checksum_decodes_to_the_same_packets_in_every_split() {
    let empty_twice = b"\0\0\0\0\x1c\xdf\x44\x21\0\0\0\0\x1c\xdf\x44\x21";
    check_all_splits(&checked(), empty_twice, &[b"", b""]);
    check_all_splits(&checked(), b"\x03\0\0\0\x3a\xbd\x40\xc0\x34\xcf\xa2", &[b"\x3a\xbd\x40"]);
}
