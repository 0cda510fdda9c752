//! Where a server listens, and where it is reached.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::lookup_host;

use crate::error::Reason;
use crate::error::failure::Operation;

/// Where a server listens, and where it is reached: over TCP, or by a Unix socket.
///
/// | written as | |
/// |---|---|
/// | `127.0.0.1:14572`, `[::1]:14572` | an IP address and a port; to listen on port 0 asks for a free one |
/// | `example.org:14572` | a name, which is resolved when it is used |
/// | `unix:/run/app.sock` | the path of a Unix socket |
///
/// Of a name with several addresses, the first one that answers is connected to (RFC 8305): IPv6 and IPv4 are tried by turns, each
/// 250 ms after the one before it, or at once when that one fails.
///
/// Whatever is one of these is taken as an address: a string, a [`SocketAddr`], a pair of an IP address or a name and a
/// port. Nothing is checked before it is used: what can never be reached or listened on fails there at once, with
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
pub struct Addr(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Socket(SocketAddr),
    /// `HOST:PORT`, or any other text.
    Name(String),
    Unix(PathBuf),
}

impl Addr {
    /// The Unix socket at `path`.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Unix(path.into()))
    }

    /// The IP address and the port, where it is one of these.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.0 {
            Kind::Socket(addr) => Some(addr),
            Kind::Name(_) | Kind::Unix(_) => None,
        }
    }

    /// The path of the Unix socket, where it is one.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Unix(path) => Some(path),
            Kind::Socket(_) | Kind::Name(_) => None,
        }
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.0
    }
}

/// The addresses of `host`, with `port`; at least one.
pub(crate) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Reason> {
    #[cfg(test)]
    if let Some(addrs) = scripted::addrs_of(host) {
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
            Kind::Socket(addr) => addr.fmt(f),
            Kind::Name(name) => name.fmt(f),
            Kind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<&str> for Addr {
    fn from(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path);
        }
        text.parse().map_or_else(|_| Self(Kind::Name(text.to_owned())), |addr: SocketAddr| addr.into())
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

/// Never fails: for programs that parse a command line.
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
        Self(Kind::Socket(addr))
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

/// A name, or an IP address as text, without brackets.
impl From<(&str, u16)> for Addr {
    fn from((host, port): (&str, u16)) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => (ip, port).into(),
            Err(_) => Self(Kind::Name(format!("{host}:{port}"))),
        }
    }
}

/// Hosts for tests: a resolver of a real system has none with the addresses that they need.
#[cfg(test)]
pub(crate) mod scripted {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::net::SocketAddr;

    thread_local! {
        static HOSTS: RefCell<HashMap<String, Vec<SocketAddr>>> = RefCell::default();
    }

    /// Has `host` resolve to `addrs` on this thread.
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

    #[test]
    fn an_address_says_itself_as_it_was_written() {
        for text in ["127.0.0.1:1", "[2001:db8::1]:2", "localhost:3", "unix:/run/app.sock", "unix:rel ative"]
        {
            let addr = Addr::from(text);
            assert_eq!(addr.to_string(), text);
            assert_eq!(addr, text.parse().unwrap());
        }
    }

    #[test]
    fn each_form_is_known_for_what_it_is() {
        let socket: SocketAddr = "[::1]:80".parse().unwrap();
        for addr in [Addr::from("[::1]:80"), ("::1", 80).into(), (Ipv6Addr::LOCALHOST, 80).into()] {
            assert_eq!((addr.socket_addr(), addr.unix_path()), (Some(socket), None));
        }
        let unix = Addr::from("unix:/a b");
        assert_eq!((unix.socket_addr(), unix.unix_path()), (None, Some(Path::new("/a b"))));
        for name in [Addr::from("localhost:80"), ("localhost", 80).into(), "nonsense".into()] {
            assert_eq!((name.socket_addr(), name.unix_path()), (None, None));
        }
    }
}
