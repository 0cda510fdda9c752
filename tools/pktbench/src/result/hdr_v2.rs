//! Histograms as text: `HdrHistogram`'s V2 encoding, compressed, as base64. What a file claims is checked before memory is
//! reserved for it.
//!
//! ```text
//!   base64 --> cookie, length, zlib --inflated up to a limit--> cookie, length, digits, bounds, ratio | counts
//! ```

use std::io::Read;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

/// The upper bound of all histograms, in ns: an hour.
pub(crate) const MAX_NS: u64 = 3_600_000_000_000;

/// The significant digits of all histograms in a document. They give an error of 0.1 %, far below the noise of a run. A
/// histogram then has 264 KiB, which fits into the second-level cache of most cores. With 4 digits it would have 3.6 MiB.
pub(crate) const SIGNIFICANT_DIGITS: u8 = 3;

/// The most samples that a histogram from a file may have: a million per second for nine years. Several such histograms
/// can be added without overflow.
const MAX_COUNT: u64 = 1 << 48;

/// The first bytes of a compressed histogram, and of one that is not.
const COMPRESSED_COOKIE: [u8; 4] = 0x1c84_9314_u32.to_be_bytes();
const PLAIN_COOKIE: [u8; 4] = 0x1c84_9313_u32.to_be_bytes();

/// The cookie and the length before the compressed bytes.
const COMPRESSED_HEADER_LEN: usize = 8;

/// The cookie, the length of the counts, an offset, the digits, both bounds, and a ratio.
const HEADER_LEN: usize = 40;

/// A histogram with these bounds and digits has this many counts.
const MAX_COUNTS: usize = 33_792;

/// A count is at most this long: one of 9 bytes is above `MAX_COUNT`.
const MAX_COUNT_LEN: usize = 8;

/// The longest histogram, not compressed: 264 KiB. Bytes that cannot be compressed need up to 1 % more, and base64 a third.
const MAX_LEN: usize = HEADER_LEN + MAX_COUNTS * MAX_COUNT_LEN;
const MAX_TEXT_LEN: usize = MAX_LEN / 2 * 3;

/// Encodes a histogram.
pub(crate) fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    written.expect("writing to memory does not fail, and the counts of a run fit the format");
    STANDARD.encode(bytes)
}

/// Decodes what [`encode`] returns. Takes less than 2 MiB of memory, whatever the text is.
pub(crate) fn decode(text: &str) -> anyhow::Result<Histogram<u64>> {
    let len = text.len();
    ensure!(len <= MAX_TEXT_LEN, "it has {len} characters; the limit is {MAX_TEXT_LEN}");
    let bytes = inflated(&STANDARD.decode(text)?)?;
    check_header(&bytes)?;
    let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..])?;
    let count = histogram.len();
    ensure!(count <= MAX_COUNT, "it has {count} samples; the limit is {MAX_COUNT}");
    Ok(histogram)
}

/// The length of a histogram when it is inflated, which is a measure of the time to decode it. 0 if it is damaged.
pub(crate) fn inflated_len(text: &str) -> usize {
    let bytes = STANDARD.decode(text).unwrap_or_default();
    inflated(&bytes).map_or(0, |bytes| bytes.len())
}

/// Checks the first header and inflates the rest.
fn inflated(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let Some((header, compressed)) = bytes.split_at_checked(COMPRESSED_HEADER_LEN) else {
        bail!("it has {} bytes, less than a header", bytes.len());
    };
    ensure!(header[..4] == COMPRESSED_COOKIE, "it is no compressed histogram of the version V2");
    let claimed = u32_at(header, 4) as usize;
    let Some(compressed) = compressed.get(..claimed) else {
        bail!("its header claims {claimed} bytes; {} follow", compressed.len());
    };
    let mut inflated = Vec::new();
    let mut inflater = ZlibDecoder::new(compressed).take(MAX_LEN as u64 + 1);
    inflater.read_to_end(&mut inflated).context("it cannot be inflated")?;
    ensure!(inflated.len() <= MAX_LEN, "it is longer than {MAX_LEN} bytes when it is inflated");
    Ok(inflated)
}

