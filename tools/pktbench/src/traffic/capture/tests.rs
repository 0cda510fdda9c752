//! Captures that are written here, byte by byte, in all formats, and what is found in them.

use super::*;

use pktconn::{Checksum, HeaderFormat};
use proptest::collection::vec;
use proptest::prelude::*;

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
        let body = [&word(0)[..], &word((units >> 32) as u32), &word(units as u32), &len, &len, packet].concat();
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

#[test]
fn packets_have_the_size_of_their_payload_and_the_time_of_their_first_byte() {
    let capture = found(&two_connections());
    assert_eq!(packets(&capture), OF_TWO_CONNECTIONS);
    assert_eq!(capture.notes, Notes::default());
}

#[test]
fn every_format_and_byte_order_gives_the_same_packets() {
    let of: Vec<_> =
        two_connections().iter().map(|sent| (sent.at_ns, ethernet(0x0800, &sent.ipv4()))).collect();
    let mut files = Vec::new();
    for big_endian in [false, true] {
        files.extend([0xa1b2_c3d4, 0xa1b2_3c4d].map(|magic| pcap(magic, 1, big_endian, &of)));
        let units = [(6, 1_000_000), (9, 1_000_000_000), (3, 1000), (0x80 | 30, 1 << 30)];
        files.extend(units.map(|units| pcapng(1, big_endian, units, &of)));
    }
    // Two sections with different byte orders, as if two files were concatenated.
    files.push([pcapng(1, true, (6, 1_000_000), &of[..3]), pcapng(1, false, (9, 1_000_000_000), &of[3..])].concat());
    for (number, file) in files.iter().enumerate() {
        assert_eq!(packets(&capture(file)), OF_TWO_CONNECTIONS, "file {number}");
    }
}

#[test]
fn every_link_type_gives_the_same_packets() {
    type Wrap = fn(&[u8], bool) -> Vec<u8>;
    fn ether_type(is_v6: bool) -> u16 {
        if is_v6 { 0x86dd } else { 0x0800 }
    }
    let cases: [(u32, Wrap); 11] = [
        (1, |ip, is_v6| ethernet(ether_type(is_v6), ip)),
        // The upper bits of the link type describe a frame check sequence.
        (1 | 0x5400_0000, |ip, is_v6| [ethernet(ether_type(is_v6), ip), vec![1, 2, 3, 4]].concat()),
        (1, |ip, is_v6| ethernet(0x8100, &[&[0, 7][..], &ether_type(is_v6).to_be_bytes(), ip].concat())),
        (1, |ip, is_v6| {
            ethernet(0x88a8, &[&[0, 7, 0x81, 0, 0, 8][..], &ether_type(is_v6).to_be_bytes(), ip].concat())
        }),
        (101, |ip, _| ip.to_vec()),
        (12, |ip, _| ip.to_vec()),
        (113, |ip, is_v6| [&[0; 14][..], &ether_type(is_v6).to_be_bytes(), ip].concat()),
        (113, |ip, is_v6| {
            [&[0; 14][..], &[0x81, 0, 0, 7], &ether_type(is_v6).to_be_bytes(), ip].concat()
        }),
        (276, |ip, is_v6| [&ether_type(is_v6).to_be_bytes()[..], &[0; 18], ip].concat()),
        (0, |ip, is_v6| [&[if is_v6 { 30 } else { 2 }, 0, 0, 0][..], ip].concat()),
        (108, |ip, is_v6| [&[0, 0, 0, if is_v6 { 24 } else { 2 }][..], ip].concat()),
    ];
    for (link, wrap) in cases {
        for is_v6 in [false, true] {
            let packet = |sent: &Sent| {
                let ip = if is_v6 { ipv6(&sent.tcp()) } else { sent.ipv4() };
                (sent.at_ns, wrap(&ip, is_v6))
            };
            let of: Vec<_> = two_connections().iter().map(packet).collect();
            let capture = capture(&pcap(0xa1b2_c3d4, link, false, &of));
            assert_eq!(packets(&capture), OF_TWO_CONNECTIONS, "link type {link}, IPv6: {is_v6}");
        }
    }
    let problem = read(&pcap(0xa1b2_c3d4, 105, false, &[(0, vec![0; 60])])[..], PORT, &codec()).unwrap_err();
    assert!(problem.starts_with("link type 105 is not supported; capture on Ethernet"), "{problem}");
}

