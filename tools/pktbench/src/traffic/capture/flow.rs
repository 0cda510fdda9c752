//! Puts the segments of one flow in order: TCP reassembly of one direction.
//!
//! ```text
//!   sequence   100..200  |  150..250       |  300..400       |  250..300          |
//!   ->         100..200  |  200..250       |  held back      |  250..300, 300..400
//!                           overlap: once     a gap before      out of order
//! ```

use std::collections::BTreeMap;

use pktconn::CodecConfig;

use super::frames::FrameDecoder;
use super::notes::Notes;
use super::packet::RecordedPacket;
use super::segment::Segment;

/// How many bytes a flow holds back until the bytes before them come. More than fits between two hosts: the bytes before
/// are missing in the capture then.
const MAX_HELD_LEN: usize = 16 << 20;

pub(super) struct FlowBuilder {
    /// The sequence number of the SYN; `None` if the capture began later.
    syn: Option<u32>,
    /// The sequence number of the next byte in order.
    next_sequence: u32,
    /// The number of bytes in order so far.
    next: u64,
    /// Segments with a gap before them, by the position of their first byte.
    held: BTreeMap<u64, Held>,
    held_len: usize,
    has_gap: bool,
    has_fin: bool,
    has_data: bool,
    contents: Packets,
}

struct Held {
    time_ns: u64,
    bytes: Vec<u8>,
}

/// The packets of the flow, by both ways of finding them.
struct Packets {
    decoder: FrameDecoder,
    segments: Vec<RecordedPacket>,
}

impl FlowBuilder {
    /// A flow that begins with `segment`, which must be added, too.
    pub(super) fn new(segment: &Segment<'_>, codec: &CodecConfig) -> Self {
        Self {
            syn: segment.is_syn.then_some(segment.sequence),
            // A SYN takes one sequence number.
            next_sequence: segment.sequence.wrapping_add(u32::from(segment.is_syn)),
            next: 0,
            held: BTreeMap::new(),
            held_len: 0,
            has_gap: false,
            has_fin: false,
            has_data: false,
            contents: Packets { decoder: FrameDecoder::new(*codec), segments: Vec::new() },
        }
    }

    /// Whether `segment` does not begin a new flow. A SYN may be a retransmission.
    pub(super) fn continues(&self, segment: &Segment<'_>) -> bool {
        !segment.is_syn || self.syn == Some(segment.sequence)
    }

    pub(super) fn add(&mut self, time_ns: u64, segment: &Segment<'_>) {
        self.has_fin |= segment.is_fin;
        let payload = segment.payload;
        if payload.is_empty() {
            return;
        }
        let first = segment.sequence.wrapping_add(u32::from(segment.is_syn));
        if !std::mem::replace(&mut self.has_data, true) && self.syn.is_none() {
            // An earlier segment without data may have been a keepalive, with the number before the next one.
            self.next_sequence = first;
        }
        // Sequence numbers wrap around: the signed difference is the distance.
        let distance = i64::from(first.wrapping_sub(self.next_sequence) as i32);
        if let Ok(ahead @ 1..) = u64::try_from(distance) {
            self.hold(self.next + ahead, Held { time_ns, bytes: payload.to_vec() });
            return;
        }
        if let Some(new) = payload.get(distance.unsigned_abs() as usize..) {
            self.deliver(time_ns, new);
        }
        self.deliver_held();
    }

    fn hold(&mut self, position: u64, held: Held) {
        let len = held.bytes.len();
        // Of two segments at one position the longer one is kept.
        if self.held.get(&position).is_none_or(|other| other.bytes.len() < len) {
            self.held_len += len;
            self.held_len -= self.held.insert(position, held).map_or(0, |other| other.bytes.len());
        }
        while self.held_len > MAX_HELD_LEN {
            self.skip_gap();
        }
    }

    /// Continues with the first segment that is held back, as the bytes before it were not captured.
    fn skip_gap(&mut self) {
        let Some((&position, _)) = self.held.first_key_value() else { return };
        self.has_gap = true;
        self.next_sequence = self.next_sequence.wrapping_add((position - self.next) as u32);
        self.next = position;
        self.deliver_held();
    }

    fn deliver_held(&mut self) {
        while let Some(entry) = self.held.first_entry().filter(|entry| *entry.key() <= self.next) {
            let (position, Held { time_ns, bytes }) = entry.remove_entry();
            self.held_len -= bytes.len();
            if let Some(new) = bytes.get((self.next - position) as usize..) {
                self.deliver(time_ns, new);
            }
        }
    }

    /// The next bytes in order.
    fn deliver(&mut self, time_ns: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.next += bytes.len() as u64;
        self.next_sequence = self.next_sequence.wrapping_add(bytes.len() as u32);
        let Packets { decoder, segments } = &mut self.contents;
        segments.push(RecordedPacket { offset_ns: time_ns, len: bytes.len() as u32 });
        if self.syn.is_some() && !self.has_gap {
            decoder.add(time_ns, bytes);
        }
    }

    /// The packets with the times of the capture, in order. Counts what is not as it should be.
    pub(super) fn finish(mut self, notes: &mut Notes) -> Vec<RecordedPacket> {
        while !self.held.is_empty() {
            self.skip_gap();
        }
        let Packets { decoder, segments } = self.contents;
        // After a FIN nothing more can complete the last frame.
        let are_frames = decoder.are_frames() && !(decoder.is_unfinished() && self.has_fin);
        let reason = match () {
            () if segments.is_empty() => return segments,
            () if self.syn.is_none() => Some(&mut notes.midway),
            () if self.has_gap => Some(&mut notes.gaps),
            () if !are_frames => Some(&mut notes.not_frames),
            () => None,
        };
        let mut packets = match reason {
            Some(count) => {
                *count += 1;
                segments
            }
            None => {
                notes.unfinished += u64::from(decoder.is_unfinished());
                decoder.into_packets()
            }
        };
        // A packet whose segment was lost before the capture point and sent again is captured after the next ones.
        let mut latest_ns = 0;
        for packet in &mut packets {
            latest_ns = packet.offset_ns.max(latest_ns);
            packet.offset_ns = latest_ns;
        }
        packets
    }
}
