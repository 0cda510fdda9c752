//! The addresses to load: names resolved, and what TLS needs for each.

use std::fmt;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use pktconn::Addr;
use pktconn_tools::printable::print_warning;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, Error};

use crate::load::tls;
use crate::plan::{ConnectTo, Plan};

/// How long an address of `localhost` has to accept a connection.
const LOCALHOST_TIMEOUT: Duration = Duration::from_secs(1);

/// All addresses of a run.
pub(crate) struct Targets {
    targets: Vec<Target>,
    /// The addresses of each `--connect`: the first of them in `targets`, and how many there are.
    servers: Vec<(usize, usize)>,
}

/// One address.
pub(crate) struct Target {
    pub(crate) address: Address,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => Addr::unix(path).fmt(f),
        }
    }
}

impl Targets {
    /// The targets of `plan`, with all names resolved.
    pub(crate) fn of(plan: &Plan) -> anyhow::Result<Self> {
        let tls = match &plan.tls {
            None => None,
            Some(tls) => Some((tls::client_config(tls)?, tls.server_name.as_deref())),
        };
        let mut all = Self { targets: Vec::new(), servers: Vec::new() };
        for addr in &plan.connect {
            let addresses = addresses(addr, &plan.connect_to)?;
            let first = all.targets.len();
            let tls = tls.as_ref().map(|(config, name)| server_tls(config, *name, addr)).transpose()?;
            all.targets.extend(addresses.into_iter().map(|address| Target { address, tls: tls.clone() }));
            all.servers.push((first, all.targets.len() - first));
        }
        Ok(all)
    }

    /// The index of the address that connection `conn` dials. Each server has an equal share of the connections, and so
    /// has each address of a server.
    pub(crate) fn index(&self, conn: usize) -> usize {
        let (first, count) = self.servers[conn % self.servers.len()];
        first + conn / self.servers.len() % count
    }

    pub(crate) fn get(&self, index: usize) -> &Target {
        &self.targets[index]
    }

    pub(crate) fn addresses(&self) -> impl ExactSizeIterator<Item = &Address> {
        self.targets.iter().map(|target| &target.address)
    }
}

impl Target {
    /// The TLS side of a new connection; `None` without TLS.
    pub(crate) fn new_tls(&self) -> Option<Result<ClientConnection, Error>> {
        let (config, name) = self.tls.as_ref()?;
        Some(ClientConnection::new(Arc::clone(config), name.clone()))
    }
}

impl From<SocketAddr> for Targets {
    fn from(addr: SocketAddr) -> Self {
        let target = Target { address: Address::Tcp(addr), tls: None };
        Self { targets: vec![target], servers: vec![(0, 1)] }
    }
}

/// The addresses of one `--connect`. Those of `connect_to` replace what its name resolves to.
fn addresses(addr: &Addr, connect_to: &[ConnectTo]) -> anyhow::Result<Vec<Address>> {
    if let Some(path) = addr.unix_path() {
        return Ok(vec![Address::Unix(path.to_owned())]);
    }
    let name = addr.to_string();
    let (host, port) = name.rsplit_once(':').unwrap_or((&name, "0"));
    let resolved = match connect_to {
        [] => only_listening_if_localhost(host, resolve(&name)?),
        pinned => {
            let port = port.parse().with_context(|| format!("{name} has no valid port"))?;
            pinned.iter().map(|to| SocketAddr::new(to.ip, to.port.unwrap_or(port))).collect()
        }
    };
    Ok(resolved.into_iter().map(Address::Tcp).collect())
}

fn server_tls(
    config: &Arc<ClientConfig>,
    server_name: Option<&str>,
    addr: &Addr,
) -> anyhow::Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let addr = addr.to_string();
    let host = addr.rsplit_once(':').map(|(host, _port)| host);
    let name = server_name.or(host).unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let server_name = ServerName::try_from(name.clone())
        .with_context(|| format!("{name:?} is not a valid server name; give one with --tls-server-name"))?;
    Ok((Arc::clone(config), server_name))
}

