//! The cases of the test: what is sent to the server, and what must come back.
//!
//! A case is a script for one connection, which `client` runs. Each case is made only when it is run, because the
//! largest packets need much memory.
//!
//! ```text
//!   valid:      every size, typed values, segmentation, half-close    the same bytes come back
//!   malformed:  over-long, truncated, wrong checksum                  no response, connection closed, others go on
//! ```

use std::collections::BTreeSet;

use crate::conform::wire::Frames;

/// One requirement, as a script for a connection.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// What the server must do; the report prints it after the word "expected".
    pub(crate) expected: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) other_conn: OtherConn,
}

/// One action of the client on its connection.
#[derive(Clone)]
pub(crate) enum Step {
    /// Writes these bytes at once. They must be few enough for the socket buffers, as the server may not read them.
    Send(Vec<u8>),
    /// Writes these bytes one at a time, with pauses, so that the server reads them one by one.
    Trickle(Vec<u8>),
    /// Reads exactly these bytes.
    Expect(Vec<u8>),
    /// Writes these bytes and reads them back at the same time.
    Exchange(Vec<u8>),
    /// Like `Exchange`, and closes the sending side as soon as all is written, even if not all has come back.
    ExchangeAndHalfClose(Vec<u8>),
    /// Closes the sending side.
    HalfClose,
    /// Reads the end of the stream; a reset is a failure.
    ExpectEnd,
    /// Reads the end of the stream or a reset.
    ExpectClosed,
}

/// A second connection on which the server must echo this packet, in spite of what happens on the first one.
#[derive(Clone)]
pub(crate) enum OtherConn {
    None,
    /// Opened after the last step.
    OpenedAfter(Vec<u8>),
    /// Open from before the first step until after the last one; the packet is sent at both times.
    OpenThroughout(Vec<u8>),
}

/// The shortest payload with a first, an inner and a last byte.
const SHORT_LEN: u32 = 3;

/// Packets of 1 to 2,048 bytes, about 1 MiB in total: more than a server reads at once.
const MANY_PACKETS: u32 = 1000;

/// Packets of up to 8 bytes: with headers and checksums they fit into one TCP segment on Ethernet, 1,460 bytes.
const SEGMENT_PACKETS: u32 = 64;

