//! The layers below TCP: files, link types and IP.

use super::*;
use crate::traffic::capture::Notes;

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
    files.push(
        [pcapng(1, true, (6, 1_000_000), &of[..3]), pcapng(1, false, (9, 1_000_000_000), &of[3..])].concat(),
    );
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
        (113, |ip, is_v6| [&[0; 14][..], &[0x81, 0, 0, 7], &ether_type(is_v6).to_be_bytes(), ip].concat()),
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
    let data = sent(0, 1, 1, ACK, &frames(&[80_000]));
    let (mut v4, mut v6) = (data.ipv4(), ipv6(&data.tcp()));
    v4[2..4].fill(0);
    v6[4..6].fill(0);
    let syn = sent(0, 1, 0, SYN, b"");
    for (syn, data) in [(syn.ipv4(), v4), (ipv6(&syn.tcp()), v6)] {
        let capture = capture(&pcap(0xa1b2_c3d4, 101, false, &[(0, syn), (MS, data)]));
        assert_eq!(packets(&capture), [[(0, 80_000)]]);
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
fn packets_that_were_not_captured_to_their_end_are_an_error() {
    let segments = two_connections();
    let of: Vec<_> = segments.iter().map(|sent| ethernet(0x0800, &sent.ipv4())).collect();
    for len in [of[2].len() - 1, 54, 50, 35] {
        let mut of: Vec<_> = of.iter().map(|packet| (0, packet.clone())).collect();
        of[2].1.truncate(len);
        let problem = read(&pcap(0xa1b2_c3d4, 1, false, &of)[..], PORT, &codec()).unwrap_err();
        assert_eq!(
            problem, "packet 3 was not captured to its end; capture again with 'tcpdump -s 0'",
            "{len}"
        );
    }
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
