//! `--sizes`: parses it, and prepares the distribution of payload sizes.
//!
//! ```text
//!   512, fixed:512, 0-2048   Uniform   each size from the smallest to the largest
//!   list:64@9,1024@1         Sampled   |64|64|64|64|64|64|64|64|64|1024|      one entry at random
//!   exp:512                  Sampled   |0|0|0|..|355|..|4264|4613|            one of 4096 entries at random
//!   file:SIZES.csv           Trace     |1460|52|1460|..                       one entry after the other
//! ```
//!
//! `payload` picks the size of each packet. `size_file` reads the file of a trace. With `--payload` or `--replay` the sizes
//! come from there.

use std::fmt;
use std::str::FromStr;

use pktconn_tools::values::parse_size;

use crate::traffic::capture::Flow;
use crate::traffic::own_payloads::OwnPayloads;
use crate::traffic::size_file;

/// The maximum number of entries of the table for `list:`. It takes 256 KiB, which fits into a second-level cache.
const MAX_WEIGHTS: u64 = 1 << 16;

/// Entries of the table for `exp:`. It takes 16 KiB, which leaves half of a first-level cache to payloads. Its largest
/// size is the one that 1 packet in 8192 of a true exponential distribution exceeds.
const EXP_ENTRIES: u32 = 4096;

const SYNTAX: &str = "write 512, 0-2048, fixed:512, list:64@9,1024@1, exp:512 or file:SIZES.csv";

/// The sizes of payloads. `text` is the option with all sizes in bytes; parsing it again gives the same sizes. For sizes of
/// `--payload` and `--replay` it is the smallest and the largest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    text: String,
    pub(crate) distribution: Distribution,
}

