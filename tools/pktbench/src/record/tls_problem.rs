//! Says in plain words why TLS failed, and what to do. The texts of rustls are partly names of Rust types.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

/// Why TLS failed, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TlsProblem {
    pub(crate) reason: String,
    pub(crate) advice: &'static str,
}

const TRUST: &str = "give that authority with --tls-ca, or accept any certificate with --tls-insecure";
const NAME: &str = "give the expected name with --tls-server-name";
const REPLACE: &str = "replace the certificate of the server, or accept any with --tls-insecure";
const CLOCK: &str = "replace the certificate, or check the clock of this machine";
const NO_AUTHORITY: &str = "create it with basicConstraints=CA:FALSE";
const SPEAKS_TLS: &str = "check that the server speaks TLS";
const VERSIONS: &str = "check which TLS versions and ciphers the server allows; pktbench has TLS 1.2 and 1.3";
const CLIENT_CERTIFICATE: &str = "check the log of the server; if it asks for a client certificate, give one with --tls-cert and --tls-key";
const SERVER_LOG: &str = "check the log of the server";

impl TlsProblem {
    /// `None` if the error is not one of TLS.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        let (reason, advice) = match error {
            Error::InvalidCertificate(error) => certificate(error),
            Error::AlertReceived(alert) => alert_received(*alert),
            Error::InvalidMessage(why) => {
                (format!("it sent bytes that are not TLS: {}", words(why)), SPEAKS_TLS)
            }
            Error::PeerIncompatible(why) => {
                (format!("the server and pktbench have nothing in common: {}", words(why)), VERSIONS)
            }
            Error::PeerMisbehaved(why) => {
                (format!("the server does not follow the TLS protocol: {}", words(why)), SERVER_LOG)
            }
            Error::NoCertificatesPresented => ("the server has no certificate".to_owned(), SERVER_LOG),
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                ("the server sent a TLS message at the wrong time".to_owned(), SERVER_LOG)
            }
            Error::DecryptError | Error::EncryptError => {
                ("a TLS message could not be decrypted".to_owned(), SERVER_LOG)
            }
            Error::General(text) => (text.clone(), SERVER_LOG),
            Error::Other(other) => (words(&other.0), SERVER_LOG),
            other => (words(other), SERVER_LOG),
        };
        Some(Self { reason, advice })
    }
}

fn certificate(error: &CertificateError) -> (String, &'static str) {
    use CertificateError as Problem;
    let is = |text: &str| format!("its certificate {text}");
    match error {
        Problem::UnknownIssuer => (is("is signed by an authority that is not trusted"), TRUST),
        Problem::NotValidForName => (is("is for another name"), NAME),
        Problem::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().map(|name| inner(name)).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            (is(&format!("is for {names}, not for {}", expected.to_str())), NAME)
        }
        Problem::Expired => (is("has expired"), CLOCK),
        Problem::ExpiredContext { not_after, .. } => (is(&format!("expired on {}", date(*not_after))), CLOCK),
        Problem::NotValidYet => (is("is not valid yet"), CLOCK),
        Problem::NotValidYetContext { not_before, .. } => {
            (is(&format!("is not valid before {}", date(*not_before))), CLOCK)
        }
        Problem::Revoked => (is("was revoked"), REPLACE),
        Problem::InvalidPurpose | Problem::InvalidPurposeContext { .. } => {
            (is("is not one for a server"), REPLACE)
        }
        Problem::BadSignature => (is("is not signed by the trusted authority of that name"), TRUST),
        // Webpki's only way to say that the certificate of an authority was used as that of a server.
        Problem::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            (is("is that of an authority"), NO_AUTHORITY)
        }
        Problem::Other(other) => (is(&format!("was rejected: {}", words(&other.0))), REPLACE),
        other => (is(&format!("was rejected: {}", words(other))), REPLACE),
    }
}

fn alert_received(alert: AlertDescription) -> (String, &'static str) {
    let advice = match alert {
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => VERSIONS,
        AlertDescription::UnrecognisedName => NAME,
        _ => CLIENT_CERTIFICATE,
    };
    (format!("the server ended TLS with the alert '{}'", words(alert)), advice)
}

fn date(time: UnixTime) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs())).to_string()
}

/// The name in `DnsName("a.example")` and the like.
fn inner(debug: &str) -> &str {
    let start = debug.find('(').map_or(0, |at| at + 1);
    debug[start..].trim_end_matches(')').trim_matches('"')
}

