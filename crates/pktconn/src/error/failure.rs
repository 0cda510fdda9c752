//! An [`io::Error`] with its context: the operation that failed, and the address. Also flattens error chains to one
//! line.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::OnceLock;

/// An error of the system or of TLS, with the operation that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) operation: Operation,
    /// The address or host, if known. It can be added later, and then all clones of the error have it.
    pub(crate) address: OnceLock<String>,
    pub(crate) error: io::Error,
}

impl Failure {
    pub(crate) fn new(operation: Operation, address: Option<impl ToString>, error: io::Error) -> Self {
        let address = address.map_or_else(OnceLock::new, |address| OnceLock::from(address.to_string()));
        Self { operation, address, error }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Reading or writing.
    Transport,
    Connect,
    Resolve,
    Listen,
    #[cfg_attr(
        not(feature = "proxy-protocol"),
        allow(dead_code, reason = "keeps matches the same with every feature")
    )]
    ProxyHeader,
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "keeps matches the same with every feature"))]
    TlsHandshake,
    /// Loading certificates and keys. The error itself names the file.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "keeps matches the same with every feature"))]
    TlsSetup,
}

/// The operation, the address, and the error with its sources, in one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.get().map(String::as_str);
        match (self.operation, address) {
            (Operation::Transport, Some(address)) => write!(f, "the connection to {address} failed: "),
            (Operation::Transport, None) => write!(f, "the transport failed: "),
            (Operation::Connect, _) => write!(f, "cannot connect to {}: ", address.unwrap_or("the peer")),
            (Operation::Resolve, _) => write!(f, "cannot resolve {:?}: ", address.unwrap_or_default()),
            (Operation::Listen, _) => write!(f, "cannot listen on {}: ", address.unwrap_or("the socket")),
            (Operation::ProxyHeader, _) => {
                write!(f, "the PROXY handshake with {} failed: ", address.unwrap_or("the peer"))
            }
            (Operation::TlsHandshake, _) => {
                write!(f, "the TLS handshake with {} failed: ", address.unwrap_or("the peer"))
            }
            (Operation::TlsSetup, _) => Ok(()),
        }?;
        f.write_str(&with_sources(&self.error))
    }
}

/// The text of an error and of its sources, in one line. Leaves out a source whose text the error above it repeats.
pub(crate) fn with_sources(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        // The text of our own errors contains their sources already.
        if error.is::<crate::Error>() {
            break;
        }
        let text = source.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        error = source;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::error::Reason;
    use pktconn_codec::FrameError;

    #[derive(Debug)]
    struct Outer(&'static str, Option<Box<dyn StdError + Send + Sync>>);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Outer {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.1.as_deref().map(|error| error as _)
        }
    }

    #[test]
    fn the_line_has_the_text_of_each_source_once() {
        let last = || Box::new(Outer("the disk is full", None));
        let cases: [(Outer, &str); 3] = [
            (Outer("it failed", Some(last())), "it failed: the disk is full"),
            (Outer("it failed: the disk is full", Some(last())), "it failed: the disk is full"),
            (Outer("it", Some(Box::new(Outer("it", Some(last()))))), "it: the disk is full"),
        ];
        for (error, expected) in cases {
            assert_eq!(with_sources(&error), expected);
        }
    }

    #[test]
    fn the_sources_of_our_own_errors_are_not_repeated() {
        let behind = Outer("it failed", Some(Box::new(Outer("for a reason", None))));
        let error = Error::from(io::Error::other(behind));
        assert_eq!(error.to_string(), "the transport failed: it failed: for a reason");
        assert_eq!(with_sources(&error), error.to_string());
        let frame = Error::from(Reason::Frame(FrameError::PayloadTooLarge { len: 9, max: 8 }));
        let text = frame.to_string();
        assert_eq!(
            with_sources(&Outer("the handler failed", Some(Box::new(frame)))),
            format!("the handler failed: {text}")
        );
    }
}
