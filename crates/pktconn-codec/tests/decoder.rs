//! Tests the edge cases of decoding and encoding: memory, errors, the end of the stream, limits.
//!
//! Expected frames are byte literals. Tests that work with any frame use `FRAME`: `PAYLOAD` with a checksum.

mod common;

use std::error::Error;

use bytes::{BufMut, Bytes, BytesMut};
use common::{Typed, decode, encode, frame_error, framings, packets_of, payloads};
use futures::{FutureExt, SinkExt, StreamExt, TryFutureExt, TryStreamExt};
use pktconn_codec::{
    Checksum, CodecConfig, CodecError, FrameError, HeaderFormat, Packet, PacketCodec, PacketMut, ReadError,
};
use tokio::io::{AsyncWriteExt, duplex};
use tokio_util::codec::{Decoder, Encoder, Framed};

const PAYLOAD: &[u8] = b"\x3a\xbd\x40";
const FRAME: &[u8] = b"\x03\0\0\0\x3a\xbd\x40\xc0\x34\xcf\xa2";
/// `FRAME` with another last byte, so that its checksum is wrong.
const BAD_CHECKSUM: &[u8] = b"\x03\0\0\0\x3a\xbd\x40\xc0\x34\xcf\xa3";
const BAD_CHECKSUM_ERROR: FrameError =
    FrameError::ChecksumMismatch { expected: 0xa3cf_34c0, actual: 0xa2cf_34c0 };

/// A header that announces 32 MiB, the default payload limit.
const HEADER_OF_32_MIB: &[u8] = b"\0\0\0\x02";
/// The read buffer may hold twice the bytes that arrived, plus this many.
const SLACK: usize = 8 * 1024;

fn checked() -> CodecConfig {
    CodecConfig::new().checksum(Checksum::Crc32)
}

/// Calls `decode` once with `wire`, without the end of the stream.
fn decode_once(config: CodecConfig, wire: &[u8]) -> Result<Option<Packet>, FrameError> {
    PacketCodec::new(config).decode(&mut BytesMut::from(wire)).map_err(frame_error)
}

/// Decodes a stream of `wire`. Returns its payloads, and the error or the clean end.
fn decode_all(config: &CodecConfig, wire: &[u8]) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
    let (packets, end) = decode(config, [wire]);
    (payloads(&packets).into_iter().map(<[u8]>::to_vec).collect(), end)
}

#[test]
fn an_encoder_reserves_exactly_the_frame() {
    let payload = vec![7; 1000];
    for config in framings() {
        let mut codec = PacketCodec::new(config);
        let frame_len = encode(&config, &payload.clone().into()).unwrap().len();
        let (mut of_payload, mut of_packet) = (BytesMut::new(), BytesMut::new());
        codec.encode_payload(&payload, &mut of_payload).unwrap();
        codec.encode(Packet::from(payload.clone()), &mut of_packet).unwrap();
        assert_eq!((of_payload.capacity(), of_packet.capacity()), (frame_len, frame_len), "{config:?}");
    }
}

#[test]
fn every_framing_encodes_and_decodes_its_own_bytes() {
    let cases: [(HeaderFormat, Checksum, &[u8]); 8] = [
        (HeaderFormat::U32Le, Checksum::None, b"\x03\0\0\0\x3a\xbd\x40"),
        (HeaderFormat::U32Be, Checksum::None, b"\0\0\0\x03\x3a\xbd\x40"),
        (HeaderFormat::U16Le, Checksum::None, b"\x03\0\x3a\xbd\x40"),
        (HeaderFormat::U16Be, Checksum::None, b"\0\x03\x3a\xbd\x40"),
        (HeaderFormat::U32Le, Checksum::Crc32, FRAME),
        (HeaderFormat::U32Be, Checksum::Crc32, b"\0\0\0\x03\x3a\xbd\x40\xb3\x81\x92\x81"),
        (HeaderFormat::U16Le, Checksum::Crc32, b"\x03\0\x3a\xbd\x40\xee\x7c\xc9\x8f"),
        (HeaderFormat::U16Be, Checksum::Crc32, b"\0\x03\x3a\xbd\x40\xd0\xa9\xdc\xda"),
    ];
    for (header, checksum, wire) in cases {
        let config = CodecConfig::new().header(header).checksum(checksum);
        for (origin, packet) in packets_of(PAYLOAD) {
            assert_eq!(encode(&config, &packet).unwrap(), wire, "{config:?}, {origin}");
        }
        assert_eq!(decode_all(&config, wire), (vec![PAYLOAD.to_vec()], Ok(())), "{config:?}");
    }
}

