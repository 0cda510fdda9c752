//! From fields to bytes.

use bytes::{BufMut, BytesMut};

use super::{ControlFrame, FIRST_CONTROL_LEN, WireFormat};

impl ControlFrame {
    /// The low byte of its length field.
    #[must_use]
    pub fn type_code(&self) -> u8 {
        match self {
            Self::Hello(_) => 0x00,
            Self::Welcome(_) => 0x01,
            Self::Reject(_) => 0x02,
            Self::Ack { .. } => 0x03,
            Self::Ping { .. } => 0x04,
            Self::Pong { .. } => 0x05,
            Self::GoAway(_) => 0x06,
            Self::Bye(_) => 0x07,
            Self::Stop { .. } => 0x08,
            Self::Done => 0x09,
        }
    }
}

/// Appends a control frame to `dst`. A string is cut to its first 255 bytes, at the border of a character.
pub fn encode_control(frame: &ControlFrame, wire: WireFormat, dst: &mut BytesMut) {
    let start = dst.len();
    let mut fields = Fields { wire, dst };
    fields.u32(FIRST_CONTROL_LEN | u32::from(frame.type_code()));
    // The length of the body follows when it is known.
    fields.u16(0);
    let body_start = fields.dst.len();
    fields.body(frame);
    let body_len = (fields.dst.len() - body_start) as u16;
    let body_len = if wire.is_big_endian { body_len.to_be_bytes() } else { body_len.to_le_bytes() };
    dst[body_start - 2..body_start].copy_from_slice(&body_len);
    if wire.has_crc {
        let crc = crc32fast::hash(&dst[start..]);
        dst.put_u32_le(crc);
    }
}

struct Fields<'a> {
    wire: WireFormat,
    dst: &'a mut BytesMut,
}

impl Fields<'_> {
    fn body(&mut self, frame: &ControlFrame) {
        match frame {
            ControlFrame::Hello(hello) => {
                self.dst.put_u8(hello.version);
                self.u32(hello.features);
                self.dst.put_slice(&hello.id.0);
                self.dst.put_slice(&hello.secret.0);
                self.u32(hello.attempt);
                self.u64(hello.received);
                self.u64(hello.first_held);
                self.u32(hello.replay_bytes);
            }
            ControlFrame::Welcome(welcome) => {
                self.dst.put_u8(welcome.version);
                self.u32(welcome.features);
                self.dst.put_slice(&welcome.id.0);
                self.dst.put_slice(&welcome.secret.0);
                self.dst.put_u8(welcome.resumed.into());
                self.u64(welcome.received);
                self.u64(welcome.first_held);
                self.u32(welcome.replay_bytes);
                self.u32(welcome.ttl_ms);
                self.u32(welcome.min_ping_ms);
                self.string(&welcome.resume_at);
            }
            ControlFrame::Reject(reject) => {
                self.dst.put_u8(reject.reason.into());
                self.u32(reject.retry_after_ms);
            }
            ControlFrame::Ack { received } | ControlFrame::Stop { received } => self.u64(*received),
            ControlFrame::Ping { data } | ControlFrame::Pong { data } => self.dst.put_slice(data),
            ControlFrame::GoAway(go_away) => {
                self.dst.put_u8(go_away.reason.into());
                self.u32(go_away.deadline_ms);
                self.u32(go_away.spread_ms);
                self.string(&go_away.address);
            }
            ControlFrame::Bye(bye) => {
                self.dst.put_u8(bye.reason.into());
                self.u64(bye.sent);
            }
            ControlFrame::Done => {}
        }
    }

    fn u16(&mut self, value: u16) {
        if self.wire.is_big_endian { self.dst.put_u16(value) } else { self.dst.put_u16_le(value) }
    }

    fn u32(&mut self, value: u32) {
        if self.wire.is_big_endian { self.dst.put_u32(value) } else { self.dst.put_u32_le(value) }
    }

    fn u64(&mut self, value: u64) {
        if self.wire.is_big_endian { self.dst.put_u64(value) } else { self.dst.put_u64_le(value) }
    }

    fn string(&mut self, text: &str) {
        let mut len = text.len().min(u8::MAX.into());
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        self.dst.put_u8(len as u8);
        self.dst.put_slice(&text.as_bytes()[..len]);
    }
}
