//! Finds the frames in the bytes of a flow, and the times at which their first bytes were captured.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use pktconn::{CodecConfig, PacketCodec};

use super::packet::RecordedPacket;

pub(super) struct FrameDecoder {
    codec: PacketCodec,
    /// The bytes of an incomplete frame. It holds what was captured, and not what a header claims.
    bytes: BytesMut,
    /// The position in the flow of the first byte in `bytes`.
    position: u64,
    /// The position and the time of each piece that has a byte in `bytes`.
    pieces: VecDeque<(u64, u64)>,
    packets: Vec<RecordedPacket>,
    /// Whether a frame was invalid.
    is_broken: bool,
}

impl FrameDecoder {
    pub(super) fn new(codec: CodecConfig) -> Self {
        Self {
            codec: PacketCodec::new(codec),
            bytes: BytesMut::new(),
            position: 0,
            pieces: VecDeque::new(),
            packets: Vec::new(),
            is_broken: false,
        }
    }

    pub(super) fn add(&mut self, time_ns: u64, bytes: &[u8]) {
        if self.is_broken {
            return;
        }
        self.pieces.push_back((self.position + self.bytes.len() as u64, time_ns));
        self.bytes.extend_from_slice(bytes);
        loop {
            match self.codec.peek(&self.bytes) {
                Ok(Some((payload, frame_len))) => {
                    let len = payload.len() as u32;
                    let offset_ns = self.pieces.front().map_or(time_ns, |(_, time_ns)| *time_ns);
                    self.packets.push(RecordedPacket { offset_ns, len });
                    self.advance(frame_len);
                }
                Ok(None) => break,
                Err(_) => {
                    self.is_broken = true;
                    (self.bytes, self.pieces, self.packets) = Default::default();
                    break;
                }
            }
        }
    }

    /// Removes a frame, and the pieces that have no byte after it.
    fn advance(&mut self, len: usize) {
        self.bytes.advance(len);
        self.position += len as u64;
        while self.pieces.get(1).is_some_and(|(start, _)| *start <= self.position) {
            self.pieces.pop_front();
        }
        if self.bytes.is_empty() {
            self.pieces.clear();
        }
    }

    /// Whether all bytes are frames, and at least one is complete.
    pub(super) fn are_frames(&self) -> bool {
        !self.is_broken && !self.packets.is_empty()
    }

    /// Whether the last frame is incomplete.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub(super) fn into_packets(self) -> Vec<RecordedPacket> {
        self.packets
    }
}
