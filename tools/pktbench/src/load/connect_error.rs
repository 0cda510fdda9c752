//! Why a connection could not be made, and what the user can do about it.

use std::io;

use crate::record::tls_problem::TlsProblem;

/// Why a connection could not be made.
pub(crate) struct ConnectError {
    error: io::Error,
    in_handshake: bool,
}

impl ConnectError {
    pub(crate) fn in_handshake(error: io::Error) -> Self {
        Self { error, in_handshake: true }
    }

    /// No connection, or no TLS handshake, within `--timeout`.
    pub(crate) fn timeout(in_handshake: bool) -> Self {
        let error = io::Error::new(io::ErrorKind::TimedOut, "no response within --timeout");
        Self { error, in_handshake }
    }

    /// What failed with the server `name`, why, and what to do.
    pub(crate) fn describe(&self, name: &str) -> String {
        let action = if self.in_handshake { "speak TLS with" } else { "connect to" };
        match TlsProblem::of(&self.error) {
            Some(TlsProblem { reason, advice }) => format!("cannot {action} {name}: {reason}; {advice}"),
            None => format!("cannot {action} {name}: {}; {}", self.error, self.advice()),
        }
    }

    /// What the user can do about it.
    fn advice(&self) -> &'static str {
        use io::ErrorKind as Kind;
        match self.error.kind() {
            _ if is_file_limit(&self.error) => "raise the limit with 'ulimit -n', or lower --conns",
            Kind::TimedOut if self.in_handshake => "check that the server speaks TLS, or raise --timeout",
            Kind::UnexpectedEof | Kind::ConnectionReset if self.in_handshake => {
                "the server closed the connection; check that it speaks TLS, and its limits"
            }
            _ if self.in_handshake => {
                "check that the server speaks TLS, and whether it requires a client certificate"
            }
            Kind::ConnectionRefused | Kind::NotFound => {
                "start the server, or leave out the address to use the built-in echo server"
            }
            Kind::ConnectionReset => {
                "the server accepts no more connections; check its limits, or lower --conns"
            }
            Kind::TimedOut => "check the address and the firewall, or raise --timeout",
            Kind::AddrNotAvailable => {
                "no local port is free; give more addresses with --source-addr, lower --conns, or wait until closed \
                 connections free their ports"
            }
            _ => "check the address and the network",
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self { error, in_handshake: false }
    }
}

/// Whether the error is EMFILE (limit of the process) or ENFILE (limit of the system). They have no `ErrorKind`, and
/// the same numbers on every Unix.
fn is_file_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(error: io::Error) -> &'static str {
        ConnectError::from(error).advice()
    }

    #[test]
    fn too_many_open_files_are_reported_with_the_command_that_raises_the_limit() {
        for os_error in [23, 24] {
            let error = io::Error::from_raw_os_error(os_error);
            assert!(error.to_string().to_lowercase().contains("too many open files"), "{error}");
            assert!(advice(error).contains("ulimit -n"));
        }
    }

    #[test]
    fn every_failure_has_its_own_advice() {
        use io::ErrorKind as Kind;
        let kinds = [
            Kind::ConnectionRefused,
            Kind::ConnectionReset,
            Kind::TimedOut,
            Kind::AddrNotAvailable,
            Kind::NetworkUnreachable,
        ];
        let no_tls = [Kind::UnexpectedEof, Kind::TimedOut, Kind::InvalidData]
            .map(|kind| ConnectError { error: kind.into(), in_handshake: true }.advice());
        let mut all: std::collections::HashSet<_> = kinds.map(|kind| advice(kind.into())).into();
        all.extend(no_tls);
        assert_eq!(all.len(), kinds.len() + 3);
    }
}
