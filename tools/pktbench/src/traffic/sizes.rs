//! Sizes as they stand on the command line, and the distribution that the size of each packet follows.
//!
//! ```text
//!   512, fixed:512, 0-2048   Uniform   from the least to the largest
//!   list:64@9,1024@1         Sampled     |64|64|64|64|64|64|64|64|64|1024|      one entry, each as likely as another
//!   exp:512                  Sampled     |0|0|0|..|355|..|4264|4613|            the same, of 4096 entries
//!   file:SIZES.csv           Trace     |1460|52|1460|..                       one entry after the other
//! ```
//!
//! What is drawn, and which entry is a connection's first, is said in `payload`; what stands in a file, in `size_file`.

use std::fmt;
use std::str::FromStr;

use crate::traffic::parse::parse_size;
use crate::traffic::size_file;

/// The most entries of a table that a list of weights is spread out to: 256 KiB, which a second-level cache holds.
const MAX_WEIGHTS: u64 = 1 << 16;

/// Entries of the table of an exponential distribution, 16 KiB: its largest size is the one that one packet of 8192
/// reaches, and half of a first-level cache is left to payloads.
const EXP_ENTRIES: u32 = 4096;

const SYNTAX: &str = "write 512, 0-2048, fixed:512, list:64@9,1024@1, exp:512 or file:SIZES.csv";

/// The sizes of payloads, and how they stand on the command line, in bytes: whoever writes that again gets them again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    text: String,
    pub(crate) distribution: Distribution,
}