#[test]
fn a_packet_that_is_longer_than_its_header_can_say_is_taken_as_long_as_it_was_captured() {
    // Segmentation offload: Linux shows one packet of more than 64 KiB, with a length of 0.
    let mut ip = sent(0, 1, 1, ACK, &frames(&[80_000])).ipv4();
    (ip[2], ip[3]) = (0, 0);
    let syn = sent(0, 1, 0, SYN, b"").ipv4();
    let capture = capture(&pcap(0xa1b2_c3d4, 101, false, &[(0, syn), (MS, ip)]));
    assert_eq!(packets(&capture), [[(0, 80_000)]]);
}

#[test]
fn segments_are_put_in_order_and_every_byte_counts_once() {
    let bytes = frames(&[10, 20, 30, 40]);
    let begin = u32::MAX - 20;
    let part = |at_ms: u64, range: std::ops::Range<usize>| {
        sent(at_ms * MS, 1, begin.wrapping_add(1 + range.start as u32), ACK, &bytes[range])
    };
    let syn = sent(0, 1, begin, SYN, b"");
    let cases = [
        ("in order", vec![part(1, 0..30), part(2, 30..90), part(3, 90..116)]),
        ("the sequence numbers wrap around within a segment", vec![part(1, 0..20), part(2, 20..116)]),
        ("sent again", vec![part(1, 0..30), part(1, 0..30), part(2, 30..90), part(2, 0..90), part(3, 90..116)]),
        ("out of order", vec![part(1, 30..90), part(2, 90..116), part(3, 0..30)]),
        ("overlapping", vec![part(1, 0..30), part(2, 20..90), part(3, 60..116)]),
        ("held back and overlapping", vec![part(1, 60..116), part(1, 60..70), part(2, 40..80), part(3, 0..50)]),
        ("held back, and then sent again as a whole", vec![part(1, 60..90), part(2, 30..50), part(3, 0..116)]),
        ("a keepalive", vec![part(1, 0..30), part(2, 29..30), part(3, 30..116)]),
    ];
    for (case, segments) in cases {
        let capture = found(&[vec![syn.clone()], segments].concat());
        let lens: Vec<_> = packets(&capture).concat().iter().map(|(_, len)| *len).collect();
        assert_eq!((lens, &capture.notes), (vec![10, 20, 30, 40], &Notes::default()), "{case}");
    }
}

#[test]
fn times_never_go_back_within_a_flow() {
    let bytes = frames(&[10, 20]);
    let segments = [
        sent(0, 1, 0, SYN, b""),
        sent(2 * MS, 1, 15, ACK, &bytes[14..]),
        sent(9 * MS, 1, 1, ACK, &bytes[..14]),
        sent(5 * MS, 1, 39, ACK, &frames(&[1])),
        sent(1 * MS, 2, 0, SYN, &frames(&[7])),
    ];
    // The second packet follows the first one, which was sent again after it was lost.
    assert_eq!(packets(&found(&segments)), [vec![(8, 10), (8, 20), (8, 1)], vec![(0, 7)]]);
}

#[test]
fn a_port_that_is_used_again_is_a_new_flow_and_a_repeated_syn_is_not() {
    let segments = [
        sent(0, 1, 9, SYN, b""),
        sent(MS, 1, 9, SYN, b""),
        sent(2 * MS, 1, 10, ACK, &frames(&[1])),
        sent(3 * MS, 1, 700, SYN, b""),
        sent(4 * MS, 1, 701, ACK, &frames(&[2])),
        sent(5 * MS, 3, 1, SYN, b""),
    ];
    let capture = found(&segments);
    assert_eq!(packets(&capture), [[(0, 1)], [(2, 2)]]);
    assert_eq!(capture.notes, Notes { without_data: 1, ..Notes::default() });
}

#[test]
fn flows_without_frames_are_replayed_by_segment() {
    let http = b"GET / HTTP/1.1\r\n";
    let cases = [
        ("text", vec![sent(0, 1, 0, SYN, b""), sent(MS, 1, 1, ACK, http), sent(MS, 1, 17, ACK, http)]),
        ("text after a frame", {
            let first = [&frames(&[8])[..], b"GET "].concat();
            vec![sent(0, 1, 0, SYN, b""), sent(MS, 1, 1, ACK, &first), sent(MS, 1, 17, ACK, http)]
        }),
        ("a frame that a FIN ends", {
            let first = [&frames(&[8])[..], &[200, 0, 0, 0]].concat();
            vec![sent(0, 1, 0, SYN, b""), sent(MS, 1, 1, ACK, &first), sent(MS, 1, 17, ACK | FIN, http)]
        }),
        ("no complete frame", {
            let first = [&[200, 0, 0, 0][..], &[0; 12]].concat();
            vec![sent(0, 1, 0, SYN, b""), sent(MS, 1, 1, ACK, &first), sent(MS, 1, 17, ACK, http)]
        }),
    ];
    for (case, segments) in cases {
        let capture = found(&segments);
        assert_eq!(packets(&capture), [[(0, 16), (0, 16)]], "{case}");
        assert_eq!(capture.notes, Notes { not_frames: 1, ..Notes::default() }, "{case}");
    }
}

