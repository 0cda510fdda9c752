//! Making a connection, and what to do when it cannot be made.

use std::error::Error as _;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, ensure};
use pktconn::PacketConn;

use crate::worker::Shared;

/// The addresses of `HOST:PORT`.
pub(crate) fn resolve(addr: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let addrs = addr.to_socket_addrs();
    let addrs: Vec<_> = addrs
        .with_context(|| format!("cannot resolve {addr}; check the name, or give an IP address"))?
        .collect();
    ensure!(!addrs.is_empty(), "the name of {addr} has no address; check it, or give an IP address");
    Ok(addrs)
}

/// Connects when it is this connection's turn. The error is a line that says what is wrong and what to do.
pub(crate) async fn connect(shared: &Shared) -> Result<PacketConn, String> {
    let _turn = shared.connecting.acquire().await;
    let connecting = PacketConn::connect_with(&shared.addrs[..], shared.plan.conn_config());
    let error = match tokio::time::timeout(shared.plan.timeout, connecting).await {
        Ok(Ok(conn)) => return Ok(conn),
        Ok(Err(error)) => error,
        Err(_late) => {
            let problem = format!("no answer within {}", humantime::format_duration(shared.plan.timeout));
            io::Error::new(io::ErrorKind::TimedOut, problem).into()
        }
    };
    let addrs: Vec<_> = shared.addrs.iter().map(SocketAddr::to_string).collect();
    Err(match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(error) => format!("cannot connect to {}: {error}; {}", addrs.join(" or "), advice(error)),
        None => format!("cannot connect to {}: {error}", addrs.join(" or ")),
    })
}

fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error.kind() {
        _ if is_file_limit(error) => "raise the limit with 'ulimit -n', or lower --conns",
        Kind::ConnectionRefused => "start the server, or leave --connect out to load one of its own",
        Kind::ConnectionReset => "the server took no more connections: look at its limits, or lower --conns",
        Kind::TimedOut => "check the address and the firewall, or raise --timeout",
        Kind::AddrNotAvailable => {
            "no local port is free: lower --conns, or wait until closed ones are free again"
        }
        _ => "check the address and the network",
    }
}

/// EMFILE, of the process, and ENFILE, of the system: the same numbers on every Unix, and no `ErrorKind` of their own.
fn is_file_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_come_with_the_command_that_allows_more() {
        for os_error in [23, 24] {
            let error = io::Error::from_raw_os_error(os_error);
            assert!(error.to_string().to_lowercase().contains("too many open files"), "{error}");
            assert!(advice(&error).contains("ulimit -n"));
        }
    }

    #[test]
    fn every_failure_comes_with_advice_of_its_own() {
        use io::ErrorKind as Kind;
        let kinds = [
            Kind::ConnectionRefused,
            Kind::ConnectionReset,
            Kind::TimedOut,
            Kind::AddrNotAvailable,
            Kind::NetworkUnreachable,
        ];
        let advice: std::collections::HashSet<_> = kinds.map(|kind| advice(&kind.into())).into();
        assert_eq!(advice.len(), kinds.len());
    }

    #[test]
    fn a_name_without_an_address_is_an_error_that_names_it() {
        // `.invalid` is reserved for names that do not exist (RFC 2606).
        let error = resolve("nowhere.invalid:80").unwrap_err().to_string();
        assert!(error.starts_with("cannot resolve nowhere.invalid:80; "), "{error}");
        assert_eq!(resolve("[::1]:80").unwrap(), ["[::1]:80".parse().unwrap()]);
    }
}
