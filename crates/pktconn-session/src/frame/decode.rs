//! From bytes to fields.

use super::{
    Bye, ControlError, ControlFrame, FIRST_CONTROL_LEN, FIRST_IGNORED_TYPE, FIRST_UNKNOWN_TYPE, GoAway,
    Hello, MAX_BODY_LEN, PREFIX_LEN, Reject, Secret, SessionId, Welcome, WireFormat,
};

/// What the bytes at the front of a buffer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A data frame, or the beginning of one: its length field has an ordinary value.
    Data,
    /// The beginning of a control frame. No more than `len` bytes are needed for the next decision.
    Incomplete {
        /// How many bytes from the front are needed.
        len: usize,
    },
    /// A control frame of `len` bytes. `frame` is `None` for a type that must be ignored.
    Control {
        /// The frame, if its type is known.
        frame: Option<ControlFrame>,
        /// Its length in bytes, to be removed from the buffer.
        len: usize,
    },
}

/// Looks for a control frame at the front of `src`.
///
/// # Errors
///
/// If the bytes begin a control frame that must be refused. A type and a length are refused before the body has arrived.
pub fn decode_control(src: &[u8], wire: WireFormat) -> Result<Decoded, ControlError> {
    let Some(len_field) = src.first_chunk() else { return Ok(Decoded::Incomplete { len: 4 }) };
    let len_field = wire.u32(*len_field);
    if len_field < FIRST_CONTROL_LEN {
        return Ok(Decoded::Data);
    }
    let type_code = len_field as u8;
    if (FIRST_UNKNOWN_TYPE..FIRST_IGNORED_TYPE).contains(&type_code) {
        return Err(ControlError::UnknownType { type_code });
    }
    let Some(body_len) = src[4..].first_chunk() else { return Ok(Decoded::Incomplete { len: PREFIX_LEN }) };
    let body_len = usize::from(wire.u16(*body_len));
    if body_len > MAX_BODY_LEN {
        return Err(ControlError::Length { type_code, body_len, expected: MAX_BODY_LEN });
    }
    let body_end = PREFIX_LEN + body_len;
    let len = body_end + if wire.has_crc { 4 } else { 0 };
    let Some(bytes) = src.get(..len) else { return Ok(Decoded::Incomplete { len }) };
    let (covered, crc) = bytes.split_at(body_end);
    if let Some(actual) = crc.first_chunk() {
        let (actual, expected) = (u32::from_le_bytes(*actual), crc32fast::hash(covered));
        if actual != expected {
            return Err(ControlError::Checksum { expected, actual });
        }
    }
    if type_code >= FIRST_IGNORED_TYPE {
        return Ok(Decoded::Control { frame: None, len });
    }
    let mut fields = Fields { wire, type_code, body: &covered[PREFIX_LEN..], position: 0 };
    let frame = fields.frame()?;
    fields.end()?;
    Ok(Decoded::Control { frame: Some(frame), len })
}

struct Fields<'a> {
    wire: WireFormat,
    type_code: u8,
    body: &'a [u8],
    position: usize,
}

impl<'a> Fields<'a> {
    fn frame(&mut self) -> Result<ControlFrame, ControlError> {
        Ok(match self.type_code {
            0x00 => ControlFrame::Hello(Hello {
                version: self.u8()?,
                features: self.u32()?,
                id: SessionId(self.array()?),
                secret: Secret(self.array()?),
                attempt: self.u32()?,
                received: self.u64()?,
                first_held: self.u64()?,
                replay_bytes: self.u32()?,
            }),
            0x01 => ControlFrame::Welcome(Welcome {
                version: self.u8()?,
                features: self.u32()?,
                id: SessionId(self.array()?),
                secret: Secret(self.array()?),
                resumed: match self.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(self.invalid("resumed")),
                },
                received: self.u64()?,
                first_held: self.u64()?,
                replay_bytes: self.u32()?,
                ttl_ms: self.u32()?,
                min_ping_ms: self.u32()?,
                resume_at: self.string("resume_at")?,
            }),
            0x02 => ControlFrame::Reject(Reject { reason: self.u8()?.into(), retry_after_ms: self.u32()? }),
            0x03 => ControlFrame::Ack { received: self.u64()? },
            0x04 => ControlFrame::Ping { data: self.array()? },
            0x05 => ControlFrame::Pong { data: self.array()? },
            0x06 => ControlFrame::GoAway(GoAway {
                reason: self.u8()?.into(),
                deadline_ms: self.u32()?,
                spread_ms: self.u32()?,
                address: self.string("address")?,
            }),
            0x07 => ControlFrame::Bye(Bye { reason: self.u8()?.into(), sent: self.u64()? }),
            0x08 => ControlFrame::Stop { received: self.u64()? },
            0x09 => ControlFrame::Done,
            type_code => return Err(ControlError::UnknownType { type_code }),
        })
    }

    /// Fails if bytes are left, except in HELLO and WELCOME: later versions append fields to these.
    fn end(&self) -> Result<(), ControlError> {
        if self.position == self.body.len() || self.type_code <= 0x01 {
            return Ok(());
        }
        Err(self.wrong_length(self.position))
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], ControlError> {
        let end = self.position + len;
        let bytes = self.body.get(self.position..end).ok_or_else(|| self.wrong_length(end))?;
        self.position = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ControlError> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| self.wrong_length(self.position))
    }

    fn u8(&mut self) -> Result<u8, ControlError> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, ControlError> {
        self.array().map(|bytes| self.wire.u32(bytes))
    }

    fn u64(&mut self) -> Result<u64, ControlError> {
        self.array().map(|bytes| self.wire.u64(bytes))
    }

    fn string(&mut self, field: &'static str) -> Result<String, ControlError> {
        let len = self.u8()?.into();
        let text = std::str::from_utf8(self.bytes(len)?).map_err(|_| self.invalid(field))?;
        Ok(text.to_owned())
    }

    fn invalid(&self, field: &'static str) -> ControlError {
        ControlError::Field { type_code: self.type_code, field }
    }

    fn wrong_length(&self, expected: usize) -> ControlError {
        ControlError::Length { type_code: self.type_code, body_len: self.body.len(), expected }
    }
}
