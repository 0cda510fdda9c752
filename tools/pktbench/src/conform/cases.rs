//! What a server of packets has to do, case by case: what is sent to it, and what has to come back.
//!
//! A case is a script for one connection, and is made when its turn comes, as the longest packets take memory. Who plays it
//! is the client.
//!
//! ```text
//!   sound: every size, contents, pieces, half-close        the same bytes come back
//!   bad:   over-long, truncated, wrong checksum            nothing of it comes back, the connection ends, and others go on
//! ```

use std::collections::BTreeSet;

use crate::conform::wire::Frames;

/// Something that a server has to do.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// What the server has to do, as the end of a sentence that begins with "expected".
    pub(crate) expected: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) others: Others,
}

/// What the client does on its connection, one after the other.
#[derive(Clone)]
pub(crate) enum Step {
    /// Writes these bytes, at once. So few that they fit into the sockets, whether the server reads them or not.
    Send(Vec<u8>),
    /// Writes these bytes one at a time, so that the server meets each of them alone.
    Trickle(Vec<u8>),
    /// Reads these bytes.
    Expect(Vec<u8>),
    /// Writes these bytes, and reads them meanwhile.
    Exchange(Vec<u8>),
    /// The same, with the sending side closed as soon as all is written, whatever was read by then.
    LastExchange(Vec<u8>),
    /// Closes the sending side.
    HalfClose,
    /// Reads the end of the stream.
    End,
    /// Reads that the server has closed the connection or reset it.
    Gone,
}

/// The connection that has to be served besides, by the packet that must come back on it.
#[derive(Clone)]
pub(crate) enum Others {
    None,
    /// One that is made after the last step.
    New(Vec<u8>),
    /// One that is there from before the first step to after the last.
    Standing(Vec<u8>),
}

/// Enough for a payload to have a first, a last and an inner byte.
const SHORT_LEN: u32 = 3;

/// Of 1 to 2,048 bytes, so that they are some 1 MiB: more than a server reads at a time.
const MANY_PACKETS: u32 = 1000;

/// With up to 8 bytes each, their headers and checksums they fit into one segment of an Ethernet, 1,460 bytes.
const SEGMENT_PACKETS: u32 = 64;

/// Payloads of typed values as the Go library writes them: integers, extremes, bools and floats, and what has a length first.
const TYPED: [(&str, &[u8]); 4] = [
    ("integers", b"\xaa\xcd\xab\x34\x12\xcd\xab\x00\x00\x78\x56\x34\x12\xcd\xab\xfe\xff\xfd\xff\xff\xff\xfc\xff\xff\xff\xff\xff\xff\xff"),
    ("extremes", b"\x00\x80\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    ("floats", b"\x01\x00\x00\x00\x60\x40\x9a\x99\x99\x99\x99\x99\xb9\xbf\x00\x00\x00\x00\x00\x00\xf0\x7f"),
    ("strings", b"\x06\x00hello2\x06\x00\x00\x00hello3\x00\x00\x03\x00\x00\x00\x01\x02\x03raw"),
];

/// All of them, in the order in which they are tried.
pub(crate) fn cases(frames: Frames) -> impl Iterator<Item = Case> {
    let bad = bad(frames);
    empty(frames)
        .into_iter()
        .chain(sizes(frames.format.max_payload_len).into_iter().map(move |len| size(frames, len)))
        .chain(typed(frames))
        .chain(pieces(frames))
        .chain(half_closes(frames))
        .chain(beside(frames, &bad))
        .chain(bad)
}

fn case(name: impl Into<String>, expected: impl Into<String>, steps: Vec<Step>) -> Case {
    Case { name: name.into(), expected: expected.into(), steps, others: Others::None }
}

/// A packet that shows that the connection is in step: what comes before its answer belongs to nothing.
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
            "all six packets back, the empty ones too",
            vec![Step::Exchange(frames.frames([0, 3, 0, 0, 5, 0])), Step::Exchange(probe(frames))],
        ),
    ]
}

/// Each power of two up to `max_len` with what is around it, and the limit itself. Empty packets are cases of their own.
fn sizes(max_len: u32) -> BTreeSet<u32> {
    let powers = (0..u32::BITS).map(|k| 1_u32 << k).take_while(|&power| power - 1 <= max_len);
    let around = powers.flat_map(|power| [power - 1, power, power + 1]);
    around.chain([max_len]).filter(|len| (1..=max_len).contains(len)).collect()
}

fn size(frames: Frames, len: u32) -> Case {
    case(
        format!("size-{len}"),
        format!("the packet of {len} bytes back, and nothing behind it"),
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
            "the typed values back as they are",
            vec![Step::Exchange(format.frame(payload)), Step::Exchange(probe(frames))],
        )
    })
}