/// Checks that a histogram is not longer, not finer and not wider than those of a run. A finer or wider one would have
/// up to 2^32 counts.
fn check_header(bytes: &[u8]) -> anyhow::Result<()> {
    let Some((header, counts)) = bytes.split_at_checked(HEADER_LEN) else {
        bail!("it has {} bytes when it is inflated, less than a header", bytes.len());
    };
    ensure!(header[..4] == PLAIN_COOKIE, "its inner header is not of the version V2");
    let (claimed, digits) = (u32_at(header, 4) as usize, u32_at(header, 12));
    ensure!(claimed == counts.len(), "its header claims {claimed} bytes of counts; {} follow", counts.len());
    ensure!(
        digits <= SIGNIFICANT_DIGITS.into(),
        "it has {digits} significant digits; the limit is {SIGNIFICANT_DIGITS}"
    );
    let high = u64_at(header, 24);
    ensure!(high <= MAX_NS, "its highest value is {high} ns; the limit is {MAX_NS}");
    // All bytes of a count but the last one have the highest bit set.
    let is_long = |bytes: &[u8]| bytes.iter().all(|byte| byte & 0x80 != 0);
    ensure!(!counts.windows(MAX_COUNT_LEN).any(is_long), "it has more than {MAX_COUNT} samples of one value");
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::histogram::new_histogram;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use std::io::Write;

    /// A histogram with this inner header and these counts.
    fn text_of(claimed: u32, digits: u32, low: u64, high: u64, counts: &[u8]) -> String {
        let mut plain = [&PLAIN_COOKIE[..], &claimed.to_be_bytes(), &[0; 4], &digits.to_be_bytes()].concat();
        plain.extend([low.to_be_bytes(), high.to_be_bytes(), 1_f64.to_be_bytes()].concat());
        plain.extend(counts);
        text_of_plain(&plain, None)
    }

    /// Compresses an inner histogram. The outer header may claim another length.
    fn text_of_plain(plain: &[u8], claimed: Option<u32>) -> String {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        let compressed = encoder.finish().unwrap();
        let claimed = claimed.unwrap_or(compressed.len() as u32);
        STANDARD.encode([&COMPRESSED_COOKIE[..], &claimed.to_be_bytes(), &compressed].concat())
    }

    fn problem(text: &str) -> String {
        format!("{:#}", decode(text).unwrap_err())
    }

    #[test]
    fn a_histogram_of_a_run_is_decoded_as_it_was() {
        let mut histogram = new_histogram();
        for index in 0..histogram.distinct_values() as u64 {
            // All counts of the longest kind that the sum allows.
            histogram.record_n(index * 1_000_000, 1 << 32).unwrap();
        }
        histogram.record_n(MAX_NS, 1 << 46).unwrap();
        let text = encode(&histogram);
        assert!(text.len() <= MAX_TEXT_LEN && text.starts_with("HISTFA"));
        assert_eq!(decode(&text).unwrap(), histogram);
        assert_eq!(decode(&encode(&new_histogram())).unwrap(), new_histogram());
    }

    #[test]
    fn the_limits_are_those_of_the_histograms_of_a_run() {
        assert_eq!(new_histogram().distinct_values(), MAX_COUNTS);
        let shortest = [0x80; MAX_COUNT_LEN];
        // The ninth byte begins at bit 56, and the lowest bit is the sign.
        assert_eq!(1_u64 << (7 * shortest.len() - 1), MAX_COUNT << 7);
    }

    #[test]
    fn a_length_that_is_only_claimed_is_refused() {
        assert_eq!(
            problem(&text_of(u32::MAX, 3, 1, MAX_NS, &[])),
            "its header claims 4294967295 bytes of counts; 0 follow"
        );
        assert!(
            problem(&text_of_plain(&[0; 9], Some(u32::MAX)))
                .starts_with("its header claims 4294967295 bytes; ")
        );
    }

    #[test]
    fn a_bomb_is_inflated_only_up_to_the_limit() {
        let zeros = vec![0; 100 << 20];
        let expected = "it is longer than 270376 bytes when it is inflated";
        assert_eq!(problem(&text_of(zeros.len() as u32, 3, 1, MAX_NS, &zeros)), expected);
    }

    #[test]
    fn bounds_beyond_those_of_a_run_are_refused() {
        let of = |digits, low, high| problem(&text_of(0, digits, low, high, &[]));
        assert_eq!(of(5, 1, MAX_NS), "it has 5 significant digits; the limit is 3");
        assert_eq!(of(u32::MAX, 1, MAX_NS), "it has 4294967295 significant digits; the limit is 3");
        assert_eq!(
            of(3, 1, u64::MAX),
            "its highest value is 18446744073709551615 ns; the limit is 3600000000000"
        );
        assert!(of(3, 0, MAX_NS).contains("invalid"), "{}", of(3, 0, MAX_NS));
        assert!(of(3, u64::MAX, 9).contains("invalid"));
    }

    #[test]
    fn counts_that_do_not_fit_are_refused() {
        let of = |counts: &[u8]| problem(&text_of(counts.len() as u32, 3, 1, MAX_NS, counts));
        // Two zigzag numbers of 9 bytes: the lowest i64, whose magnitude has no i64, and the highest.
        assert!(of(&[0xff; 9]).contains("more than 281474976710656 samples of one value"));
        assert!(of(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).contains("samples of one value"));
        let mut histogram = new_histogram();
        histogram.record_n(1000, MAX_COUNT + 1).unwrap();
        assert!(problem(&encode(&histogram)).contains("the limit is 281474976710656"));
        assert!(of(&vec![2; MAX_COUNTS + 1]).contains("longer than it should be"));
    }

    #[test]
    fn other_bytes_are_refused() {
        for text in ["", "HISTFAAAA", "HISTFAAA", "AAAAAAAAAAAAAAAA", "HISTFAAAAAAAAAAA"] {
            assert!(decode(text).is_err(), "{text}");
        }
        assert!(problem(&"A".repeat(MAX_TEXT_LEN + 1)).contains("the limit is"));
        assert!(problem(&text_of_plain(b"HIST", None)).contains("less than a header"));
    }
}
