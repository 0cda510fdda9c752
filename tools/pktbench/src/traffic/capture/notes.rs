//! What in a capture is not replayed as it was sent, and what to do about it.

/// Counts of flows, unless the name says otherwise.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// Parts of IP packets.
    pub(super) fragments: u64,
    /// Replayed by segment: the capture began after the connection.
    pub(super) midway: u64,
    /// Replayed by segment: bytes were not captured.
    pub(super) gaps: u64,
    /// Replayed by segment: the bytes are not frames.
    pub(super) not_frames: u64,
    /// The capture ended within a frame, which is left out.
    pub(super) unfinished: u64,
    /// Left out: no data was sent.
    pub(super) without_data: u64,
    /// The file ends within a packet.
    pub(super) is_cut_off: bool,
}

impl Notes {
    /// The number of flows of which each TCP segment is one packet.
    pub(crate) fn by_segment(&self) -> u64 {
        self.midway + self.gaps + self.not_frames
    }

    /// One line for each note.
    pub(crate) fn lines(&self) -> Vec<String> {
        let by_segment = "each TCP segment with data is one packet of the replay";
        let counted = [
            (
                self.midway,
                format!("began before the capture: {by_segment}; capture from the start of the connections"),
            ),
            (
                self.gaps,
                format!("with bytes that were not captured: {by_segment}; capture with 'tcpdump -B 65536'"),
            ),
            (
                self.not_frames,
                format!(
                    "whose bytes are not frames of this --header and --crc up to --max-payload: {by_segment}"
                ),
            ),
            (self.unfinished, "that end within a frame, which is left out".to_owned()),
            (self.without_data, "without data to the server are left out".to_owned()),
        ];
        let counted = counted.into_iter().filter(|(count, _)| *count > 0);
        let mut lines: Vec<_> = counted
            .map(|(count, what)| {
                format!("{count} {} {what}", if count == 1 { "connection" } else { "connections" })
            })
            .collect();
        if self.fragments > 0 {
            lines.push(format!("{} fragments of IP packets are left out", self.fragments));
        }
        if self.is_cut_off {
            lines.push("the file ends within a packet; everything before it is replayed".to_owned());
        }
        lines
    }
}
