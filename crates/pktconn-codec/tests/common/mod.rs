//! Helpers of all tests: every framing, every way to make and to encode a packet, streams that arrive in chunks, and
//! typed values.

use bytes::{BufMut, Bytes, BytesMut};
use pktconn_codec::{
    Checksum, CodecConfig, CodecError, FrameError, HeaderFormat, Packet, PacketCodec, PacketMut, ReadError,
    WriteError,
};
use tokio_util::codec::{Decoder, Encoder};

/// Every header format, each without and with the checksum.
pub(crate) fn framings() -> impl Iterator<Item = CodecConfig> {
    [HeaderFormat::U32Le, HeaderFormat::U32Be, HeaderFormat::U16Le, HeaderFormat::U16Be].into_iter().flat_map(
        |header| {
            [Checksum::None, Checksum::Crc32]
                .map(|checksum| CodecConfig::new().header(header).checksum(checksum))
        },
    )
}

/// The bytes of `packet` on the wire. Asserts that every way to encode them returns the same bytes.
pub(crate) fn encode(config: &CodecConfig, packet: &Packet) -> Result<Vec<u8>, FrameError> {
    let mut codec = PacketCodec::new(*config);
    let parts = codec.frame(packet).map(|frame| {
        assert_eq!(frame.body_bytes(), frame.body());
        let bytes = [frame.head(), frame.body(), frame.tail()].concat();
        assert_eq!(frame.len(), bytes.len());
        bytes
    });

    // Encoding must not change the bytes that are already in the buffer, with or without an error.
    let mut by_reference = BytesMut::from("before");
    let mut by_value = by_reference.clone();
    let results = [
        codec.encode_frame(packet, &mut by_reference),
        codec.encode(packet.clone(), &mut by_value).map_err(frame_error),
    ];
    for (result, buffer) in results.into_iter().zip([by_reference, by_value]) {
        assert_eq!(result.err(), parts.as_ref().err().copied());
        let appended = buffer.strip_prefix(b"before").expect("encoding changed the bytes before the frame");
        assert!(
            appended == parts.as_deref().unwrap_or_default(),
            "an encoder and `frame` return different bytes"
        );
    }
    parts
}

/// Packets with this payload, made in every possible way, each with a description.
pub(crate) fn packets_of(payload: &[u8]) -> impl Iterator<Item = (String, Packet)> + '_ {
    let write = || {
        let mut packet = PacketMut::new();
        packet.write_bytes(payload);
        packet
    };
    // A write through `buf_mut` reserves no room for a checksum.
    let mut through_buf_mut = PacketMut::with_capacity(0);
    through_buf_mut.buf_mut().put_slice(payload);
    let checked = CodecConfig::new().checksum(Checksum::Crc32);
    let made = [
        ("from a vector", payload.to_vec().into()),
        ("frozen", write().freeze()),
        ("written through a `BufMut`", through_buf_mut.freeze_for(&checked)),
    ];
    let frozen =
        framings().map(move |framing| (format!("frozen for {framing:?}"), write().freeze_for(&framing)));
    let received = framings().filter(|framing| payload.len() <= framing.payload_limit()).map(|framing| {
        let wire = encode(&framing, &payload.to_vec().into()).unwrap();
        let (mut packets, end) = decode(&framing, [&wire[..]]);
        assert_eq!((packets.len(), end), (1, Ok(())));
        (format!("received in {framing:?}"), packets.remove(0))
    });
    made.into_iter().map(|(origin, packet)| (origin.to_owned(), packet)).chain(frozen).chain(received)
}

/// Decodes a stream that arrives in `chunks` and then ends. Returns its packets, and the error or the clean end.
pub(crate) fn decode<'a>(
    config: &CodecConfig,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Packet>, Result<(), FrameError>) {
    let mut codec = PacketCodec::new(*config);
    let mut buffer = BytesMut::new();
    let mut packets = Vec::new();
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Err(frame_error(error))),
            }
        }
    }
    let end = codec.decode_eof(&mut buffer).map_err(frame_error);
    (packets, end.map(|packet| assert_eq!(packet, None, "the end of the stream completed a packet")))
}

/// The payloads of `packets`. Tests compare these, so that they do not depend on `==` of `Packet`.
pub(crate) fn payloads(packets: &[Packet]) -> Vec<&[u8]> {
    packets.iter().map(Packet::payload).collect()
}

/// The `FrameError` in `error`. The codec itself returns no other errors.
pub(crate) fn frame_error(error: CodecError) -> FrameError {
    match error {
        CodecError::Frame(error) => error,
        other => panic!("expected a frame error, got {other:?}"),
    }
}

/// One value in a payload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Typed {
    Bool(bool),
    U8(u8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bytes(Bytes),
    VarBytesU16(Bytes),
    VarBytesU32(Bytes),
    VarStrU16(String),
    VarStrU32(String),
}

impl Typed {
    pub(crate) fn write(&self, packet: &mut PacketMut) -> Result<(), WriteError> {
        match self {
            Self::Bool(value) => packet.write_bool(*value),
            Self::U8(value) => packet.write_u8(*value),
            Self::U16(value) => packet.write_u16(*value),
            Self::I16(value) => packet.write_i16(*value),
            Self::U32(value) => packet.write_u32(*value),
            Self::I32(value) => packet.write_i32(*value),
            Self::U64(value) => packet.write_u64(*value),
            Self::I64(value) => packet.write_i64(*value),
            Self::F32(value) => packet.write_f32(*value),
            Self::F64(value) => packet.write_f64(*value),
            Self::Bytes(value) => packet.write_bytes(value),
            Self::VarBytesU16(value) => packet.write_var_bytes_u16(value)?,
            Self::VarBytesU32(value) => packet.write_var_bytes_u32(value)?,
            Self::VarStrU16(value) => packet.write_var_str_u16(value)?,
            Self::VarStrU32(value) => packet.write_var_str_u32(value)?,
        }
        Ok(())
    }

    /// Reads a value of the same type from `packet`. For raw bytes, reads as many.
    pub(crate) fn read_same_type(&self, packet: &mut Packet) -> Result<Self, ReadError> {
        Ok(match self {
            Self::Bool(_) => Self::Bool(packet.read_bool()?),
            Self::U8(_) => Self::U8(packet.read_u8()?),
            Self::U16(_) => Self::U16(packet.read_u16()?),
            Self::I16(_) => Self::I16(packet.read_i16()?),
            Self::U32(_) => Self::U32(packet.read_u32()?),
            Self::I32(_) => Self::I32(packet.read_i32()?),
            Self::U64(_) => Self::U64(packet.read_u64()?),
            Self::I64(_) => Self::I64(packet.read_i64()?),
            Self::F32(_) => Self::F32(packet.read_f32()?),
            Self::F64(_) => Self::F64(packet.read_f64()?),
            Self::Bytes(value) => Self::Bytes(packet.read_bytes(value.len())?),
            Self::VarBytesU16(_) => Self::VarBytesU16(packet.read_var_bytes_u16()?),
            Self::VarBytesU32(_) => Self::VarBytesU32(packet.read_var_bytes_u32()?),
            Self::VarStrU16(_) => Self::VarStrU16(packet.read_var_str_u16()?.to_owned()),
            Self::VarStrU32(_) => Self::VarStrU32(packet.read_var_str_u32()?.to_owned()),
        })
    }
}
