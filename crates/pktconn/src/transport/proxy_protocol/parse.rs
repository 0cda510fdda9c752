//! Parses a complete header. Pure: bytes in, a header or a problem out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::header::ProxyHeader;
use super::problem::Problem;
use super::tlv;
use crate::transport::canonical::canonical;

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
        return Err(Problem::WrongLen { announced: len, there: rest.len() });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::proxy_protocol::crc32c::crc32c;
    use crate::transport::proxy_protocol::tlv::Tlvs;
    use ppp::{v1, v2};
    use proptest::collection::vec;
    use proptest::prelude::*;

    const V4: [u8; 12] = [192, 0, 2, 7, 127, 0, 0, 1, 0x1f, 0x90, 0, 80];

    fn block(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &len, rest].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let [high, low] = (value.len() as u16).to_be_bytes();
        [&[kind, high, low], value].concat()
    }

    fn with_tlvs(tlvs: &[Vec<u8>]) -> Vec<u8> {
        block(0x21, 0x11, &[&V4[..], &tlvs.concat()].concat())
    }

    /// A header whose checksum is valid, between `before` and `after`.
    fn with_checksum(before: &[u8], after: &[u8]) -> Vec<u8> {
        let mut header = with_tlvs(&[before.to_vec(), tlv(tlv::CRC32C, &[0; 4]), after.to_vec()]);
        let crc = crc32c(&[&header]).to_be_bytes();
        let at = V2_PREFIX_LEN + V4.len() + before.len() + 3;
        header[at..at + 4].copy_from_slice(&crc);
        header
    }

    #[test]
    fn an_address_that_cannot_be_a_clients_is_refused() {
        for ip in
            ["0.0.0.0", "224.0.0.1", "239.255.255.255", "255.255.255.255", "::", "ff02::1", "::ffff:0.0.0.0"]
                .map(|ip| ip.parse::<IpAddr>().unwrap())
        {
            let (protocol, family, source) = match ip {
                IpAddr::V4(ip) => ("TCP4", 0x11, ip.octets().to_vec()),
                IpAddr::V6(ip) => ("TCP6", 0x21, ip.octets().to_vec()),
            };
            let other = if ip.is_ipv4() { "127.0.0.1" } else { "::1" };
            let line =
                |source: &str, destination: &str| format!("PROXY {protocol} {source} {destination} 1 2\r\n");
            let problem = Err(Problem::NoClientAddress(ip.to_canonical()));
            assert_eq!(parse_line(line(&ip.to_string(), other).as_bytes()), problem);
            // It may be that of the server: some proxies do not know it.
            assert!(parse_line(line(other, &ip.to_string()).as_bytes()).is_ok());
            let rest = [&source, &vec![1; source.len()][..], &[0, 1, 0, 2]].concat();
            assert_eq!(parse_block(&block(0x21, family, &rest)), problem);
        }
        // A port 0 is accepted: proxies send it if they do not know the port.
        let header = parse_line(b"PROXY TCP4 192.0.2.7 127.0.0.1 0 0\r\n").unwrap();
        assert_eq!(header.source, Some("192.0.2.7:0".parse().unwrap()));
    }

    #[test]
    fn an_ipv4_mapped_address_is_ipv4() {
        let header = parse_line(b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:127.0.0.1 1 2\r\n").unwrap();
        assert_eq!(header.source, Some("192.0.2.7:1".parse().unwrap()));
        assert_eq!(header.destination, Some("127.0.0.1:2".parse().unwrap()));
    }

    #[test]
    fn a_line_that_is_not_exactly_as_specified_is_refused_with_its_part() {
        for (line, part) in [
            ("PROXY TCP4 192.0.2.7 127.0.0.1 8080 99999", "port of the server is \"99999\""),
            ("PROXY TCP4 192.0.2.7 127.0.0.1 +80 80", "port of the client is \"+80\""),
            ("PROXY TCP4 192.0.2.7 127.0.0.1 080 80", "port of the client is \"080\""),
            ("PROXY TCP4 192.0.2.7 127.0.0.1 80", "port of the server is \"\""),
            ("PROXY TCP4 192.0.2.7 127.0.0.1 80 80 ", "end is \"\""),
            ("PROXY TCP4 192.0.2.7  127.0.0.1 80 80", "IPv4 address of the server is \"\""),
            ("PROXY TCP4\r192.0.2.7 127.0.0.1 80 80", "protocol is \"TCP4\\r192.0.2.7\""),
            ("PROXY TCP4 2001:db8::1 ::1 80 80", "IPv4 address of the client is \"2001:db8::1\""),
            ("PROXY TCP6 192.0.2.7 127.0.0.1 80 80", "IPv6 address of the client is \"192.0.2.7\""),
            ("PROXY TCP6 2001:db8::1 127.0.0.1 80 80", "IPv6 address of the server"),
            ("PROXY TCP4 192.0.2.\x1b[2J 127.0.0.1 80 80", "\"192.0.2.\\x1b[2J\""),
            ("PROXY TCP4 192.0.02.7 127.0.0.1 80 80", "IPv4 address of the client"),
            ("PROXY tcp4 192.0.2.7 127.0.0.1 80 80", "protocol is \"tcp4\""),
            ("PROXY UNKNOWNS 1", "protocol is \"UNKNOWNS\""),
            ("PROXY  TCP4 192.0.2.7 127.0.0.1 80 80", "protocol is \"\""),
        ] {
            let problem = parse_line(format!("{line}\r\n").as_bytes()).expect_err(line).to_string();
            assert!(problem.contains(part), "{line:?}: {problem}");
        }
    }

    #[test]
    fn the_tlvs_are_given_and_typed() {
        let ssl = [
            &[0b11, 0, 0, 0, 0][..],
            &tlv(tlv::SSL_VERSION, b"TLSv1.3"),
            &tlv(tlv::SSL_CN, b"device-7\x1b[2J"),
            &tlv(tlv::SSL_CIPHER, b"TLS_AES_128_GCM_SHA256"),
            &tlv(tlv::SSL_SIG_ALG, b"SHA256"),
            &tlv(tlv::SSL_KEY_ALG, b"EC256"),
            &tlv(tlv::SSL_GROUP, b"x25519"),
            &tlv(tlv::SSL_SIG_SCHEME, b"ecdsa"),
            &tlv(tlv::SSL_CLIENT_CERT, &[0x30; 4000]),
            &tlv(0x2f, b"unknown"),
        ]
        .concat();
        let header = parse_block(&with_tlvs(&[
            tlv(tlv::ALPN, b"h2"),
            tlv(tlv::AUTHORITY, b"example.org\xff"),
            tlv(tlv::AUTHORITY, b"second"),
            tlv(0x04, &[0; 10]),
            tlv(tlv::UNIQUE_ID, &[7; 128]),
            tlv(tlv::SSL, &ssl),
            tlv(tlv::NETNS, b"blue"),
            tlv(0xea, b"\x01vpce-1"),
        ]))
        .unwrap();
        assert_eq!((header.version(), header.is_local()), (2, false));
        assert_eq!(header.source(), Some("192.0.2.7:8080".parse().unwrap()));
        assert_eq!(header.destination(), Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(header.alpn(), Some(&b"h2"[..]));
        assert_eq!(header.authority(), Some(&b"example.org\xff"[..]));
        assert_eq!(header.unique_id(), Some(&[7; 128][..]));
        assert_eq!(header.netns(), Some(&b"blue"[..]));
        let kinds: Vec<_> = header.tlvs().map(|tlv| tlv.kind).collect();
        assert_eq!(kinds, [1, 2, 2, 4, 5, 0x20, 0x30, 0xea]);
        assert_eq!(header.tlvs().last().unwrap().value, b"\x01vpce-1");
        let ssl = header.ssl().unwrap();
        assert!(ssl.is_tls() && ssl.has_cert() && ssl.has_session_cert() && ssl.is_client_verified());
        assert_eq!(ssl.version(), Some(&b"TLSv1.3"[..]));
        assert_eq!(ssl.common_name(), Some(&b"device-7\x1b[2J"[..]));
        assert_eq!(ssl.cipher(), Some(&b"TLS_AES_128_GCM_SHA256"[..]));
        assert_eq!(ssl.signature_algorithm(), Some(&b"SHA256"[..]));
        assert_eq!(ssl.key_algorithm(), Some(&b"EC256"[..]));
        assert_eq!(ssl.group(), Some(&b"x25519"[..]));
        assert_eq!(ssl.signature_scheme(), Some(&b"ecdsa"[..]));
        assert_eq!(ssl.client_cert().map(<[u8]>::len), Some(4000));
        assert_eq!(ssl.tlvs().count(), 9);
        let text = format!("{header:?}");
        assert!(text.contains(r#"authority: Some("example.org\xff")"#), "{text}");
        assert!(text.contains(r#"common_name: Some("device-7\x1b[2J")"#), "{text}");
        assert!(text.is_ascii() && !text.contains('\x1b'));
    }

    /// `HAProxy` sends the result 0 for a client without a certificate.
    #[test]
    fn a_client_is_verified_only_with_a_certificate_and_the_result_0() {
        for (client, verify, is_verified) in [
            (0b001, 0, false),
            (0b011, 0, true),
            (0b101, 0, true),
            (0b011, 1, false),
            (0b101, 1 << 31, false),
        ] {
            let value = [&[client][..], &u32::to_be_bytes(verify)].concat();
            let header = parse_block(&with_tlvs(&[tlv(tlv::SSL, &value)])).unwrap();
            let ssl = header.ssl().unwrap();
            assert_eq!((ssl.is_client_verified(), ssl.verify_result()), (is_verified, verify), "{client:#b}");
            assert_eq!(ssl.common_name(), None);
        }
    }

    #[test]
    fn malformed_tlvs_are_refused() {
        let inner = [&[1, 0, 0, 0, 0][..], &[0x22, 0, 5, b'x']].concat();
        for (tlvs, problem) in [
            (vec![1], Problem::TlvTooLong { announced: 3, left: 1 }),
            (vec![1, 0], Problem::TlvTooLong { announced: 3, left: 2 }),
            (vec![1, 0, 1], Problem::TlvTooLong { announced: 4, left: 3 }),
            (
                [tlv(1, b"h2"), vec![1, 0xff, 0xff, 0]].concat(),
                Problem::TlvTooLong { announced: 65_538, left: 4 },
            ),
            (tlv(tlv::CRC32C, &[0; 3]), Problem::TlvLen { name: "CRC32C", len: 3, expected: "4" }),
            (
                tlv(tlv::UNIQUE_ID, &[0; 129]),
                Problem::TlvLen { name: "UNIQUE_ID", len: 129, expected: "at most 128" },
            ),
            (tlv(tlv::SSL, &[0; 4]), Problem::TlvLen { name: "SSL", len: 4, expected: "at least 5" }),
            (tlv(tlv::SSL, &inner), Problem::TlvTooLong { announced: 8, left: 4 }),
            ([tlv(tlv::CRC32C, &[0; 4]), tlv(tlv::CRC32C, &[0; 4])].concat(), Problem::TwoChecksums),
        ] {
            assert_eq!(parse_block(&with_tlvs(std::slice::from_ref(&tlvs))), Err(problem), "{tlvs:?}");
        }
        // An IPv4 family with the addresses of IPv6: what follows the IPv4 addresses is no TLV.
        let v6 = [&[0x20, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0xff; 16], &[0, 80, 0, 81]]
            .concat();
        assert!(matches!(parse_block(&block(0x21, 0x11, &v6)), Err(Problem::TlvTooLong { .. })));
        let short = Err(Problem::AddressesTooShort { len: 12, expected: 36 });
        assert_eq!(parse_block(&block(0x21, 0x21, &V4)), short);
    }

    #[test]
    fn a_checksum_is_verified() {
        for (before, after) in [
            (vec![], vec![]),
            (tlv(tlv::ALPN, b"h2"), tlv(tlv::AUTHORITY, b"example.org")),
            (tlv(0x04, &[1; 5000]), vec![]),
        ] {
            let valid = with_checksum(&before, &after);
            assert!(parse_block(&valid).is_ok());
            // Any byte of the addresses, the TLVs and the checksum itself. The last one is in `after` or the checksum.
            for at in [V2_PREFIX_LEN, V2_PREFIX_LEN + 5, valid.len() - 1] {
                let mut changed = valid.clone();
                changed[at] ^= 1;
                assert!(matches!(parse_block(&changed), Err(Problem::Checksum { .. })), "byte {at}");
            }
        }
    }

    #[test]
    fn without_addresses_the_tlvs_are_given_if_the_rest_reads_as_such() {
        let header = parse_block(&block(0x21, 0, &tlv(tlv::UNIQUE_ID, b"17"))).unwrap();
        assert_eq!((header.source(), header.unique_id()), (None, Some(&b"17"[..])));
        // Bytes of an address that the proxy does not name.
        let header = parse_block(&block(0x21, 0, &V4)).unwrap();
        assert_eq!((header.source(), header.tlvs().count()), (None, 0));
        // A client of a Unix socket.
        let header =
            parse_block(&block(0x21, 0x31, &[&[0; 216][..], &tlv(tlv::UNIQUE_ID, b"17")].concat())).unwrap();
        assert_eq!((header.source(), header.unique_id()), (None, Some(&b"17"[..])));
        // The block of a proxy that speaks for itself is discarded.
        let header =
            parse_block(&block(0x20, 0x11, &[&V4[..], &tlv(tlv::UNIQUE_ID, b"17")].concat())).unwrap();
        assert_eq!((header.is_local(), header.source(), header.tlvs().count()), (true, None, 0));
    }

    #[test]
    fn a_block_over_16_kib_is_refused_before_its_body_is_read() {
        let prefix = |len: u16| {
            let [high, low] = len.to_be_bytes();
            let bytes = [&V2_SIGNATURE[..], &[0x21, 0x11, high, low]].concat();
            check_prefix(&bytes.try_into().unwrap())
        };
        assert_eq!(prefix(16_384), Ok(16_384));
        assert_eq!(prefix(16_385), Err(Problem::BlockTooLong { len: 16_385, max: 16_384 }));
        assert_eq!(prefix(11), Err(Problem::AddressesTooShort { len: 11, expected: 12 }));
    }

    fn addrs_of_ppp(header: &v2::Header<'_>) -> Option<(SocketAddr, SocketAddr)> {
        match header.addresses {
            v2::Addresses::IPv4(of) => Some((
                (of.source_address, of.source_port).into(),
                (of.destination_address, of.destination_port).into(),
            )),
            v2::Addresses::IPv6(of) => Some((
                (of.source_address, of.source_port).into(),
                (of.destination_address, of.destination_port).into(),
            )),
            v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
        }
        .map(|(source, destination)| (canonical(source), canonical(destination)))
    }

    fn is_client(ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        !ip.is_unspecified() && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST
    }

    /// Addresses, as `ppp` builds a header of them, and TLVs, of which none is checked.
    fn valid_block() -> impl Strategy<Value = Vec<u8>> {
        let addrs = prop_oneof![
            any::<([u8; 4], [u8; 4], u16, u16)>()
                .prop_map(|(from, to, a, b)| v2::Addresses::from(v2::IPv4::new(from, to, a, b))),
            any::<([u8; 16], [u8; 16], u16, u16)>()
                .prop_map(|(from, to, a, b)| v2::Addresses::from(v2::IPv6::new(from, to, a, b))),
        ];
        let tlvs =
            vec((prop_oneof![Just(1_u8), Just(2), Just(4), 0x30..=0xff_u8], vec(any::<u8>(), 0..40)), 0..5);
        (addrs, tlvs, any::<bool>()).prop_map(|(addrs, tlvs, is_stream)| {
            let protocol = if is_stream { v2::Protocol::Stream } else { v2::Protocol::Datagram };
            let mut builder =
                v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, protocol, addrs);
            for (kind, value) in &tlvs {
                builder = builder.write_tlv(*kind, value).unwrap();
            }
            builder.build().unwrap()
        })
    }

    fn assert_same_as_ppp(ours: &ProxyHeader, theirs: &v2::Header<'_>) {
        assert_eq!(ours.source().zip(ours.destination()), addrs_of_ppp(theirs));
        let their_tlvs = theirs.tlvs().map(|tlv| tlv.map(|tlv| (tlv.kind, tlv.value.to_vec())));
        let our_tlvs = ours.tlvs().map(|tlv| Ok((tlv.kind, tlv.value.to_vec())));
        assert!(our_tlvs.eq(their_tlvs), "{ours:?} {theirs:?}");
    }

    proptest! {
        #[test]
        fn valid_blocks_are_parsed_as_by_ppp(bytes in valid_block()) {
            let theirs = v2::Header::try_from(&bytes[..]).unwrap();
            match parse_block(&bytes) {
                Ok(ours) => assert_same_as_ppp(&ours, &theirs),
                Err(Problem::NoClientAddress(ip)) => prop_assert!(!is_client(ip)),
                Err(problem) => prop_assert!(false, "{problem}"),
            }
        }

        /// Where the two differ, on purpose.
        #[test]
        fn mutated_blocks_are_parsed_as_by_ppp_or_for_a_reason(
            mut bytes in valid_block(),
            changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
            cut in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let theirs = v2::Header::try_from(&bytes[..]);
            match (parse_block(&bytes), theirs) {
                // These two have no addresses for us, and their TLVs are not comparable.
                (Ok(ours), _) if ours.is_local() || bytes[13] >> 4 == UNSPEC || bytes[13] & 0xf == UNSPEC => {
                    prop_assert_eq!(ours.source(), None);
                }
                (Ok(ours), Ok(theirs)) => assert_same_as_ppp(&ours, &theirs),
                (Ok(ours), Err(error)) => prop_assert!(false, "{ours:?} {error}"),
                // `ppp` takes the first bytes of the input as the header, whatever follows, and has none of these rules.
                (Err(problem), Ok(_)) => prop_assert!(
                    matches!(
                        problem,
                        Problem::WrongLen { .. }
                            | Problem::NoClientAddress(_)
                            | Problem::TlvTooLong { .. }
                            | Problem::TlvLen { .. }
                            | Problem::TwoChecksums
                            | Problem::Checksum { .. }
                            | Problem::BlockTooLong { .. }
                    ),
                    "{}", problem
                ),
                (Err(_), Err(_)) => {}
            }
        }

        #[test]
        fn lines_are_parsed_as_by_ppp_or_for_a_reason(
            line in "PROXY (TCP[46]|UNKNOWN) (([0-9]{1,3}\\.){3}[0-9]{1,3}|[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}|[0-9a-f:.]{2,9}) \
                (([1-9]?[0-9]\\.){3}[1-9]?[0-9]|[0-9a-f]{1,4}::|[0-9a-f:.]{2,9}) [+]?[0-9]{1,5} [0-9]{1,5}( |\r)?",
        ) {
            let line = line + "\r\n";
            let theirs = v1::Header::try_from(line.as_bytes()).map(|header| match header.addresses {
                v1::Addresses::Tcp4(of) => Some((
                    SocketAddr::from((of.source_address, of.source_port)),
                    SocketAddr::from((of.destination_address, of.destination_port)),
                )),
                v1::Addresses::Tcp6(of) => Some((
                    (of.source_address, of.source_port).into(),
                    (of.destination_address, of.destination_port).into(),
                )),
                v1::Addresses::Unknown => None,
            });
            match (parse_line(line.as_bytes()), theirs) {
                (Ok(ours), Ok(theirs)) => {
                    let theirs = theirs.map(|(source, destination)| (canonical(source), canonical(destination)));
                    prop_assert_eq!(ours.source().zip(ours.destination()), theirs);
                }
                // The specification says that everything after UNKNOWN is ignored.
                (Ok(_), Err(_)) => prop_assert!(line.starts_with("PROXY UNKNOWN")),
                (Err(Problem::NoClientAddress(ip)), Ok(_)) => prop_assert!(!is_client(ip)),
                // `ppp` takes a port with a plus sign.
                (Err(problem), Ok(_)) => prop_assert!(line.contains('+'), "{line:?} {problem}"),
                (Err(_), Err(_)) => {}
            }
        }

        /// No bytes make a parser panic, and what it accepts is consistent.
        #[test]
        fn any_bytes_are_parsed_or_refused(
            rest in vec(any::<u8>(), 0..300),
            command in prop_oneof![Just(0x21_u8), any::<u8>()],
            family in prop_oneof![Just(0x11_u8), Just(0x21), Just(0x31), any::<u8>()],
        ) {
            for bytes in [block(command, family, &rest), rest.clone(), [V1_START, &rest, b"\r\n"].concat()] {
                for header in [parse_block(&bytes), parse_line(&bytes)].into_iter().flatten() {
                    let _ = format!("{header:?} {:?}", header.ssl().map(|ssl| ssl.tlvs().count()));
                    prop_assert!(Tlvs::new(&header.tlvs).all(|tlv| tlv.is_ok()));
                    prop_assert!(header.source().is_none_or(|source| is_client(source.ip())));
                }
            }
        }
    }
}
