//! `--payload`: payloads of the user instead of pseudo-random ones.
//!
//! ```text
//!   file:DIR            one payload per regular file, in the order of the file names
//!   file:FILE.ndjson    one payload per line that is not empty, without its line end; also .jsonl
//!   file:FILE           the whole file is one payload
//!   hex:0a0b            one payload
//! ```
//!
//! Everything is read before the run. The bytes are leaked, like the pseudo-random block: sending needs no copy.

use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use pktconn_tools::input;

/// The maximum sum of all payloads, and the maximum number of payloads. They keep the memory of a typing error, such as
/// the root of a file system, within that of a small machine.
const MAX_BYTES: usize = 1 << 30;
const MAX_PAYLOADS: usize = 10_000_000;

const SYNTAX: &str = "write file:DIR, file:FILE.ndjson, file:FILE or hex:0a0b";

/// At least one payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnPayloads {
    /// The option as it was given.
    pub(crate) text: &'static str,
    pub(crate) payloads: &'static [&'static [u8]],
    /// Whether no two payloads are equal.
    pub(crate) are_distinct: bool,
    /// The file, or the line of a file, with the largest payload.
    pub(crate) largest_name: &'static str,
}

impl OwnPayloads {
    /// The smallest and the largest size.
    pub(crate) fn len_range(&self) -> (u32, u32) {
        let lens = || self.payloads.iter().map(|payload| payload.len() as u32);
        (lens().min().unwrap_or_default(), lens().max().unwrap_or_default())
    }

    pub(super) fn new(text: &str, payloads: Vec<&'static [u8]>, name: impl Fn(usize) -> String) -> Self {
        let largest = (0..payloads.len()).max_by_key(|index| payloads[*index].len()).unwrap_or_default();
        let mut sorted = payloads.clone();
        sorted.sort_unstable();
        Self {
            text: text.to_owned().leak(),
            payloads: payloads.leak(),
            are_distinct: sorted.windows(2).all(|pair| pair[0] != pair[1]),
            largest_name: name(largest).leak(),
        }
    }
}

impl FromStr for OwnPayloads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("hex", digits)) => {
                let payloads = vec![&*hex(digits)?.leak()];
                Ok(Self::new(text, payloads, |_| "--payload hex:".to_owned()))
            }
            Some(("file", "")) => Err(format!("the file name is missing; {SYNTAX}")),
            Some(("file", path)) => files(text, Path::new(path)),
            _ => Err(format!("'{text}' is no kind of payload; {SYNTAX}")),
        }
    }
}

fn hex(digits: &str) -> Result<Vec<u8>, String> {
    if digits.is_empty() {
        return Err("hex: has no digits; write hex:0a0b, or --sizes 0 for empty packets".to_owned());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    bytes.ok_or_else(|| "hex: takes pairs of hex digits, such as hex:0a0b".to_owned())
}

fn files(text: &str, path: &Path) -> Result<OwnPayloads, String> {
    let shown = path.display();
    if fs::metadata(path).map_err(|error| unreadable(path, &error))?.is_dir() {
        return directory(text, path);
    }
    let bytes: &'static [u8] = read(path, MAX_BYTES, path)?.leak();
    let is_lines = path.extension().is_some_and(|extension| extension == "ndjson" || extension == "jsonl");
    if !is_lines && bytes.is_empty() {
        return Err(format!("{shown} is empty; for empty packets write --sizes 0"));
    }
    if !is_lines {
        return Ok(OwnPayloads::new(text, vec![bytes], |_| shown.to_string()));
    }
    let lines: Vec<(usize, &[u8])> = lines(bytes).enumerate().filter(|(_, line)| !line.is_empty()).collect();
    check_count(path, lines.len())?;
    if lines.is_empty() {
        return Err(format!("{shown} has no payloads; write one per line"));
    }
    let payloads = lines.iter().map(|(_, line)| *line).collect();
    Ok(OwnPayloads::new(text, payloads, |index| format!("{shown}, line {},", lines[index].0 + 1)))
}

/// The lines without their ends, which are `\n` or `\r\n`.
fn lines(bytes: &'static [u8]) -> impl Iterator<Item = &'static [u8]> {
    bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn directory(text: &str, dir: &Path) -> Result<OwnPayloads, String> {
    let unreadable_dir = |error| unreadable(dir, &error);
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable_dir)? {
        let path = entry.map_err(unreadable_dir)?.path();
        // Follows symbolic links, which directories of configuration often consist of.
        if fs::metadata(&path).map_err(|error| unreadable(&path, &error))?.is_file() {
            paths.push(path);
        }
        check_count(dir, paths.len())?;
    }
    if paths.is_empty() {
        return Err(format!("{} has no files; put one file per payload into it", dir.display()));
    }
    paths.sort_unstable();
    let mut room = MAX_BYTES;
    let mut payloads: Vec<&'static [u8]> = Vec::new();
    for path in &paths {
        let bytes = read(path, room, dir)?;
        room -= bytes.len();
        payloads.push(bytes.leak());
    }
    Ok(OwnPayloads::new(text, payloads, |index| paths[index].display().to_string()))
}

/// Reads at most `room` bytes, so that an endless file ends in an error. `given` is the path that the user gave.
fn read(path: &Path, room: usize, given: &Path) -> Result<Vec<u8>, String> {
    input::read(path, room as u64).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => {
            format!("{} has payloads of more than 1 GiB in total, the limit; use fewer", given.display())
        }
        _ => unreadable(path, &error),
    })
}

