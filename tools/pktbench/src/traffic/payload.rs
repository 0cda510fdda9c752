//! The payload of packet number k of a connection. It depends only on the seed, the connection and k, so a payload can
//! be computed again instead of being kept.
//!
//! ```text
//!   block   |......[ packet 7 ]..........[ packet 5 ]......[ packet 6 ]....|   8 KiB of offsets + the largest size
//! ```
//!
//! A payload is a slice of one pseudo-random block that lives as long as the process. Sending it needs no copy and no
//! reference count, and checking it is one comparison of memory. Packets of a connection that are outstanding or
//! remembered at the same time begin at different offsets, and no 8 bytes occur twice in the block. So any two of them
//! differ if they have 8 bytes or more. Shorter packets may be equal, and empty packets always are. Each connection
//! visits the offsets in its own order.
//!
//! With `--payload` the payloads are those of the user, one after the other, and the block is not used.

use crate::traffic::capture::RecordedPacket;
use crate::traffic::own_payloads::OwnPayloads;
use crate::traffic::random::{GOLDEN, mix};
use crate::traffic::sizes::Distribution;

/// The minimum number of offsets. With packets of 2 KiB the block takes a third of a first-level cache. With eight
/// times as many, the load generator took 30 % more CPU time (64 connections, 32 packets of 0 to 2048 B outstanding on
/// each).
const MIN_OFFSETS: u64 = 1 << 13;

/// Two packets of a connection differ if they have at least this length.
const DISTINCT_LEN: usize = 8;

/// The bytes of all payloads.
#[derive(Clone, Copy)]
pub(crate) struct PayloadBlock {
    bytes: &'static [u8],
    /// The number of offsets, a power of two.
    offsets: u64,
}

impl PayloadBlock {
    /// A block for the sizes of `distribution`.
    pub(crate) fn of(distribution: Distribution, distinct: usize) -> Self {
        let max_len = match distribution {
            Distribution::Own(_) => 0,
            _ => distribution.max_len(),
        };
        Self::new(max_len, distinct)
    }

    /// A block for payloads of up to `max_len` bytes. At least `distinct` consecutive packets of a connection differ.
    /// The block is leaked: a process makes one.
    pub(crate) fn new(max_len: u32, distinct: usize) -> Self {
        let offsets = (distinct as u64).next_power_of_two().max(MIN_OFFSETS);
        let words = (offsets + u64::from(max_len)).div_ceil(8);
        let bytes: Vec<u8> =
            (0..words).flat_map(|word| mix(word.wrapping_mul(GOLDEN)).to_le_bytes()).collect();
        Self { bytes: bytes.leak(), offsets }
    }
}

/// The payloads of one connection, in the order in which they are sent.
#[derive(Clone, Copy)]
pub(crate) struct PayloadSequence {
    block: PayloadBlock,
    len_source: LenSource,
    /// The seed for the sizes of this connection.
    key: u64,
    first_offset: u64,
    /// The distance to the next offset. Odd, so that all offsets are visited before one repeats.
    step: u64,
}

/// A [`Distribution`] of sizes, prepared for fast access.
#[derive(Clone, Copy)]
enum LenSource {
    Uniform {
        min_len: u64,
        /// The number of different sizes.
        span: u64,
    },
    Sampled(&'static [u32]),
    Trace {
        table: &'static [u32],
        /// The index of the entry for packet 0.
        first: u64,
    },
    Recorded(&'static [RecordedPacket]),
    /// Not only the sizes, but the payloads themselves.
    Own {
        payloads: &'static [&'static [u8]],
        /// The index of the payload of packet 0.
        first: u64,
        are_distinct: bool,
    },
}

impl LenSource {
    fn new(distribution: Distribution, conn: usize, conns: usize) -> Self {
        // Connections begin at evenly spread places.
        let first = |len: usize| conn as u64 * len as u64 / conns as u64;
        match distribution {
            Distribution::Uniform { min_len, max_len } => {
                let (min_len, max_len) = (u64::from(min_len), u64::from(max_len));
                Self::Uniform { min_len, span: max_len - min_len + 1 }
            }
            Distribution::Sampled(table) => Self::Sampled(table),
            Distribution::Trace(table) => Self::Trace { table, first: first(table.len()) },
            Distribution::Recorded(flows) => Self::Recorded(&flows[conn].packets),
            Distribution::Own(OwnPayloads { payloads, are_distinct, .. }) => {
                Self::Own { payloads, first: first(payloads.len()), are_distinct }
            }
        }
    }
}

impl PayloadSequence {
    /// The payloads of connection `conn` of `conns`. `block` must be made for the largest size of `distribution`.
    pub(crate) fn new(
        block: PayloadBlock,
        distribution: Distribution,
        seed: u64,
        conn: usize,
        conns: usize,
    ) -> Self {
        let key = mix(mix(seed).wrapping_add(conn as u64));
        let (first_offset, step) = (mix(key), mix(key.wrapping_add(1)) | 1);
        Self { block, len_source: LenSource::new(distribution, conn, conns), key, first_offset, step }
    }

