//! Parses and checks an [`Addr`] when it is used: an IP address, a host name with its port, or a path.
//!
//! Any text converts into an `Addr`. This module refuses the addresses that can never work before any I/O: a
//! reconnecting client would otherwise try them forever.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::Error;
use crate::error::Reason;
use crate::transport::addr::{Addr, AddrKind, write_unix};
use crate::transport::unix_options::UnixOptions;

/// The port that error messages suggest if the address has none.
const EXAMPLE_PORT: &str = "14572";

/// Whether an address is used to connect or to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Connect,
    Listen,
}

/// An address that passed all checks that need no I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParsedAddr<'a> {
    Socket(SocketAddr),
    Name {
        host: &'a str,
        port: u16,
    },
    #[cfg_attr(not(unix), allow(dead_code, reason = "keeps matches the same on every system"))]
    Unix {
        path: &'a Path,
        /// Empty when connecting.
        options: UnixOptions<'a>,
    },
}

/// In the form that users write.
impl fmt::Display for ParsedAddr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(addr) => addr.fmt(f),
            Self::Name { host, port } if is_ipv6(host) => write!(f, "[{host}]:{port}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path, .. } => write_unix(f, path, ""),
        }
    }
}

impl Addr {
    /// Checks without I/O that it is possible to connect to the address, as connecting does before its I/O.
    ///
    /// Use it to refuse a value of a configuration file early. Host names are not resolved.
    ///
    /// # Errors
    ///
    /// [`is_config`](Error::is_config): the address can never work, for example because it has no port.
    pub fn check_connect(&self) -> Result<(), Error> {
        Ok(self.parse_for(Purpose::Connect).map(|_| ())?)
    }

    /// Checks without I/O that it is possible to listen on the address, as listening does before its I/O.
    ///
    /// Use it to refuse a value of a configuration file early. Host names and names of users and groups are not
    /// resolved.
    ///
    /// # Errors
    ///
    /// [`is_config`](Error::is_config): the address can never work, for example because it has no port, or an option of
    /// a Unix socket is unknown.
    pub fn check_listen(&self) -> Result<(), Error> {
        Ok(self.parse_for(Purpose::Listen).map(|_| ())?)
    }

    /// Parses the address. Fails with [`Reason::BadValue`] if it can never work for `purpose`.
    pub(crate) fn parse_for(&self, purpose: Purpose) -> Result<ParsedAddr<'_>, Reason> {
        let target = match self.kind() {
            AddrKind::Socket(addr) => {
                check_port(addr.port(), purpose, self).map(|()| ParsedAddr::Socket(*addr))
            }
            AddrKind::Name(text) => host_and_port(text, purpose).and_then(|(host, port)| {
                check_port(port, purpose, self).map(|()| ParsedAddr::Name { host, port })
            }),
            AddrKind::Unix { path, options } => check_path(path, purpose).and_then(|()| {
                unix_options(options, purpose, self).map(|options| ParsedAddr::Unix { path, options })
            }),
        };
        target.map_err(|problem| Reason::BadValue(problem.into()))
    }
}

fn unix_options<'a>(text: &'a str, purpose: Purpose, addr: &Addr) -> Result<UnixOptions<'a>, String> {
    let options = UnixOptions::parse(text).map_err(|problem| {
        format!("{addr} has a wrong option: {problem}; if the path contains the question mark, write {addr}?")
    })?;
    if purpose == Purpose::Connect && options != UnixOptions::default() {
        return Err(format!(
            "cannot connect to {addr}: the options after the question mark are only for listening; write {}",
            addr.unix_path().map(Addr::unix).unwrap_or_else(|| addr.clone())
        ));
    }
    Ok(options)
}

fn check_port(port: u16, purpose: Purpose, addr: &Addr) -> Result<(), String> {
    match (purpose, port) {
        (Purpose::Connect, 0) => Err(format!(
            "cannot connect to {addr}: port 0 is only for listening; write the port that the server listens on"
        )),
        _ => Ok(()),
    }
}

/// Splits `HOST:PORT`. The host is a name, an IPv4 address, or an IPv6 address in brackets or with a zone.
fn host_and_port(text: &str, purpose: Purpose) -> Result<(&str, u16), String> {
    if text.is_empty() {
        return Err(format!("the address is empty: write HOST:PORT, such as localhost:{EXAMPLE_PORT}"));
    }
    if text.contains("://") {
        return Err(format!("{text:?} is a URL: write HOST:PORT, such as localhost:{EXAMPLE_PORT}"));
    }
    if text.contains('/') && !text.contains(':') {
        return Err(format!("{text:?} has no port: write unix:{text} if it is the path of a Unix socket"));
    }
    if is_ipv6(text) {
        let mut problem =
            format!("{text:?} is an IPv6 address without a port: write [{text}]:{EXAMPLE_PORT}");
        if let Some((ip, port)) = text.rsplit_once(':') {
            if is_ipv6(ip) && port.parse::<u16>().is_ok() {
                problem += &format!(", or [{ip}]:{port} if {port} is the port");
            }
        }
        return Err(problem);
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => split_brackets(text, rest)?,
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, port),
            None if text.parse::<u16>().is_ok() => return Err(no_host(text, text, purpose)),
            None => (text, ""),
        },
    };
    if host.is_empty() {
        return Err(no_host(text, port, purpose));
    }
    // `split_brackets` has removed the brackets.
    let shown = if is_ipv6(host) { format!("[{host}]") } else { host.to_owned() };
    if !is_ipv6(host) && !can_be_resolved(host) {
        return Err(format!(
            "{text:?} has no host that can be resolved: {host:?} is not a valid host name; write HOST:PORT, such as localhost:{EXAMPLE_PORT}"
        ));
    }
    match port.parse() {
        Ok(port) => Ok((host, port)),
        Err(_) if port.is_empty() => Err(format!("{text:?} has no port: write {shown}:{EXAMPLE_PORT}")),
        Err(_) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("{text:?} has port {port}, but the maximum is 65535: write {shown}:{EXAMPLE_PORT}"))
        }
        Err(_) => {
            Err(format!("{text:?} has port {port:?}, which is not a number: write {shown}:{EXAMPLE_PORT}"))
        }
    }
}

