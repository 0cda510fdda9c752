//! The text of the name in a certificate, such as `CN=device-7,O=Example` (RFC 4514).
//!
//! The text has one line and no characters that change how a terminal shows it, so it can be logged. The owner
//! of the certificate has chosen it.

use std::fmt::Write;

/// An attribute of a name.
pub(super) struct Attribute {
    /// Its type, such as `2.5.4.3`.
    pub(super) oid: String,
    pub(super) value: Value,
}

pub(super) enum Value {
    Text(String),
    /// A value that is no text, in DER.
    Der(Vec<u8>),
}

/// The text of a name. `parts` are in the order of the certificate; the text has the reverse order. Most parts have
/// one attribute.
pub(super) fn rfc4514(parts: &[Vec<Attribute>]) -> String {
    let part_text = |part: &Vec<Attribute>| part.iter().map(attribute_text).collect::<Vec<_>>().join("+");
    parts.iter().rev().map(part_text).collect::<Vec<_>>().join(",")
}

fn attribute_text(attribute: &Attribute) -> String {
    let key = short_name(&attribute.oid).unwrap_or(&attribute.oid);
    match &attribute.value {
        Value::Text(text) => format!("{key}={}", escaped(text)),
        Value::Der(der) => der.iter().fold(format!("{key}=#"), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

/// The names of RFC 4514 (section 3), and of types that are common in certificates of devices and people, with the
/// names that OpenSSL gives them.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (number, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', character]),
            '#' if number == 0 => text.push_str("\\#"),
            ' ' if number == 0 || number == last => text.push_str("\\ "),
            _ if changes_display(character) => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
            _ => text.push(character),
        }
    }
    text
}

/// Control characters, line and paragraph separators, invisible characters, and those that reverse the direction of
/// the text after them.
fn changes_display(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(character, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(oid: &str, value: &str) -> Attribute {
        Attribute { oid: oid.to_owned(), value: Value::Text(value.to_owned()) }
    }

    /// The examples of RFC 4514, section 4.
    #[test]
    fn the_examples_of_the_standard() {
        let dc = "0.9.2342.19200300.100.1.25";
        let net = || [vec![text(dc, "net")], vec![text(dc, "example")]];
        let with = |part: Vec<Attribute>| rfc4514(&net().into_iter().chain([part]).collect::<Vec<_>>());
        assert_eq!(with(vec![text("0.9.2342.19200300.100.1.1", "jsmith")]), "UID=jsmith,DC=example,DC=net");
        assert_eq!(
            with(vec![text("2.5.4.11", "Sales"), text("2.5.4.3", "J.  Smith")]),
            "OU=Sales+CN=J.  Smith,DC=example,DC=net"
        );
        assert_eq!(
            with(vec![text("2.5.4.3", "James \"Jim\" Smith, III")]),
            "CN=James \\\"Jim\\\" Smith\\, III,DC=example,DC=net"
        );
        assert_eq!(with(vec![text("2.5.4.3", "Before\rAfter")]), "CN=Before\\0DAfter,DC=example,DC=net");
        let bytes =
            Attribute { oid: "1.3.6.1.4.1.1466.0".to_owned(), value: Value::Der(vec![4, 2, 0x48, 0x69]) };
        assert_eq!(rfc4514(&[vec![bytes]]), "1.3.6.1.4.1.1466.0=#04024869");
        assert_eq!(rfc4514(&[vec![text("2.5.4.3", "Lučić")]]), "CN=Lučić");
        assert_eq!(rfc4514(&[]), "");
    }

    #[test]
    fn nothing_in_a_name_can_end_the_line_or_control_a_terminal() {
        for (value, expected) in [
            ("a\nb\0c", "a\\0Ab\\00c"),
            ("\u{1b}[2J", "\\1B[2J"),
            ("\u{9b}2J", "\\C2\\9B2J"),
            ("x\u{202e}gpj", "x\\E2\\80\\AEgpj"),
            (" a ", "\\ a\\ "),
            (" ", "\\ "),
            ("##", "\\##"),
            ("a,O=other", "a\\,O=other"),
            ("a+b;c<d>\\", "a\\+b\\;c\\<d\\>\\\\"),
        ] {
            assert_eq!(escaped(value), expected, "{value:?}");
        }
    }
}
