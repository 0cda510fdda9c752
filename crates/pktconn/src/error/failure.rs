//! What an [`io::Error`] was about: what was done, and with which address.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::OnceLock;

/// An error of the system, or of TLS, and what was done when it came.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) operation: Operation,
    /// The address, or the host, where there is one. What fails first may not know it, and all clones of its error do later.
    pub(crate) of: OnceLock<String>,
    pub(crate) error: io::Error,
}

impl Failure {
    pub(crate) fn new(operation: Operation, of: Option<impl ToString>, error: io::Error) -> Self {
        let of = of.map_or_else(OnceLock::new, |of| OnceLock::from(of.to_string()));
        Self { operation, of, error }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Reading and writing.
    Transport,
    Connect,
    Resolve,
    Listen,
    #[cfg_attr(
        not(feature = "proxy-protocol"),
        allow(dead_code, reason = "a match is the same with every feature")
    )]
    ProxyHeader,
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "a match is the same with every feature"))]
    TlsHandshake,
    /// Loading what TLS needs: the error names the file.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "a match is the same with every feature"))]
    TlsSetup,
}

/// All of it, in one line: nobody needs to look for the source.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = self.of.get().map(String::as_str);
        match (self.operation, of) {
            (Operation::Transport, Some(of)) => write!(f, "the connection to {of} failed: "),
            (Operation::Transport, None) => write!(f, "the transport failed: "),
            (Operation::Connect, _) => write!(f, "cannot connect to {}: ", of.unwrap_or("the peer")),
            (Operation::Resolve, _) => write!(f, "cannot resolve {:?}: ", of.unwrap_or_default()),
            (Operation::Listen, _) => write!(f, "cannot listen on {}: ", of.unwrap_or("the socket")),
            (Operation::ProxyHeader, _) => {
                write!(f, "{} cannot be taken for a proxy: ", of.unwrap_or("the peer"))
            }
            (Operation::TlsHandshake, _) => {
                write!(f, "the TLS handshake with {} failed: ", of.unwrap_or("the peer"))
            }
            (Operation::TlsSetup, _) => Ok(()),
        }?;
        f.write_str(&in_one_line(&self.error))
    }
}

/// An error and what is behind it, without saying anything twice: many say what their source says.
pub(crate) fn in_one_line(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        // One of ours says all that is behind it.
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
    fn a_line_says_each_error_behind_it_once() {
        let last = || Box::new(Outer("the disk is full", None));
        let cases: [(Outer, &str); 3] = [
            (Outer("it failed", Some(last())), "it failed: the disk is full"),
            (Outer("it failed: the disk is full", Some(last())), "it failed: the disk is full"),
            (Outer("it", Some(Box::new(Outer("it", Some(last()))))), "it: the disk is full"),
        ];
        for (error, expected) in cases {
            assert_eq!(in_one_line(&error), expected);
        }
    }

    #[test]
    fn an_error_of_ours_says_all_by_itself_also_within_another() {
        let behind = Outer("it failed", Some(Box::new(Outer("for a reason", None))));
        let error = Error::from(io::Error::other(behind));
        assert_eq!(error.to_string(), "the transport failed: it failed: for a reason");
        assert_eq!(in_one_line(&error), error.to_string());
        let frame = Error::from(Reason::Frame(FrameError::PayloadTooLarge { len: 9, max: 8 }));
        let text = frame.to_string();
        assert_eq!(
            in_one_line(&Outer("the handler failed", Some(Box::new(frame)))),
            format!("the handler failed: {text}")
        );
    }
}
