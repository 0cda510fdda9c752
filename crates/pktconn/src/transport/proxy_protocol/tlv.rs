//! The fields after the addresses of a version 2 header: type, length, value (TLV).
//!
//! ```text
//! +----------+----------------+----------------+
//! | type: u8 | length: u16 BE | value: length  |
//! +----------+----------------+----------------+
//! ```
//!
//! Section 2.2 of the specification. The value of the type SSL contains TLVs of its own.

use std::fmt;

use super::crc32c::crc32c;
use super::problem::Problem;

pub(crate) const ALPN: u8 = 0x01;
pub(crate) const AUTHORITY: u8 = 0x02;
pub(crate) const CRC32C: u8 = 0x03;
pub(crate) const UNIQUE_ID: u8 = 0x05;
pub(crate) const SSL: u8 = 0x20;
pub(crate) const SSL_VERSION: u8 = 0x21;
pub(crate) const SSL_CN: u8 = 0x22;
pub(crate) const SSL_CIPHER: u8 = 0x23;
pub(crate) const SSL_SIG_ALG: u8 = 0x24;
pub(crate) const SSL_KEY_ALG: u8 = 0x25;
pub(crate) const SSL_GROUP: u8 = 0x26;
pub(crate) const SSL_SIG_SCHEME: u8 = 0x27;
pub(crate) const SSL_CLIENT_CERT: u8 = 0x28;
pub(crate) const NETNS: u8 = 0x30;

/// "An opaque byte sequence of up to 128 bytes."
const MAX_UNIQUE_ID_LEN: usize = 128;

/// The fixed start of the value of SSL: flags, and the result of the verification.
pub(crate) const SSL_START_LEN: usize = 5;

/// Type and length.
const TLV_START_LEN: usize = 3;

/// A field of a PROXY header of version 2: its type and its value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ProxyTlv<'a> {
    /// The type, as in the [specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt): for example
    /// `0xea` is that of AWS.
    pub kind: u8,
    /// The value, as the proxy sent it.
    pub value: &'a [u8],
}

/// The value is escaped.
impl fmt::Debug for ProxyTlv<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyTlv {{ kind: {:#04x}, value: {:?} }}", self.kind, Escaped(self.value))
    }
}

/// Bytes that are printed as text, with everything but printable ASCII escaped.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// The TLVs in some bytes. Ends after the first that is malformed.
#[derive(Clone, Debug)]
pub(crate) struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first TLV of this type.
    pub(crate) fn first(mut self, kind: u8) -> Option<&'a [u8]> {
        self.find_map(|tlv| tlv.ok().filter(|tlv| tlv.kind == kind)).map(|tlv| tlv.value)
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<ProxyTlv<'a>, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        let (kind, len, rest) = match *bytes {
            [] => return None,
            [kind, high, low, ref rest @ ..] => (kind, usize::from(u16::from_be_bytes([high, low])), rest),
            _ => return Some(Err(Problem::TlvTooLong { announced: TLV_START_LEN, left: bytes.len() })),
        };
        let Some((value, rest)) = rest.split_at_checked(len) else {
            return Some(Err(Problem::TlvTooLong { announced: TLV_START_LEN + len, left: bytes.len() }));
        };
        self.0 = rest;
        Some(Ok(ProxyTlv { kind, value }))
    }
}

/// Checks each TLV at the end of `header`, from `start` on, and the checksum of the header if it has one.
pub(crate) fn check(header: &[u8], start: usize) -> Result<(), Problem> {
    let mut checksum = None;
    let mut value_end = start;
    for tlv in Tlvs::new(&header[start..]) {
        let ProxyTlv { kind, value } = tlv?;
        value_end += TLV_START_LEN + value.len();
        let wrong_len = |name, expected| Err(Problem::TlvLen { name, len: value.len(), expected });
        match kind {
            CRC32C => {
                let Ok(received) = <[u8; 4]>::try_from(value) else { return wrong_len("CRC32C", "4") };
                if checksum.replace((u32::from_be_bytes(received), value_end)).is_some() {
                    return Err(Problem::TwoChecksums);
                }
            }
            UNIQUE_ID if value.len() > MAX_UNIQUE_ID_LEN => return wrong_len("UNIQUE_ID", "at most 128"),
            SSL => {
                let Some((_, inner)) = value.split_at_checked(SSL_START_LEN) else {
                    return wrong_len("SSL", "at least 5");
                };
                Tlvs::new(inner).try_for_each(|tlv| tlv.map(|_| ()))?;
            }
            _ => {}
        }
    }
    let Some((received, end)) = checksum else { return Ok(()) };
    // "Replace the 32 bits of the checksum field in the received PROXY header with all '0's and calculate a CRC32c
    // checksum value of the whole PROXY header."
    let computed = crc32c(&[&header[..end - 4], &[0; 4], &header[end..]]);
    if received == computed { Ok(()) } else { Err(Problem::Checksum { received, computed }) }
}