#[test]
fn a_codec_keeps_its_configuration() {
    for config in framings().map(|config| config.max_payload_len(1000)) {
        assert_eq!(PacketCodec::new(config).config(), &config);
    }
}

#[test]
fn empty_packets_are_encoded_and_decoded() {
    let cases: [(CodecConfig, &[u8]); 4] = [
        (CodecConfig::new(), b"\0\0\0\0"),
        (CodecConfig::new().header(HeaderFormat::U16Be), b"\0\0"),
        (checked(), b"\0\0\0\0\x1c\xdf\x44\x21"),
        (checked().header(HeaderFormat::U16Le), b"\0\0\xff\x12\xd9\x41"),
    ];
    for (config, wire) in cases {
        for (origin, packet) in packets_of(b"") {
            assert_eq!(encode(&config, &packet).unwrap(), wire, "{config:?}, {origin}");
        }
        assert_eq!(decode_all(&config, &wire.repeat(3)), (vec![vec![]; 3], Ok(())), "{config:?}");
    }
}

#[test]
fn a_header_alone_commits_no_memory() {
    let unlimited = CodecConfig::new().max_payload_len(usize::MAX);
    let cases: [(CodecConfig, &[u8]); 3] = [
        (CodecConfig::new(), HEADER_OF_32_MIB),
        (unlimited, b"\xff\xff\xff\xff"),
        (unlimited.header(HeaderFormat::U32Be), b"\xff\xff\xff\xff"),
    ];
    for (config, header) in cases {
        // A buffer that the header fills, and one as large as the first buffer of a `Framed`.
        for capacity in [header.len(), 8 * 1024] {
            let mut buffer = BytesMut::with_capacity(capacity);
            buffer.put_slice(header);
            let mut codec = PacketCodec::new(config);
            for _ in 0..3 {
                assert!(codec.decode(&mut buffer).unwrap().is_none());
                let bound = 2 * header.len() + SLACK;
                assert!(
                    buffer.capacity() <= bound,
                    "capacity of {} bytes for a header, {config:?}",
                    buffer.capacity()
                );
            }
        }
    }
}

/// Decodes `wire` as a `Framed` does: reserves at least one byte, reads as much as the buffer has room for, up to
/// `read_len` bytes, and decodes. After every read, calls `check` with the buffer and the number of bytes read so far.
fn decode_in_reads(
    buffer: &mut BytesMut,
    wire: &[u8],
    read_len: usize,
    check: impl Fn(&BytesMut, usize),
) -> Vec<Packet> {
    let mut codec = PacketCodec::default();
    let mut packets = Vec::new();
    let mut unread = wire;
    while !unread.is_empty() {
        buffer.reserve(1);
        let room = buffer.capacity() - buffer.len();
        let (read, rest) = unread.split_at(room.min(read_len).min(unread.len()));
        buffer.put_slice(read);
        unread = rest;
        while let Some(packet) = codec.decode(buffer).unwrap() {
            packets.push(packet);
        }
        check(buffer, wire.len() - unread.len());
    }
    packets
}

#[test]
fn the_buffer_stays_within_twice_what_has_arrived() {
    let payload = vec![7; 4 * 1024 * 1024];
    let large = encode(&CodecConfig::new(), &payload.into()).unwrap();
    // Once alone, and once after a packet that is kept, so that the shared buffer cannot grow in place.
    let behind_another = [b"\x05\0\0\0first", &large[..]].concat();
    for wire in [large, behind_another] {
        for read_len in [1024, 1460, 64 * 1024] {
            for mut buffer in [BytesMut::new(), BytesMut::with_capacity(8 * 1024)] {
                let packets = decode_in_reads(&mut buffer, &wire, read_len, |buffer, arrived| {
                    let capacity = buffer.capacity();
                    let bound = 2 * arrived + SLACK;
                    assert!(
                        capacity <= bound,
                        "capacity {capacity} after {arrived} bytes, in reads of {read_len}"
                    );
                });
                assert_eq!(packets.last().map(Packet::len), Some(4 * 1024 * 1024));
            }
        }
    }
}

