//! Captures that are written here, byte by byte, in all formats. The tests are in the submodules.

mod formats;

mod flows;

mod properties;

use pktconn::CodecConfig;

use super::{Capture, Flow, read};

const PORT: u16 = 14_572;

const MS: u64 = 1_000_000;

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;

/// The time of the first packet, in ns since 1970.
const START_NS: u64 = 1_700_000_000_000_000_000;

/// A TCP segment that the client with a port sends.
#[derive(Clone, Debug)]
struct Sent {
    at_ns: u64,
    from_port: u16,
    sequence: u32,
    flags: u8,
    payload: Vec<u8>,
}

fn sent(at_ns: u64, from_port: u16, sequence: u32, flags: u8, payload: &[u8]) -> Sent {
    Sent { at_ns, from_port, sequence, flags, payload: payload.to_vec() }
}

/// The packets with the payloads of `lens`, as the wire format has them.
fn frames(lens: &[usize]) -> Vec<u8> {
    let frame = |len: &usize| [&(*len as u32).to_le_bytes()[..], &vec![0xa5; *len]].concat();
    lens.iter().flat_map(frame).collect()
}

fn tcp_header(from: u16, to: u16, sequence: u32, flags: u8) -> Vec<u8> {
    let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
    [&ports[..], &sequence.to_be_bytes(), &[0; 4], &[5 << 4, flags, 255, 255, 0, 0, 0, 0]].concat()
}

fn ipv4(tcp: &[u8]) -> Vec<u8> {
    let len = (20 + tcp.len() as u16).to_be_bytes();
    let head = [0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    [&head[..], tcp].concat()
}

fn ipv6(tcp: &[u8]) -> Vec<u8> {
    let len = (tcp.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, len[0], len[1], 6, 64];
    [&head[..], &[1; 16], &[2; 16], tcp].concat()
}

impl Sent {
    fn tcp(&self) -> Vec<u8> {
        [tcp_header(self.from_port, PORT, self.sequence, self.flags), self.payload.clone()].concat()
    }

    fn ipv4(&self) -> Vec<u8> {
        ipv4(&self.tcp())
    }
}

fn ethernet(ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [&[0; 12][..], &ether_type.to_be_bytes(), packet].concat();
    // The shortest frame has 60 bytes; these are not data.
    frame.resize(frame.len().max(60), 0xee);
    frame
}

/// A pcap file. Times are in ns or in µs, as `magic` says.
fn pcap(magic: u32, link: u32, big_endian: bool, packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let versions = if big_endian { [0, 2, 0, 4] } else { [2, 0, 4, 0] };
    let mut file = [word(magic), versions, word(0), word(0), word(262_144), word(link)].concat();
    let unit_ns = if magic == 0xa1b2_3c4d { 1 } else { 1000 };
    for (at_ns, packet) in packets {
        let (at_ns, len) = (START_NS + at_ns, packet.len() as u32);
        let fraction = at_ns % 1_000_000_000 / unit_ns;
        let head = [(at_ns / 1_000_000_000) as u32, fraction as u32, len, len];
        head.iter().for_each(|value| file.extend(word(*value)));
        file.extend(packet);
    }
    file
}

/// A pcapng file with one interface. `units_per_s` must match `resolution`, the value of `if_tsresol`.
fn pcapng(
    link: u16,
    big_endian: bool,
    (resolution, units_per_s): (u8, u64),
    packets: &[(u64, Vec<u8>)],
) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let block = |kind: u32, body: &[u8]| {
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        let len = word((12 + body.len() + padding.len()) as u32);
        [&word(kind)[..], &len, body, &padding, &len].concat()
    };
    let section = [&word(0x1a2b_3c4d)[..], &half(1), &half(0), &[0xff; 8]].concat();
    let resolution = [&half(9)[..], &half(1), &[resolution, 0, 0, 0], &[0; 4]].concat();
    let interface = [&half(link)[..], &half(0), &word(0), &resolution].concat();
    let mut file = [block(0x0a0d_0d0a, &section), block(1, &interface)].concat();
    // A block that has nothing to do with packets.
    file.extend(block(4, &[0; 4]));
    for (at_ns, packet) in packets {
        let units = u128::from(START_NS + at_ns) * u128::from(units_per_s);
        // Rounded up, so that rounding down gives the same time.
        let units = units.div_ceil(1_000_000_000) as u64;
        let len = word(packet.len() as u32);
        let body =
            [&word(0)[..], &word((units >> 32) as u32), &word(units as u32), &len, &len, packet].concat();
        file.extend(block(6, &body));
    }
    file
}

fn ethernet_pcap(segments: &[Sent]) -> Vec<u8> {
    let packets: Vec<_> =
        segments.iter().map(|segment| (segment.at_ns, ethernet(0x0800, &segment.ipv4()))).collect();
    pcap(0xa1b2_3c4d, 1, false, &packets)
}

fn codec() -> CodecConfig {
    CodecConfig::new().max_payload_len(1 << 20)
}

fn capture(file: &[u8]) -> Capture {
    read(file, PORT, &codec()).unwrap_or_else(|problem| panic!("{problem}"))
}

fn found(segments: &[Sent]) -> Capture {
    capture(&ethernet_pcap(segments))
}

/// The packets of each flow as (offset in ms, length).
fn packets(capture: &Capture) -> Vec<Vec<(u64, u32)>> {
    let of = |flow: &Flow| flow.packets.iter().map(|packet| (packet.offset_ns / MS, packet.len)).collect();
    capture.flows.iter().map(of).collect()
}

/// Two connections: one packet in two segments and two in one, and a packet of the second connection between them.
fn two_connections() -> Vec<Sent> {
    let (head, tail) = (frames(&[100, 0, 7]), frames(&[3]));
    vec![
        sent(0, 1001, 499, SYN, b""),
        sent(3 * MS, 1002, 99, SYN, b""),
        sent(5 * MS, 1001, 500, ACK, &head[..50]),
        sent(7 * MS, 1002, 100, ACK, &frames(&[2])),
        sent(9 * MS, 1001, 550, ACK, &head[50..]),
        sent(20 * MS, 1001, 500 + head.len() as u32, ACK | FIN, &tail),
    ]
}

const OF_TWO_CONNECTIONS: [&[(u64, u32)]; 2] = [&[(0, 100), (4, 0), (4, 7), (15, 3)], &[(2, 2)]];
