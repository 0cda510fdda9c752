//! Pseudo-random numbers with random access: a number depends only on a seed and an index. Used for sizes, contents and
//! arrivals, and in the statistics of comparisons.

/// The increment of `SplitMix64`.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of `SplitMix64`. The random number with index k of a seed is `mix(seed + k * GOLDEN)`.
pub(crate) fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_matches_the_reference_implementation_of_splitmix64() {
        // The first numbers for seed 0 of the published reference implementation, which adds before it mixes.
        assert_eq!(mix(GOLDEN), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(GOLDEN.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
    }
}