#[test]
fn decode_about_doubles_a_full_buffer() {
    let half = 100 * 1024;
    let wire = [&b"\0\x20\x03\0"[..], &vec![7; half]].concat();
    // Only a header; half of a payload of 200 KiB; a frame with fewer bytes missing than present.
    for (arrived, least) in [(&wire[..4], SLACK / 2), (&wire, half), (b"\x05\0\0\0abc", 2)] {
        let mut buffer = BytesMut::from(arrived);
        assert_eq!(buffer.capacity(), buffer.len());
        assert!(PacketCodec::default().decode(&mut buffer).unwrap().is_none());
        let room = buffer.capacity() - buffer.len();
        assert!(
            room >= least && room <= buffer.len() + SLACK,
            "{room} bytes of room after {} bytes",
            buffer.len()
        );
    }
}

#[test]
fn decode_does_not_grow_a_buffer_that_has_room() {
    for spare in [1, 100, SLACK] {
        let mut buffer = BytesMut::with_capacity(HEADER_OF_32_MIB.len() + spare);
        buffer.put_slice(HEADER_OF_32_MIB);
        let (address, capacity) = (buffer.as_ptr(), buffer.capacity());
        assert!(PacketCodec::default().decode(&mut buffer).unwrap().is_none());
        assert_eq!((buffer.as_ptr(), buffer.capacity()), (address, capacity), "{spare} bytes of room");
    }
}

#[test]
fn a_buffer_that_grows_in_steps_ends_as_large_as_its_frame() {
    let wire = [&b"\0\0\x40\0"[..], &vec![7; 4 * 1024 * 1024]].concat();
    let mut buffer = BytesMut::new();
    decode_in_reads(&mut buffer, &wire, 64 * 1024, |buffer, _| {
        assert!(buffer.capacity() <= wire.len(), "capacity of {} bytes", buffer.capacity());
    });
}

#[test]
fn room_accepts_any_buffer_and_any_number() {
    let assert_no_room = |codec: &PacketCodec| {
        for src in [b"", HEADER_OF_32_MIB, FRAME] {
            assert_eq!([0, 1, usize::MAX].map(|at_least| codec.room(src, at_least)), [0; 3]);
        }
    };
    let mut codec = PacketCodec::default();
    assert_no_room(&codec);

    assert_eq!(codec.decode_frame(&mut BytesMut::from(HEADER_OF_32_MIB)), Ok(None));
    let frame_len = 4 + 32 * 1024 * 1024;
    assert_eq!(codec.room(b"", usize::MAX), frame_len);
    assert_eq!(codec.room(HEADER_OF_32_MIB, usize::MAX), frame_len - 4);
    assert_eq!(codec.room(b"", 1), 1);
    // With a buffer that does not contain the header, and `at_least` of 0.
    assert_eq!(codec.room(b"", 0), 0);

    codec.decode_end(b"").unwrap_err();
    assert_no_room(&codec);
}

#[test]
fn decode_frame_reserves_no_memory() {
    let mut buffer = BytesMut::from(HEADER_OF_32_MIB);
    let capacity = buffer.capacity();
    let mut codec = PacketCodec::default();
    assert_eq!(codec.missing(&buffer), 0, "the length is unknown before the first call");
    assert_eq!(codec.decode_frame(&mut buffer), Ok(None));
    assert_eq!(buffer.capacity(), capacity);
    assert_eq!(codec.missing(&buffer), 32 * 1024 * 1024);
    buffer.put_slice(b"some");
    assert_eq!(codec.missing(&buffer), 32 * 1024 * 1024 - 4);
}

#[test]
fn an_incomplete_frame_stays_in_the_buffer() {
    for len in 0..FRAME.len() {
        let mut buffer = BytesMut::from(&FRAME[..len]);
        assert_eq!(PacketCodec::new(checked()).decode_frame(&mut buffer), Ok(None));
        assert_eq!(buffer, FRAME[..len]);
        // A second codec, after the first was dropped, decodes the frame from its start.
        buffer.put_slice(&FRAME[len..]);
        let packet = PacketCodec::new(checked()).decode_frame(&mut buffer).unwrap().unwrap();
        assert_eq!(packet.payload(), PAYLOAD);
        assert!(buffer.is_empty());
    }
}

