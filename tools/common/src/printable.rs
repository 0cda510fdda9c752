//! Text of others for a terminal, a log or a page: names in files, messages of servers, names in certificates. Characters
//! that would move the cursor, hide text or change its direction become visible escapes, and long texts are cut.

use std::borrow::Cow;
use std::fmt::Display;

/// The most characters of a name: of a file, a host, a stage.
pub const MAX_NAME: usize = 200;

/// The most characters of a line: a message, or a row of a report. A list of 50 addresses fits.
pub const MAX_LINE: usize = 4_000;

/// Escapes `text` and cuts it to `max` characters, with `…` as the last one if something was cut. An escape is that of a
/// Rust string, such as `\n` or `\u{1b}`.
///
/// ```
/// # use pktconn_tools::printable::printable;
/// assert_eq!(printable("a\u{1b}[2J\n", 80), "a\\u{1b}[2J\\n");
/// assert_eq!(printable("a long name", 5), "a lo…");
/// ```
pub fn printable(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max && text.chars().all(is_printable) {
        return text.into();
    }
    let mut shown = String::new();
    // The length that leaves room for the cut, and the number of characters so far.
    let (mut fitting_len, mut count) = (0, 0);
    for symbol in text.chars() {
        match is_printable(symbol) {
            true => shown.push(symbol),
            false => shown.extend(symbol.escape_default()),
        }
        count += if is_printable(symbol) { 1 } else { symbol.escape_default().len() };
        if count > max {
            shown.truncate(fitting_len);
            shown.extend((max > 0).then_some('…'));
            break;
        }
        if count < max {
            fitting_len = shown.len();
        }
    }
    shown.into()
}

/// [`printable`] with at most [`MAX_NAME`] characters.
pub fn name(text: &str) -> Cow<'_, str> {
    printable(text, MAX_NAME)
}

/// [`printable`] with at most [`MAX_LINE`] characters.
pub fn line(text: &str) -> Cow<'_, str> {
    printable(text, MAX_LINE)
}

/// Prints `error: PROBLEM` as one line on standard error.
pub fn print_error(problem: impl Display) {
    eprintln!("error: {}", line(&problem.to_string()));
}

/// Prints `warning: PROBLEM` as one line on standard error.
pub fn print_warning(problem: impl Display) {
    eprintln!("warning: {}", line(&problem.to_string()));
}

/// Whether a character is safe in a line: not a control character, not invisible, and without an effect on the
/// direction of the text around it.
pub fn is_printable(symbol: char) -> bool {
    let is_hidden = matches!(symbol,
        // Soft hyphen, combining grapheme joiner, Arabic letter mark, fillers, Mongolian vowel separator.
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}' | '\u{3164}'
        // Zero-width characters, marks of direction, separators of lines and paragraphs.
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        // Shorthand and music controls, tags.
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}');
    // C0, DEL and C1.
    !symbol.is_control() && !is_hidden
}

/// The character itself, or `\u{fffd}` in place of one that is not [printable](is_printable): for cells of a table, in which
/// an escape has no room.
pub fn visible(symbol: char) -> char {
    if is_printable(symbol) { symbol } else { char::REPLACEMENT_CHARACTER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_is_unchanged_and_not_copied() {
        for text in ["", "127.0.0.1:14572", "größe €", "日本語 e\u{301}", "C:\\path 'x' \"y\"", "\u{fffd}"]
        {
            assert!(matches!(printable(text, 100), Cow::Borrowed(shown) if shown == text), "{text}");
        }
    }

    #[test]
    fn characters_that_control_a_terminal_or_hide_text_become_visible() {
        for (text, shown) in [
            ("a\u{1b}]0;title\u{7}b", "a\\u{1b}]0;title\\u{7}b"),
            ("one\ntwo\r\tthree\0", "one\\ntwo\\r\\tthree\\u{0}"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("gnp.\u{202e}exe", "gnp.\\u{202e}exe"),
            ("a\u{2066}b\u{2069}\u{200f}", "a\\u{2066}b\\u{2069}\\u{200f}"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
        ] {
            assert_eq!(printable(text, 100), shown);
        }
    }

    #[test]
    fn long_text_is_cut_to_the_limit_and_an_escape_is_never_split() {
        for max in 0..12 {
            for text in ["0123456789", "01\u{1b}23456", "\n\n\n\n\n\n\n", "äöüäöüäöüäöü"] {
                let shown = printable(text, max);
                let len = shown.chars().count();
                assert!(len <= max, "{text:?} {max}: {shown}");
                assert!(
                    len == 0 || !shown.ends_with(['\\', '{', 'u', '}']) || shown.ends_with("1b}"),
                    "{shown}"
                );
            }
        }
        assert_eq!(printable("0123456789", 10), "0123456789");
        assert_eq!(printable("0123456789", 9), "01234567…");
        assert_eq!(printable("0\u{1b}9", 5), "0…");
        assert_eq!(name(&"x".repeat(1 << 20)).chars().count(), MAX_NAME);
    }
}