/// Which size comes how often, in bytes. A table has an entry at least, and is never freed: a process parses its
/// command line once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distribution {
    /// Each size as likely as another, both ends included.
    Uniform { min_len: u32, max_len: u32 },
    /// Each entry as likely as another; at most 2^32 of them.
    Sampled(&'static [u32]),
    /// The entries in their order, and the first one again after the last.
    Trace(&'static [u32]),
}

impl Distribution {
    /// The largest size.
    pub(crate) fn max_len(&self) -> u32 {
        match *self {
            Self::Uniform { max_len, .. } => max_len,
            Self::Sampled(table) | Self::Trace(table) => table.iter().copied().max().unwrap_or_default(),
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => span(text),
            Some(("fixed", size)) => fixed(size),
            Some(("list", items)) => list(items),
            Some(("exp", mean)) => exponential(mean),
            Some(("file", path)) => file(path),
            Some((word, _)) => Err(format!("'{word}' is no kind of sizes; {SYNTAX}")),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One size, or both ends.
fn span(text: &str) -> Result<Sizes, String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (min_len, max_len) = (parse_size(low)?, parse_size(high)?);
    if min_len > max_len {
        return Err(format!("the low end is above the high end; write {high}-{low}"));
    }
    let text = if min_len == max_len { min_len.to_string() } else { format!("{min_len}-{max_len}") };
    Ok(Sizes { text, distribution: Distribution::Uniform { min_len, max_len } })
}

fn fixed(size: &str) -> Result<Sizes, String> {
    let len = parse_size(size).map_err(|problem| match span(size) {
        Ok(_) => format!("fixed is one size, such as fixed:512; for all of a span write {size} alone"),
        Err(_) => problem,
    })?;
    Ok(Sizes {
        text: format!("fixed:{len}"),
        distribution: Distribution::Uniform { min_len: len, max_len: len },
    })
}

fn list(items: &str) -> Result<Sizes, String> {
    if items.is_empty() {
        return Err("a list has a size at least, with its weight; write list:64@9,1024@1".to_owned());
    }
    let items: Vec<(u32, u32)> = items.split(',').map(list_item).collect::<Result<_, _>>()?;
    let divisor = items.iter().fold(0, |divisor, &(_, weight)| greatest_common_divisor(divisor, weight));
    let sum: u64 = items.iter().map(|&(_, weight)| u64::from(weight / divisor)).sum();
    if sum > MAX_WEIGHTS {
        return Err(format!(
            "the weights add up to {sum}, without what divides all of them, and {MAX_WEIGHTS} is the most; \
             write smaller ones, such as list:64@9,1024@1"
        ));
    }
    let table = items.iter().flat_map(|&(len, weight)| (0..weight / divisor).map(move |_| len));
    let distribution = Distribution::Sampled(table.collect::<Vec<_>>().leak());
    let items: Vec<_> = items.iter().map(|(len, weight)| format!("{len}@{weight}")).collect();
    Ok(Sizes { text: format!("list:{}", items.join(",")), distribution })
}

/// A size with its weight.
fn list_item(item: &str) -> Result<(u32, u32), String> {
    let (size, weight) = item
        .split_once('@')
        .ok_or_else(|| format!("'{item}' has no weight; write size and weight, such as 64@9"))?;
    match weight.parse() {
        Ok(weight) if weight > 0 => Ok((parse_size(size)?, weight)),
        _ => Err(format!("'{weight}' is no weight; write a whole number from 1, such as {size}@9")),
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn exponential(mean: &str) -> Result<Sizes, String> {
    let mean = parse_size(mean)?;
    if mean == 0 {
        return Err("the mean of exp is above 0; write exp:512, or 0 for empty packets".to_owned());
    }
    let mut table = Vec::with_capacity(EXP_ENTRIES as usize);
    // What the sizes before were too small by in whole bytes: without it a mean of 1 would become one of 0.96.
    let mut owed = 0.0;
    for entry in 0..EXP_ENTRIES {
        let share = (f64::from(entry) + 0.5) / f64::from(EXP_ENTRIES);
        owed += -f64::from(mean) * (-share).ln_1p();
        let len = owed.round();
        if len > f64::from(u32::MAX) {
            return Err(format!(
                "exp:{mean} has sizes of 9 times as much, more than a packet can have; write a mean below 400MiB"
            ));
        }
        owed -= len;
        table.push(len as u32);
    }
    Ok(Sizes { text: format!("exp:{mean}"), distribution: Distribution::Sampled(table.leak()) })
}

fn file(path: &str) -> Result<Sizes, String> {
    if path.is_empty() {
        return Err("the file has no name; write file:SIZES.csv".to_owned());
    }
    Ok(Sizes {
        text: format!("file:{path}"),
        distribution: Distribution::Trace(size_file::read(path)?.leak()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(text: &str) -> Sizes {
        text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    fn drawn(text: &str) -> &'static [u32] {
        let Distribution::Sampled(table) = sizes(text).distribution else {
            panic!("{text} is not drawn from a table")
        };
        table
    }

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
        let cases = [
            ("512", (512, 512)),
            ("fixed:512", (512, 512)),
            ("0-2048", (0, 2048)),
            ("1KiB-64KiB", (1024, 65_536)),
        ];
        for (text, (min_len, max_len)) in cases {
            assert_eq!(sizes(text).distribution, Distribution::Uniform { min_len, max_len }, "{text}");
        }
        for text in ["", "-", "1-", "-1", "1-2-3"] {
            assert!(text.parse::<Sizes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_printed_gives_the_same_sizes_again() {
        let cases = [
            ("512", "512"),
            ("0-2KiB", "0-2048"),
            ("7-7", "7"),
            ("fixed:64KiB", "fixed:65536"),
            ("list:64@18,1KiB@2", "list:64@18,1024@2"),
            ("exp:1kB", "exp:1000"),
        ];
        for (text, printed) in cases {
            assert_eq!(sizes(text).to_string(), printed);
            assert_eq!(sizes(printed), Sizes { text: printed.to_owned(), ..sizes(text) });
        }
    }

    #[test]
    fn a_list_has_each_size_as_often_as_its_weight_says() {
        assert_eq!(drawn("list:64@3,1024@1"), [64, 64, 64, 1024]);
        assert_eq!(drawn("list:64@300000,1024@100000"), [64, 64, 64, 1024], "what divides all is left out");
        assert_eq!(drawn("list:5@4294967295"), [5]);
        assert_eq!(drawn("list:1@65535,2@1").len(), 65_536);
        assert_eq!(sizes("list:64@1,9KiB@2,0@4").distribution.max_len(), 9216);
    }

    #[test]
    fn an_exponential_table_has_the_mean_that_it_was_asked_for() {
        for mean in [1, 2, 7, 512, 65_536, 400 << 20] {
            let table = drawn(&format!("exp:{mean}"));
            let sum: u64 = table.iter().copied().map(u64::from).sum();
            let (has, wants) = (sum as f64 / table.len() as f64, f64::from(mean));
            assert!((has / wants - 1.0).abs() < 0.002, "a mean of {has} instead of {mean}");
        }
    }

    #[test]
    fn an_exponential_table_has_the_shares_of_the_distribution() {
        let table = drawn("exp:1000");
        // Above k times the mean are e^-k of all.
        for (above, expected) in [(500, 0.6065), (1000, 0.3679), (3000, 0.0498), (6000, 0.0025)] {
            let share = table.iter().filter(|&&len| len > above).count() as f64 / table.len() as f64;
            assert!((share - expected).abs() < 0.0005, "{share} above {above}");
        }
        let max_len = sizes("exp:1000").distribution.max_len();
        assert!((9010..=9012).contains(&max_len), "1000 times the logarithm of 8192, not {max_len}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_write() {
        let cases = [
            ("2KiB-1KiB", "write 1KiB-2KiB"),
            ("gauss:5", "'gauss' is no kind of sizes; write 512, 0-2048, fixed:512, list:64@9"),
            ("fixed:", "'' is no size; write bytes, such as 512"),
            ("fixed:1-2", "write 1-2 alone"),
            ("fixed:-1", "'-1' is no size"),
            ("list:", "write list:64@9,1024@1"),
            ("list:64@9,", "'' has no weight; write size and weight, such as 64@9"),
            ("list:64", "'64' has no weight"),
            ("list:64@0", "'0' is no weight; write a whole number from 1, such as 64@9"),
            ("list:64@x", "'x' is no weight"),
            ("list:64@-1", "'-1' is no weight"),
            ("list:64@4294967296", "'4294967296' is no weight"),
            ("list:many@1", "'many' is no size"),
            ("list:1@65536,2@1", "add up to 65537, without what divides all of them, and 65536 is the most"),
            ("list:1@4294967295,2@4294967294", "add up to 8589934589"),
            ("exp:0", "write exp:512, or 0 for empty packets"),
            ("exp:", "'' is no size"),
            ("exp:1GiB", "write a mean below 400MiB"),
            ("exp:4294967295", "write a mean below 400MiB"),
            ("file:", "write file:SIZES.csv"),
        ];
        for (text, expected) in cases {
            let problem = text.parse::<Sizes>().unwrap_err();
            assert!(problem.contains(expected) && !problem.contains('\n'), "{text}: {problem}");
        }
    }
}
