//! Why a connection could not be made, and what the user can do about it.

use std::io;

use tokio_rustls::rustls::{self, CertificateError};

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
        format!("cannot {action} {name}: {}; {}", self.error, self.advice())
    }

    /// What the user can do about it.
    fn advice(&self) -> &'static str {
        use io::ErrorKind as Kind;
        let tls = self.error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        match (self.error.kind(), tls) {
            (_, Some(rustls::Error::InvalidCertificate(CertificateError::Other(_)))) => {
                "its certificate may be that of an authority; create it with basicConstraints=CA:FALSE"
            }
            (_, Some(rustls::Error::InvalidCertificate(_))) => {
                "give its authority with --tls-ca, or the expected server name with --tls-server-name"
            }
            _ if is_file_limit(&self.error) => "raise the limit with 'ulimit -n', or lower --conns",
            (Kind::TimedOut, _) if self.in_handshake => {
                "check that the server speaks TLS, or raise --timeout"
            }
            (Kind::UnexpectedEof | Kind::ConnectionReset, _) if self.in_handshake => {
                "the server closed the connection; check that it speaks TLS, and its limits"
            }
            _ if self.in_handshake => {
                "check that the server speaks TLS, and whether it requires a client certificate"
            }
            (Kind::ConnectionRefused | Kind::NotFound, _) => {
                "start the server, or omit --connect to use the built-in echo server"
            }
            (Kind::ConnectionReset, _) => {
                "the server accepts no more connections; check its limits, or lower --conns"
            }
            (Kind::TimedOut, _) => "check the address and the firewall, or raise --timeout",
            (Kind::AddrNotAvailable, _) => {
                "no local port is free; lower --conns, or wait until closed connections free their ports"
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
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let certificate = ConnectError { error: io::Error::other(unknown), in_handshake: true };
        let no_tls = [Kind::UnexpectedEof, Kind::TimedOut, Kind::InvalidData]
            .map(|kind| ConnectError { error: kind.into(), in_handshake: true }.advice());
        let mut all: std::collections::HashSet<_> = kinds.map(|kind| advice(kind.into())).into();
        all.insert(certificate.advice());
        all.extend(no_tls);
        assert_eq!(all.len(), kinds.len() + 4);
    }
}