#[test]
fn a_received_packet_is_a_slice_of_the_read_buffer() {
    for config in framings() {
        let wire = encode(&config, &PAYLOAD.into()).unwrap();
        let mut buffer = BytesMut::from(&wire.repeat(3)[..]);
        let start = buffer.as_ptr();
        let mut codec = PacketCodec::new(config);
        for i in 0..3 {
            let mut packet = codec.decode(&mut buffer).unwrap().unwrap();
            let expected = start.wrapping_add(i * wire.len() + config.header_format().header_len());
            assert_eq!(packet.payload().as_ptr(), expected, "{config:?}");
            assert_eq!(packet.read_bytes(3).unwrap().as_ptr(), expected, "{config:?}");
            assert_eq!(packet.clone().payload().as_ptr(), expected, "{config:?}");
            assert_eq!(packet.into_payload().as_ptr(), expected, "{config:?}");
        }
    }
}

#[test]
fn bytes_from_typed_reads_share_the_memory_of_the_packet() {
    let mut packet = Packet::from(b"raw\x05\0short\x04\0\0\0long");
    let start = packet.payload().as_ptr();
    let read = [packet.read_bytes(3), packet.read_var_bytes_u16(), packet.read_var_bytes_u32()];
    for (bytes, (expected, at)) in read.into_iter().zip([(&b"raw"[..], 0), (b"short", 5), (b"long", 14)]) {
        let bytes = bytes.unwrap();
        assert_eq!((&bytes[..], bytes.as_ptr()), (expected, start.wrapping_add(at)));
    }
}

#[test]
fn a_received_packet_is_forwarded_without_a_copy() {
    for received_in in framings() {
        let wire = encode(&received_in, &PAYLOAD.into()).unwrap();
        let packet = decode_once(received_in, &wire).unwrap().unwrap();
        for config in framings() {
            let codec = PacketCodec::new(config);
            let frame = codec.frame(&packet).unwrap();
            let same_header = config.header_format() == received_in.header_format();
            let same_checksum = config.checksum_kind() == received_in.checksum_kind();
            let header_len = config.header_format().header_len();
            let checksum_len = config.checksum_kind().checksum_len();

            // The received header and checksum are reused if they are the same in the other format.
            let reused = if same_header { header_len } else { 0 };
            assert_eq!(frame.body().as_ptr(), packet.payload().as_ptr().wrapping_sub(reused));
            assert_eq!(frame.body_bytes().as_ptr(), frame.body().as_ptr());
            assert_eq!(frame.head().len(), header_len - reused);
            assert_eq!(frame.tail().len(), if same_header && same_checksum { 0 } else { checksum_len });
        }
    }
}

/// Asserts that every call on `codec` returns `error`, for any content of the buffer.
fn assert_every_call_fails(codec: &mut PacketCodec, buffer: &mut BytesMut, error: FrameError) {
    buffer.put_slice(FRAME);
    for buffer in [buffer, &mut BytesMut::from(FRAME), &mut BytesMut::new()] {
        assert_eq!(codec.decode(buffer).map_err(frame_error), Err(error));
        assert_eq!(codec.decode_eof(buffer).map_err(frame_error), Err(error));
        assert_eq!(codec.decode_frame(buffer), Err(error));
        assert_eq!(codec.decode_end(buffer), Err(error));
        assert_eq!(codec.missing(buffer), 0);
    }
}

#[test]
fn a_decode_error_contains_its_numbers_and_is_returned_by_every_later_call() {
    let config = checked().max_payload_len(3);
    let cases: [(&[u8], FrameError); 3] = [
        (b"\x04\0\0\0", FrameError::PayloadTooLarge { len: 4, max: 3 }),
        (b"\xff\xff\xff\xff", FrameError::PayloadTooLarge { len: 0xffff_ffff, max: 3 }),
        (BAD_CHECKSUM, BAD_CHECKSUM_ERROR),
    ];
    for (bad, error) in cases {
        let mut codec = PacketCodec::new(config);
        let mut buffer = BytesMut::from(&[FRAME, bad, FRAME].concat()[..]);
        let good = codec.decode_frame(&mut buffer).unwrap().unwrap();
        assert_eq!(good.payload(), PAYLOAD, "before {error}");
        assert_eq!(codec.decode(&mut buffer).map_err(frame_error), Err(error));
        assert_every_call_fails(&mut codec, &mut buffer, error);
    }
}

