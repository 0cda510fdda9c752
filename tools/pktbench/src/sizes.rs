//! Sizes as they stand on the command line: `512`, `64KiB`, `0-2048`, `1KiB-1MiB`.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;

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

/// As it stands on the command line, in bytes.
impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min_len == self.max_len {
            write!(f, "{}", self.min_len)
        } else {
            write!(f, "{}-{}", self.min_len, self.max_len)
        }
    }
}

/// A number of bytes, or of their multiples: `64KiB` is 65,536 bytes, `64kB` is 64,000.
pub(crate) fn parse_size(text: &str) -> Result<u32, String> {
    let size: ByteSize =
        text.parse().map_err(|_| format!("'{text}' is no size; write bytes, such as 512, 64KiB or 1MiB"))?;
    u32::try_from(size.as_u64())
        .map_err(|_| format!("{text} is more than a packet can have, {} bytes", u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_is_a_binary_or_a_decimal_multiple() {
        let cases = [("0", 0), ("512", 512), ("64KiB", 65_536), ("64kB", 64_000), ("1MiB", 1_048_576)];
        for (text, len) in cases {
            assert_eq!(parse_size(text), Ok(len), "{text}");
        }
        assert_eq!(parse_size("4294967295"), Ok(u32::MAX));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "KiB", "-1", "many", "4096MiB", "4294967296", "99999999999999999999"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_one_number_or_both_ends() {
        assert_eq!("512".parse(), Ok(Sizes { min_len: 512, max_len: 512 }));
        assert_eq!("0-2048".parse(), Ok(Sizes { min_len: 0, max_len: 2048 }));
        assert_eq!("1KiB-64KiB".parse(), Ok(Sizes { min_len: 1024, max_len: 65_536 }));
        for text in ["", "-", "1-", "-1", "1-2-3"] {
            assert!(text.parse::<Sizes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ends_in_the_wrong_order_are_refused_with_the_right_one() {
        let error = "2KiB-1KiB".parse::<Sizes>().unwrap_err();
        assert!(error.ends_with("write 1KiB-2KiB"), "{error}");
    }
}