/// Whether `host` is a valid host name or IPv4 address.
fn can_be_resolved(host: &str) -> bool {
    // A name may end with the dot of the DNS root.
    let host = host.strip_suffix('.').unwrap_or(host);
    let labels: Vec<_> = host.split('.').collect();
    // RFC 952 and 1123. The underscore is not in them, but some systems use it.
    let is_host_char = |c: char| {
        if c.is_ascii() {
            c.is_ascii_alphanumeric() || "-_".contains(c)
        } else {
            !c.is_whitespace() && !c.is_control()
        }
    };
    // RFC 1035, 2.3.4. The length of a name with non-ASCII letters depends on its encoding: the resolver checks it.
    let is_too_long = host.is_ascii() && (host.len() > 253 || labels.iter().any(|label| label.len() > 63));
    labels.iter().all(|label| !label.is_empty() && label.chars().all(is_host_char))
        && !is_too_long
        && !is_bad_ipv4(&labels)
}

/// Whether the labels look like an IPv4 address, but are too many or too large. No top-level domain is a number, so
/// such a name cannot be a host name. A label with a leading zero is octal: the resolver checks it.
fn is_bad_ipv4(labels: &[&str]) -> bool {
    let are_numbers = labels.iter().all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    let is_large = |label: &&str| !label.starts_with('0') && label.parse::<u8>().is_err();
    are_numbers && (labels.len() > 4 || labels.len() == 4 && labels.iter().any(is_large))
}

/// Splits `[HOST]:PORT`. `rest` is the text after the opening bracket.
fn split_brackets<'a>(text: &str, rest: &'a str) -> Result<(&'a str, &'a str), String> {
    let Some((ip, after)) = rest.split_once(']').filter(|(ip, _)| is_ipv6(ip)) else {
        return Err(format!(
            "{text:?} has no IPv6 address in its brackets: write it as in [::1]:{EXAMPLE_PORT}, or a name or IPv4 address without brackets"
        ));
    };
    match after.strip_prefix(':') {
        Some(port) => Ok((ip, port)),
        None if after.is_empty() => Ok((ip, "")),
        None => Err(format!("{text:?} has no colon before its port: write [{ip}]:{EXAMPLE_PORT}")),
    }
}

fn no_host(text: &str, port: &str, purpose: Purpose) -> String {
    let port = if port.parse::<u16>().is_ok() { port } else { EXAMPLE_PORT };
    match purpose {
        Purpose::Connect => format!("{text:?} has no host: write localhost:{port}"),
        Purpose::Listen => {
            format!(
                "{text:?} has no host: write 0.0.0.0:{port} to listen on all IPv4 addresses, or [::]:{port}"
            )
        }
    }
}

/// Whether `text` is an IPv6 address, with or without a zone: `fe80::1%eth0`.
fn is_ipv6(text: &str) -> bool {
    let ip = match text.split_once('%') {
        Some((ip, zone))
            if !zone.is_empty() && zone.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') =>
        {
            ip
        }
        Some(_) => return false,
        None => text,
    };
    ip.parse::<Ipv6Addr>().is_ok()
}