/// How a stream is cut into writes is none of a server's business.
fn pieces(frames: Frames) -> Vec<Case> {
    let slow = frames.frame(0, 64);
    let segment = frames.frames((0..SEGMENT_PACKETS).map(|number| 1 + number % 8));
    let mut cases = vec![
        case(
            "one-byte-chunks",
            "the packet back that came a byte at a time",
            vec![Step::Trickle(slow.clone()), Step::Expect(slow), Step::Exchange(probe(frames))],
        ),
        case(
            "many-in-one-segment",
            format!("all {SEGMENT_PACKETS} packets back that came in one write"),
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
        // The packet before the cut is answered when its write was read, and with it the part that came along.
        let before = probe(frames);
        case(
            format!("cut-after-{at}-of-{}", frame.len()),
            "the packet before the cut back at once, and the one that was cut once its rest is there",
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
            vec![Step::HalfClose, Step::End],
        ),
        case(
            "half-close",
            "all 100 answers and then the end of the stream",
            vec![Step::Send(few.clone()), Step::HalfClose, Step::Expect(few), Step::End],
        ),
        case(
            "half-close-with-much-outstanding",
            format!("all {MANY_PACKETS} answers and then the end of the stream"),
            vec![Step::LastExchange(many(frames)), Step::End],
        ),
    ]
}

/// Everything after which the connection has to end.
fn bad(frames: Frames) -> Vec<Case> {
    let mut cases = over_long(frames);
    if frames.format.crc {
        cases.extend(wrong_checksums(frames));
    }
    cases.extend(truncated(frames));
    for case in &mut cases {
        case.others = Others::New(probe(frames));
    }
    cases
}

/// Where the header cannot say more than the limit, there are none.
fn over_long(frames: Frames) -> Vec<Case> {
    let (limit, sayable) = (frames.format.max_payload_len, frames.format.header.max_payload_len());
    let lens: BTreeSet<_> = [u64::from(limit) + 1, sayable as u64]
        .into_iter()
        .filter(|&len| len > u64::from(limit) && len <= sayable as u64)
        .collect();
    let over_long = lens.into_iter().map(|len| {
        case(
            format!("over-long-{len}"),
            format!("the connection closed at a header of {len}, over the limit of {limit}, and no answer"),
            vec![Step::Exchange(probe(frames)), Step::Send(frames.format.header(len as u32)), Step::Gone],
        )
    });
    over_long.collect()
}

fn wrong_checksums(frames: Frames) -> Vec<Case> {
    let sound = frames.frame(2, 16);
    let last = sound.len() - 1;
    // Behind the header, where there is a payload; else in the checksum.
    let first = frames.format.header.header_len();
    let empty = frames.frame(0, 0);
    let alterations = [
        ("wrong-checksum", &sound, last),
        ("altered-payload", &sound, first),
        ("wrong-checksum-of-an-empty-packet", &empty, empty.len() - 1),
    ];
    let wrong = alterations.into_iter().map(|(name, frame, at)| {
        let mut frame = frame.clone();
        frame[at] ^= 1;
        // What comes behind it is not to be trusted either: the length may be what is wrong.
        frame.extend(&sound);
        case(
            name,
            "the connection closed at the wrong checksum, and no answer",
            vec![Step::Exchange(probe(frames)), Step::Send(frame), Step::Gone],
        )
    });
    wrong.collect()
}

fn truncated(frames: Frames) -> Vec<Case> {
    let whole = frames.frames([5, 1, 7]);
    let truncated = |name: String, part: &[u8]| {
        case(
            name,
            "the three packets before it back, nothing of the part, and the connection closed",
            vec![
                Step::Send([&whole, part].concat()),
                Step::HalfClose,
                Step::Expect(whole.clone()),
                Step::Gone,
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

/// The worst that the format allows for, beside a connection that does nothing wrong.
fn beside(frames: Frames, bad: &[Case]) -> Option<Case> {
    let worst = bad.first()?.clone();
    Some(Case {
        name: "others-go-on".to_owned(),
        expected: "a connection that does nothing wrong served while another one is closed".to_owned(),
        others: Others::Standing(probe(frames)),
        ..worst
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conform::wire::Format;
    use crate::conform::wire::tests::GO;
    use pktconn::HeaderFormat;

    fn names(format: Format) -> Vec<String> {
        cases(Frames::new(format)).map(|case| case.name).collect()
    }

    fn has(names: &[String], part: &str) -> bool {
        names.iter().any(|name| name.contains(part))
    }

    #[test]
    fn sizes_are_those_around_powers_of_two_and_the_limit() {
        assert!(sizes(0).is_empty());
        assert_eq!(Vec::from_iter(sizes(1)), [1]);
        assert_eq!(Vec::from_iter(sizes(20)), [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20]);
        assert_eq!(sizes(65_535).last(), Some(&65_535));
        assert_eq!(sizes(u32::MAX).last(), Some(&u32::MAX));
    }

    #[test]
    fn no_two_cases_have_the_same_name() {
        for max_payload_len in [0, 1, 5, 4096] {
            let names = names(Format { crc: true, max_payload_len, ..GO });
            assert_eq!(names.len(), BTreeSet::from_iter(&names).len(), "{names:?}");
        }
    }

    #[test]
    fn what_the_format_cannot_have_is_no_case() {
        let short = Format { header: HeaderFormat::U16Le, max_payload_len: 65_535, ..GO };
        assert!(!has(&names(short), "over-long"));
        assert!(has(&names(short), "others-go-on"));
        assert!(!has(&names(Format { max_payload_len: 27, ..GO }), "typed-integers"));
        assert!(has(&names(Format { max_payload_len: 29, ..GO }), "typed-integers"));
        let checksums = |crc| has(&names(Format { crc, max_payload_len: 64, ..GO }), "checksum");
        assert_eq!([checksums(false), checksums(true)], [false, true]);
    }

    #[test]
    fn the_packets_of_one_write_fit_into_a_segment() {
        let frames = Frames::new(Format { crc: true, max_payload_len: 64, ..GO });
        let pieces = pieces(frames);
        let case = pieces.iter().find(|case| case.name == "many-in-one-segment").unwrap();
        let Step::Send(bytes) = &case.steps[0] else { panic!("it is sent at once") };
        assert!(bytes.len() <= 1460, "{}", bytes.len());
    }
}
