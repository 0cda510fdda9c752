//! Writes a value as one line of JSON.

use std::fmt::Write;

use pktconn_tools::printable::is_printable;
use serde::Serialize;

/// The JSON of `value`, without a line break. Characters that could control a terminal or hide text are escaped, as JSON
/// may be printed on one.
pub(crate) fn to_line(value: &impl Serialize) -> String {
    let line = serde_json::to_string(value).expect("the keys of all maps are strings");
    if line.chars().all(is_printable) {
        return line;
    }
    // Only strings contain such characters.
    let mut escaped = String::with_capacity(line.len() * 2);
    for symbol in line.chars() {
        match is_printable(symbol) {
            true => escaped.push(symbol),
            false => {
                for unit in symbol.encode_utf16(&mut [0; 2]) {
                    // Writing to a string does not fail.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_characters_for_a_terminal_and_the_same_value() {
        let text = "\u{1b}[31m\u{9b}\u{202e}\n\u{7f}\u{e0041} größe";
        let line = to_line(&[text]);
        assert_eq!(line, r#"["\u001b[31m\u009b\u202e\n\u007f\udb40\udc41 größe"]"#);
        assert_eq!(serde_json::from_str::<Vec<String>>(&line).unwrap(), [text]);
    }
}