#[test]
fn a_flow_that_is_captured_in_part_is_replayed_by_segment() {
    let bytes = frames(&[20, 20, 20]);
    // The capture began after the SYN; a keepalive comes first.
    let midway = [
        sent(0, 1, 4, ACK, b""),
        sent(MS, 1, 5, ACK, &bytes[..24]),
        sent(2 * MS, 1, 29, ACK, &bytes[24..]),
    ];
    let capture = found(&midway);
    assert_eq!(packets(&capture), [[(0, 24), (1, 48)]]);
    assert_eq!(capture.notes, Notes { midway: 1, ..Notes::default() });
    assert_eq!(capture.notes.by_segment(), 1);

    let with_gap = [
        sent(0, 1, 0, SYN, b""),
        sent(MS, 1, 1, ACK, &bytes[..24]),
        sent(2 * MS, 1, 49, ACK, &bytes[48..]),
        sent(3 * MS, 1, 99, ACK, b"123"),
    ];
    let capture = found(&with_gap);
    assert_eq!(packets(&capture), [[(0, 24), (1, 24), (2, 3)]]);
    assert_eq!(capture.notes, Notes { gaps: 1, ..Notes::default() });
}

#[test]
fn what_is_held_back_is_limited() {
    let chunk = vec![0; 50_000];
    let mut segments = vec![sent(0, 1, 0, SYN, b"")];
    // The byte with sequence number 1 is missing; more than the limit of 16 MiB follows.
    segments.extend((0..400).map(|number| sent(MS, 1, 2 + number * 50_000, ACK, &chunk)));
    let capture = found(&segments);
    assert_eq!(capture.flows[0].packets.len(), 400);
    assert_eq!(capture.notes, Notes { gaps: 1, ..Notes::default() });
}

#[test]
fn the_frame_at_the_end_of_the_capture_is_left_out_if_it_is_incomplete() {
    let bytes = frames(&[5, 6]);
    let capture = found(&[sent(0, 1, 0, SYN, b""), sent(0, 1, 1, ACK, &bytes[..15])]);
    assert_eq!(packets(&capture), [[(0, 5)]]);
    assert_eq!(capture.notes, Notes { unfinished: 1, ..Notes::default() });
}

#[test]
fn frames_are_those_of_the_header_and_the_checksum() {
    let codec = codec().header(HeaderFormat::U16Be).checksum(Checksum::Crc32);
    let mut bytes = bytes::BytesMut::new();
    let encoder = pktconn::PacketCodec::new(codec.clone());
    for payload in [&b"first"[..], b""] {
        encoder.encode_payload(payload, &mut bytes).unwrap();
    }
    let lens = |bytes: &[u8]| {
        let file = ethernet_pcap(&[sent(0, 1, 0, SYN, b""), sent(0, 1, 1, ACK, bytes)]);
        let capture = read(&file[..], PORT, &codec).unwrap();
        (packets(&capture).concat(), capture.notes.not_frames)
    };
    assert_eq!(lens(&bytes), (vec![(0, 5), (0, 0)], 0));
    let all = bytes.len() as u32;
    bytes[3] ^= 1;
    assert_eq!(lens(&bytes), (vec![(0, all)], 1), "a wrong checksum");
}

