//! Payloads that cost the client next to nothing: slices of one random block, cut at random lengths.

use crc32fast::Hasher;

use crate::{CHECKSUM_LEN, HEADER_LEN, SizeRange};

/// `SplitMix64`: a few instructions a draw, and the same sequence for the same seed on every machine.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A generator that begins at `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The packets of one run: sizes drawn uniformly, payloads from the front of one block.
#[derive(Debug)]
pub struct Pattern {
    rng: Rng,
    min_len: u32,
    /// How many different sizes there are.
    span: u64,
    block: Vec<u8>,
    checksums: Option<Checksums>,
}

/// The most checksums that are kept, 512 KiB of them: with a wider range of sizes a packet rarely has one that came before.
const MAX_CHECKSUMS: u64 = 1 << 16;

/// What stands behind the payloads, by how far their length is above the smallest one; computed when first wanted. The
/// payloads of one length are all the same, so a packet costs a look-up.
#[derive(Debug)]
struct Checksums {
    known: Vec<Option<u32>>,
}

impl Checksums {
    fn of(&mut self, index: usize, frame: &[u8]) -> u32 {
        let checksum = || {
            let mut hasher = Hasher::new();
            hasher.update(frame);
            hasher.finalize()
        };
        self.known.get_mut(index).map_or_else(checksum, |known| *known.get_or_insert_with(checksum))
    }
}

impl Pattern {
    /// The packets that `sizes` and `seed` stand for.
    pub fn new(sizes: SizeRange, seed: u64) -> Self {
        let (min_len, max_len) = sizes.range().into_inner();
        // The block has a seed of its own: the same bytes in every run.
        let mut block_rng = Rng::new(0);
        let words = (max_len as usize).div_ceil(8);
        let block = (0..words).flat_map(|_| block_rng.next_u64().to_le_bytes()).collect();
        let span = u64::from(max_len - min_len) + 1;
        Self { rng: Rng::new(seed), min_len, span, block, checksums: None }
    }

    /// The same with a CRC-32 (IEEE) of header and payload behind each payload, little-endian.
    pub fn with_checksum(mut self) -> Self {
        let known_len = if self.span <= MAX_CHECKSUMS { self.span as usize } else { 0 };
        self.checksums = Some(Checksums { known: vec![None; known_len] });
        self
    }

    /// Bytes behind each payload.
    pub fn trailer_len(&self) -> usize {
        self.checksums.as_ref().map_or(0, |_| CHECKSUM_LEN)
    }

    /// Adds the next frame to `frames`, and tells the length of its payload in bytes.
    #[inline]
    pub fn encode_next(&mut self, frames: &mut Vec<u8>) -> u32 {
        // The upper half of the draw as a fraction of the span: no division, and no bias that matters below 2^25.
        let payload_len = self.min_len + (((self.rng.next_u64() >> 32) * self.span) >> 32) as u32;
        frames.reserve(HEADER_LEN + payload_len as usize + CHECKSUM_LEN);
        let start = frames.len();
        frames.extend_from_slice(&payload_len.to_le_bytes());
        frames.extend_from_slice(&self.block[..payload_len as usize]);
        if let Some(checksums) = &mut self.checksums {
            let checksum = checksums.of((payload_len - self.min_len) as usize, &frames[start..]);
            frames.extend_from_slice(&checksum.to_le_bytes());
        }
        payload_len
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use bytes::BytesMut;
    use pktconn_codec::{Checksum, CodecConfig, PacketCodec};
    use tokio_util::codec::Decoder;

    use super::*;
    use crate::scan_frames;

    #[test]
    fn the_sequence_is_that_of_splitmix64() {
        // The first draws for seed 0 of the published reference implementation.
        let mut rng = Rng::new(0);
        assert_eq!(rng.next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(rng.next_u64(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn sizes_reach_both_ends_and_never_pass_them() {
        let mut pattern = Pattern::new("3-6".parse().unwrap(), 1);
        let mut frames = Vec::new();
        let mut seen: Vec<u32> = (0..1000).map(|_| pattern.encode_next(&mut frames)).collect();
        assert_eq!(scan_frames(&frames).whole_len, frames.len());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [3, 4, 5, 6]);
    }

    #[test]
    fn the_codec_accepts_each_checksum_when_computed_and_when_looked_up() {
        // The second range is too wide to keep what was computed.
        for sizes in ["0-20", "0-70000"] {
            let mut pattern = Pattern::new(sizes.parse().unwrap(), 1).with_checksum();
            let mut frames = Vec::new();
            let lens: Vec<usize> = (0..100).map(|_| pattern.encode_next(&mut frames) as usize).collect();
            let config = CodecConfig::new().checksum(Checksum::Crc32);
            let mut codec = PacketCodec::new(config);
            let mut bytes = BytesMut::from(&frames[..]);
            let decoded = iter::from_fn(|| codec.decode(&mut bytes).unwrap());
            assert_eq!(decoded.map(|packet| packet.len()).collect::<Vec<_>>(), lens);
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_frames() {
        let frames = |seed| {
            let mut pattern = Pattern::new("0-2048".parse().unwrap(), seed);
            let mut frames = Vec::new();
            (0..50).for_each(|_| {
                pattern.encode_next(&mut frames);
            });
            frames
        };
        assert_eq!(frames(7), frames(7));
        assert_ne!(frames(7), frames(8));
    }
}