fn check_count(path: &Path, count: usize) -> Result<(), String> {
    match count > MAX_PAYLOADS {
        true => Err(format!(
            "{} has more than {MAX_PAYLOADS} payloads; use fewer, they are repeated",
            path.display()
        )),
        false => Ok(()),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(text: &str) -> OwnPayloads {
        text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    #[test]
    fn hex_digits_are_one_payload() {
        assert_eq!(own("hex:0aFf00").payloads, [[0x0a, 0xff, 0x00]]);
        for (text, expected) in [
            ("hex:", "write hex:0a0b, or --sizes 0"),
            ("hex:0", "pairs of hex digits"),
            ("hex:0x", "pairs of hex digits"),
            ("hex:+1", "pairs of hex digits"),
            ("hex:\u{e4}", "pairs of hex digits"),
            ("0a0b", "write file:DIR"),
            ("raw:1", "'raw:1' is no kind of payload; write file:DIR"),
            ("file:", "the file name is missing"),
        ] {
            let problem = text.parse::<OwnPayloads>().unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn a_file_is_one_payload_and_each_line_of_ndjson_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let content = b"{\"a\":1}\r\n\n \n\xff\r\r\n{}";
        for (name, expected) in [
            ("x.bin", vec![&content[..]]),
            ("x.ndjson", vec![&b"{\"a\":1}"[..], b" ", b"\xff\r", b"{}"]),
            ("x.jsonl", vec![&b"{\"a\":1}"[..], b" ", b"\xff\r", b"{}"]),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            let own = own(&format!("file:{}", path.display()));
            assert_eq!(own.payloads, expected, "{name}");
            assert!(own.text.ends_with(name));
            let line = if name == "x.bin" { "" } else { ", line 1," };
            assert_eq!(own.largest_name, format!("{}{line}", path.display()));
        }
    }

    #[test]
    fn a_directory_has_one_payload_per_file_in_the_order_of_the_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("b", "second"), ("a", ""), ("c.ndjson", "1\n2\n")] {
            fs::write(dir.path().join(name), content).unwrap();
        }
        fs::create_dir(dir.path().join("aa")).unwrap();
        let own = own(&format!("file:{}", dir.path().display()));
        assert_eq!(own.payloads, [&b""[..], b"second", b"1\n2\n"]);
        assert_eq!(own.len_range(), (0, 6));
        assert_eq!(own.largest_name, dir.path().join("b").display().to_string());
    }

    #[test]
    fn files_without_payloads_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let problem = |name: &str| {
            let path = dir.path().join(name);
            format!("file:{}", path.display()).parse::<OwnPayloads>().unwrap_err()
        };
        assert!(problem("").contains("has no files; put one file per payload into it"), "{}", problem(""));
        fs::write(dir.path().join("a.jsonl"), "\n\r\n").unwrap();
        fs::write(dir.path().join("b"), "").unwrap();
        assert!(problem("a.jsonl").ends_with("a.jsonl has no payloads; write one per line"));
        assert!(problem("b").ends_with("b is empty; for empty packets write --sizes 0"));
        assert!(problem("c").ends_with("/c: No such file or directory (os error 2)"), "{}", problem("c"));
    }

    #[test]
    fn the_limit_is_for_all_files_together() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "1234").unwrap();
        assert_eq!(read(&dir.path().join("a"), 4, dir.path()).unwrap(), b"1234");
        let problem = read(&dir.path().join("a"), 3, dir.path()).unwrap_err();
        let expected = "has payloads of more than 1 GiB in total, the limit; use fewer";
        assert!(problem.starts_with(&dir.path().display().to_string()), "{problem}");
        assert!(problem.ends_with(expected), "{problem}");
    }

    #[test]
    fn payloads_are_distinct_if_no_two_are_equal() {
        let of = |payloads: &[&'static [u8]]| {
            OwnPayloads::new("", payloads.to_vec(), |_| String::new()).are_distinct
        };
        assert!(of(&[b"12345678", b"1234567", b"22345678"]));
        assert!(!of(&[b"12345678", b"1234567", b"12345678"]));
    }
}