/// Resolves `HOST:PORT`. No address occurs twice.
pub(crate) fn resolve(addr: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let addrs = addr.to_socket_addrs();
    let addrs =
        addrs.with_context(|| format!("cannot resolve {addr}; check the name, or give an IP address"))?;
    let mut distinct = Vec::new();
    for addr in addrs {
        if !distinct.contains(&addr) {
            distinct.push(addr);
        }
    }
    ensure!(!distinct.is_empty(), "{addr} has no address; check the name, or give an IP address");
    Ok(distinct)
}

/// `localhost` is a name for one machine, by IPv4 and IPv6, and many servers listen on only one of them. So its addresses
/// at which nothing listens are left out, unless there is no other.
fn only_listening_if_localhost(host: &str, addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_localhost =
        host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    if !is_localhost || addrs.len() < 2 {
        return addrs;
    }
    let listens = |addr: &SocketAddr| TcpStream::connect_timeout(addr, LOCALHOST_TIMEOUT).is_ok();
    let (listening, silent): (Vec<_>, Vec<_>) = addrs.into_iter().partition(listens);
    match listening.is_empty() {
        true => silent,
        false => {
            for addr in silent {
                print_warning(format_args!(
                    "nothing listens on {addr}, an address of {host}; it is left out"
                ));
            }
            listening
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_host_is_an_error_that_names_it() {
        // `.invalid` is reserved for names that do not exist (RFC 2606).
        let error = resolve("nowhere.invalid:80").unwrap_err().to_string();
        assert!(error.starts_with("cannot resolve nowhere.invalid:80; "), "{error}");
        assert_eq!(resolve("[::1]:80").unwrap(), ["[::1]:80".parse().unwrap()]);
    }

    fn targets(servers: &[usize]) -> Targets {
        let mut all = Targets { targets: Vec::new(), servers: Vec::new() };
        for count in servers {
            let first = all.targets.len();
            let target = |port| Target { address: Address::Tcp(([127, 0, 0, 1], port).into()), tls: None };
            all.targets.extend((0..*count).map(|index| target((first + index) as u16)));
            all.servers.push((first, *count));
        }
        all
    }

    #[test]
    fn connection_i_dials_address_i_mod_n() {
        let indexes =
            |servers: &[usize]| -> Vec<_> { (0..7).map(|conn| targets(servers).index(conn)).collect() };
        assert_eq!(indexes(&[1]), [0; 7]);
        assert_eq!(indexes(&[3]), [0, 1, 2, 0, 1, 2, 0], "a name with three addresses");
        assert_eq!(indexes(&[1, 1]), [0, 1, 0, 1, 0, 1, 0], "two servers");
        assert_eq!(indexes(&[1, 2]), [0, 1, 0, 2, 0, 1, 0], "each server has half of the connections");
    }

    #[test]
    fn a_pinned_address_replaces_those_of_the_name() {
        let pinned = [
            ConnectTo { ip: [127, 0, 0, 7].into(), port: None },
            ConnectTo { ip: [127, 0, 0, 8].into(), port: Some(9) },
        ];
        // The name is not even resolved.
        let addresses = addresses(&"nowhere.invalid:80".parse().unwrap(), &pinned).unwrap();
        let expected = ["127.0.0.7:80", "127.0.0.8:9"].map(|addr| Address::Tcp(addr.parse().unwrap()));
        assert_eq!(addresses, expected);
    }

    #[test]
    fn an_address_of_localhost_at_which_nothing_listens_is_left_out() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listening = listener.local_addr().unwrap();
        // The same port on another address of the loopback interface.
        let silent = SocketAddr::new([127, 0, 0, 2].into(), listening.port());
        let both = || vec![silent, listening];
        assert_eq!(only_listening_if_localhost("localhost", both()), [listening]);
        assert_eq!(only_listening_if_localhost("echo.test", both()), both());
        assert_eq!(only_listening_if_localhost("localhost", vec![silent, silent]), [silent, silent]);
    }
}
