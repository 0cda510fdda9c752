//! Parses a complete header. Pure: bytes in, a header or a problem out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::header::ProxyHeader;
use super::problem::Problem;
use super::tlv;
use crate::transport::endpoints::canonical;

/// The first bytes of version 2.
pub(crate) const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The fixed start of version 2: signature, version and command, family and protocol, length of the rest.
pub(crate) const V2_PREFIX_LEN: usize = 16;

/// How many bytes may follow the fixed start. `HAProxy` cannot send more: a header must fit into one of its buffers, of
/// 16 KiB by default. The largest value in practice is a client certificate, of up to some KiB.
pub(crate) const MAX_BLOCK_LEN: usize = 16 * 1024;

/// The first bytes of version 1.
pub(crate) const V1_START: &[u8] = b"PROXY ";

/// The longest line of version 1, with its CRLF, according to the specification.
pub(crate) const V1_MAX_LINE_LEN: usize = 107;

/// Version 2, in the upper half of its byte.
const V2: u8 = 2;

const COMMAND_LOCAL: u8 = 0;
const COMMAND_PROXY: u8 = 1;

/// The address family or protocol if the proxy does not know it, or if version 2 has no number for it.
const UNSPEC: u8 = 0;
const FAMILY_IPV4: u8 = 1;
const FAMILY_IPV6: u8 = 2;
const FAMILY_UNIX: u8 = 3;

/// The highest protocol that version 2 assigns: datagram.
const MAX_PROTOCOL: u8 = 2;

/// Parses a line of version 1, with its CRLF.
///
/// ```text
/// PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n
/// ```
pub(crate) fn parse_line(line: &[u8]) -> Result<ProxyHeader, Problem> {
    let problem = |part, text: &[u8]| Problem::Line { part, text: text.into() };
    let content = line.strip_prefix(V1_START).and_then(|line| line.strip_suffix(b"\r\n"));
    let content = content.ok_or_else(|| problem("line", line))?;
    let mut words = content.split(|&byte| byte == b' ');
    let protocol = words.next().unwrap_or_default();
    let (source_ip, destination_ip): (IpAddr, IpAddr) = match protocol {
        // "The receiver must ignore anything presented before the CRLF is found." It need not even be UTF-8.
        b"UNKNOWN" => return Ok(ProxyHeader::new(1)),
        b"TCP4" => (
            parse_word::<Ipv4Addr>("IPv4 address of the client", words.next())?.into(),
            parse_word::<Ipv4Addr>("IPv4 address of the server", words.next())?.into(),
        ),
        b"TCP6" => (
            parse_word::<Ipv6Addr>("IPv6 address of the client", words.next())?.into(),
            parse_word::<Ipv6Addr>("IPv6 address of the server", words.next())?.into(),
        ),
        protocol => return Err(problem("protocol", protocol)),
    };
    let source_port = parse_port("port of the client", words.next())?;
    let destination_port = parse_port("port of the server", words.next())?;
    if let Some(more) = words.next() {
        return Err(problem("end", more));
    }
    let mut header = ProxyHeader::new(1);
    set_addrs(&mut header, (source_ip, source_port).into(), (destination_ip, destination_port).into())?;
    Ok(header)
}

fn parse_word<T: FromStr>(part: &'static str, word: Option<&[u8]>) -> Result<T, Problem> {
    let text = word.unwrap_or_default();
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Problem::Line { part, text: text.into() })
}

/// Digits only, without leading zeros, as the specification demands.
fn parse_port(part: &'static str, word: Option<&[u8]>) -> Result<u16, Problem> {
    let text = word.unwrap_or_default();
    if !text.iter().all(u8::is_ascii_digit) || text.len() > 1 && text[0] == b'0' {
        return Err(Problem::Line { part, text: text.into() });
    }
    parse_word(part, word)
}

