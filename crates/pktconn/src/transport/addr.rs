//! The address type of the public API, and name resolution. `parsed_addr` checks an address when it is used.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::lookup_host;

use crate::error::Reason;
use crate::error::failure::Operation;

/// The address of a server: a TCP address, or the path of a Unix socket.
///
/// | written as | meaning |
/// |---|---|
/// | `127.0.0.1:14572`, `[::1]:14572` | IP address and port; listening on port 0 selects a free port |
/// | `example.org:14572` | host name and port; the name is resolved each time the address is used |
/// | `unix:/run/app.sock` | path of a Unix socket |
/// | `unix:/run/app.sock?mode=0660&group=www` | the same to listen on, with the permissions and the group of its file |
///
/// # Unix sockets
///
/// | option, after the last `?` | the socket file has |
/// |---|---|
/// | `mode=0660` | these permissions, in octal. Connecting needs the right to write. Default: `0777` without the bits of the process's umask |
/// | `owner=NAME` | this owner: a number, or a name in `/etc/passwd`. Only root may give a file away. Default: the process's user |
/// | `group=NAME` | this group: a number, or a name in `/etc/group`. Default: the process's group, or that of the directory |
///
/// A server locks the file `PATH.lock` for as long as it listens. Only the server with the lock replaces or removes the
/// socket file, so of several servers that start at the same moment exactly one listens. The kernel releases the lock of
/// a server that was killed, and a lock file that it left is harmless. A server that cannot create or open the lock file
/// does not start. Programs that take no lock are safe, too: a socket file is stale only if connecting to it is refused
/// and, on Linux, `/proc/net/unix` does not list it. Where there is no such list, a file that no server with a lock left
/// must be 5 s old.
///
/// Options are set before the socket listens, so that nobody can connect without the right to. They are only for
/// listening: connecting refuses them. If a path contains a `?`, write another one at its end: `unix:/odd?name?` is the
/// path `/odd?name`. [`Addr::unix`] takes a path as it is.
///
/// # Names
///
/// If a name has several addresses, connecting races them as in RFC 8305 and uses the first one that answers. IPv6 and
/// IPv4 addresses alternate. The next attempt starts 250 ms after the previous one, or at once if that one fails.
///
/// Listening uses the first address that can be bound.
///
/// Strings, [`SocketAddr`]s, and pairs of host (name or IP address) and port convert into an `Addr`. The conversion
/// checks nothing. An address that can never work fails when it is used, before any I/O, with
/// [`is_config`](crate::Error::is_config).
///
/// ```
/// use pktconn::Addr;
///
/// let addr = Addr::from("127.0.0.1:14572");
/// assert_eq!(addr.socket_addr(), Some(([127, 0, 0, 1], 14572).into()));
/// assert_eq!(Addr::from("unix:/run/app.sock"), Addr::unix("/run/app.sock"));
/// assert_eq!(Addr::from(("::1", 80)).to_string(), "[::1]:80");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Addr(AddrKind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AddrKind {
    Socket(SocketAddr),
    /// `HOST:PORT`, or text that is no address at all.
    Name(String),
    Unix {
        path: PathBuf,
        /// As written. They are parsed when the address is used.
        options: String,
    },
}

impl Addr {
    /// The address of the Unix socket at `path`, without options.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(AddrKind::Unix { path: path.into(), options: String::new() })
    }

    /// The IP address and port. `None` for a name or a Unix socket.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.0 {
            AddrKind::Socket(addr) => Some(addr),
            AddrKind::Name(_) | AddrKind::Unix { .. } => None,
        }
    }

    /// The path of the Unix socket. `None` for a TCP address.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.0 {
            AddrKind::Unix { path, .. } => Some(path),
            AddrKind::Socket(_) | AddrKind::Name(_) => None,
        }
    }

    pub(crate) fn kind(&self) -> &AddrKind {
        &self.0
    }
}

/// Resolves `host`. Returns at least one address.
pub(crate) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Reason> {
    #[cfg(test)]
    if let Some(addrs) = fake_dns::addrs_of(host) {
        return Ok(addrs);
    }
    let failed = |error| Reason::io(Operation::Resolve, Some(host), error);
    let addrs: Vec<_> = lookup_host((host, port)).await.map_err(failed)?.collect();
    if addrs.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(addrs)
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AddrKind::Socket(addr) => addr.fmt(f),
            AddrKind::Name(name) => name.fmt(f),
            AddrKind::Unix { path, options } => write_unix(f, path, options),
        }
    }
}

/// Writes the address of a Unix socket so that it is parsed as the same address again.
pub(crate) fn write_unix(f: &mut fmt::Formatter<'_>, path: &Path, options: &str) -> fmt::Result {
    let path = path.display();
    let has_question_mark = path.to_string().contains('?');
    let mark = if has_question_mark || !options.is_empty() { "?" } else { "" };
    write!(f, "unix:{path}{mark}{options}")
}

