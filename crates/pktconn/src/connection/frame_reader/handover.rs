//! A receiver that continues where another reader of the stream stopped, and one that hands its stream over.

use bytes::BytesMut;
use pktconn_codec::PacketCodec;

use super::{End, FrameReader, Memory};
use crate::connection::pool;
use crate::transport::Reader;

impl FrameReader {
    /// Continues with the codec and the unread bytes of another reader, before anything is received.
    pub(crate) fn resume(&mut self, codec: PacketCodec, unread: BytesMut) {
        (self.codec, self.buffer, self.memory) = (codec, unread, Memory::Own);
        self.note_undelivered();
        self.update_account();
    }

    /// Takes the reading half, the codec and the unread bytes. The reading half is missing after the end of the stream.
    pub(crate) fn detach(&mut self) -> (Option<Reader>, PacketCodec, BytesMut) {
        self.end = End::Failed;
        let mut unread = std::mem::take(&mut self.buffer);
        if self.memory != Memory::Own {
            let copy = BytesMut::from(&unread[..]);
            let chunk = std::mem::replace(&mut unread, copy);
            if self.memory == Memory::Chunk {
                pool::return_read_chunk(chunk);
            }
            self.memory = Memory::Own;
        }
        self.note_undelivered();
        self.update_account();
        (self.reader.take(), self.codec.clone(), unread)
    }
}
