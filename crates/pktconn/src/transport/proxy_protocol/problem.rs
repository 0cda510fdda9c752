//! Why a header is refused.

use std::fmt;
use std::net::IpAddr;

/// Bytes of the peer are in here only where they are escaped when printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The connection does not start with a header.
    NoHeader,
    LineTooLong {
        max: usize,
    },
    /// A part of a line of version 1, and its bytes.
    Line {
        part: &'static str,
        text: Box<[u8]>,
    },
    Version(u8),
    Command(u8),
    /// Family and protocol, of which at least one is not assigned.
    Family(u8),
    BlockTooLong {
        len: usize,
        max: usize,
    },
    WrongLen {
        announced: usize,
        there: usize,
    },
    AddressesTooShort {
        len: usize,
        expected: usize,
    },
    NoClientAddress(IpAddr),
    /// A TLV is longer than what follows, or less than a TLV's own header is left.
    TlvTooLong {
        announced: usize,
        left: usize,
    },
    TlvLen {
        name: &'static str,
        len: usize,
        expected: &'static str,
    },
    TwoChecksums,
    Checksum {
        received: u32,
        computed: u32,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no acceptable PROXY header: ")?;
        match self {
            Self::NoHeader => f.write_str("the connection does not start with one"),
            Self::LineTooLong { max } => write!(f, "its line is longer than {max} bytes"),
            Self::Line { part, text } => write!(f, "its {part} is \"{}\"", text.escape_ascii()),
            Self::Version(version) => write!(f, "its version is {version}, but must be 2 in a binary header"),
            Self::Command(command) => write!(f, "its command {command:#x} is not assigned"),
            Self::Family(byte) => write!(f, "its address family and protocol {byte:#04x} are not assigned"),
            Self::BlockTooLong { len, max } => {
                write!(f, "it announces {len} bytes, but the maximum is {max}")
            }
            Self::WrongLen { announced, there } => {
                write!(f, "it announces {announced} bytes, but {there} are there")
            }
            Self::AddressesTooShort { len, expected } => {
                write!(f, "it has {len} bytes, but the addresses of its family need {expected}")
            }
            Self::NoClientAddress(ip) => write!(f, "{ip} cannot be the address of a client"),
            Self::TlvTooLong { announced, left } => {
                write!(f, "a TLV needs {announced} bytes, but {left} are left")
            }
            Self::TlvLen { name, len, expected } => {
                write!(f, "its TLV {name} has {len} bytes, expected {expected}")
            }
            Self::TwoChecksums => f.write_str("it has more than one checksum"),
            Self::Checksum { received, computed } => {
                write!(f, "its checksum is {received:#010x}, but that of its bytes is {computed:#010x}")
            }
        }
    }
}
