//! Writes captures: pcap with raw IPv4 packets, from clients to a server.

use std::time::Duration;

/// The port of the server.
pub(crate) const PORT: u16 = 14_572;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// A pcap file without packets, with times in ns.
pub(crate) struct Pcap(Vec<u8>);

impl Pcap {
    pub(crate) fn new() -> Self {
        let words = [0xa1b2_3c4d, 0x0004_0002, 0, 0, 262_144, 101_u32];
        Self(words.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    /// The first packet of a connection. Its data begins with sequence number 1.
    pub(crate) fn open(&mut self, at: Duration, client_port: u16) {
        self.segment(at, client_port, 0, SYN, b"");
    }

    pub(crate) fn data(&mut self, at: Duration, client_port: u16, sequence: u32, payload: &[u8]) {
        self.segment(at, client_port, sequence, ACK, payload);
    }

    fn segment(&mut self, at: Duration, client_port: u16, sequence: u32, flags: u8, payload: &[u8]) {
        let len = 40 + payload.len();
        let word = |value: u32| value.to_le_bytes();
        let times = [at.as_secs() as u32, at.subsec_nanos()].map(word).concat();
        let [high, low] = (len as u16).to_be_bytes();
        let ip = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let ports = [client_port, PORT].map(u16::to_be_bytes).concat();
        let tcp = [5 << 4, flags, 255, 255, 0, 0, 0, 0];
        let lens = [word(len as u32), word(len as u32)].concat();
        let packet = [&ip[..], &ports, &sequence.to_be_bytes(), &[0; 4], &tcp, payload].concat();
        self.0.extend([times, lens, packet].concat());
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