/// Parses the fixed start of version 2, after its signature. Returns how many bytes follow.
///
/// Everything that can be refused already is, so that the rest is not read.
pub(crate) fn check_prefix(prefix: &[u8; V2_PREFIX_LEN]) -> Result<usize, Problem> {
    let [.., version_and_command, family_and_protocol, len_high, len_low] = *prefix;
    let len = usize::from(u16::from_be_bytes([len_high, len_low]));
    if !prefix.starts_with(V2_SIGNATURE) {
        return Err(Problem::NoHeader);
    }
    if version_and_command >> 4 != V2 {
        return Err(Problem::Version(version_and_command >> 4));
    }
    if len > MAX_BLOCK_LEN {
        return Err(Problem::BlockTooLong { len, max: MAX_BLOCK_LEN });
    }
    match version_and_command & 0xf {
        // "The receiver must accept this connection as valid and must use the real connection endpoints and discard the
        // protocol block including the family which is ignored."
        COMMAND_LOCAL => return Ok(len),
        COMMAND_PROXY => {}
        command => return Err(Problem::Command(command)),
    }
    let (family, protocol) = (family_and_protocol >> 4, family_and_protocol & 0xf);
    if family > FAMILY_UNIX || protocol > MAX_PROTOCOL {
        return Err(Problem::Family(family_and_protocol));
    }
    let expected = addrs_len(family);
    if protocol != UNSPEC && len < expected {
        return Err(Problem::AddressesTooShort { len, expected });
    }
    Ok(len)
}

/// Both addresses of a family, with their ports.
fn addrs_len(family: u8) -> usize {
    match family {
        FAMILY_IPV4 => 2 * (4 + 2),
        FAMILY_IPV6 => 2 * (16 + 2),
        FAMILY_UNIX => 2 * 108,
        _ => 0,
    }
}

/// Parses a whole header of version 2, with its fixed start.
pub(crate) fn parse_block(block: &[u8]) -> Result<ProxyHeader, Problem> {
    let (prefix, rest) = block.split_first_chunk::<V2_PREFIX_LEN>().ok_or(Problem::NoHeader)?;
    let len = check_prefix(prefix)?;
    if rest.len() != len {
        return Err(Problem::BlockTooLong { len: rest.len(), max: len });
    }
    let [.., version_and_command, family_and_protocol, _, _] = *prefix;
    let (family, protocol) = (family_and_protocol >> 4, family_and_protocol & 0xf);
    let mut header = ProxyHeader::new(V2);
    if version_and_command & 0xf == COMMAND_LOCAL {
        header.is_local = true;
        return Ok(header);
    }
    let addrs_len = addrs_len(family);
    if family == UNSPEC || protocol == UNSPEC {
        // "The receiver should ignore address information", whatever its length: so the rest is TLVs only if it reads
        // as such.
        match tlv::check(block, V2_PREFIX_LEN + addrs_len.min(len)) {
            Ok(()) => header.tlvs = rest[addrs_len.min(len)..].into(),
            Err(error @ (Problem::Checksum { .. } | Problem::TwoChecksums)) => return Err(error),
            Err(_) => {}
        }
        return Ok(header);
    }
    let (addrs, tlvs) = rest.split_at(addrs_len);
    match family {
        FAMILY_IPV4 => set_addrs(&mut header, addr::<4>(addrs, 0), addr::<4>(addrs, 1))?,
        FAMILY_IPV6 => set_addrs(&mut header, addr::<16>(addrs, 0), addr::<16>(addrs, 1))?,
        // A client of a Unix socket has no IP address.
        _ => {}
    }
    tlv::check(block, V2_PREFIX_LEN + addrs_len)?;
    header.tlvs = tlvs.into();
    Ok(header)
}

/// The source (`index` 0) or destination (1) in an address block: both addresses, then both ports.
fn addr<const IP_LEN: usize>(addrs: &[u8], index: usize) -> SocketAddr
where
    IpAddr: From<[u8; IP_LEN]>,
{
    let mut ip = [0; IP_LEN];
    ip.copy_from_slice(&addrs[index * IP_LEN..][..IP_LEN]);
    let port = &addrs[2 * IP_LEN + 2 * index..];
    (IpAddr::from(ip), u16::from_be_bytes([port[0], port[1]])).into()
}

/// Refuses an address from which no client can connect. A server that counts and logs it would be misled.
fn set_addrs(header: &mut ProxyHeader, source: SocketAddr, destination: SocketAddr) -> Result<(), Problem> {
    let ip = source.ip().to_canonical();
    if ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST {
        return Err(Problem::NoClientAddress(ip));
    }
    header.source = Some(canonical(source));
    header.destination = Some(canonical(destination));
    Ok(())
}
