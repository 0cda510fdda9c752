//! Reads a file of sizes, such as a capture of real traffic: the first field of each line, in the order of the file.
//!
//! ```text
//!   len,time          a header: the first line with content, if it does not start with a number
//!   1460,0.000
//!   # a comment       ignored, like an empty line
//!   64KiB,0.013
//! ```
//!
//! The whole file is read before the run, so the run never waits for a disk. Only the sizes are kept in memory.

use std::io::{self, BufRead, BufReader, Read};

use pktconn_tools::input;
use pktconn_tools::printable;
use pktconn_tools::values::parse_size;

/// The maximum number of lines. They take 40 MB of memory.
const MAX_LINES: u64 = 10_000_000;

/// The maximum length of a line, including its end. A binary file may have no line ends at all.
const MAX_LINE_LEN: u64 = 4096;

/// Reads the sizes of the file at `path`. Without an error there is at least one.
pub(crate) fn read(path: &str) -> Result<Vec<u32>, String> {
    let file = input::open(path.as_ref()).map_err(|error| unreadable(path, &error))?;
    sizes(BufReader::new(file), path, MAX_LINES)
}

fn sizes(mut file: impl BufRead, path: &str, max_lines: u64) -> Result<Vec<u32>, String> {
    let (mut sizes, mut line) = (Vec::new(), Vec::new());
    let mut header_may_come = true;
    for number in 1_u64.. {
        line.clear();
        let len = file.by_ref().take(MAX_LINE_LEN).read_until(b'\n', &mut line);
        let len = len.map_err(|error| unreadable(path, &error))?;
        if len == 0 {
            break;
        }
        let refused = |problem: &str| {
            // A line of the file has up to 4 KiB.
            Err(format!("{path}, line {number}: {}", printable::name(problem)))
        };
        if number > max_lines {
            return refused(&format!(
                "the file has more than {max_lines} lines; use fewer, they are repeated"
            ));
        }
        if len as u64 == MAX_LINE_LEN {
            return refused("the line is too long; write a size, or a size and a comma");
        }
        let line = String::from_utf8_lossy(&line);
        let Some(field) = first_field(&line) else { continue };
        if std::mem::take(&mut header_may_come) && is_header(field) {
            continue;
        }
        match parse_size(field) {
            Ok(size) => sizes.push(size),
            Err(problem) => return refused(&problem),
        }
    }
    match sizes.is_empty() {
        false => Ok(sizes),
        true => Err(format!("{path} has no sizes; write one per line, in bytes")),
    }
}

fn unreadable(path: &str, error: &io::Error) -> String {
    format!("cannot read {path}: {error}; give a file with one size per line")
}

/// The first field of a line. `None` for an empty line and a comment.
fn first_field(line: &str) -> Option<&str> {
    // Spreadsheets begin a text file with U+FEFF.
    let line = line.trim_start_matches('\u{feff}').trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let field = line.split(',').next()?;
    Some(field.trim().trim_matches('"').trim())
}

/// Whether the first field is a header. A field that looks like a number is not, so that an invalid size in the first
/// line is an error.
fn is_header(field: &str) -> bool {
    !field.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<u32>, String> {
        sizes(text.as_bytes(), "x.csv", 9)
    }

    #[test]
    fn the_first_field_of_each_line_is_a_size() {
        assert_eq!(of("1460\n52\n0\n"), Ok(vec![1460, 52, 0]));
        assert_eq!(of("1460,0.1,a\r\n 64KiB , 0.2\r\n\"52\",\"0.3\""), Ok(vec![1460, 65_536, 52]));
    }

    #[test]
    fn headers_empty_lines_and_comments_are_ignored() {
        assert_eq!(of("\n# sizes\nlen,time\n\n9,1\n  # 7\n \t\n8\n"), Ok(vec![9, 8]));
        assert_eq!(of("\u{feff}9\n8\n"), Ok(vec![9, 8]), "U+FEFF is not a header");
        assert_eq!(of("\u{feff}len\n8\n"), Ok(vec![8]));
    }

    #[test]
    fn an_error_names_the_line() {
        let cases = [
            ("len\n1\nmany\n", "x.csv, line 3: 'many' is not a size; write bytes, such as 512"),
            ("len\nlen\n1\n", "x.csv, line 2: 'len' is not a size"),
            ("# no header\n-5\n", "x.csv, line 2: '-5' is not a size"),
            ("4294967296\n", "x.csv, line 1: 4294967296 exceeds the largest possible packet"),
            ("1\n\n,5\n", "x.csv, line 3: '' is not a size"),
            ("1\n\u{1b}[31m\n", "x.csv, line 2: '\\u{1b}[31m' is not a size"),
        ];
        for (text, expected) in cases {
            let problem = of(text).unwrap_err();
            assert!(problem.starts_with(expected), "{text:?}: {problem}");
        }
        let problem = sizes(&b"1\n\xff\xfe\n"[..], "x.csv", 9).unwrap_err();
        assert!(problem.starts_with("x.csv, line 2: "), "{problem}");
    }

    #[test]
    fn a_file_without_sizes_is_an_error() {
        for text in ["", "\n\n", "len,time\n", "# 5\n"] {
            let problem = of(text).unwrap_err();
            assert_eq!(problem, "x.csv has no sizes; write one per line, in bytes", "{text:?}");
        }
    }

    #[test]
    fn reading_an_endless_file_stops_at_a_limit() {
        let endless = |byte| sizes(BufReader::new(io::repeat(byte)), "x.csv", 1000).unwrap_err();
        assert!(endless(0).starts_with("x.csv, line 1: the line is too long; "), "{}", endless(0));
        let problem = endless(b'\n');
        assert!(problem.starts_with("x.csv, line 1001: the file has more than 1000 lines; "), "{problem}");
    }

    #[test]
    fn a_file_may_have_the_maximum_number_of_lines() {
        assert_eq!(sizes(&b"7\n\n8\n"[..], "x.csv", 3), Ok(vec![7, 8]));
        assert!(sizes(&b"7\n\n8\n"[..], "x.csv", 2).is_err());
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_path_buf(), dir.path().join("missing.csv")] {
            let path = path.to_str().unwrap();
            let problem = read(path).unwrap_err();
            assert!(problem.starts_with(&format!("cannot read {path}: ")), "{problem}");
        }
    }
}
