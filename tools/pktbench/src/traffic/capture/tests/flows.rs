//! TCP: order, new flows, and the frames in the bytes.

use super::*;
use crate::traffic::capture::Notes;
use pktconn::{Checksum, HeaderFormat};

#[test]
fn packets_have_the_size_of_their_payload_and_the_time_of_their_first_byte() {
    let capture = found(&two_connections());
    assert_eq!(packets(&capture), OF_TWO_CONNECTIONS);
    assert_eq!(capture.notes, Notes::default());
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
        (
            "sent again",
            vec![part(1, 0..30), part(1, 0..30), part(2, 30..90), part(2, 0..90), part(3, 90..116)],
        ),
        ("out of order", vec![part(1, 30..90), part(2, 90..116), part(3, 0..30)]),
        ("overlapping", vec![part(1, 0..30), part(2, 20..90), part(3, 60..116)]),
        (
            "held back and overlapping",
            vec![part(1, 60..116), part(1, 60..70), part(2, 40..80), part(3, 0..50)],
        ),
        (
            "held back, and then sent again as a whole",
            vec![part(1, 60..90), part(2, 30..50), part(3, 0..116)],
        ),
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
        sent(MS, 2, 0, SYN, &frames(&[7])),
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
    let midway =
        [sent(0, 1, 4, ACK, b""), sent(MS, 1, 5, ACK, &bytes[..24]), sent(2 * MS, 1, 29, ACK, &bytes[24..])];
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
    let encoder = pktconn::PacketCodec::new(codec);
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
