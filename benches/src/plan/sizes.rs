//! A range of payload sizes: `0-2048`.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::wire::MAX_PAYLOAD_LEN;

/// A range of payload sizes in bytes, both ends included: `0-2048`. One number stands for both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeRange {
    min: u32,
    max: u32,
}

impl SizeRange {
    /// The possible lengths of a payload, in bytes.
    pub fn range(&self) -> RangeInclusive<u32> {
        self.min..=self.max
    }
}

impl FromStr for SizeRange {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(!text.is_empty(), "expected MIN-MAX in bytes, such as 0-2048");
        let (min, max) = match text.split_once('-') {
            Some((min, max)) => {
                (min.parse().context("invalid smallest size")?, max.parse().context("invalid largest size")?)
            }
            None => [text.parse().context("invalid size")?; 2].into(),
        };
        ensure!(min <= max, "the smallest size, {min}, exceeds the largest, {max}");
        ensure!(max as usize <= MAX_PAYLOAD_LEN, "{max} bytes exceed the limit of {MAX_PAYLOAD_LEN}");
        Ok(Self { min, max })
    }
}

impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl Serialize for SizeRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_include_both_ends() {
        assert_eq!("0-2048".parse::<SizeRange>().unwrap().range(), 0..=2048);
        assert_eq!("7-7".parse::<SizeRange>().unwrap().range(), 7..=7);
    }

    #[test]
    fn a_single_size_stands_for_both_ends() {
        assert_eq!("1048576".parse::<SizeRange>().unwrap(), "1048576-1048576".parse().unwrap());
    }

    #[test]
    fn invalid_sizes_are_refused() {
        for text in ["", "-", "5-", "-5", "2-1", "0-33554433", "33554433"] {
            assert!(text.parse::<SizeRange>().is_err(), "{text:?}");
        }
    }
}