impl From<&str> for Addr {
    fn from(text: &str) -> Self {
        if let Some(text) = text.strip_prefix("unix:") {
            // The last one, so that a path may contain others.
            let (path, options) = text.rsplit_once('?').unwrap_or((text, ""));
            return Self(AddrKind::Unix { path: path.into(), options: options.to_owned() });
        }
        text.parse().map_or_else(|_| Self(AddrKind::Name(text.to_owned())), |addr: SocketAddr| addr.into())
    }
}

impl From<String> for Addr {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&String> for Addr {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

/// Never fails. For parsers of command lines that require `FromStr`.
impl FromStr for Addr {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl From<&Self> for Addr {
    fn from(addr: &Self) -> Self {
        addr.clone()
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Self(AddrKind::Socket(addr))
    }
}

impl From<&SocketAddr> for Addr {
    fn from(addr: &SocketAddr) -> Self {
        (*addr).into()
    }
}

impl From<SocketAddrV4> for Addr {
    fn from(addr: SocketAddrV4) -> Self {
        SocketAddr::from(addr).into()
    }
}

impl From<SocketAddrV6> for Addr {
    fn from(addr: SocketAddrV6) -> Self {
        SocketAddr::from(addr).into()
    }
}

impl From<(IpAddr, u16)> for Addr {
    fn from(addr: (IpAddr, u16)) -> Self {
        SocketAddr::from(addr).into()
    }
}

impl From<(Ipv4Addr, u16)> for Addr {
    fn from(addr: (Ipv4Addr, u16)) -> Self {
        SocketAddr::from(addr).into()
    }
}

impl From<(Ipv6Addr, u16)> for Addr {
    fn from(addr: (Ipv6Addr, u16)) -> Self {
        SocketAddr::from(addr).into()
    }
}

/// A host name, or an IP address without brackets, and a port.
impl From<(&str, u16)> for Addr {
    fn from((host, port): (&str, u16)) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => (ip, port).into(),
            Err(_) => Self(AddrKind::Name(format!("{host}:{port}"))),
        }
    }
}

/// Host names for tests: no real resolver has names with the addresses that the tests need.
#[cfg(test)]
pub(crate) mod fake_dns {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::net::SocketAddr;

    thread_local! {
        static HOSTS: RefCell<HashMap<String, Vec<SocketAddr>>> = RefCell::default();
    }

    /// Makes `host` resolve to `addrs` on this thread.
    pub(crate) fn set(host: &str, addrs: &[SocketAddr]) {
        HOSTS.with_borrow_mut(|hosts| hosts.insert(host.to_owned(), addrs.to_vec()));
    }

    pub(super) fn addrs_of(host: &str) -> Option<Vec<SocketAddr>> {
        HOSTS.with_borrow(|hosts| hosts.get(host).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_displayed_as_it_was_written() {
        for text in [
            "127.0.0.1:1",
            "[2001:db8::1]:2",
            "localhost:3",
            "unix:/run/app.sock",
            "unix:rel ative",
            "unix:/run/app.sock?mode=0660&group=www",
            "unix:/odd?name?",
            "unix:/odd?name?mode=0600",
        ] {
            let addr = Addr::from(text);
            assert_eq!(addr.to_string(), text);
            assert_eq!(addr, text.parse().unwrap());
        }
    }

    proptest! {
        /// A path may contain what looks like options.
        #[test]
        fn the_text_of_a_unix_socket_gives_the_same_address_again(
            path in "[a/?&=]{0,6}|.{0,8}",
            options in "[a&=]{0,6}",
        ) {
            let addr = Addr::unix(&path);
            prop_assert_eq!(Addr::from(addr.to_string()), addr);
            let addr = Addr::from(format!("unix:{path}?{options}"));
            prop_assert_eq!(addr.unix_path(), Some(Path::new(&path)));
            prop_assert_eq!(Addr::from(addr.to_string()), addr);
        }
    }

    #[test]
    fn each_form_is_recognized() {
        let socket: SocketAddr = "[::1]:80".parse().unwrap();
        for addr in [Addr::from("[::1]:80"), ("::1", 80).into(), (Ipv6Addr::LOCALHOST, 80).into()] {
            assert_eq!((addr.socket_addr(), addr.unix_path()), (Some(socket), None));
        }
        let unix = Addr::from("unix:/a b");
        assert_eq!((unix.socket_addr(), unix.unix_path()), (None, Some(Path::new("/a b"))));
        let with_options = Addr::from("unix:/a b?mode=0660");
        assert_eq!(with_options.unix_path(), Some(Path::new("/a b")));
        assert_ne!(with_options, unix);
        assert_eq!(Addr::from("unix:/a?b?"), Addr::unix("/a?b"));
        assert_eq!(Addr::from("unix:/a?"), Addr::unix("/a"));
        for name in [Addr::from("localhost:80"), ("localhost", 80).into(), "nonsense".into()] {
            assert_eq!((name.socket_addr(), name.unix_path()), (None, None));
        }
    }
}
