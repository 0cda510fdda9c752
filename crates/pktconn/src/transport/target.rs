//! What an address asks for, checked: an IP address, a host and its port, or a path.
//!
//! An [`Addr`] is made of any text, and never fails. What can never work is found here, where an address is used, and before
//! anything is tried: a client would try it again for ever.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::error::Reason;
use crate::transport::addr::{Addr, Kind};

/// For messages, where nothing was written that a port could be taken from.
const SOME_PORT: &str = "14572";

/// What an address is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Connect,
    Listen,
}

/// An address that may work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Socket(SocketAddr),
    Name {
        host: &'a str,
        port: u16,
    },
    #[cfg_attr(not(unix), allow(dead_code, reason = "a match is the same on every system"))]
    Unix(&'a Path),
}

/// As it is written.
impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(addr) => addr.fmt(f),
            Self::Name { host, port } if is_ipv6(host) => write!(f, "[{host}]:{port}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Addr {
    /// What it asks for, or [`Reason::BadValue`] where it can never work.
    pub(crate) fn target(&self, role: Use) -> Result<Target<'_>, Reason> {
        let target = match self.kind() {
            Kind::Socket(addr) => check_port(addr.port(), role, self).map(|()| Target::Socket(*addr)),
            Kind::Name(text) => host_and_port(text, role)
                .and_then(|(host, port)| check_port(port, role, self).map(|()| Target::Name { host, port })),
            Kind::Unix(path) => check_path(path, role).map(|()| Target::Unix(path)),
        };
        target.map_err(|problem| Reason::BadValue(problem.into()))
    }
}

fn check_port(port: u16, role: Use, addr: &Addr) -> Result<(), String> {
    match (role, port) {
        (Use::Connect, 0) => Err(format!(
            "cannot connect to {addr}: port 0 is for listening alone; write the port that the server listens on"
        )),
        _ => Ok(()),
    }
}

/// The parts of `HOST:PORT`, where the host is a name, an IPv4 address, or an IPv6 address, in brackets or with a zone.
fn host_and_port(text: &str, role: Use) -> Result<(&str, u16), String> {
    if text.is_empty() {
        return Err(format!("the address is empty: write HOST:PORT, such as localhost:{SOME_PORT}"));
    }
    if text.contains("://") {
        return Err(format!("{text:?} is a URL: write HOST:PORT, such as localhost:{SOME_PORT}"));
    }
    if text.contains('/') && !text.contains(':') {
        return Err(format!("{text:?} has no port: write unix:{text} if it is the path of a Unix socket"));
    }
    if is_ipv6(text) {
        let mut problem = format!("{text:?} is an IPv6 address without a port: write [{text}]:{SOME_PORT}");
        if let Some((ip, port)) = text.rsplit_once(':') {
            if is_ipv6(ip) && port.parse::<u16>().is_ok() {
                problem += &format!(", or [{ip}]:{port} if {port} is the port");
            }
        }
        return Err(problem);
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => in_brackets(text, rest)?,
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, port),
            None if text.parse::<u16>().is_ok() => return Err(no_host(text, text, role)),
            None => (text, ""),
        },
    };
    if host.is_empty() {
        return Err(no_host(text, port, role));
    }
    // It may have lost its brackets.
    let shown = if is_ipv6(host) { format!("[{host}]") } else { host.to_owned() };
    if !is_ipv6(host) && !can_be_resolved(host) {
        return Err(format!(
            "{text:?} has no host that can be resolved: {host:?} is no host name; write HOST:PORT, such as localhost:{SOME_PORT}"
        ));
    }
    match port.parse() {
        Ok(port) => Ok((host, port)),
        Err(_) if port.is_empty() => Err(format!("{text:?} has no port: write {shown}:{SOME_PORT}")),
        Err(_) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("{text:?} has port {port}, and a port is at most 65535: write {shown}:{SOME_PORT}"))
        }
        Err(_) => Err(format!("{text:?} has port {port:?}, which is no number: write {shown}:{SOME_PORT}")),
    }
}

/// Whether there can be a host of that name, or an IPv4 address that is written so.
fn can_be_resolved(host: &str) -> bool {
    // The root, which a name may end with, is no host itself.
    let host = host.strip_suffix('.').unwrap_or(host);
    let labels: Vec<_> = host.split('.').collect();
    // RFC 1123 and 952, and the underscore, which some systems have in the names of theirs.
    let is_of_host = |c: char| {
        if c.is_ascii() {
            c.is_ascii_alphanumeric() || "-_".contains(c)
        } else {
            !c.is_whitespace() && !c.is_control()
        }
    };
    // RFC 1035, 2.3.4; how long a name of other letters is, the resolver says.
    let is_too_long = host.is_ascii() && (host.len() > 253 || labels.iter().any(|label| label.len() > 63));
    labels.iter().all(|label| !label.is_empty() && label.chars().all(is_of_host))
        && !is_too_long
        && !is_bad_ipv4(&labels)
}

/// Whether they are numbers, as of an IPv4 address, but too many or too large. No top-level domain is a number. One with a
/// leading zero is octal.
fn is_bad_ipv4(labels: &[&str]) -> bool {
    let are_numbers = labels.iter().all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    let is_large = |label: &&str| !label.starts_with('0') && label.parse::<u8>().is_err();
    are_numbers && (labels.len() > 4 || labels.len() == 4 && labels.iter().any(is_large))
}