/// How often each size occurs, in bytes. A table has at least one entry. Tables are leaked: a process parses its
/// command line once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distribution {
    /// All sizes from `min_len` to `max_len` are equally likely.
    Uniform { min_len: u32, max_len: u32 },
    /// All entries are equally likely. At most 2^32 entries.
    Sampled(&'static [u32]),
    /// The entries in their order, starting again after the last.
    Trace(&'static [u32]),
    /// The payloads in their order, starting again after the last.
    Own(OwnPayloads),
    /// The packets of one flow for each connection. Each flow has at least one.
    Recorded(&'static [Flow]),
}

impl Distribution {
    /// The largest size.
    pub(crate) fn max_len(&self) -> u32 {
        match *self {
            Self::Uniform { max_len, .. } => max_len,
            Self::Sampled(table) | Self::Trace(table) => table.iter().copied().max().unwrap_or_default(),
            Self::Own(own) => own.len_range().1,
            Self::Recorded(flows) => recorded_lens(flows).max().unwrap_or_default(),
        }
    }
}

fn recorded_lens(flows: &[Flow]) -> impl Iterator<Item = u32> {
    flows.iter().flat_map(|flow| &flow.packets).map(|packet| packet.len)
}

impl Sizes {
    pub(crate) fn own(own: OwnPayloads) -> Self {
        let (min_len, max_len) = own.len_range();
        Self { text: range(min_len, max_len), distribution: Distribution::Own(own) }
    }

    pub(crate) fn recorded(flows: &'static [Flow]) -> Self {
        let distribution = Distribution::Recorded(flows);
        let min_len = recorded_lens(flows).min().unwrap_or_default();
        Self { text: range(min_len, distribution.max_len()), distribution }
    }
}

fn range(min_len: u32, max_len: u32) -> String {
    if min_len == max_len { min_len.to_string() } else { format!("{min_len}-{max_len}") }
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
            Some((kind, _)) => Err(format!("unknown kind of sizes '{kind}'; {SYNTAX}")),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `512` or `0-2048`.
fn span(text: &str) -> Result<Sizes, String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (min_len, max_len) = (parse_size(low)?, parse_size(high)?);
    if min_len > max_len {
        return Err(format!("{low} is larger than {high}; write {high}-{low}"));
    }
    Ok(Sizes { text: range(min_len, max_len), distribution: Distribution::Uniform { min_len, max_len } })
}

fn fixed(size: &str) -> Result<Sizes, String> {
    let len = parse_size(size).map_err(|problem| match span(size) {
        Ok(_) => format!("fixed: has one size, such as fixed:512; for a range write {size} without fixed:"),
        Err(_) => problem,
    })?;
    Ok(Sizes {
        text: format!("fixed:{len}"),
        distribution: Distribution::Uniform { min_len: len, max_len: len },
    })
}

fn list(items: &str) -> Result<Sizes, String> {
    if items.is_empty() {
        return Err("the list is empty; write list:64@9,1024@1".to_owned());
    }
    let items: Vec<(u32, u32)> = items.split(',').map(list_item).collect::<Result<_, _>>()?;
    let divisor = items.iter().fold(0, |divisor, &(_, weight)| greatest_common_divisor(divisor, weight));
    let sum: u64 = items.iter().map(|&(_, weight)| u64::from(weight / divisor)).sum();
    if sum > MAX_WEIGHTS {
        return Err(format!(
            "the weights, divided by their greatest common divisor, add up to {sum}; the maximum is {MAX_WEIGHTS}; \
             write smaller weights, such as list:64@9,1024@1"
        ));
    }
    let table = items.iter().flat_map(|&(len, weight)| (0..weight / divisor).map(move |_| len));
    let distribution = Distribution::Sampled(table.collect::<Vec<_>>().leak());
    let items: Vec<_> = items.iter().map(|(len, weight)| format!("{len}@{weight}")).collect();
    Ok(Sizes { text: format!("list:{}", items.join(",")), distribution })
}

/// Parses `64@9`: a size and its weight.
fn list_item(item: &str) -> Result<(u32, u32), String> {
    let (size, weight) = item
        .split_once('@')
        .ok_or_else(|| format!("'{item}' has no weight; write size@weight, such as 64@9"))?;
    match weight.parse() {
        Ok(weight) if weight > 0 => Ok((parse_size(size)?, weight)),
        _ => Err(format!("invalid weight '{weight}'; write a whole number from 1, such as {size}@9")),
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn exponential(mean: &str) -> Result<Sizes, String> {
    let mean = parse_size(mean)?;
    if mean == 0 {
        return Err("the mean of exp: must be above 0; write exp:512, or 0 for empty packets".to_owned());
    }
    let mut table = Vec::with_capacity(EXP_ENTRIES as usize);
    // Carries the rounding error to the next entry. Without it, a mean of 1 would become 0.96.
    let mut exact_len = 0.0;
    for entry in 0..EXP_ENTRIES {
        let share = (f64::from(entry) + 0.5) / f64::from(EXP_ENTRIES);
        exact_len += -f64::from(mean) * (-share).ln_1p();
        let len = exact_len.round();
        if len > f64::from(u32::MAX) {
            return Err(format!(
                "exp:{mean} has sizes up to 9 times the mean, which exceeds the largest possible packet; write a mean \
                 below 400MiB"
            ));
        }
        exact_len -= len;
        table.push(len as u32);
    }
    Ok(Sizes { text: format!("exp:{mean}"), distribution: Distribution::Sampled(table.leak()) })
}

fn file(path: &str) -> Result<Sizes, String> {
    if path.is_empty() {
        return Err("the file name is missing; write file:SIZES.csv".to_owned());
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
            panic!("{text} is not sampled from a table")
        };
        table
    }

    #[test]
    fn sizes_are_one_number_or_a_range() {
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
    fn parsing_the_printed_text_gives_the_same_sizes() {
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
    fn a_list_has_each_size_as_often_as_its_weight() {
        assert_eq!(drawn("list:64@3,1024@1"), [64, 64, 64, 1024]);
        assert_eq!(drawn("list:64@300000,1024@100000"), [64, 64, 64, 1024], "a common divisor is removed");
        assert_eq!(drawn("list:5@4294967295"), [5]);
        assert_eq!(drawn("list:1@65535,2@1").len(), 65_536);
        assert_eq!(sizes("list:64@1,9KiB@2,0@4").distribution.max_len(), 9216);
    }

    #[test]
    fn an_exponential_table_has_the_requested_mean() {
        for mean in [1, 2, 7, 512, 65_536, 400 << 20] {
            let table = drawn(&format!("exp:{mean}"));
            let sum: u64 = table.iter().copied().map(u64::from).sum();
            let (has, wants) = (sum as f64 / table.len() as f64, f64::from(mean));
            assert!((has / wants - 1.0).abs() < 0.002, "the mean is {has} instead of {mean}");
        }
    }

    #[test]
    fn an_exponential_table_has_the_shares_of_the_distribution() {
        let table = drawn("exp:1000");
        // In an exponential distribution, e^-k of all values are above k times the mean.
        for (above, expected) in [(500, 0.6065), (1000, 0.3679), (3000, 0.0498), (6000, 0.0025)] {
            let share = table.iter().filter(|&&len| len > above).count() as f64 / table.len() as f64;
            assert!((share - expected).abs() < 0.0005, "{share} above {above}");
        }
        let max_len = sizes("exp:1000").distribution.max_len();
        assert!(
            (9010..=9012).contains(&max_len),
            "expected 1000 times the logarithm of 8192, found {max_len}"
        );
    }

    #[test]
    fn invalid_sizes_are_an_error_that_says_what_to_write() {
        let cases = [
            ("2KiB-1KiB", "write 1KiB-2KiB"),
            ("gauss:5", "unknown kind of sizes 'gauss'; write 512, 0-2048, fixed:512, list:64@9"),
            ("fixed:", "'' is not a size; write bytes, such as 512"),
            ("fixed:1-2", "write 1-2 without fixed:"),
            ("fixed:-1", "'-1' is not a size"),
            ("list:", "write list:64@9,1024@1"),
            ("list:64@9,", "'' has no weight; write size@weight, such as 64@9"),
            ("list:64", "'64' has no weight"),
            ("list:64@0", "invalid weight '0'; write a whole number from 1, such as 64@9"),
            ("list:64@x", "invalid weight 'x'"),
            ("list:64@-1", "invalid weight '-1'"),
            ("list:64@4294967296", "invalid weight '4294967296'"),
            ("list:many@1", "'many' is not a size"),
            ("list:1@65536,2@1", "add up to 65537; the maximum is 65536"),
            ("list:1@4294967295,2@4294967294", "add up to 8589934589"),
            ("exp:0", "write exp:512, or 0 for empty packets"),
            ("exp:", "'' is not a size"),
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