#[test]
fn other_packets_are_ignored_and_fragments_are_counted() {
    let packet = |ip: Vec<u8>| (0, ethernet(0x0800, &ip));
    let mut fragment = sent(0, 1, 0, ACK, b"12345678").ipv4();
    fragment[6] = 0x20;
    let mut udp = sent(0, 1, 0, ACK, b"").ipv4();
    udp[9] = 17;
    let to_other_port = ipv4(&[tcp_header(1, 80, 0, ACK), b"GET /".to_vec()].concat());
    let from_server = ipv4(&[tcp_header(PORT, 1, 0, ACK), frames(&[3])].concat());
    let mut all = [fragment, udp, to_other_port.clone(), from_server].map(packet).to_vec();
    all.push((0, ethernet(0x0806, &[0; 28])));
    all.push((0, vec![0; 5]));
    let file = |all: &[(u64, Vec<u8>)]| pcap(0xa1b2_c3d4, 1, false, all);
    let problem = read(&file(&all)[..], PORT, &codec()).unwrap_err();
    let expected = "no TCP data to port 14572 was captured; it contains data to port 1, 80; give the port";
    assert!(problem.starts_with(expected), "{problem}");
    let mine = two_connections();
    all.extend(mine.iter().map(|sent| (sent.at_ns, ethernet(0x0800, &sent.ipv4()))));
    let capture = capture(&file(&all));
    assert_eq!(packets(&capture), OF_TWO_CONNECTIONS);
    assert_eq!(capture.notes, Notes { fragments: 1, ..Notes::default() });
    let problem = read(&file(&[])[..], PORT, &codec()).unwrap_err();
    assert!(problem.ends_with("it contains no TCP data at all"), "{problem}");
}

#[test]
fn packets_that_were_not_captured_to_their_end_are_an_error() {
    let segments = two_connections();
    let of: Vec<_> = segments.iter().map(|sent| ethernet(0x0800, &sent.ipv4())).collect();
    for len in [of[2].len() - 1, 54, 50, 35] {
        let mut of: Vec<_> = of.iter().map(|packet| (0, packet.clone())).collect();
        of[2].1.truncate(len);
        let problem = read(&pcap(0xa1b2_c3d4, 1, false, &of)[..], PORT, &codec()).unwrap_err();
        assert_eq!(problem, "packet 3 was not captured to its end; capture again with 'tcpdump -s 0'", "{len}");
    }
}

#[test]
fn a_file_that_ends_within_a_packet_is_used_up_to_there() {
    let file = ethernet_pcap(&two_connections());
    let capture = capture(&file[..file.len() - 1]);
    assert_eq!(packets(&capture), [&[(0, 100), (4, 0), (4, 7)][..], &[(2, 2)]]);
    assert_eq!(capture.notes, Notes { is_cut_off: true, ..Notes::default() });
}

#[test]
fn a_file_that_is_no_capture_is_an_error_that_says_what_to_do() {
    let simple = {
        let mut file = pcapng(1, false, (6, 1_000_000), &[]);
        file.extend([3, 0, 0, 0, 20, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4, 20, 0, 0, 0]);
        file
    };
    let mut no_interface = pcapng(1, false, (6, 1_000_000), &[(0, vec![0; 4])]);
    let packet_at = no_interface.len() - 36;
    no_interface[packet_at + 8] = 1;
    let cases = [
        (b"".to_vec(), "it is no capture; give a file in the format pcap or pcapng"),
        (b"len,time\n9,1\n".to_vec(), "it is no capture; give a file in the format pcap or pcapng"),
        (vec![0; 1000], "it is no capture; give a file in the format pcap or pcapng"),
        (simple, "its packets have no times (simple packet blocks); capture with tcpdump"),
        (no_interface, "it is damaged: interface 1 has packets but no description"),
        (pcapng(1, false, (20, 1), &[]), "it is damaged: its times have the unknown resolution 20"),
    ];
    for (file, expected) in cases {
        assert_eq!(read(&file[..], PORT, &codec()).unwrap_err(), expected);
    }
}

#[test]
fn a_length_that_the_file_claims_reserves_no_memory() {
    let mut claims = pcap(0xa1b2_c3d4, 1, false, &[(0, vec![0; 1000])]);
    claims[24 + 8..24 + 16].fill(0xff);
    let mut block = pcapng(1, false, (6, 1_000_000), &[]);
    block.extend([6, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff]);
    block.extend(vec![0; 1000]);
    let frame = ethernet_pcap(&[sent(0, 1, 0, SYN, b""), sent(0, 1, 1, ACK, &[0xff, 0xff, 15, 0, 1, 2])]);
    for file in [claims, block, frame] {
        let info = allocation_counter::measure(|| drop(read(&file[..], PORT, &codec())));
        assert!(info.bytes_max < 1 << 20, "{info:?}");
    }
}

/// Reading must use memory in proportion to the file.
fn bounded(file: &[u8]) -> Result<(), TestCaseError> {
    let mut result = Ok(Capture::default());
    let info = allocation_counter::measure(|| result = read(file, PORT, &codec()));
    prop_assert!(info.bytes_max < (1 << 20) + 16 * file.len() as u64, "{info:?} for {} bytes", file.len());
    if let Ok(Capture { flows, .. }) = result {
        prop_assert!(!flows.is_empty());
        for Flow { packets } in flows {
            prop_assert!(!packets.is_empty());
            prop_assert!(packets.is_sorted_by_key(|packet| packet.offset_ns));
        }
    }
    Ok(())
}

