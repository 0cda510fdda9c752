//! What a capture gives for a replay: sizes and times.

/// A packet of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordedPacket {
    /// The time from the first packet of the whole recording.
    pub(crate) offset_ns: u64,
    /// The length of the payload.
    pub(crate) len: u32,
}

/// What one client sent on one connection: at least one packet, in the order and with the times of the capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) packets: Vec<RecordedPacket>,
}
