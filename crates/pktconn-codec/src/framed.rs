//! The codec in `tokio_util::codec::Framed`.

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::{CodecError, Packet, PacketCodec};

/// Room for the first bytes of an incomplete frame; after that, the buffer grows with the bytes that arrive. `Framed`'s own first
/// buffer has this size (tokio-util 0.7).
const FIRST_CHUNK: usize = 8 * 1024;

impl Decoder for PacketCodec {
    type Item = Packet;
    type Error = CodecError;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        let packet = self.decode_frame(src)?;
        // Only a full buffer grows.
        if packet.is_none() && src.capacity() == src.len() {
            src.reserve(self.room(src, FIRST_CHUNK / 2));
        }
        Ok(packet)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        match self.decode_frame(src)? {
            Some(packet) => Ok(Some(packet)),
            None => Ok(self.decode_end(src).map(|()| None)?),
        }
    }
}

/// The only `Encoder`, so that `Framed::flush`, `close` and `split` need no type annotation. Bytes are sent by `Packet::from`.
impl Encoder<Packet> for PacketCodec {
    type Error = CodecError;

    #[inline]
    fn encode(&mut self, packet: Packet, dst: &mut BytesMut) -> Result<(), CodecError> {
        Ok(self.encode_frame(&packet, dst)?)
    }
}