    /// The payload of packet `number`, counted from 0.
    pub(crate) fn payload(&self, number: u64) -> &'static [u8] {
        let len = match self.len_source {
            LenSource::Uniform { min_len, span } => min_len + self.draw(number, span),
            LenSource::Sampled(table) => u64::from(table[self.draw(number, table.len() as u64) as usize]),
            LenSource::Trace { table, first } => u64::from(table[entry(number, first, table.len() as u64)]),
            // No packet follows the last one of a recording.
            LenSource::Recorded(packets) => {
                packets.get(number as usize).map_or(0, |packet| packet.len.into())
            }
            LenSource::Own { payloads, first, .. } => {
                return payloads[entry(number, first, payloads.len() as u64)];
            }
        };
        let PayloadBlock { bytes, offsets } = self.block;
        let offset = self.first_offset.wrapping_add(number.wrapping_mul(self.step)) & (offsets - 1);
        &bytes[offset as usize..(offset + len) as usize]
    }

    /// Whether payloads of `len` bytes differ so much that a damaged one does not equal another one.
    pub(crate) fn are_distinct(&self, len: usize) -> bool {
        let are_distinct = match self.len_source {
            LenSource::Own { are_distinct, .. } => are_distinct,
            _ => true,
        };
        are_distinct && len >= DISTINCT_LEN
    }

    /// A random number from 0 to `span - 1` for packet `number`. `span` is at most 2^32.
    fn draw(&self, number: u64, span: u64) -> u64 {
        // Multiplies instead of dividing: a division is slow.
        let draw = mix(self.key.wrapping_add(number.wrapping_mul(GOLDEN))) >> 32;
        (draw * span) >> 32
    }
}

