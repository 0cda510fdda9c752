//! Control frames as packets of a connection.

use bytes::BytesMut;
use pktconn_codec::{CodecConfig, Packet};
use pktconn_session::frame::{
    ControlError, ControlFrame, Decoded, UnusableFraming, WireFormat, decode_control, encode_control,
};

use crate::PacketSender;

/// Encodes and decodes the control frames of a connection, in its format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlCodec {
    codec: CodecConfig,
    wire: WireFormat,
}

impl ControlCodec {
    pub(crate) fn of(sender: &PacketSender) -> Result<Self, UnusableFraming> {
        let codec = *sender.core().settings.rules.codec.config();
        Ok(Self { codec, wire: WireFormat::new(&codec)? })
    }

    pub(crate) fn encode(&self, frame: &ControlFrame) -> Packet {
        let mut bytes = BytesMut::new();
        encode_control(frame, self.wire, &mut bytes);
        Packet::from_control(bytes.freeze(), &self.codec)
    }

    /// The frame that a packet [is](Packet::is_control). `None` if it must be ignored.
    pub(crate) fn decode(&self, packet: &Packet) -> Result<Option<ControlFrame>, ControlError> {
        Ok(match decode_control(packet.control_bytes(), self.wire)? {
            Decoded::Control { frame, .. } => frame,
            // Not of a packet that is a control frame.
            Decoded::Data | Decoded::Incomplete { .. } => None,
        })
    }
}