#[cfg(unix)]
fn check_path(path: &Path, purpose: Purpose) -> Result<(), String> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;

    // The size of `sun_path` without the NUL at its end.
    const MAX_LEN: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };
    let bytes = path.as_os_str().as_bytes();
    // An abstract name, on Linux only: it is not a file, and no NUL ends it.
    let name = bytes.strip_prefix(b"\0").filter(|_| cfg!(any(target_os = "linux", target_os = "android")));
    let len = name.map_or(bytes.len(), <[u8]>::len);
    if bytes.is_empty() {
        return Err("a Unix socket needs a path: write unix:/run/app.sock".to_owned());
    }
    if name.is_some() && purpose == Purpose::Listen {
        return Err(format!(
            "cannot listen at the abstract name {path:?}: bind a UnixListener and pass it to PacketServer::from_listener"
        ));
    }
    if name.is_none() && bytes.contains(&0) {
        return Err(format!("the path of the Unix socket contains a NUL: {path:?}"));
    }
    // The length is checked here for the message; `from_pathname` refuses what else the system does not accept.
    if len > MAX_LEN || name.is_none() && SocketAddr::from_pathname(path).is_err() {
        return Err(format!(
            "the path of the Unix socket has {len} bytes, but the maximum is {MAX_LEN}: use a shorter path than {}",
            path.display()
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_path(path: &Path, _: Purpose) -> Result<(), String> {
    Err(format!(
        "Unix sockets are not supported on this system: write HOST:PORT instead of unix:{}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use proptest::prelude::*;

    fn problem(addr: &Addr, purpose: Purpose) -> String {
        let error = crate::Error::from(addr.parse_for(purpose).unwrap_err());
        assert!(error.is_config(), "{error:?}");
        error.to_string()
    }

    #[test]
    fn a_name_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("localhost:80", "localhost", 80),
            ("a_b.example:65535", "a_b.example", 65_535),
            ("fe80::1%eth0:80", "fe80::1%eth0", 80),
            ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
            ("1.2.3:80", "1.2.3", 80),
            ("0177.0.0.01:80", "0177.0.0.01", 80),
            ("b\u{fc}cher.example.:80", "b\u{fc}cher.example.", 80),
        ] {
            let addr = Addr::from(text);
            for purpose in [Purpose::Connect, Purpose::Listen] {
                assert_eq!(addr.parse_for(purpose).unwrap(), ParsedAddr::Name { host, port }, "{text}");
            }
        }
    }

    #[test]
    fn a_name_may_be_as_long_as_dns_allows() {
        let name = |labels: usize, last: usize| format!("{}{}", "abcdefg.".repeat(labels), "a".repeat(last));
        for (host, fits) in [
            (name(0, 63), true),
            (name(0, 64), false),
            (name(31, 5), true),
            (name(31, 5) + ".", true),
            (name(31, 6), false),
            (name(31, 6) + ".", false),
        ] {
            let addr = Addr::from((&*host, 80));
            assert_eq!(addr.parse_for(Purpose::Connect).is_ok(), fits, "{} bytes: {host}", host.len());
        }
    }

    #[test]
    fn the_message_says_what_is_wrong_and_what_to_write() {
        for (text, message) in [
            ("localhost", r#""localhost" has no port: write localhost:14572"#),
            (
                "fe80::1%eth0",
                r#""fe80::1%eth0" is an IPv6 address without a port: write [fe80::1%eth0]:14572"#,
            ),
            (
                "::1:80",
                r#""::1:80" is an IPv6 address without a port: write [::1:80]:14572, or [::1]:80 if 80 is the port"#,
            ),
            (
                "localhost:70000",
                r#""localhost:70000" has port 70000, but the maximum is 65535: write localhost:14572"#,
            ),
            (
                "localhost:http",
                r#""localhost:http" has port "http", which is not a number: write localhost:14572"#,
            ),
            (":80", r#"":80" has no host: write localhost:80"#),
            ("80", r#""80" has no host: write localhost:80"#),
            (
                "127.0.0.1:0",
                "cannot connect to 127.0.0.1:0: port 0 is only for listening; write the port that the server listens on",
            ),
        ] {
            assert_eq!(problem(&text.into(), Purpose::Connect), message);
        }
        let listening = problem(&":80".into(), Purpose::Listen);
        assert_eq!(
            listening,
            r#"":80" has no host: write 0.0.0.0:80 to listen on all IPv4 addresses, or [::]:80"#
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_path_may_be_as_long_as_the_system_allows() {
        for (len, fits) in [(1, true), (107, true), (108, false), (200, false)] {
            let addr = Addr::unix("a".repeat(len));
            let name = Addr::unix(format!("\0{}", "a".repeat(len)));
            assert_eq!(addr.parse_for(Purpose::Listen).is_ok(), fits, "{len}");
            assert_eq!(addr.parse_for(Purpose::Connect).is_ok(), fits, "{len}");
            assert_eq!(name.parse_for(Purpose::Connect).is_ok(), fits, "{len}");
        }
        assert!(
            problem(&Addr::unix("a".repeat(108)), Purpose::Connect)
                .contains("108 bytes, but the maximum is 107")
        );
    }

    proptest! {
        /// No text makes the parser panic. A name that it accepts has a host and a port.
        #[test]
        fn any_text_has_a_host_and_a_port_or_is_refused(text in "[a-z0-9:.%/\\[\\] \u{e9}]{0,12}|.{0,12}") {
            for purpose in [Purpose::Connect, Purpose::Listen] {
                match Addr::from(&text).parse_for(purpose) {
                    Ok(ParsedAddr::Name { host, port }) => {
                        prop_assert!(!host.is_empty() && (port > 0 || purpose == Purpose::Listen));
                        prop_assert!(host.parse::<IpAddr>().is_err() || text.contains('['), "{text:?} is a SocketAddr");
                    }
                    Ok(_) => {}
                    Err(Reason::BadValue(problem)) => prop_assert!(!problem.is_empty()),
                    Err(reason) => prop_assert!(false, "{reason:?}"),
                }
            }
        }
    }
}
