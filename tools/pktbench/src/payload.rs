//! What is in packet number k of connection c: always the same for the same seed, and known without having been kept.
//!
//! ```text
//!   block   |......[ packet 7 ]..........[ packet 5 ]......[ packet 6 ]....|   8 KiB of offsets + the largest size
//! ```
//!
//! A payload is a slice of one pseudo-random block that lives as long as the process: sending it needs no copy and no
//! count of references, and checking one that came back is one comparison of memory. No two packets of a connection that
//! may be expected or remembered at the same time begin at the same offset, and no 8 bytes stand twice in the block; so
//! any two of them differ, from 8 bytes on. Shorter ones may be alike, and empty ones always are. Each connection goes
//! through the offsets in an order of its own.

use crate::sizes::Sizes;

/// The least number of offsets: with packets of 2 KiB, a third of a first-level cache. With eight times as many, 32 packets
/// of 0 to 2048 B outstanding on each of 64 connections took 30 % more time of this program's own.
const MIN_OFFSETS: u64 = 1 << 13;

/// From this length on two packets of a connection differ.
pub(crate) const TELLING_LEN: usize = 8;

/// The bytes of which all payloads are slices.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    bytes: &'static [u8],
    /// How many offsets there are: a power of two.
    offsets: u64,
}

impl Block {
    /// A block for payloads of up to `max_len` bytes, of which `distinct` that follow each other on a connection differ. It
    /// is never freed: a process makes one.
    pub(crate) fn new(max_len: u32, distinct: usize) -> Self {
        let offsets = (distinct as u64).next_power_of_two().max(MIN_OFFSETS);
        let words = (offsets + u64::from(max_len)).div_ceil(8);
        let bytes: Vec<u8> =
            (0..words).flat_map(|word| mix(word.wrapping_mul(GOLDEN)).to_le_bytes()).collect();
        Self { bytes: bytes.leak(), offsets }
    }
}

/// The packets of one connection.
#[derive(Clone, Copy)]
pub(crate) struct Packets {
    block: Block,
    min_len: u64,
    /// How many sizes there are.
    span: u64,
    /// What makes the sizes of this connection its own.
    key: u64,
    first_offset: u64,
    /// From one offset to the next: odd, so that all are visited before one comes again.
    step: u64,
}

impl Packets {
    /// `block` was made for the largest of `sizes`.
    pub(crate) fn new(block: Block, sizes: Sizes, seed: u64, conn: usize) -> Self {
        let key = mix(mix(seed).wrapping_add(conn as u64));
        let (min_len, max_len) = (u64::from(sizes.min_len), u64::from(sizes.max_len));
        let (first_offset, step) = (mix(key), mix(key.wrapping_add(1)) | 1);
        Self { block, min_len, span: max_len - min_len + 1, key, first_offset, step }
    }

    /// The payload of packet `number`, counted from 0.
    pub(crate) fn payload(&self, number: u64) -> &'static [u8] {
        // The upper half of a draw as a fraction of the span: no division.
        let draw = mix(self.key.wrapping_add(number.wrapping_mul(GOLDEN))) >> 32;
        let len = self.min_len + ((draw * self.span) >> 32);
        let Block { bytes, offsets } = self.block;
        let offset = self.first_offset.wrapping_add(number.wrapping_mul(self.step)) & (offsets - 1);
        &bytes[offset as usize..(offset + len) as usize]
    }
}

/// The increment of `SplitMix64`.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of `SplitMix64`: draw number k of a seed is `mix(seed + k * GOLDEN)`, whatever was drawn before.
pub(crate) fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const SIZES: Sizes = Sizes { min_len: 0, max_len: 64 };

    fn block() -> Block {
        Block::new(SIZES.max_len, 1)
    }

    #[test]
    fn mix_is_that_of_splitmix64() {
        // The first draws for seed 0 of the published reference implementation, which adds before it mixes.
        assert_eq!(mix(GOLDEN), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(GOLDEN.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn the_same_seed_and_connection_give_the_same_packets() {
        let block = block();
        let packets = |seed, conn| -> Vec<_> {
            (0..50).map(|k| Packets::new(block, SIZES, seed, conn).payload(k)).collect()
        };
        assert_eq!(packets(7, 3), packets(7, 3));
        assert_ne!(packets(7, 3), packets(8, 3), "another seed");
        assert_ne!(packets(7, 3), packets(7, 4), "another connection");
    }

    /// Results of other versions can be compared only where the load is the same.
    #[test]
    fn the_packets_of_a_seed_are_those_of_every_version() {
        let block = Block::new(2048, 1);
        let lens = |min_len, max_len, seed, conn| {
            let packets = Packets::new(block, Sizes { min_len, max_len }, seed, conn);
            [0, 1, 2, 3, 4, 1_000_000, u64::MAX].map(|k| packets.payload(k).len())
        };
        assert_eq!(lens(0, 2048, 1, 0), [910, 524, 180, 595, 1160, 1411, 137]);
        assert_eq!(lens(0, 2048, 1, 63), [2031, 2027, 620, 1721, 639, 1917, 1075]);
        assert_eq!(lens(0, 2048, 42, 0), [1642, 1259, 922, 422, 819, 1459, 92]);
        assert_eq!(lens(64, 1500, 1, 0), [702, 431, 190, 481, 877, 1053, 160]);
        assert_eq!(lens(512, 512, 1, 0), [512; 7]);
        let packets = Packets::new(block, Sizes { min_len: 8, max_len: 8 }, 1, 0);
        assert_eq!(packets.payload(0), [243, 114, 95, 136, 251, 207, 227, 41]);
        assert_eq!(packets.payload(1_000_000), [140, 96, 15, 18, 118, 110, 32, 112]);
    }

    #[test]
    fn sizes_reach_both_ends_and_never_pass_them() {
        let packets = Packets::new(block(), Sizes { min_len: 3, max_len: 6 }, 1, 0);
        let lens: HashSet<_> = (0..1000).map(|k| packets.payload(k).len()).collect();
        assert_eq!(lens, HashSet::from([3, 4, 5, 6]));
    }

    #[test]
    fn the_largest_payload_at_the_last_offset_is_in_the_block() {
        let packets = Packets::new(block(), Sizes { min_len: 64, max_len: 64 }, 1, 0);
        assert!((0..packets.block.offsets).all(|k| packets.payload(k).len() == 64));
    }

    #[test]
    fn no_two_packets_begin_at_the_same_offset_before_all_have_been_used() {
        for distinct in [1, 66_000] {
            let block = Block::new(SIZES.max_len, distinct);
            assert!(block.offsets >= distinct as u64);
            let packets = Packets::new(block, Sizes { min_len: 8, max_len: 8 }, 1, 0);
            let mut addresses: Vec<_> = (0..block.offsets).map(|k| packets.payload(k).as_ptr()).collect();
            addresses.sort_unstable();
            assert!(addresses.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn no_eight_bytes_stand_twice_in_the_block() {
        let mut words: Vec<u64> = block()
            .bytes
            .windows(TELLING_LEN)
            .map(|bytes| bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)))
            .collect();
        words.sort_unstable();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
