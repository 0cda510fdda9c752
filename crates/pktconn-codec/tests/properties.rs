//! Property tests: what must hold for any payload, any framing and any chunks in which the bytes arrive.

mod common;

use bytes::{Buf, Bytes, BytesMut};
use common::{Typed, decode, encode, framings, packets_of, payloads};
use pktconn_codec::{CodecConfig, FrameError, Packet, PacketCodec, PacketMut, ReadError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio_util::codec::Decoder;

fn framing() -> impl Strategy<Value = CodecConfig> {
    select(framings().collect::<Vec<_>>())
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => Just(Vec::new()),
        8 => vec(any::<u8>(), 1..64),
        // Some are longer than the first chunk of a read buffer, and some longer than a `u16` length field can hold.
        1 => (any::<u8>(), 8_000..70_000_usize).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

/// Lengths for [`chunks`].
fn chunk_lens() -> impl Strategy<Value = Vec<usize>> {
    let lens = prop_oneof![4 => 1..8_usize, 2 => 8..200_usize, 1 => 200..20_000_usize];
    vec(lens, 1..8)
}

/// Splits `wire` into chunks. Repeats `lens` until the end of `wire`.
fn chunks<'a>(mut wire: &'a [u8], lens: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    lens.iter().cycle().map_while(move |&len| {
        let (chunk, rest) = wire.split_at(len.min(wire.len()));
        wire = rest;
        Some(chunk).filter(|chunk| !chunk.is_empty())
    })
}

/// A part of a stream that mixes valid and invalid bytes: a complete frame, a header of a short frame, or noise.
fn stream_part() -> impl Strategy<Value = Vec<u8>> {
    let frame = (framing(), vec(any::<u8>(), 0..20))
        .prop_map(|(framing, payload)| encode(&framing, &payload.into()).unwrap());
    let small_header = (0..12_u8, any::<bool>())
        .prop_map(|(len, big_endian)| if big_endian { vec![0, 0, 0, len] } else { vec![len, 0, 0, 0] });
    prop_oneof![4 => frame, 1 => small_header, 1 => vec(any::<u8>(), 0..12)]
}

fn typed() -> impl Strategy<Value = Typed> {
    let bytes = || vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    prop_oneof![
        any::<bool>().prop_map(Typed::Bool),
        any::<u8>().prop_map(Typed::U8),
        any::<u16>().prop_map(Typed::U16),
        any::<i16>().prop_map(Typed::I16),
        any::<u32>().prop_map(Typed::U32),
        any::<i32>().prop_map(Typed::I32),
        any::<u64>().prop_map(Typed::U64),
        any::<i64>().prop_map(Typed::I64),
        any::<f32>().prop_map(Typed::F32),
        any::<f64>().prop_map(Typed::F64),
        bytes().prop_map(Typed::Bytes),
        bytes().prop_map(Typed::VarBytesU16),
        bytes().prop_map(Typed::VarBytesU32),
        any::<String>().prop_map(Typed::VarStrU16),
        any::<String>().prop_map(Typed::VarStrU32),
    ]
}

/// The first bytes of a frame: random ones, or a length near the number of bytes in the tests' buffers.
fn header() -> impl Strategy<Value = [u8; 4]> {
    let near = (0..40_000_u32, any::<bool>())
        .prop_map(|(len, big_endian)| if big_endian { len.to_be_bytes() } else { len.to_le_bytes() });
    prop_oneof![any::<[u8; 4]>(), near]
}

/// Any number of bytes; many are much larger than any frame.
fn any_len() -> impl Strategy<Value = usize> {
    prop_oneof![
        select(vec![0, 1, usize::MAX / 2, usize::MAX - 1, usize::MAX]),
        0..50_000_usize,
        any::<u32>().prop_map(|len| len as usize),
        any::<usize>(),
    ]
}

/// Bytes that typed reads accept in some cases: noise, or text after a length that may match.
fn readable() -> impl Strategy<Value = Vec<u8>> {
    let text_after_length = (0..12_u8, 1..4_usize, vec(b' '..=b'~', 0..24))
        .prop_map(|(len, zeros, text)| [&[len][..], &[0; 4][..zeros], &text].concat());
    prop_oneof![vec(any::<u8>(), 0..24), text_after_length]
}

fn encode_all(config: &CodecConfig, packets: &[Packet]) -> Vec<u8> {
    packets.iter().flat_map(|packet| encode(config, packet).unwrap()).collect()
}

/// Decodes a stream that arrives in `chunks` with `decode_many`, up to `batch` packets per call. Returns its packets,
/// and the error or the clean end.
fn decode_in_batches<'a>(
    config: &CodecConfig,
    chunks: impl Iterator<Item = &'a [u8]>,
    batch: usize,
) -> (Vec<Packet>, Result<(), FrameError>) {
    let mut codec = PacketCodec::new(*config);
    let (mut buffer, mut packets) = (BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            let before = packets.len();
            match codec.decode_many(&mut buffer, batch, &mut packets) {
                Ok(0) => break,
                Ok(count) => assert!(count <= batch && packets.len() == before + count),
                Err(error) => return (packets, Err(error)),
            }
        }
    }
    let end = codec.decode_end(&buffer);
    (packets, end)
}

