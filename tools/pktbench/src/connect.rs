//! Making connections, and what to do when one cannot be made.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Enough to hide the way to a distant server, and with many workers still few against the backlog of a listener.
const AT_ONCE: usize = 32;

/// The addresses of `HOST:PORT`.
pub(crate) fn resolve(addr: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let addrs = addr.to_socket_addrs();
    let addrs: Vec<_> = addrs
        .with_context(|| format!("cannot resolve {addr}; check the name, or give an IP address"))?
        .collect();
    ensure!(!addrs.is_empty(), "the name of {addr} has no address; check it, or give an IP address");
    Ok(addrs)
}

/// Makes `count` connections. The error is a line that says what is wrong and what to do.
pub(crate) async fn connect(
    addrs: &[SocketAddr],
    count: usize,
    timeout: Duration,
    connected: impl Fn(),
) -> Result<Vec<StdTcpStream>, String> {
    let addrs: Arc<[SocketAddr]> = addrs.into();
    let mut streams = Vec::with_capacity(count);
    let mut connecting = JoinSet::new();
    loop {
        while connecting.len() < AT_ONCE && streams.len() + connecting.len() < count {
            connecting.spawn(connect_one(Arc::clone(&addrs), timeout));
        }
        match connecting.join_next().await {
            None => return Ok(streams),
            Some(Ok(stream)) => streams.push(stream.map_err(|error| problem(&addrs, &error))?),
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
        connected();
    }
}

async fn connect_one(addrs: Arc<[SocketAddr]>, timeout: Duration) -> io::Result<StdTcpStream> {
    let connecting = TcpStream::connect(&addrs[..]);
    let late = |_| {
        let problem = format!("no answer within {}", humantime::format_duration(timeout));
        io::Error::new(io::ErrorKind::TimedOut, problem)
    };
    let stream = tokio::time::timeout(timeout, connecting).await.map_err(late)??;
    stream.set_nodelay(true)?;
    stream.into_std()
}

fn problem(addrs: &[SocketAddr], error: &io::Error) -> String {
    let addrs: Vec<_> = addrs.iter().map(SocketAddr::to_string).collect();
    format!("cannot connect to {}: {error}; {}", addrs.join(" or "), advice(error))
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
