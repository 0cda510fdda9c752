//! The options of a Unix socket's address, such as `mode=0660&group=www-data`: parsing, and nothing else.

/// What to write, in every error message.
const EXAMPLE: &str = "mode=0660, owner=NAME and group=NAME, joined by &";

/// What to do with the socket file before the socket listens. `None` leaves a property as the system chose it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(unix), allow(dead_code, reason = "keeps matches the same on every system"))]
pub(crate) struct UnixOptions<'a> {
    /// Permission bits, at most `0o777`.
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<Account<'a>>,
    pub(crate) group: Option<Account<'a>>,
}

/// A user or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(unix), allow(dead_code, reason = "keeps matches the same on every system"))]
pub(crate) enum Account<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> UnixOptions<'a> {
    /// Parses the text after the question mark. An empty text has no options. The error says what is wrong.
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        let mut options = Self::default();
        if text.is_empty() {
            return Ok(options);
        }
        for option in text.split('&') {
            let Some((name, value)) = option.split_once('=') else {
                return Err(format!("{option:?} is not an option; the options are {EXAMPLE}"));
            };
            let is_repeated = match name {
                "mode" => options.mode.replace(parse_mode(value)?).is_some(),
                "owner" => options.owner.replace(parse_account(name, value)?).is_some(),
                "group" => options.group.replace(parse_account(name, value)?).is_some(),
                _ => return Err(format!("{name:?} is not an option; the options are {EXAMPLE}")),
            };
            if is_repeated {
                return Err(format!("the option {name} is there twice"));
            }
        }
        Ok(options)
    }
}

/// Three octal digits, with or without a zero before them. The bits for set-user-ID, set-group-ID and sticky mean
/// nothing for a socket.
fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = if text.len() == 4 { text.strip_prefix('0').unwrap_or_default() } else { text };
    if digits.len() == 3 && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
        if let Ok(mode) = u32::from_str_radix(digits, 8) {
            return Ok(mode);
        }
    }
    Err(format!("mode {text:?} is not an octal number from 0000 to 0777, such as 0660"))
}

/// The number of a user or group, or its name.
fn parse_account<'a>(option: &str, text: &'a str) -> Result<Account<'a>, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            // For the system, the highest number means "unchanged".
            Ok(id) if id < u32::MAX => Ok(Account::Id(id)),
            _ => Err(format!("{option} {text} is too large: the maximum is {}", u32::MAX - 1)),
        };
    }
    // The characters that POSIX allows in names, and the dollar sign of machine accounts.
    let is_name_char = |byte: u8| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte);
    if text.is_empty() || text.starts_with('-') || !text.bytes().all(is_name_char) {
        return Err(format!("{option} {text:?} is neither a name nor a number"));
    }
    Ok(Account::Name(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_option_is_parsed() {
        let none = UnixOptions::default();
        for (text, expected) in [
            ("", none),
            ("mode=0660", UnixOptions { mode: Some(0o660), ..none }),
            ("mode=777", UnixOptions { mode: Some(0o777), ..none }),
            ("mode=0000", UnixOptions { mode: Some(0), ..none }),
            ("group=www-data", UnixOptions { group: Some(Account::Name("www-data")), ..none }),
            (
                "owner=0&group=4294967294&mode=600",
                UnixOptions {
                    mode: Some(0o600),
                    owner: Some(Account::Id(0)),
                    group: Some(Account::Id(u32::MAX - 1)),
                },
            ),
            ("owner=host1$", UnixOptions { owner: Some(Account::Name("host1$")), ..none }),
        ] {
            assert_eq!(UnixOptions::parse(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_wrong() {
        for (text, part) in [
            ("mode", "\"mode\" is not an option; the options are mode=0660, owner=NAME"),
            ("Mode=0660", "\"Mode\" is not an option"),
            ("mode=0660&", "\"\" is not an option"),
            ("&mode=0660", "\"\" is not an option"),
            ("mode=0660&mode=0660", "the option mode is there twice"),
            ("owner=1&owner=2", "the option owner is there twice"),
            ("mode=", "mode \"\" is not an octal number"),
            ("mode=66", "not an octal number"),
            ("mode=1660", "not an octal number"),
            ("mode=00660", "not an octal number"),
            ("mode=0o660", "not an octal number"),
            ("mode=+660", "not an octal number"),
            ("mode=0888", "not an octal number"),
            ("mode=rw-", "not an octal number"),
            ("mode=0660;group=www", "not an octal number"),
            ("group=", "group \"\" is neither a name nor a number"),
            ("group=-1", "neither a name nor a number"),
            ("group=a b", "neither a name nor a number"),
            ("group=a:b", "neither a name nor a number"),
            ("owner=4294967295", "the maximum is 4294967294"),
            ("owner=99999999999", "the maximum is 4294967294"),
            ("backlog=4", "\"backlog\" is not an option"),
        ] {
            let problem = UnixOptions::parse(text).expect_err(text);
            assert!(problem.contains(part), "{text:?}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(mode|owner|group|[a-z])?=?[0-9a-z&=]{0,8}|.{0,12}") {
            if let Ok(options) = UnixOptions::parse(&text) {
                prop_assert!(options.mode.is_none_or(|mode| mode <= 0o777));
                prop_assert!(text.is_empty() || options != UnixOptions::default());
            }
        }
    }
}
