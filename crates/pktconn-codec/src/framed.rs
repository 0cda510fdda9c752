//! Implements `Decoder` and `Encoder` of tokio-util, for `tokio_util::codec::Framed`.

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::{CodecError, Packet, PacketCodec};

/// The room for the first bytes of an incomplete frame. After that, the buffer grows with the bytes that arrive. The
/// first read buffer of a `Framed` has the same size (tokio-util 0.7).
const FIRST_CHUNK_LEN: usize = 8 * 1024;

impl Decoder for PacketCodec {
    type Item = Packet;
    type Error = CodecError;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        let packet = self.decode_frame(src)?;
        // `Framed` fills the buffer before it needs more room. Half a chunk, because `room` may return twice as much.
        if packet.is_none() && src.capacity() == src.len() {
            src.reserve(self.room(src, FIRST_CHUNK_LEN / 2));
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

/// To send bytes or text, convert them with `Packet::from`.
// The only `Encoder` impl: with a second one, `Framed::flush`, `close` and `split` would need type annotations.
impl Encoder<Packet> for PacketCodec {
    type Error = CodecError;

    #[inline]
    fn encode(&mut self, packet: Packet, dst: &mut BytesMut) -> Result<(), CodecError> {
        Ok(self.encode_frame(&packet, dst)?)
    }
}
