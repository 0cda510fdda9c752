//! Sizes as they stand on the command line: `512`, `64k`, `0-2048`, `1k-1m`.

use std::fmt;
use std::str::FromStr;

/// The sizes of payloads in bytes, drawn uniformly, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) min_len: u32,
    pub(crate) max_len: u32,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (min_len, max_len) = (parse_size(low)?, parse_size(high)?);
        if min_len > max_len {
            return Err(format!("the low end is above the high end; write {high}-{low}"));
        }
        Ok(Self { min_len, max_len })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min_len == self.max_len {
            write!(f, "{} B", self.min_len)
        } else {
            write!(f, "{} B to {} B", self.min_len, self.max_len)
        }
    }
}

/// A number of bytes. `k` and `m`, also written `KiB` and `MiB`, stand for 1024 and 1024 * 1024 bytes.
pub(crate) fn parse_size(text: &str) -> Result<u32, String> {
    let digits_len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(digits_len);
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        _ => return Err(not_a_size(text)),
    };
    let number: u64 = digits.parse().map_err(|_| not_a_size(text))?;
    let len = number.checked_mul(1 << shift).and_then(|len| u32::try_from(len).ok());
    len.ok_or_else(|| format!("{text} is more than a packet can have, {} bytes", u32::MAX))
}

fn not_a_size(text: &str) -> String {
    format!("'{text}' is no size; write bytes, such as 512, 64k or 1m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_is_a_power_of_1024() {
        let cases = [("0", 0), ("512", 512), ("64k", 65_536), ("64KiB", 65_536), ("1m", 1_048_576)];
        for (text, len) in cases {
            assert_eq!(parse_size(text), Ok(len), "{text}");
        }
        assert_eq!(parse_size("4294967295"), Ok(u32::MAX));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "k", "-1", "1.5k", "64kb", "1g", "4096m", "4294967296", "99999999999999999999"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_one_number_or_both_ends() {
        assert_eq!("512".parse(), Ok(Sizes { min_len: 512, max_len: 512 }));
        assert_eq!("0-2048".parse(), Ok(Sizes { min_len: 0, max_len: 2048 }));
        assert_eq!("1k-64k".parse(), Ok(Sizes { min_len: 1024, max_len: 65_536 }));
        for text in ["", "-", "1-", "-1", "1-2-3"] {
            assert!(text.parse::<Sizes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ends_in_the_wrong_order_are_refused_with_the_right_one() {
        let error = "2k-1k".parse::<Sizes>().unwrap_err();
        assert!(error.ends_with("write 1k-2k"), "{error}");
    }
}
