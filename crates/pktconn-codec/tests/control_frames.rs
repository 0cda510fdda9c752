//! Control frames between the frames of packets.

use bytes::{Bytes, BytesMut};
use pktconn_codec::{Checksum, CodecConfig, FrameError, HeaderFormat, Packet, PacketCodec};
use proptest::prelude::*;

fn config(is_big_endian: bool, has_crc: bool) -> CodecConfig {
    let header = if is_big_endian { HeaderFormat::U32Be } else { HeaderFormat::U32Le };
    let checksum = if has_crc { Checksum::Crc32 } else { Checksum::None };
    CodecConfig::new().header(header).checksum(checksum).control_frames(true)
}

fn configs() -> impl Iterator<Item = CodecConfig> {
    [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .map(|(is_big_endian, has_crc)| config(is_big_endian, has_crc))
}

/// The bytes of a control frame that states `body_len`, which may be wrong.
fn control(config: &CodecConfig, type_code: u8, body_len: u16, body: &[u8]) -> Vec<u8> {
    let len_field = 0xFFFF_FF00 | u32::from(type_code);
    let mut frame = if config.header_format() == HeaderFormat::U32Be {
        [&len_field.to_be_bytes()[..], &body_len.to_be_bytes()].concat()
    } else {
        [&len_field.to_le_bytes()[..], &body_len.to_le_bytes()].concat()
    };
    frame.extend_from_slice(body);
    if config.checksum_kind() == Checksum::Crc32 {
        frame.extend(crc32fast::hash(&frame).to_le_bytes());
    }
    frame
}

fn data(config: &CodecConfig, payload: &'static [u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    PacketCodec::new(*config).encode_frame(&payload.into(), &mut frame).unwrap();
    frame.to_vec()
}

/// As a connection does.
fn decode(codec: &mut PacketCodec, src: &mut BytesMut) -> Result<Option<Packet>, FrameError> {
    codec.decode_frame(src).or_else(|error| codec.decode_control(src, error))
}

/// Decodes all of `stream`, which arrives in pieces of `step` bytes.
fn decode_in_steps(config: &CodecConfig, stream: &[u8], step: usize) -> Result<Vec<Packet>, FrameError> {
    let (mut codec, mut src, mut packets) = (PacketCodec::new(*config), BytesMut::new(), Vec::new());
    for piece in stream.chunks(step) {
        src.extend_from_slice(piece);
        loop {
            let is_ready = codec.is_ready(&src);
            match decode(&mut codec, &mut src) {
                Ok(packet) => {
                    assert_eq!(is_ready, packet.is_some());
                    let Some(packet) = packet else { break };
                    packets.push(packet);
                }
                Err(error) => {
                    assert!(is_ready);
                    assert_eq!(decode(&mut codec, &mut src), Err(error), "errors stay");
                    return Err(error);
                }
            }
        }
    }
    codec.decode_end(&src).map(|()| packets)
}

#[test]
fn the_bytes_of_a_control_frame_are_those_on_the_wire() {
    let little = config(false, true);
    assert_eq!(control(&little, 9, 0, b""), [0x09, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0xFB, 0x05, 0x34, 0x3C]);
    let big = config(true, false);
    assert_eq!(control(&big, 4, 2, b"ab"), b"\xFF\xFF\xFF\x04\0\x02ab");
}

#[test]
fn control_frames_and_packets_come_in_order_however_they_are_cut() {
    for config in configs() {
        let frames = [
            data(&config, b"one"),
            control(&config, 4, 8, b"12345678"),
            control(&config, 9, 0, b""),
            data(&config, b""),
            control(&config, 0xFF, 1024, &[7; 1024]),
            data(&config, b"two"),
        ];
        let stream = frames.concat();
        for step in [1, 2, 3, 5, 6, 7, 100, stream.len()] {
            let packets = decode_in_steps(&config, &stream, step).unwrap();
            assert_eq!(packets.len(), frames.len(), "{config:?}");
            for (packet, frame) in packets.iter().zip(&frames) {
                let is_control = frame[..4].iter().filter(|byte| **byte == 0xFF).count() >= 3;
                assert_eq!(packet.is_control(), is_control);
                if is_control {
                    assert_eq!(packet.control_bytes(), frame);
                }
            }
            assert_eq!(packets[1].payload(), b"12345678");
            assert_eq!(packets[4].payload(), [7; 1024]);
            assert_eq!((packets[3].len(), packets[5].payload()), (0, &b"two"[..]));
        }
    }
}

#[test]
fn a_control_frame_is_encoded_as_its_bytes_whatever_the_payload_limit() {
    for config in configs() {
        let config = config.max_payload_len(3);
        let frame = control(&config, 4, 8, b"12345678");
        for packet in [
            Packet::from_control(Bytes::from(frame.clone()), &config),
            decode_in_steps(&config, &frame, 100).unwrap().remove(0).detach(),
        ] {
            assert!(packet.is_control());
            let mut encoded = BytesMut::new();
            PacketCodec::new(config).encode_frame(&packet, &mut encoded).unwrap();
            assert_eq!(encoded, frame);
        }
        assert_eq!(
            PacketCodec::new(config).encode_frame(&b"1234".into(), &mut BytesMut::new()),
            Err(FrameError::PayloadTooLarge { len: 4, max: 3 })
        );
    }
}

#[test]
fn a_control_frame_with_an_over_long_body_is_its_prefix() {
    for config in configs() {
        let frame = control(&config, 3, 1025, b"");
        let (mut codec, mut src) = (PacketCodec::new(config), BytesMut::from(&frame[..5]));
        assert_eq!(decode(&mut codec, &mut src), Ok(None));
        src.extend_from_slice(&frame[5..6]);
        let packet = decode(&mut codec, &mut src).unwrap().unwrap();
        assert!(packet.is_control() && packet.is_empty());
        assert_eq!(packet.control_bytes(), &frame[..6]);
    }
}

#[test]
fn a_control_frame_with_a_wrong_checksum_is_refused() {
    for is_big_endian in [false, true] {
        let config = config(is_big_endian, true);
        let mut frame = control(&config, 4, 8, b"12345678");
        *frame.last_mut().unwrap() ^= 1;
        let error = decode_in_steps(&config, &frame, 1).unwrap_err();
        assert!(matches!(error, FrameError::ChecksumMismatch { .. }), "{error}");
    }
}

#[test]
fn a_stream_that_ends_in_a_control_frame_is_truncated() {
    for config in configs() {
        let frame = control(&config, 4, 8, b"12345678");
        for len in 1..frame.len() {
            let error = decode_in_steps(&config, &frame[..len], 1).unwrap_err();
            let needed = match len {
                ..4 => 4,
                4..6 => 6,
                _ => frame.len(),
            };
            assert_eq!(error, FrameError::Truncated { needed, available: len });
        }
    }
}

#[test]
fn without_the_setting_a_control_frame_is_a_payload_that_is_too_large() {
    for config in configs() {
        let frame = control(&config, 4, 8, b"12345678");
        let config = config.control_frames(false);
        let error = decode_in_steps(&config, &frame, 1).unwrap_err();
        assert_eq!(error, FrameError::PayloadTooLarge { len: 0xFFFF_FF04, max: 32 << 20 });
    }
}

#[test]
fn a_length_between_the_limit_and_the_first_control_frame_is_refused() {
    for len in [(32 << 20) + 1, 0xFFFF_FEFF_u32] {
        let error = decode_in_steps(&config(false, false), &len.to_le_bytes(), 1).unwrap_err();
        assert_eq!(error, FrameError::PayloadTooLarge { len: len as usize, max: 32 << 20 });
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_to_the_same_packets_however_they_are_cut(
        stream in proptest::collection::vec(prop_oneof![Just(0xFF_u8), Just(0), any::<u8>()], 0..200),
        is_big_endian: bool,
        has_crc: bool,
        step in 1..20_usize,
    ) {
        let config = config(is_big_endian, has_crc);
        let (whole, cut) = (decode_in_steps(&config, &stream, 200), decode_in_steps(&config, &stream, step));
        prop_assert_eq!(whole, cut);
    }
}