/// Decodes a stream that arrives in `chunks` with `peek`. Returns its payloads, and the error or the clean end.
fn peek_all<'a>(
    config: &CodecConfig,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
    let mut codec = PacketCodec::new(*config);
    let (mut arrived, mut taken, mut payloads) = (Vec::new(), 0, Vec::new());
    for chunk in chunks {
        arrived.extend_from_slice(chunk);
        loop {
            match codec.peek(&arrived[taken..]) {
                Ok(Some((payload, frame_len))) => {
                    payloads.push(payload.to_vec());
                    taken += frame_len;
                }
                Ok(None) => break,
                Err(error) => return (payloads, Err(error)),
            }
        }
    }
    let end = codec.decode_end(&arrived[taken..]);
    (payloads, end)
}

/// A packet with these values.
fn written<'a>(values: impl IntoIterator<Item = &'a Typed>) -> PacketMut {
    let mut packet = PacketMut::new();
    for value in values {
        value.write(&mut packet).unwrap();
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig {
        // A failure gets its own named test instead of an entry in a file of seeds.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn packets_decode_as_they_were_encoded_in_any_framing_and_any_chunks(
        config in framing(),
        sent in vec(payload(), 0..6),
        lens in chunk_lens(),
    ) {
        let packets: Vec<Packet> = sent
            .into_iter()
            .filter(|payload| payload.len() <= config.payload_limit())
            .map(Packet::from)
            .collect();
        let wire = encode_all(&config, &packets);
        let (received, end) = decode(&config, chunks(&wire, &lens));
        prop_assert!(payloads(&received) == payloads(&packets), "{received:?} for {packets:?}");
        prop_assert_eq!(end, Ok(()));
    }

    #[test]
    fn any_bytes_decode_the_same_in_any_chunks(
        config in framing(),
        limit in 0..30_usize,
        parts in vec(stream_part(), 0..6),
        lens in chunk_lens(),
        batch in 1..6_usize,
    ) {
        let config = config.max_payload_len(limit);
        let wire = parts.concat();
        let (at_once, end) = decode(&config, [&wire[..]]);
        let (in_chunks, end_in_chunks) = decode(&config, chunks(&wire, &lens));
        prop_assert_eq!(payloads(&in_chunks), payloads(&at_once));
        prop_assert_eq!(end_in_chunks, end);
        let (in_batches, end_in_batches) = decode_in_batches(&config, chunks(&wire, &lens), batch);
        prop_assert_eq!(payloads(&in_batches), payloads(&at_once));
        prop_assert_eq!(end_in_batches, end);

        let (peeked, end_of_peeked) = peek_all(&config, chunks(&wire, &lens));
        prop_assert_eq!(peeked, payloads(&at_once));
        prop_assert_eq!(end_of_peeked, end);

        // The frames of the packets are a prefix of the stream, and the whole stream if it ends cleanly.
        let frames = encode_all(&config, &at_once);
        prop_assert!(wire.starts_with(&frames));
        prop_assert_eq!(end.is_ok(), frames.len() == wire.len());
    }

    #[test]
    fn room_is_limited_by_the_request_the_missing_bytes_and_the_bytes_that_arrived(
        config in framing(),
        header in header(),
        arrived in prop_oneof![1 => Just(0), 3 => 0..50_000_usize],
        at_least in any_len(),
    ) {
        let config = config.max_payload_len(usize::MAX);
        let mut codec = PacketCodec::new(config);
        let mut buffer = BytesMut::from(&header[..config.header_format().header_len()]);
        // A header that announces 0 bytes is a complete frame if there is no checksum. Then `missing` is 0.
        codec.decode_frame(&mut buffer).unwrap();

        // `room` and `missing` accept any buffer, also one that does not contain the header.
        let src = vec![0; arrived];
        let (room, missing) = (codec.room(&src, at_least), codec.missing(&src));
        prop_assert!(room >= at_least.min(missing), "{} of {}", room, missing);
        prop_assert!(room <= missing, "{} of {}", room, missing);
        prop_assert!(room <= at_least.saturating_mul(2).saturating_add(arrived), "{} of {}", room, missing);
    }

    #[test]
    fn no_call_panics_with_any_sequence_of_buffers(
        config in framing(),
        limit in any_len(),
        calls in vec((0..10_u8, stream_part(), 0..40_usize, any_len()), 1..12),
    ) {
        // The buffers are independent of each other and have any spare capacity.
        let mut codec = PacketCodec::new(config.max_payload_len(limit));
        let mut packets = Vec::new();
        for (call, bytes, spare, number) in calls {
            let mut buffer = BytesMut::with_capacity(bytes.len() + spare);
            buffer.extend_from_slice(&bytes);
            match call {
                0 => drop(codec.decode_frame(&mut buffer)),
                1 => drop(codec.decode(&mut buffer)),
                2 => drop(codec.decode_eof(&mut buffer)),
                3 => drop(codec.decode_many(&mut buffer, number, &mut packets)),
                4 => drop(codec.peek(&bytes)),
                5 => drop(codec.decode_end(&bytes)),
                6 => prop_assert!(codec.room(&bytes, number) <= codec.missing(&bytes)),
                7 => drop(codec.frame_len(&bytes)),
                8 => drop(codec.is_ready(&bytes)),
                _ => codec = PacketCodec::new(config.max_payload_len(number)),
            }
        }
    }

    #[test]
    fn typed_reads_return_the_values_that_were_written(config in framing(), values in vec(typed(), 0..20)) {
        let sent = written(&values).freeze_for(&config);
        let (received, end) = decode(&config, [&encode(&config, &sent).unwrap()[..]]);
        prop_assert_eq!(end, Ok(()));
        for mut packet in received.into_iter().chain([sent]) {
            for value in &values {
                prop_assert_eq!(value.read_same_type(&mut packet), Ok(value.clone()));
            }
            prop_assert!(packet.unread().is_empty());
            prop_assert_eq!(packet.position(), packet.len());
        }
    }

    #[test]
    fn floats_keep_every_bit_also_in_a_nan(single in any::<u32>(), double in any::<u64>()) {
        for (single, double) in [(single, double), (single | 0x7f80_0001, double | 0x7ff0_0000_0000_0001)] {
            let mut packet = PacketMut::new();
            packet.write_f32(f32::from_bits(single));
            packet.write_f64(f64::from_bits(double));
            let mut packet = packet.freeze();
            prop_assert_eq!(packet.read_f32().map(f32::to_bits), Ok(single));
            prop_assert_eq!(packet.read_f64().map(f64::to_bits), Ok(double));
        }
    }

    #[test]
    fn a_read_of_a_truncated_value_fails_and_does_not_move_the_cursor(
        before in vec(typed(), 0..3),
        value in typed(),
        end in any::<Index>(),
    ) {
        let start = written(&before).len();
        let whole = written([&value]);
        prop_assume!(!whole.is_empty());
        let available = end.index(whole.len());
        let payload = [written(&before).payload(), &whole.payload()[..available]].concat();
        for (origin, mut packet) in packets_of(&payload) {
            packet.seek(start).unwrap();
            let read = value.read_same_type(&mut packet);
            let Err(ReadError::UnexpectedEnd { needed, available: left }) = read else {
                panic!("read {read:?} from the first {available} bytes of {value:?}, {origin}");
            };
            prop_assert_eq!(left, available);
            prop_assert!(available < needed && needed <= whole.len(), "needed {}", needed);
            prop_assert_eq!(packet.position(), start);
        }
    }

    #[test]
    fn a_typed_read_of_any_bytes_returns_their_value_or_does_not_move_the_cursor(
        payload in readable(),
        position in any::<Index>(),
        kind in typed(),
    ) {
        let start = position.index(payload.len() + 1);
        for (origin, mut packet) in packets_of(&payload) {
            packet.seek(start).unwrap();
            match kind.read_same_type(&mut packet) {
                Ok(value) => {
                    let bytes = written([&value]);
                    prop_assert_eq!(packet.position(), start + bytes.len());
                    if let Typed::Bool(value) = value {
                        prop_assert_eq!(value, payload[start] != 0, "{}", origin);
                    } else {
                        prop_assert!(payload[start..].starts_with(bytes.payload()), "{origin}");
                    }
                }
                Err(_) => prop_assert_eq!(packet.position(), start),
            }
        }
    }

    #[test]
    fn read_bytes_returns_the_bytes_or_does_not_move_the_cursor(
        payload in vec(any::<u8>(), 0..40),
        start in any::<Index>(),
        len in prop_oneof![0..40_usize, any_len()],
    ) {
        let start = start.index(payload.len() + 1);
        let available = payload.len() - start;
        for (origin, mut packet) in packets_of(&payload) {
            packet.seek(start).unwrap();
            let read = packet.read_bytes(len);
            if len <= available {
                prop_assert!(read.unwrap() == payload[start..start + len], "{origin}");
                prop_assert_eq!(packet.position(), start + len);
            } else {
                prop_assert_eq!(read, Err(ReadError::UnexpectedEnd { needed: len, available }));
                prop_assert_eq!(packet.position(), start);
            }
        }
    }

    #[test]
    fn a_string_that_is_not_utf8_is_an_error_and_can_still_be_read_as_bytes(
        before in any::<String>(),
        bad in 0x80..=0xff_u8,
        after in "[ -~]{0,20}",
    ) {
        // A byte of 0x80 or more is never valid UTF-8 between complete characters.
        let bytes = [before.as_bytes(), &[bad], after.as_bytes()].concat();
        let mut packet = PacketMut::new();
        packet.write_var_bytes_u16(&bytes).unwrap();
        packet.write_var_bytes_u32(&bytes).unwrap();
        let mut packet = packet.freeze();

        prop_assert!(matches!(packet.read_var_str_u16(), Err(ReadError::InvalidUtf8(_))));
        prop_assert_eq!(packet.position(), 0);
        prop_assert!(packet.read_var_bytes_u16().unwrap() == bytes);
        let start = packet.position();
        prop_assert!(matches!(packet.read_var_str_u32(), Err(ReadError::InvalidUtf8(_))));
        prop_assert_eq!(packet.position(), start);
        prop_assert!(packet.read_var_bytes_u32().unwrap() == bytes);
    }

    #[test]
    fn seek_accepts_any_position_in_the_payload_and_none_beyond_it(
        payload in payload(),
        position in any::<Index>(),
        beyond in 1..100_usize,
    ) {
        let len = payload.len();
        let position = position.index(len + 1);
        for (origin, mut packet) in packets_of(&payload) {
            prop_assert_eq!(packet.seek(position), Ok(()));
            prop_assert!(packet.unread() == &payload[position..], "{origin}");
            let needed = len + beyond;
            prop_assert_eq!(packet.seek(needed), Err(ReadError::UnexpectedEnd { needed, available: len }));
            prop_assert_eq!(packet.position(), position);
        }
    }

    #[test]
    fn as_a_buf_a_packet_is_its_unread_bytes(
        payload in payload(),
        start in any::<Index>(),
        end in any::<Index>(),
    ) {
        let start = start.index(payload.len() + 1);
        let unread = &payload[start..];
        let taken = end.index(unread.len() + 1);
        for (origin, mut packet) in packets_of(&payload) {
            packet.advance(start);
            prop_assert_eq!(packet.position(), start);
            prop_assert_eq!(packet.remaining(), unread.len());
            prop_assert!(packet.chunk() == unread && packet.unread() == unread, "{origin}");
            prop_assert!(packet.clone().copy_to_bytes(taken) == unread[..taken], "{origin}");
            let mut copied = vec![0; taken];
            packet.copy_to_slice(&mut copied);
            prop_assert!(copied == unread[..taken], "{origin}");
            prop_assert!(packet.unread() == &unread[taken..], "{origin}");
            prop_assert!(packet.payload() == payload, "{origin}");
        }
    }

    #[test]
    fn clones_and_detached_copies_keep_payload_and_cursor(payload in payload(), position in any::<Index>()) {
        let start = position.index(payload.len() + 1);
        for (origin, mut packet) in packets_of(&payload) {
            packet.seek(start).unwrap();
            for mut copy in [packet.clone(), packet.detach()] {
                prop_assert!(copy.payload() == payload, "{origin}");
                prop_assert_eq!(copy.position(), start);
                copy.seek(0).unwrap();
                prop_assert_eq!(packet.position(), start);
            }
            let detached = packet.detach();
            prop_assert!(payload.is_empty() || detached.payload().as_ptr() != packet.payload().as_ptr());
            prop_assert!(packet.into_payload() == payload, "{origin}");
        }
    }

    #[test]
    fn a_packet_reopened_by_into_mut_keeps_its_payload_and_can_grow(
        payload in payload(),
        more in vec(any::<u8>(), 0..40),
        config in framing(),
    ) {
        let longer: Packet = [&payload[..], &more].concat().into();
        for (origin, packet) in packets_of(&payload) {
            // First as one of two owners of the bytes, then as the only owner.
            let shared = packet.clone();
            for packet in [shared, packet] {
                let mut reopened = packet.into_mut();
                prop_assert!(reopened.payload() == payload, "{origin}");
                reopened.write_bytes(&more);
                let refrozen = reopened.freeze_for(&config);
                prop_assert!(refrozen.payload() == longer.payload(), "{origin}");
                prop_assert!(encode(&config, &refrozen) == encode(&config, &longer), "{origin}");
            }
        }
    }

    #[test]
    fn writing_to_a_reopened_packet_does_not_change_packets_that_arrived_with_it(
        config in framing(),
        sent in vec(vec(any::<u8>(), 0..20), 2..5),
        chosen in any::<Index>(),
    ) {
        let packets: Vec<Packet> = sent.into_iter().map(Packet::from).collect();
        let wire = encode_all(&config, &packets);
        let (mut received, _) = decode(&config, [&wire[..]]);
        let chosen = chosen.index(packets.len());
        let mut reopened = received.remove(chosen).into_mut();
        reopened.payload_mut().fill(0xee);
        reopened.write_bytes(&[0xee; 40]);
        received.insert(chosen, packets[chosen].clone());
        prop_assert_eq!(payloads(&received), payloads(&packets));
    }

    #[test]
    fn the_frame_of_a_packet_does_not_depend_on_its_origin(payload in payload(), config in framing()) {
        let expected = encode(&config, &payload.clone().into());
        let mut of_payload = BytesMut::from("before ");
        let encoded = PacketCodec::new(config).encode_payload(&payload, &mut of_payload);
        prop_assert_eq!(encoded.map(|()| of_payload.split_off(7).to_vec()), expected.clone());
        prop_assert_eq!(&of_payload[..], b"before ");
        for (origin, packet) in packets_of(&payload) {
            prop_assert!(encode(&config, &packet) == expected, "{origin}, encoded in {config:?}");
        }
        if let Ok(wire) = expected {
            let (packets, end) = decode(&config, [&wire[..]]);
            prop_assert!(payloads(&packets) == [payload], "{packets:?}");
            prop_assert_eq!(end, Ok(()));
        }
    }
}
