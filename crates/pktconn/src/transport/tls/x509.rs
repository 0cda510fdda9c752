//! What the files of a configuration say about certificates and revocation lists. The only user of the parser.

use std::fmt;

use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::asn1_rs::{Any, FromDer, Tag, ToDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::distinguished_name::{Attribute, Value, rfc4514};

/// Seconds since 1970, as in certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UnixTime(pub(super) i64);

impl UnixTime {
    pub(super) fn now() -> Self {
        Self(ASN1Time::now().timestamp())
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ASN1Time::from_timestamp(self.0) {
            Ok(time) => {
                let time = time.to_datetime();
                write!(f, "{} {:02}:{:02}:{:02} UTC", time.date(), time.hour(), time.minute(), time.second())
            }
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}

/// A certificate in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) subject: Name,
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
    /// Whether the next certificate in the file is of the authority that signed this one. The last one has none, and
    /// needs none.
    pub(super) is_signed_by_next: bool,
}

/// The name of a certificate or an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) text: String,
    der: Vec<u8>,
}

/// A certificate revocation list in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RevocationList {
    pub(super) issuer: Name,
    /// When the authority promised a newer list.
    pub(super) next_update: Option<UnixTime>,
}

/// Parses the certificates of a file. `Err` is the number of the first one that is invalid, from 1 on.
pub(super) fn parse_chain(chain: &[CertificateDer<'_>]) -> Result<Vec<Certificate>, usize> {
    let mut parsed = Vec::new();
    for (index, der) in chain.iter().enumerate() {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| index + 1)?;
        parsed.push(certificate);
    }
    let nexts = parsed.iter().skip(1).map(Some).chain([None]);
    Ok(parsed.iter().zip(nexts).map(|(certificate, next)| describe(certificate, next)).collect())
}

fn describe(certificate: &X509Certificate<'_>, next: Option<&X509Certificate<'_>>) -> Certificate {
    let is_signed_by = |next: &X509Certificate<'_>| {
        certificate.issuer().as_raw() == next.subject().as_raw()
            // An algorithm that the parser does not know proves nothing.
            && !matches!(
                certificate.verify_signature(Some(next.public_key())),
                Err(X509Error::SignatureVerificationError)
            )
    };
    Certificate {
        subject: name(certificate.subject()),
        not_before: UnixTime(certificate.validity().not_before.timestamp()),
        not_after: UnixTime(certificate.validity().not_after.timestamp()),
        is_signed_by_next: next.is_none_or(is_signed_by),
    }
}

pub(super) fn parse_crl(crl: &CertificateRevocationListDer<'_>) -> Result<RevocationList, &'static str> {
    let Ok((_, crl)) = CertificateRevocationList::from_der(crl) else {
        return Err("a certificate revocation list is invalid");
    };
    if crl.version().is_none() {
        return Err(
            "a certificate revocation list is of version 1; RFC 5280 requires version 2 (`openssl ca` needs \
                    crl_extensions for it)",
        );
    }
    let next_update = crl.next_update().map(|time| UnixTime(time.timestamp()));
    Ok(RevocationList { issuer: name(crl.issuer()), next_update })
}

/// The subject of a certificate as text. `None` if it is empty, or if the certificate is invalid.
pub(super) fn subject_text(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(name(certificate.subject()).text).filter(|text| !text.is_empty())
}

fn name(name: &X509Name<'_>) -> Name {
    let attributes = name.iter_rdn().map(|part| {
        let attribute = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| Attribute {
            oid: attribute.attr_type().to_id_string(),
            value: value(attribute.attr_value()),
        };
        part.iter().map(attribute).collect()
    });
    Name { text: rfc4514(&attributes.collect::<Vec<_>>()), der: name.as_raw().to_vec() }
}

fn value(value: &Any<'_>) -> Value {
    let text = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            std::str::from_utf8(value.data).ok().map(str::to_owned)
        }
        // UTF-16, big-endian.
        Tag::BmpString => {
            let units =
                value.data.chunks(2).map(|unit| u16::from_be_bytes([unit[0], *unit.last().unwrap_or(&0)]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok().filter(|_| value.data.len() % 2 == 0)
        }
        _ => None,
    };
    text.map_or_else(|| Value::Der(value.to_der_vec().unwrap_or_default()), Value::Text)
}