fn any_segment() -> impl Strategy<Value = Sent> {
    let payload = prop_oneof![
        vec(any::<u8>(), 0..40),
        vec(0_usize..9, 0..4).prop_map(|lens| frames(&lens)),
        (0_usize..40).prop_map(|len| vec![0; len])
    ];
    (0..9 * MS, 1..3_u16, prop_oneof![0..60_u32, any::<u32>()], 0..32_u8, payload).prop_map(
        |(at_ns, from_port, sequence, flags, payload)| Sent { at_ns, from_port, sequence, flags, payload },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..600), format in 0..6_usize) {
        let mut file = match format {
            0 => Vec::new(),
            1 => pcap(0xa1b2_c3d4, 1, false, &[]),
            2 => pcap(0xa1b2_3c4d, 101, true, &[]),
            3 => pcap(0xa1b2_cd34, 113, false, &[]),
            4 => pcapng(1, false, (6, 1_000_000), &[]),
            _ => pcapng(276, true, (9, 1_000_000_000), &[]),
        };
        file.extend(bytes);
        bounded(&file)?;
    }

    #[test]
    fn any_packets_are_read_without_a_panic(
        packets in vec((0..9 * MS, vec(any::<u8>(), 0..100)), 0..9),
        link in prop::sample::select(vec![0, 1, 12, 101, 108, 113, 228, 229, 276]),
    ) {
        bounded(&pcap(0xa1b2_c3d4, link, false, &packets))?;
    }

    #[test]
    fn any_segments_are_read_without_a_panic(segments in vec(any_segment(), 0..30)) {
        bounded(&ethernet_pcap(&segments))?;
    }

    #[test]
    fn a_damaged_capture_is_read_without_a_panic(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
        len in any::<prop::sample::Index>(),
        ng: bool,
    ) {
        let of: Vec<_> =
            two_connections().iter().map(|sent| (sent.at_ns, ethernet(0x0800, &sent.ipv4()))).collect();
        let mut file = match ng {
            true => pcapng(1, false, (6, 1_000_000), &of),
            false => pcap(0xa1b2_c3d4, 1, false, &of),
        };
        for (index, byte) in damage {
            let index = index.index(file.len());
            file[index] = byte;
        }
        file.truncate(len.index(file.len() * 2));
        bounded(&file)?;
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut_and_in_whatever_order_it_comes(
        lens in vec(0_usize..50, 1..20),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
        again in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..5),
        order in any::<u64>(),
        begin: u32,
    ) {
        let bytes = frames(&lens);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let mut ranges: Vec<_> = cuts.windows(2).map(|pair| pair[0]..pair[1]).collect();
        ranges.extend(again.iter().map(|(from, len)| {
            let from = from.index(bytes.len());
            from..from + len.index(bytes.len() - from + 1)
        }));
        let key = |range: &std::ops::Range<usize>| {
            crate::traffic::random::mix(order.wrapping_add((range.start * 10_000 + range.end) as u64))
        };
        ranges.sort_by_key(key);
        let mut segments = vec![sent(0, 1, begin, SYN, b"")];
        segments.extend(ranges.into_iter().enumerate().map(|(number, range)| {
            let sequence = begin.wrapping_add(1 + range.start as u32);
            sent(number as u64 * MS, 1, sequence, ACK, &bytes[range])
        }));
        let capture = found(&segments);
        let found: Vec<_> = packets(&capture).concat().iter().map(|(_, len)| *len as usize).collect();
        prop_assert_eq!(found, lens);
        prop_assert_eq!(capture.notes, Notes::default());
    }
}

/// Every note is one line that names what to do or what happens.
#[test]
fn notes_are_counted_lines() {
    assert_eq!(Notes::default().lines(), Vec::<String>::new());
    let notes = Notes {
        fragments: 2,
        midway: 1,
        gaps: 2,
        not_frames: 3,
        unfinished: 4,
        without_data: 5,
        is_cut_off: true,
    };
    let lines = notes.lines();
    assert_eq!((lines.len(), notes.by_segment()), (7, 6));
    assert!(lines[0].starts_with("1 connection began before the capture: each TCP segment"), "{lines:?}");
    assert!(lines[1].starts_with("2 connections with bytes that were not captured: "), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains('\n')));
}