#[test]
fn a_truncated_stream_stays_truncated_when_more_bytes_follow() {
    let mut codec = PacketCodec::new(checked());
    let mut buffer = BytesMut::from(&FRAME[..7]);
    let error = FrameError::Truncated { needed: 11, available: 7 };
    assert!(codec.decode(&mut buffer).unwrap().is_none());
    assert_eq!(codec.decode_eof(&mut buffer).map_err(frame_error), Err(error));
    buffer.put_slice(&FRAME[7..]);
    assert_every_call_fails(&mut codec, &mut buffer, error);
}

#[test]
fn a_stream_that_ends_between_frames_ends_cleanly() {
    for config in framings() {
        let wire = encode(&config, &PAYLOAD.into()).unwrap();
        assert_eq!(decode_all(&config, b""), (vec![], Ok(())));
        assert_eq!(decode_all(&config, &wire.repeat(2)), (vec![PAYLOAD.to_vec(); 2], Ok(())));
    }
}

#[test]
fn decode_eof_returns_the_complete_packets_first() {
    let mut codec = PacketCodec::new(checked());
    let mut buffer = BytesMut::from(&FRAME.repeat(2)[..]);
    for _ in 0..2 {
        let packet = codec.decode_eof(&mut buffer).unwrap().unwrap();
        assert_eq!(packet.payload(), PAYLOAD);
    }
    // `Framed` may call `decode_eof` again after the end.
    for _ in 0..2 {
        assert_eq!(codec.decode_eof(&mut buffer).unwrap(), None);
    }
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_truncated() {
    // The length of the header until it is complete, then the length of the frame.
    let needed = [4, 4, 4, 11, 11, 11, 11, 11, 11, 11];
    for (available, needed) in (1..FRAME.len()).zip(needed) {
        let (packets, end) = decode(&checked(), [FRAME, &FRAME[..available]]);
        assert_eq!(payloads(&packets), [PAYLOAD]);
        assert_eq!(end, Err(FrameError::Truncated { needed, available }));
    }
    let short_header = CodecConfig::new().header(HeaderFormat::U16Be);
    for (wire, needed) in [(&b"\0"[..], 2), (b"\0\x03", 5), (b"\0\x03\x3a\xbd", 5)] {
        let error = FrameError::Truncated { needed, available: wire.len() };
        assert_eq!(decode_all(&short_header, wire), (vec![], Err(error)));
    }
}

#[test]
fn each_header_format_limits_the_payload_to_what_its_length_field_holds() {
    for config in framings() {
        let expected = if config.header_format().header_len() == 2 { 65_535 } else { 0xffff_ffff };
        assert_eq!(config.max_payload_len(usize::MAX).payload_limit(), expected, "{config:?}");
    }
    for config in framings().filter(|config| config.header_format().header_len() == 2) {
        let longest = vec![7; 65_535];
        for (origin, packet) in packets_of(&longest) {
            let wire = encode(&config, &packet).unwrap();
            assert_eq!(wire[..2], *b"\xff\xff", "{config:?}, {origin}");
            assert!(decode_all(&config, &wire) == (vec![longest.clone()], Ok(())), "{config:?}, {origin}");
        }
        for (origin, packet) in packets_of(&[7; 65_536]) {
            let error = FrameError::PayloadTooLarge { len: 65_536, max: 65_535 };
            assert_eq!(encode(&config, &packet), Err(error), "{config:?}, {origin}");
        }
    }
}

#[test]
fn a_payload_can_be_as_long_as_the_limit_but_not_longer() {
    for config in framings().map(|config| config.max_payload_len(3)) {
        let too_large = Err(FrameError::PayloadTooLarge { len: 4, max: 3 });
        for (origin, packet) in packets_of(b"abc") {
            let wire = encode(&config, &packet).unwrap();
            assert_eq!(decode_all(&config, &wire), (vec![b"abc".to_vec()], Ok(())), "{config:?}, {origin}");
        }
        for (origin, packet) in packets_of(b"abcd") {
            assert_eq!(encode(&config, &packet), too_large, "{config:?}, {origin}");
        }
        let four = encode(&config.max_payload_len(4), &b"abcd".into()).unwrap();
        // The decoder rejects the frame by its header, before the payload arrives.
        let header = &four[..config.header_format().header_len()];
        assert_eq!(decode_once(config, header), too_large.map(|_| None), "{config:?}");
    }
}

#[test]
fn the_default_limit_is_32_mib() {
    let limit = 32 * 1024 * 1024;
    assert_eq!(decode_once(CodecConfig::new(), HEADER_OF_32_MIB), Ok(None));
    let too_large = FrameError::PayloadTooLarge { len: limit + 1, max: limit };
    assert_eq!(decode_once(CodecConfig::new(), b"\x01\0\0\x02"), Err(too_large));
    assert_eq!(encode(&CodecConfig::new(), &vec![0; limit + 1].into()), Err(too_large));
}

#[test]
fn a_limit_of_zero_allows_empty_packets() {
    let config = CodecConfig::new().max_payload_len(0);
    assert_eq!(decode_all(&config, b"\0\0\0\0"), (vec![vec![]], Ok(())));
    assert_eq!(decode_once(config, b"\x01\0\0\0"), Err(FrameError::PayloadTooLarge { len: 1, max: 0 }));
}

#[test]
fn a_flipped_bit_never_becomes_a_packet() {
    let long: Vec<u8> = (0..100).collect();
    for config in framings().filter(|config| config.checksum_kind() == Checksum::Crc32) {
        for payload in [&b""[..], b"\0", PAYLOAD, &long] {
            let frame = encode(&config, &payload.to_vec().into()).unwrap();
            for bit in 0..frame.len() * 8 {
                let mut corrupted = frame.clone();
                corrupted[bit / 8] ^= 1 << (bit % 8);
                // With no frames after it, and with some, in case that the flipped bit makes the length larger.
                for following_count in [0, 1, 300] {
                    let rest = frame.repeat(following_count);
                    let (packets, end) = decode(&config, [&frame[..], &corrupted, &rest]);
                    assert_eq!(payloads(&packets), [payload], "bit {bit} of {frame:x?}, {config:?}");
                    assert!(end.is_err(), "bit {bit} of {frame:x?}, {config:?}");
                }
            }
        }
    }
}

#[test]
fn a_peer_that_sends_no_checksums_is_detected() {
    // Two frames without checksum: the decoder reads the second header as the checksum of the first frame.
    let wire = b"\x03\0\0\0\x3a\xbd\x40\x03\0\0\0\x3a\xbd\x40";
    let error = FrameError::ChecksumMismatch { expected: 3, actual: 0xa2cf_34c0 };
    assert_eq!(decode_once(checked(), wire), Err(error));
}

#[test]
fn error_texts_contain_the_numbers_and_errors_keep_their_source() {
    let too_large = FrameError::PayloadTooLarge { len: 4, max: 3 };
    let truncated = FrameError::Truncated { needed: 11, available: 7 };
    assert_eq!(
        too_large.to_string(),
        "payload of 4 bytes exceeds the limit of 3 bytes (max_payload_len or the header format)"
    );
    assert_eq!(truncated.to_string(), "the stream ended after 7 of the 11 bytes of a frame");
    assert_eq!(
        BAD_CHECKSUM_ERROR.to_string(),
        "checksum mismatch: the frame contains 0xa3cf34c0, its bytes have 0xa2cf34c0; \
         the bytes were corrupted, or only one side uses checksums"
    );
    assert_eq!(CodecError::from(too_large).to_string(), too_large.to_string());

    let reset = CodecError::from(std::io::Error::other("reset"));
    assert_eq!(reset.source().unwrap().to_string(), "reset");
    let not_utf8 = Packet::from(b"\x01\0\xff").read_var_str_u16().unwrap_err();
    assert!(matches!(not_utf8, ReadError::InvalidUtf8(_)));
    assert!(not_utf8.source().unwrap().is::<std::str::Utf8Error>());
}

#[tokio::test]
async fn typed_values_are_echoed_through_a_framed() {
    let values = [
        Typed::Bool(true),
        Typed::U8(0xff),
        Typed::U16(0xfffe),
        Typed::I16(-2),
        Typed::U32(0xffff_fffe),
        Typed::I32(-3),
        Typed::U64(u64::MAX - 1),
        Typed::I64(-4),
        Typed::F32(0.5),
        Typed::F64(-0.1),
        Typed::Bytes(Bytes::from_static(b"raw")),
        Typed::VarBytesU16(Bytes::new()),
        Typed::VarBytesU32(Bytes::from_static(b"bytes")),
        Typed::VarStrU16("\u{5c01}\u{5305}".to_owned()),
        Typed::VarStrU32(String::new()),
    ];
    for config in framings() {
        // The pipe is shorter than most frames, so they are written and read in pieces.
        let (here, there) = duplex(16);
        let (mut requests, replies) = Framed::new(here, PacketCodec::new(config)).split();
        let (echo, arriving) = Framed::new(there, PacketCodec::new(config)).split();
        // Each side closes after its last packet, and the first error ends all three futures. So a failure does not
        // hang.
        let ask = async {
            for value in &values {
                let mut request = PacketMut::new();
                value.write(&mut request)?;
                requests.send(request.freeze()).await?;
            }
            requests.close().await?;
            Ok::<(), Box<dyn Error>>(())
        };
        let echoed = arriving.forward(echo).err_into();
        let replies = replies.err_into().try_collect::<Vec<_>>();
        let ((), (), replies) = tokio::try_join!(ask, echoed, replies).unwrap();
        assert_eq!(replies.len(), values.len(), "{config:?}");
        for (value, mut reply) in values.iter().zip(replies) {
            assert_eq!(value.read_same_type(&mut reply).as_ref(), Ok(value), "{config:?}");
        }
    }
}

#[tokio::test]
async fn the_read_buffer_of_a_framed_grows_with_the_bytes_that_arrive() {
    let (mut peer, transport) = duplex(1024);
    let mut framed = Framed::new(transport, PacketCodec::default());
    peer.write_all(HEADER_OF_32_MIB).await.unwrap();
    assert!(framed.next().now_or_never().is_none());
    assert!(framed.read_buffer().capacity() <= 2 * HEADER_OF_32_MIB.len() + SLACK);
    for read in 1..=256 {
        peer.write_all(&[7; 1024]).await.unwrap();
        assert!(framed.next().now_or_never().is_none());
        let arrived = HEADER_OF_32_MIB.len() + read * 1024;
        assert_eq!(framed.read_buffer().len(), arrived);
        assert!(framed.read_buffer().capacity() <= 2 * arrived + SLACK);
        // Tokio limits how often a task can read before it yields.
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_framed_distinguishes_a_clean_end_from_a_truncated_frame() {
    for (wire, expected) in
        [(FRAME, None), (&FRAME[..10], Some(FrameError::Truncated { needed: 11, available: 10 }))]
    {
        let (mut peer, transport) = duplex(1024);
        let mut framed = Framed::new(transport, PacketCodec::new(checked()));
        peer.write_all(&[FRAME, wire].concat()).await.unwrap();
        drop(peer);
        let packets: Vec<_> = framed.by_ref().collect().await;
        let error = packets.into_iter().find_map(Result::err).map(frame_error);
        assert_eq!(error, expected);
    }
}

#[tokio::test]
async fn a_framed_that_is_polled_after_an_error_returns_the_error_again() {
    let (mut peer, transport) = duplex(1024);
    let mut framed = Framed::new(transport, PacketCodec::new(checked()));
    for wire in [BAD_CHECKSUM, FRAME] {
        peer.write_all(wire).await.unwrap();
        let result = framed.next().now_or_never().expect("`next` must not wait").expect("an error");
        assert_eq!(result.map_err(frame_error), Err(BAD_CHECKSUM_ERROR));
        // `Framed` returns `None` once after an error. If it is polled again, it decodes again.
        assert!(framed.next().now_or_never().expect("`next` must not wait").is_none());
    }
}

#[tokio::test]
async fn an_error_of_the_stream_is_an_io_error() {
    let (peer, transport) = duplex(1024);
    let mut framed = Framed::new(transport, PacketCodec::default());
    drop(peer);
    let error = framed.send(Packet::from(PAYLOAD)).await.unwrap_err();
    assert!(matches!(error, CodecError::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe));
}

#[test]
fn a_batch_ends_before_an_invalid_frame_and_every_later_call_returns_the_error() {
    let mut codec = PacketCodec::new(checked());
    let mut buffer = BytesMut::from(&[FRAME, FRAME, BAD_CHECKSUM, FRAME].concat()[..]);
    let mut packets = Vec::new();
    assert_eq!(codec.decode_many(&mut buffer, 10, &mut packets), Ok(2));
    assert_eq!(payloads(&packets), [PAYLOAD; 2]);
    for _ in 0..2 {
        assert_eq!(codec.decode_many(&mut buffer, 10, &mut packets), Err(BAD_CHECKSUM_ERROR));
        assert_eq!(codec.decode_frame(&mut buffer), Err(BAD_CHECKSUM_ERROR));
    }
}

#[test]
fn a_codec_is_ready_if_a_frame_is_complete_or_invalid() {
    let mut buffer = BytesMut::new();
    for codec in [PacketCodec::new(checked()), {
        // A codec that has already decoded the header.
        let mut codec = PacketCodec::new(checked());
        assert_eq!(codec.decode_frame(&mut BytesMut::from(&FRAME[..5])), Ok(None));
        codec
    }] {
        buffer.clear();
        for byte in FRAME {
            assert!(!codec.is_ready(&buffer));
            buffer.extend_from_slice(&[*byte]);
        }
        assert!(codec.is_ready(&buffer));
    }
    let mut codec = PacketCodec::new(checked().max_payload_len(2));
    buffer.truncate(4);
    assert!(codec.is_ready(&buffer), "a header over the limit is an error");
    codec.decode_frame(&mut buffer).unwrap_err();
    assert!(codec.is_ready(&BytesMut::new()), "a failed codec returns its error");
}

#[test]
fn a_batch_continues_with_an_incomplete_frame_once_it_is_complete() {
    let mut codec = PacketCodec::new(checked());
    let mut buffer = BytesMut::from(&[FRAME, &FRAME[..7]].concat()[..]);
    let mut packets = Vec::new();
    assert_eq!(codec.decode_many(&mut buffer, 10, &mut packets), Ok(1));
    assert_eq!(codec.decode_many(&mut buffer, 10, &mut packets), Ok(0));
    assert_eq!(codec.missing(&buffer), FRAME.len() - 7);
    buffer.extend_from_slice(&[&FRAME[7..], FRAME].concat());
    assert_eq!(codec.decode_many(&mut buffer, 0, &mut packets), Ok(0));
    assert_eq!(codec.decode_many(&mut buffer, 10, &mut packets), Ok(2));
    assert_eq!(payloads(&packets), [PAYLOAD; 3]);
    assert!(buffer.is_empty());
}

/// Decodes up to `limit` of `count` equal packets into a vector of this `capacity`. Returns its capacity afterwards.
fn capacity_after_a_batch(capacity: usize, count: usize, limit: usize) -> usize {
    let mut packets = Vec::with_capacity(capacity);
    assert_eq!(packets.capacity(), capacity);
    let mut wire = BytesMut::from(&FRAME.repeat(count)[..]);
    let decoded = PacketCodec::new(checked()).decode_many(&mut wire, limit, &mut packets);
    assert_eq!(decoded, Ok(count.min(limit)));
    packets.capacity()
}

#[test]
fn a_batch_reserves_room_for_all_its_packets_at_once() {
    // By doubling, the vectors would end with a capacity of 16 and of 24.
    assert_eq!(capacity_after_a_batch(0, 10, usize::MAX), 10);
    assert_eq!(capacity_after_a_batch(3, 13, usize::MAX), 13);
    assert_eq!(capacity_after_a_batch(13, 13, usize::MAX), 13);
}

#[test]
fn a_batch_reserves_room_for_no_more_packets_than_its_limit() {
    assert_eq!(capacity_after_a_batch(0, 50, 10), 10);
    // `reserve` for the two packets that are left doubles the vector.
    assert_eq!(capacity_after_a_batch(3, 50, 5), 6);
}

#[test]
fn an_empty_packet_before_large_ones_does_not_reserve_room_for_thousands() {
    let large = encode(&CodecConfig::new(), &vec![7; 2000].into()).unwrap();
    let wire = [&[0; 4], &large.repeat(30)[..]].concat();
    let decode_into = |packets: &mut Vec<Packet>| {
        PacketCodec::default().decode_many(&mut BytesMut::from(&wire[..]), usize::MAX, packets)
    };
    let mut packets = Vec::new();
    assert_eq!(decode_into(&mut packets), Ok(31));
    assert!(packets.capacity() <= 64, "capacity of {} packets", packets.capacity());

    // A vector with enough room does not grow.
    let mut packets = Vec::with_capacity(31);
    assert_eq!(decode_into(&mut packets), Ok(31));
    assert_eq!(packets.capacity(), 31);
}
