//! The frames of a run. They cost the client very little: payloads of random lengths, cut from one random block.

use crc32fast::Hasher;

use super::random::Rng;
use crate::plan::SizeRange;
use crate::wire::{CHECKSUM_LEN, HEADER_LEN};

/// Generates the frames of one run: uniformly distributed sizes, payloads from the beginning of one block.
#[derive(Debug)]
pub struct FrameGenerator {
    rng: Rng,
    min_len: u32,
    /// Number of different sizes.
    sizes_count: u64,
    block: Vec<u8>,
    checksums: Option<ChecksumCache>,
}

/// Maximum number of cached checksums, 512 KiB: in a wider range of sizes, a size rarely repeats.
const MAX_CACHED_CHECKSUMS: u64 = 1 << 16;

/// Checksums by payload length, computed when first needed. All payloads of one length are equal, so most packets cost
/// only a look-up.
#[derive(Debug)]
struct ChecksumCache {
    /// The index is the payload length minus the smallest length.
    by_len: Vec<Option<u32>>,
}

impl ChecksumCache {
    fn checksum(&mut self, index: usize, frame: &[u8]) -> u32 {
        let checksum = || {
            let mut hasher = Hasher::new();
            hasher.update(frame);
            hasher.finalize()
        };
        self.by_len.get_mut(index).map_or_else(checksum, |cached| *cached.get_or_insert_with(checksum))
    }
}

impl FrameGenerator {
    /// Creates a generator whose frames depend only on `sizes` and `seed`.
    pub fn new(sizes: SizeRange, seed: u64) -> Self {
        let (min_len, max_len) = sizes.range().into_inner();
        // A fixed seed: the payload bytes are the same in every run.
        let mut block_rng = Rng::new(0);
        let words = (max_len as usize).div_ceil(8);
        let block = (0..words).flat_map(|_| block_rng.next_u64().to_le_bytes()).collect();
        let sizes_count = u64::from(max_len - min_len) + 1;
        Self { rng: Rng::new(seed), min_len, sizes_count, block, checksums: None }
    }

    /// Adds a CRC-32 (IEEE) of header and payload after each payload, little-endian.
    pub fn with_checksum(mut self) -> Self {
        let cached_len = if self.sizes_count <= MAX_CACHED_CHECKSUMS { self.sizes_count as usize } else { 0 };
        self.checksums = Some(ChecksumCache { by_len: vec![None; cached_len] });
        self
    }

    /// Number of bytes after each payload.
    pub fn trailer_len(&self) -> usize {
        self.checksums.as_ref().map_or(0, |_| CHECKSUM_LEN)
    }

    /// Appends the next frame to `frames`, and returns the length of its payload in bytes.
    #[inline]
    pub fn encode_next(&mut self, frames: &mut Vec<u8>) -> u32 {
        // Multiplies the upper half of the number by the count: no division, and no relevant bias below 2^25 sizes.
        let payload_len = self.min_len + (((self.rng.next_u64() >> 32) * self.sizes_count) >> 32) as u32;
        frames.reserve(HEADER_LEN + payload_len as usize + CHECKSUM_LEN);
        let start = frames.len();
        frames.extend_from_slice(&payload_len.to_le_bytes());
        frames.extend_from_slice(&self.block[..payload_len as usize]);
        if let Some(checksums) = &mut self.checksums {
            let checksum = checksums.checksum((payload_len - self.min_len) as usize, &frames[start..]);
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
    use crate::wire::scan_frames;

    #[test]
    fn sizes_include_both_ends_and_nothing_beyond() {
        let mut generator = FrameGenerator::new("3-6".parse().unwrap(), 1);
        let mut frames = Vec::new();
        let mut seen: Vec<u32> = (0..1000).map(|_| generator.encode_next(&mut frames)).collect();
        assert_eq!(scan_frames(&frames).whole_len, frames.len());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [3, 4, 5, 6]);
    }

    #[test]
    fn the_codec_accepts_computed_and_cached_checksums() {
        // The second range is too wide for the cache.
        for sizes in ["0-20", "0-70000"] {
            let mut generator = FrameGenerator::new(sizes.parse().unwrap(), 1).with_checksum();
            let mut frames = Vec::new();
            let lens: Vec<usize> = (0..100).map(|_| generator.encode_next(&mut frames) as usize).collect();
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
            let mut generator = FrameGenerator::new("0-2048".parse().unwrap(), seed);
            let mut frames = Vec::new();
            (0..50).for_each(|_| {
                generator.encode_next(&mut frames);
            });
            frames
        };
        assert_eq!(frames(7), frames(7));
        assert_ne!(frames(7), frames(8));
    }
}