/// The name of a Rust value as words: `HandshakeFailure` is "handshake failure". Fields are left out.
fn words(value: impl std::fmt::Debug) -> String {
    let debug = format!("{value:?}");
    let name = debug.split(['(', '{']).next().unwrap_or_default().trim();
    let mut words = String::new();
    let mut is_after_lower = false;
    for letter in name.chars() {
        if letter.is_uppercase() && is_after_lower {
            words.push(' ');
        }
        is_after_lower = letter.is_lowercase() || letter.is_ascii_digit();
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{
        ExtendedKeyPurpose, InvalidMessage, OtherError, PeerIncompatible, PeerMisbehaved,
    };

    fn problem(error: Error) -> TlsProblem {
        TlsProblem::of(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap()
    }

    #[derive(Debug)]
    enum Webpki {
        CaUsedAsEndEntity,
        NameConstraintViolation,
    }

    impl std::fmt::Display for Webpki {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{self:?}")
        }
    }

    impl std::error::Error for Webpki {}

    #[expect(deprecated, reason = "rustls may still return the old variant")]
    fn all_certificate_errors() -> Vec<CertificateError> {
        use CertificateError as Problem;
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let (now, then) = (time(1_700_000_000), time(1_600_000_000));
        let for_name = |presented: &[&str]| Problem::NotValidForNameContext {
            expected: ServerName::try_from("127.0.0.1").unwrap(),
            presented: presented.iter().map(|&name| name.to_owned()).collect(),
        };
        vec![
            Problem::BadEncoding,
            Problem::Expired,
            Problem::ExpiredContext { time: now, not_after: then },
            Problem::NotValidYet,
            Problem::NotValidYetContext { time: then, not_before: now },
            Problem::Revoked,
            Problem::UnhandledCriticalExtension,
            Problem::UnknownIssuer,
            Problem::UnknownRevocationStatus,
            Problem::ExpiredRevocationList,
            Problem::ExpiredRevocationListContext { time: now, next_update: then },
            Problem::BadSignature,
            Problem::UnsupportedSignatureAlgorithm,
            Problem::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: vec![1, 2],
                supported_algorithms: Vec::new(),
            },
            Problem::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: vec![1, 2],
                public_key_algorithm_id: vec![3],
            },
            Problem::NotValidForName,
            for_name(&[]),
            for_name(&["DnsName(\"echo.test\")", "IpAddress(10.0.0.1)"]),
            Problem::InvalidPurpose,
            Problem::InvalidPurposeContext {
                required: ExtendedKeyPurpose::ServerAuth,
                presented: vec![ExtendedKeyPurpose::ClientAuth, ExtendedKeyPurpose::Other(vec![1, 2])],
            },
            Problem::InvalidOcspResponse,
            Problem::ApplicationVerificationFailure,
            Problem::Other(OtherError(Arc::new(Webpki::CaUsedAsEndEntity))),
            Problem::Other(OtherError(Arc::new(Webpki::NameConstraintViolation))),
        ]
    }

    #[test]
    fn every_tls_failure_reads_as_a_sentence_with_advice() {
        let certificates = all_certificate_errors().into_iter().map(Error::InvalidCertificate);
        let others = [
            Error::AlertReceived(AlertDescription::HandshakeFailure),
            Error::AlertReceived(AlertDescription::UnknownCA),
            Error::AlertReceived(AlertDescription::Unknown(99)),
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            Error::InvalidMessage(InvalidMessage::MissingData("Random")),
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments),
            Error::NoCertificatesPresented,
            Error::DecryptError,
            Error::PeerSentOversizedRecord,
            Error::General("odd".to_owned()),
            Error::Other(OtherError(Arc::new(Webpki::NameConstraintViolation))),
        ];
        for error in certificates.chain(others) {
            let name = format!("{error:?}");
            let TlsProblem { reason, advice } = problem(error);
            assert!(!reason.contains(['(', ')', '{', '}', '"', '[']), "{name}: {reason}");
            let is_camel_case = |word: &str| {
                let mut letters = word.chars();
                letters.next();
                let rest: Vec<char> = letters.collect();
                rest.iter().any(|letter| letter.is_uppercase())
                    && rest.iter().any(|letter| letter.is_lowercase())
            };
            assert!(!reason.split(' ').any(is_camel_case), "{name}: {reason}");
            assert!(reason.contains(' ') || !advice.is_empty(), "{name}: {reason}");
        }
    }

    #[test]
    fn the_usual_failures_name_what_is_wrong() {
        let reasons: Vec<_> = all_certificate_errors()
            .into_iter()
            .map(|error| problem(Error::InvalidCertificate(error)).reason)
            .collect();
        for expected in [
            "its certificate is signed by an authority that is not trusted",
            "its certificate is for echo.test, 10.0.0.1, not for 127.0.0.1",
            "its certificate is for no name, not for 127.0.0.1",
            "its certificate expired on 2020-09-13T12:26:40Z",
            "its certificate is that of an authority",
            "its certificate was rejected: name constraint violation",
            "its certificate was rejected: bad encoding",
        ] {
            assert!(reasons.iter().any(|reason| reason == expected), "{expected} in {reasons:#?}");
        }
        let alert = problem(Error::AlertReceived(AlertDescription::CertificateRequired));
        assert_eq!(alert.reason, "the server ended TLS with the alert 'certificate required'");
        assert!(alert.advice.contains("--tls-cert"));
        assert_eq!(TlsProblem::of(&io::Error::other("no TLS")), None);
    }
}