/// The parts of `[HOST]:PORT`, of which `rest` is what comes behind the first bracket.
fn in_brackets<'a>(text: &str, rest: &'a str) -> Result<(&'a str, &'a str), String> {
    let Some((ip, behind)) = rest.split_once(']').filter(|(ip, _)| is_ipv6(ip)) else {
        return Err(format!(
            "{text:?} has no IPv6 address in brackets: write it as in [::1]:{SOME_PORT}, and a name or an IPv4 address without"
        ));
    };
    match behind.strip_prefix(':') {
        Some(port) => Ok((ip, port)),
        None if behind.is_empty() => Ok((ip, "")),
        None => Err(format!("{text:?} has no colon in front of its port: write [{ip}]:{SOME_PORT}")),
    }
}

fn no_host(text: &str, port: &str, role: Use) -> String {
    let port = if port.parse::<u16>().is_ok() { port } else { SOME_PORT };
    match role {
        Use::Connect => format!("{text:?} has no host: write localhost:{port}"),
        Use::Listen => {
            format!(
                "{text:?} has no host: write 0.0.0.0:{port} to listen on all IPv4 addresses, or [::]:{port}"
            )
        }
    }
}

/// Whether it is an IPv6 address, also one with a zone: `fe80::1%eth0`.
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
fn check_path(path: &Path, role: Use) -> Result<(), String> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;

    // The size of `sun_path`, in which a NUL ends a path.
    const MAX_LEN: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };
    let bytes = path.as_os_str().as_bytes();
    // An abstract name, on Linux: it is no file, and no NUL ends it.
    let name = bytes.strip_prefix(b"\0").filter(|_| cfg!(any(target_os = "linux", target_os = "android")));
    let len = name.map_or(bytes.len(), <[u8]>::len);
    if bytes.is_empty() {
        return Err("a Unix socket needs a path: write unix:/run/app.sock".to_owned());
    }
    if name.is_some() && role == Use::Listen {
        return Err(format!(
            "cannot listen at the abstract name {path:?}: bind a UnixListener, and make the server with from_listener"
        ));
    }
    if name.is_none() && bytes.contains(&0) {
        return Err(format!("the path of a Unix socket has a NUL in it: {path:?}"));
    }
    // The length for the message, and the system for what else it refuses.
    if len > MAX_LEN || name.is_none() && SocketAddr::from_pathname(path).is_err() {
        return Err(format!(
            "the path of a Unix socket has {len} bytes, and at most {MAX_LEN} are possible: use a shorter one than {}",
            path.display()
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_path(path: &Path, _: Use) -> Result<(), String> {
    Err(format!(
        "there are no Unix sockets on this system: write HOST:PORT in the place of unix:{}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use proptest::prelude::*;

    fn problem(addr: &Addr, role: Use) -> String {
        let error = crate::Error::from(addr.target(role).unwrap_err());
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
            for role in [Use::Connect, Use::Listen] {
                assert_eq!(addr.target(role).unwrap(), Target::Name { host, port }, "{text}");
            }
        }
    }

    #[test]
    fn a_name_may_be_as_long_as_the_domain_name_system_has_them() {
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
            assert_eq!(addr.target(Use::Connect).is_ok(), fits, "{} bytes: {host}", host.len());
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
                r#""localhost:70000" has port 70000, and a port is at most 65535: write localhost:14572"#,
            ),
            (
                "localhost:http",
                r#""localhost:http" has port "http", which is no number: write localhost:14572"#,
            ),
            (":80", r#"":80" has no host: write localhost:80"#),
            ("80", r#""80" has no host: write localhost:80"#),
            (
                "127.0.0.1:0",
                "cannot connect to 127.0.0.1:0: port 0 is for listening alone; write the port that the server listens on",
            ),
        ] {
            assert_eq!(problem(&text.into(), Use::Connect), message);
        }
        let listening = problem(&":80".into(), Use::Listen);
        assert_eq!(
            listening,
            r#"":80" has no host: write 0.0.0.0:80 to listen on all IPv4 addresses, or [::]:80"#
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_path_may_be_as_long_as_the_system_takes() {
        for (len, fits) in [(1, true), (107, true), (108, false), (200, false)] {
            let addr = Addr::unix("a".repeat(len));
            let name = Addr::unix(format!("\0{}", "a".repeat(len)));
            assert_eq!(addr.target(Use::Listen).is_ok(), fits, "{len}");
            assert_eq!(addr.target(Use::Connect).is_ok(), fits, "{len}");
            assert_eq!(name.target(Use::Connect).is_ok(), fits, "{len}");
        }
        assert!(problem(&Addr::unix("a".repeat(108)), Use::Connect).contains("108 bytes, and at most 107"));
    }

    proptest! {
        /// No text makes it panic, and what it takes for a host and a port has both.
        #[test]
        fn any_text_has_a_host_and_a_port_or_is_refused(text in "[a-z0-9:.%/\\[\\] \u{e9}]{0,12}|.{0,12}") {
            for role in [Use::Connect, Use::Listen] {
                match Addr::from(&text).target(role) {
                    Ok(Target::Name { host, port }) => {
                        prop_assert!(!host.is_empty() && (port > 0 || role == Use::Listen));
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