/// Payloads of typed values as the Go library encodes them: integers, minima and maxima, a bool and floats, and strings
/// and byte slices with a length prefix.
const TYPED: [(&str, &[u8]); 4] = [
    ("integers", b"\xaa\xcd\xab\x34\x12\xcd\xab\x00\x00\x78\x56\x34\x12\xcd\xab\xfe\xff\xfd\xff\xff\xff\xfc\xff\xff\xff\xff\xff\xff\xff"),
    ("extremes", b"\x00\x80\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    ("floats", b"\x01\x00\x00\x00\x60\x40\x9a\x99\x99\x99\x99\x99\xb9\xbf\x00\x00\x00\x00\x00\x00\xf0\x7f"),
    ("strings", b"\x06\x00hello2\x06\x00\x00\x00hello3\x00\x00\x03\x00\x00\x00\x01\x02\x03raw"),
];

/// All cases, in the order in which they are run.
pub(crate) fn cases(frames: Frames) -> impl Iterator<Item = Case> {
    let malformed = malformed(frames);
    empty(frames)
        .into_iter()
        .chain(sizes(frames.format.max_payload_len).into_iter().map(move |len| size(frames, len)))
        .chain(typed(frames))
        .chain(segmentation(frames))
        .chain(half_closes(frames))
        .chain(others_go_on(frames, &malformed))
        .chain(malformed)
}

fn case(name: impl Into<String>, expected: impl Into<String>, steps: Vec<Step>) -> Case {
    Case { name: name.into(), expected: expected.into(), steps, other_conn: OtherConn::None }
}

/// A last packet for a case. If the server has sent more bytes than expected before its echo, the exchange fails.
fn probe(frames: Frames) -> Vec<u8> {
    frames.frame(77, 5)
}

fn empty(frames: Frames) -> [Case; 2] {
    [
        case(
            "empty-packet",
            "the empty packet back",
            vec![Step::Exchange(frames.frame(0, 0)), Step::Exchange(probe(frames))],
        ),
        case(
            "empty-packets-between-others",
            "all six packets back, including the empty ones",
            vec![Step::Exchange(frames.frames([0, 3, 0, 0, 5, 0])), Step::Exchange(probe(frames))],
        ),
    ]
}

/// Each power of two up to `max_len`, one less and one more, and `max_len` itself. Empty packets have separate cases.
fn sizes(max_len: u32) -> BTreeSet<u32> {
    let powers = (0..u32::BITS).map(|k| 1_u32 << k).take_while(|&power| power - 1 <= max_len);
    let around = powers.flat_map(|power| [power - 1, power, power + 1]);
    around.chain([max_len]).filter(|len| (1..=max_len).contains(len)).collect()
}

fn size(frames: Frames, len: u32) -> Case {
    case(
        format!("size-{len}"),
        format!("the packet of {len} bytes back, and nothing after it"),
        vec![Step::Exchange(frames.frame(0, len)), Step::Exchange(probe(frames))],
    )
}

fn typed(frames: Frames) -> impl Iterator<Item = Case> {
    let format = frames.format;
    let fitting =
        TYPED.into_iter().filter(move |(_, payload)| payload.len() <= format.max_payload_len as usize);
    fitting.map(move |(name, payload)| {
        case(
            format!("typed-{name}"),
            "the typed values back unchanged",
            vec![Step::Exchange(format.frame(payload)), Step::Exchange(probe(frames))],
        )
    })
}

/// TCP may split and join writes in any way, so a server must not depend on how a stream is segmented.
fn segmentation(frames: Frames) -> Vec<Case> {
    let slow = frames.frame(0, 64);
    let segment = frames.frames((0..SEGMENT_PACKETS).map(|number| 1 + number % 8));
    let mut cases = vec![
        case(
            "one-byte-chunks",
            "the packet back that was sent one byte at a time",
            vec![Step::Trickle(slow.clone()), Step::Expect(slow), Step::Exchange(probe(frames))],
        ),
        case(
            "many-in-one-segment",
            format!("all {SEGMENT_PACKETS} packets back that were sent in one write"),
            vec![Step::Send(segment.clone()), Step::Expect(segment), Step::Exchange(probe(frames))],
        ),
        case(
            "pipelined",
            format!("all {MANY_PACKETS} packets back, in order"),
            vec![Step::Exchange(many(frames)), Step::Exchange(probe(frames))],
        ),
    ];
    let frame = frames.frame(1, SHORT_LEN);
    cases.extend((1..frame.len()).map(|at| {
        // The echo of the packet before the cut shows that the server has read the write, and with it the part of the
        // frame.
        let before = probe(frames);
        case(
            format!("cut-after-{at}-of-{}", frame.len()),
            "the packet before the cut back at once, and the cut packet as soon as it is complete",
            vec![
                Step::Send([&before, &frame[..at]].concat()),
                Step::Expect(before),
                Step::Send(frame[at..].to_vec()),
                Step::Expect(frame.clone()),
                Step::Exchange(probe(frames)),
            ],
        )
    }));
    cases
}

fn many(frames: Frames) -> Vec<u8> {
    frames.frames((0..MANY_PACKETS).map(|number| 1 + number * 37 % 2048))
}

fn half_closes(frames: Frames) -> [Case; 3] {
    let few = frames.frames((0..100).map(|number| 1 + number % 50));
    [
        case(
            "half-close-without-a-packet",
            "the end of the stream, and nothing before it",
            vec![Step::HalfClose, Step::ExpectEnd],
        ),
        case(
            "half-close",
            "all 100 packets back and then the end of the stream",
            vec![Step::Send(few.clone()), Step::HalfClose, Step::Expect(few), Step::ExpectEnd],
        ),
        case(
            "half-close-with-much-outstanding",
            format!("all {MANY_PACKETS} packets back and then the end of the stream"),
            vec![Step::ExchangeAndHalfClose(many(frames)), Step::ExpectEnd],
        ),
    ]
}

/// Malformed frames, after which the server must close the connection.
fn malformed(frames: Frames) -> Vec<Case> {
    let mut cases = over_long(frames);
    if frames.format.crc {
        cases.extend(wrong_checksums(frames));
    }
    cases.extend(truncated(frames));
    for case in &mut cases {
        case.other_conn = OtherConn::OpenedAfter(probe(frames));
    }
    cases
}

/// Headers with a length above the limit. There are none if the limit is the maximum of the header.
fn over_long(frames: Frames) -> Vec<Case> {
    let (limit, header_max) = (frames.format.max_payload_len, frames.format.header.max_payload_len());
    let lens: BTreeSet<_> = [u64::from(limit) + 1, header_max as u64]
        .into_iter()
        .filter(|&len| len > u64::from(limit) && len <= header_max as u64)
        .collect();
    let over_long = lens.into_iter().map(|len| {
        case(
            format!("over-long-{len}"),
            format!(
                "no response and the connection closed, for a header of {len} above the limit of {limit}"
            ),
            vec![
                Step::Exchange(probe(frames)),
                Step::Send(frames.format.length_field(len as u32)),
                Step::ExpectClosed,
            ],
        )
    });
    over_long.collect()
}

fn wrong_checksums(frames: Frames) -> Vec<Case> {
    let valid = frames.frame(2, 16);
    let last = valid.len() - 1;
    // The first byte of the payload; with a limit of 0, of the checksum.
    let first = frames.format.header.header_len();
    let empty = frames.frame(0, 0);
    let alterations = [
        ("wrong-checksum", &valid, last),
        ("altered-payload", &valid, first),
        ("wrong-checksum-of-an-empty-packet", &empty, empty.len() - 1),
    ];
    let wrong = alterations.into_iter().map(|(name, frame, at)| {
        let mut frame = frame.clone();
        frame[at] ^= 1;
        // The server must not echo this valid frame either: the wrong field may be the length, and then the frame
        // boundary is wrong, too.
        frame.extend(&valid);
        case(
            name,
            "no response and the connection closed, for a wrong checksum",
            vec![Step::Exchange(probe(frames)), Step::Send(frame), Step::ExpectClosed],
        )
    });
    wrong.collect()
}

fn truncated(frames: Frames) -> Vec<Case> {
    let whole = frames.frames([5, 1, 7]);
    let truncated = |name: String, part: &[u8]| {
        case(
            name,
            "the three complete packets back, nothing of the truncated one, and the connection closed",
            vec![
                Step::Send([&whole, part].concat()),
                Step::HalfClose,
                Step::Expect(whole.clone()),
                Step::ExpectClosed,
            ],
        )
    };
    let (short, long) = (frames.frame(3, SHORT_LEN), frames.frame(4, 16 * 1024));
    let mut cases: Vec<_> = (1..short.len())
        .map(|at| truncated(format!("truncated-after-{at}-of-{}", short.len()), &short[..at]))
        .collect();
    let half = long.len() / 2;
    if long.len() > short.len() {
        cases.push(truncated(format!("truncated-after-{half}-of-{}", long.len()), &long[..half]));
    }
    cases
}

/// The first malformed case, with a second connection that must not be affected.
fn others_go_on(frames: Frames, malformed: &[Case]) -> Option<Case> {
    let first = malformed.first()?.clone();
    Some(Case {
        name: "others-go-on".to_owned(),
        expected: "another connection served while the one with the malformed frame is closed".to_owned(),
        other_conn: OtherConn::OpenThroughout(probe(frames)),
        ..first
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conform::wire::WireFormat;
    use crate::conform::wire::tests::GO_DEFAULTS;
    use pktconn::HeaderFormat;

    fn names(format: WireFormat) -> Vec<String> {
        cases(Frames::new(format)).map(|case| case.name).collect()
    }

    fn has(names: &[String], part: &str) -> bool {
        names.iter().any(|name| name.contains(part))
    }

    #[test]
    fn sizes_are_around_powers_of_two_and_include_the_limit() {
        assert!(sizes(0).is_empty());
        assert_eq!(Vec::from_iter(sizes(1)), [1]);
        assert_eq!(Vec::from_iter(sizes(20)), [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20]);
        assert_eq!(sizes(65_535).last(), Some(&65_535));
        assert_eq!(sizes(u32::MAX).last(), Some(&u32::MAX));
    }

    #[test]
    fn no_two_cases_have_the_same_name() {
        for max_payload_len in [0, 1, 5, 4096] {
            let names = names(WireFormat { crc: true, max_payload_len, ..GO_DEFAULTS });
            assert_eq!(names.len(), BTreeSet::from_iter(&names).len(), "{names:?}");
        }
    }

    #[test]
    fn cases_that_the_format_cannot_express_are_left_out() {
        let short = WireFormat { header: HeaderFormat::U16Le, max_payload_len: 65_535, ..GO_DEFAULTS };
        assert!(!has(&names(short), "over-long"));
        assert!(has(&names(short), "others-go-on"));
        assert!(!has(&names(WireFormat { max_payload_len: 27, ..GO_DEFAULTS }), "typed-integers"));
        assert!(has(&names(WireFormat { max_payload_len: 29, ..GO_DEFAULTS }), "typed-integers"));
        let checksums = |crc| has(&names(WireFormat { crc, max_payload_len: 64, ..GO_DEFAULTS }), "checksum");
        assert_eq!([checksums(false), checksums(true)], [false, true]);
    }

    #[test]
    fn the_packets_of_one_write_fit_into_a_segment() {
        let frames = Frames::new(WireFormat { crc: true, max_payload_len: 64, ..GO_DEFAULTS });
        let cases = segmentation(frames);
        let case = cases.iter().find(|case| case.name == "many-in-one-segment").unwrap();
        let Step::Send(bytes) = &case.steps[0] else { panic!("the first step is not a single write") };
        assert!(bytes.len() <= 1460, "{}", bytes.len());
    }
}