/// The index in a trace of `len` entries for packet `number`. The trace starts at `first` and wraps around.
fn entry(number: u64, first: u64, len: u64) -> usize {
    // `number + first` could overflow.
    let entry = number % len + first;
    (if entry < len { entry } else { entry - len }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};
    use std::ops::Range;

    use crate::traffic::capture::Flow;
    use crate::traffic::sizes::Sizes;

    const SIZES: Distribution = Distribution::Uniform { min_len: 0, max_len: 64 };

    fn block() -> PayloadBlock {
        PayloadBlock::new(SIZES.max_len(), 1)
    }

    #[test]
    fn the_same_seed_and_connection_give_the_same_packets() {
        let block = block();
        let packets = |seed, conn| -> Vec<_> {
            (0..50).map(|k| PayloadSequence::new(block, SIZES, seed, conn, 9).payload(k)).collect()
        };
        assert_eq!(packets(7, 3), packets(7, 3));
        assert_ne!(packets(7, 3), packets(8, 3), "another seed");
        assert_ne!(packets(7, 3), packets(7, 4), "another connection");
    }

    /// Results of different versions can only be compared if the load is the same.
    #[test]
    fn a_seed_gives_the_same_packets_in_every_version() {
        let block = PayloadBlock::new(2048, 1);
        let lens = |min_len, max_len, seed, conn| {
            let packets =
                PayloadSequence::new(block, Distribution::Uniform { min_len, max_len }, seed, conn, 64);
            [0, 1, 2, 3, 4, 1_000_000, u64::MAX].map(|k| packets.payload(k).len())
        };
        assert_eq!(lens(0, 2048, 1, 0), [910, 524, 180, 595, 1160, 1411, 137]);
        assert_eq!(lens(0, 2048, 1, 63), [2031, 2027, 620, 1721, 639, 1917, 1075]);
        assert_eq!(lens(0, 2048, 42, 0), [1642, 1259, 922, 422, 819, 1459, 92]);
        assert_eq!(lens(64, 1500, 1, 0), [702, 431, 190, 481, 877, 1053, 160]);
        assert_eq!(lens(512, 512, 1, 0), [512; 7]);
        let packets = PayloadSequence::new(block, Distribution::Uniform { min_len: 8, max_len: 8 }, 1, 0, 1);
        assert_eq!(packets.payload(0), [243, 114, 95, 136, 251, 207, 227, 41]);
        assert_eq!(packets.payload(1_000_000), [140, 96, 15, 18, 118, 110, 32, 112]);
    }

    #[test]
    fn sizes_reach_both_ends_and_never_pass_them() {
        let packets =
            PayloadSequence::new(block(), Distribution::Uniform { min_len: 3, max_len: 6 }, 1, 0, 1);
        let lens: HashSet<_> = (0..1000).map(|k| packets.payload(k).len()).collect();
        assert_eq!(lens, HashSet::from([3, 4, 5, 6]));
    }

    /// How often each length occurs in `count` packets.
    fn counts(distribution: Distribution, count: u64) -> BTreeMap<usize, u64> {
        let packets =
            PayloadSequence::new(PayloadBlock::new(distribution.max_len(), 1), distribution, 1, 0, 1);
        let mut counts = BTreeMap::new();
        (0..count).for_each(|k| *counts.entry(packets.payload(k).len()).or_default() += 1);
        counts
    }

    #[test]
    fn a_size_occurs_as_often_as_its_weight() {
        let distribution = "list:0@2,64@9,300@4,1024@1".parse::<Sizes>().unwrap().distribution;
        let counts = counts(distribution, 16_000);
        let weights = [(0, 2000.0), (64, 9000.0), (300, 4000.0), (1024, 1000.0)];
        assert!(counts.keys().copied().eq(weights.map(|(len, _)| len)), "{counts:?}");
        let chi_square: f64 =
            weights.iter().map(|(len, expected)| (counts[len] as f64 - expected).powi(2) / expected).sum();
        // With 3 degrees of freedom, chance exceeds this value 1 time in 1,000.
        assert!(chi_square < 16.27, "{chi_square}: {counts:?}");
    }

    #[test]
    fn exponential_sizes_have_their_mean_and_stay_in_their_table() {
        let distribution = "exp:512".parse::<Sizes>().unwrap().distribution;
        let counts = counts(distribution, 100_000);
        let sum: u64 = counts.iter().map(|(&len, count)| len as u64 * count).sum();
        let mean = sum as f64 / 100_000.0;
        assert!((mean / 512.0 - 1.0).abs() < 0.02, "{mean}");
        assert_eq!(counts.keys().max(), Some(&(distribution.max_len() as usize)));
        let above: u64 = counts.range(513..).map(|(_, count)| count).sum();
        assert!((36_000..37_600).contains(&above), "e^-1 of all sizes should be above the mean: {above}");
    }

    #[test]
    fn a_trace_is_sent_in_order_and_repeated() {
        let block = block();
        let lens = |conn, conns, numbers: Range<u64>| {
            let packets =
                PayloadSequence::new(block, Distribution::Trace(&[10, 20, 30, 40, 50]), 7, conn, conns);
            numbers.map(|k| packets.payload(k).len()).collect::<Vec<_>>()
        };
        assert_eq!(lens(0, 3, 0..12), [10, 20, 30, 40, 50, 10, 20, 30, 40, 50, 10, 20]);
        assert_eq!(lens(1, 3, 0..6), [20, 30, 40, 50, 10, 20], "a third of the way in");
        assert_eq!(lens(2, 3, 3..5), [20, 30], "random access");
        let firsts: Vec<_> = (0..10).flat_map(|conn| lens(conn, 10, 0..1)).collect();
        assert_eq!(firsts, [10, 10, 20, 20, 30, 30, 40, 40, 50, 50]);
        assert_eq!(lens(9, 10, u64::MAX - 1..u64::MAX), [40], "2^64 - 2 is 4 more than a multiple of 5");
    }

    #[test]
    fn the_block_has_room_for_the_largest_payload_at_the_last_offset() {
        let packets =
            PayloadSequence::new(block(), Distribution::Uniform { min_len: 64, max_len: 64 }, 1, 0, 1);
        assert!((0..packets.block.offsets).all(|k| packets.payload(k).len() == 64));
    }

    #[test]
    fn every_offset_is_used_once_before_one_repeats() {
        for distinct in [1, 66_000] {
            let block = PayloadBlock::new(SIZES.max_len(), distinct);
            assert!(block.offsets >= distinct as u64);
            for distribution in [
                Distribution::Uniform { min_len: 8, max_len: 8 },
                Distribution::Sampled(&[8, 9]),
                Distribution::Trace(&[8, 8, 64]),
            ] {
                let packets = PayloadSequence::new(block, distribution, 1, 0, 1);
                let mut addresses: Vec<_> = (0..block.offsets).map(|k| packets.payload(k).as_ptr()).collect();
                addresses.sort_unstable();
                assert!(addresses.windows(2).all(|pair| pair[0] != pair[1]), "{distribution:?}");
            }
        }
    }

    #[test]
    fn no_eight_bytes_occur_twice_in_the_block() {
        let mut words: Vec<u64> = block()
            .bytes
            .windows(DISTINCT_LEN)
            .map(|bytes| bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)))
            .collect();
        words.sort_unstable();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]));
    }

    fn own(payloads: &[&'static [u8]]) -> Distribution {
        Distribution::Own(OwnPayloads::new("", payloads.to_vec(), |_| String::new()))
    }

    #[test]
    fn own_payloads_are_sent_in_order_and_connections_begin_at_evenly_spread_ones() {
        let own = own(&[b"a", b"", b"bcd"]);
        let block = PayloadBlock::of(own, 1);
        assert_eq!(block.bytes.len() as u64, MIN_OFFSETS, "no block of the size of the payloads");
        let sent = |conn, numbers: Range<u64>| {
            let packets = PayloadSequence::new(block, own, 7, conn, 3);
            numbers.map(|k| packets.payload(k)).collect::<Vec<_>>()
        };
        assert_eq!(sent(0, 0..4), [&b"a"[..], b"", b"bcd", b"a"]);
        assert_eq!(sent(1, 0..2), [&b""[..], b"bcd"]);
        assert_eq!(sent(2, u64::MAX - 1..u64::MAX), [b""], "2^64 - 2 is 2 more than a multiple of 3");
    }

    #[test]
    fn a_recording_has_the_sizes_of_its_flow_and_pseudo_random_contents() {
        let flow = |lens: &[u32]| Flow {
            packets: lens.iter().map(|&len| RecordedPacket { offset_ns: 0, len }).collect(),
        };
        let recorded = Distribution::Recorded(vec![flow(&[8, 64, 0]), flow(&[9])].leak());
        assert_eq!(recorded.max_len(), 64);
        let lens = |conn| {
            let packets = PayloadSequence::new(block(), recorded, 1, conn, 2);
            (0..4).map(|k| packets.payload(k).len()).collect::<Vec<_>>()
        };
        assert_eq!((lens(0), lens(1)), (vec![8, 64, 0, 0], vec![9, 0, 0, 0]));
        let packets = PayloadSequence::new(block(), recorded, 1, 0, 2);
        assert_ne!(packets.payload(0), &packets.payload(1)[..8]);
    }

    #[test]
    fn no_kind_of_payload_allocates_memory_for_a_packet() {
        let trace = Distribution::Trace(&[8, 64]);
        let block = block();
        for distribution in [SIZES, trace, own(&[b"a", b"bcd"])] {
            let packets = PayloadSequence::new(block, distribution, 1, 0, 1);
            let info = allocation_counter::measure(|| {
                for number in 0..1000 {
                    std::hint::black_box(packets.payload(number));
                }
            });
            assert_eq!(info.count_total, 0, "{distribution:?}");
        }
    }

    #[test]
    fn own_payloads_are_only_told_apart_if_all_differ_and_are_long() {
        let of = |payloads: &[&'static [u8]], len| {
            PayloadSequence::new(block(), own(payloads), 1, 0, 1).are_distinct(len)
        };
        assert!(of(&[b"12345678", b"12345679"], 8));
        assert!(!of(&[b"12345678", b"12345679"], 7));
        assert!(!of(&[b"12345678", b"12345678"], 8));
    }
}
