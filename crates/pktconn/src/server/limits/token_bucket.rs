//! A token bucket: admits `per_second` events per second, and a burst of events after a quiet time. No clock.

/// One token. A bucket counts billionths, so that a rate per second times nanoseconds is exact.
const TOKEN: u64 = 1_000_000_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BucketRate {
    /// At least 1. Also the billionths of a token per nanosecond.
    per_second: u64,
    capacity: u64,
}

impl BucketRate {
    /// `multiple` times a rate. All three must be at least 1.
    pub(crate) fn new(per_second: u32, burst: u32, multiple: u32) -> Self {
        let [per_second, burst] = [per_second, burst].map(|value| u64::from(value) * u64::from(multiple));
        Self { per_second, capacity: burst.saturating_mul(TOKEN) }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    /// In billionths of a token, at the time `at_ns`.
    tokens: u64,
    at_ns: u64,
}

impl TokenBucket {
    pub(crate) fn full(rate: BucketRate, now_ns: u64) -> Self {
        Self { tokens: rate.capacity, at_ns: now_ns }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, rate: BucketRate, now_ns: u64) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.at_ns);
        let gained = elapsed_ns.saturating_mul(rate.per_second);
        self.tokens = self.tokens.saturating_add(gained).min(rate.capacity);
        // Never back: two threads may read the clock in one order and come here in the other.
        self.at_ns = self.at_ns.max(now_ns);
        let left = self.tokens.checked_sub(TOKEN);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }

    /// When the bucket is full again.
    pub(crate) fn full_at_ns(&self, rate: BucketRate) -> u64 {
        let missing = rate.capacity.saturating_sub(self.tokens);
        self.at_ns.saturating_add(missing.div_ceil(rate.per_second))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_admits_its_burst_and_then_its_rate() {
        let rate = BucketRate::new(3, 2, 1);
        let mut bucket = TokenBucket::full(rate, 0);
        assert_eq!([(); 3].map(|()| bucket.take(rate, 0)), [true, true, false]);
        // A token per 333,333,333.3 ns.
        assert!(!bucket.take(rate, 333_333_333));
        assert!(bucket.take(rate, 333_333_334));
        assert_eq!(bucket.full_at_ns(rate), 1_000_000_000);
        assert_eq!([(); 3].map(|()| bucket.take(rate, 1_000_000_000)), [true, true, false]);
    }

    #[test]
    fn extreme_values_neither_overflow_nor_admit_more() {
        let rate = BucketRate::new(u32::MAX, u32::MAX, 16);
        let mut bucket = TokenBucket::full(rate, u64::MAX);
        assert!(bucket.take(rate, 0), "the clock seems to go back");
        assert_eq!(bucket.full_at_ns(rate), u64::MAX);
        let slow = BucketRate::new(1, 1, 1);
        let mut bucket = TokenBucket::full(slow, 0);
        assert_eq!([(); 2].map(|()| bucket.take(slow, u64::MAX)), [true, false]);
    }

    proptest! {
        #[test]
        fn in_any_interval_at_most_the_burst_and_the_rate_are_admitted(
            gaps_ns in prop::collection::vec(prop_oneof![Just(0), 0..2_000_000_000_u64], 1..100),
            per_second in 1_u32..50,
            burst in 1_u32..20,
        ) {
            let rate = BucketRate::new(per_second, burst, 1);
            let mut bucket = TokenBucket::full(rate, 0);
            let (mut now_ns, mut admitted) = (0, Vec::new());
            for gap_ns in gaps_ns {
                now_ns += gap_ns;
                if bucket.take(rate, now_ns) {
                    admitted.push(now_ns);
                }
            }
            for (first, &from) in admitted.iter().enumerate() {
                for (last, &to) in admitted.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u128;
                    let allowed = u128::from(burst) * u128::from(TOKEN)
                        + u128::from(to - from) * u128::from(per_second);
                    prop_assert!(count * u128::from(TOKEN) <= allowed);
                }
            }
        }
    }
}
