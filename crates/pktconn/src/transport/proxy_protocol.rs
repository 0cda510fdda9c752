//! The PROXY protocol, versions 1 and 2: a proxy sends the client's address in a line (version 1) or a binary block
//! (version 2) before all other bytes, also before TLS.
//!
//! On a listener with this protocol the server requires a header on every connection, and refuses connections that do
//! not come from a trusted proxy. This file has no timeout: the caller limits the time of the whole handshake.
//!
//! Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::Error;
use crate::error::Reason;

/// The length of the shortest header: `PROXY UNKNOWN\r\n`.
const MIN_HEADER_LEN: usize = 15;

/// The fixed start of a version 2 header: signature, version and command, family and protocol, length of the rest.
const V2_PREFIX_LEN: usize = 16;

/// Version 2 and the command LOCAL: the proxy speaks for itself, as in a health check.
const V2_LOCAL: u8 = 0x20;

/// Version 2 and the command PROXY: the proxy forwards the connection of a client.
const V2_PROXY: u8 = 0x21;

/// The address family or protocol if the proxy does not know it, or if version 2 has no number for it.
const V2_UNSPEC: u8 = 0;

/// The highest address family that version 2 assigns: Unix.
const V2_MAX_FAMILY: u8 = 3;

/// The highest protocol that version 2 assigns: datagram.
const V2_MAX_PROTOCOL: u8 = 2;

/// The longest line of version 1, with its CRLF, according to the specification.
const V1_MAX_LINE_LEN: usize = 107;

/// The prefix length of IPv4-mapped IPv6 addresses: `::ffff:0:0/96`.
const IPV4_MAPPED_PREFIX_LEN: u8 = 96;

/// The networks of the proxies. The server refuses connections from other addresses, and requires a header on all that
/// it accepts.
#[derive(Clone, Debug)]
pub(crate) struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().map(canonical_network).collect())
    }

    /// Refuses networks that are certainly a mistake, and an empty list. The list must not be empty even if the server
    /// listens only on Unix sockets, whose peers need no network.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.0.is_empty() {
            let problem = "proxy_protocol has no trusted network; name the networks of your proxies";
            return Err(Reason::Config(problem).into());
        }
        match self.0.iter().find_map(network_problem) {
            Some(problem) => Err(Reason::BadValue(problem.into()).into()),
            None => Ok(()),
        }
    }

    /// Whether `peer` is a trusted proxy. Peers of a Unix socket (`None`) always are: the file's permissions control
    /// who connects.
    pub(crate) fn contains(&self, peer: Option<SocketAddr>) -> bool {
        let Some(peer) = peer else { return true };
        // A dual-stack listener reports IPv4 peers as IPv4-mapped IPv6 addresses.
        let ip: IpAddr = peer.ip().to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }
}

/// Converts an IPv4-mapped IPv6 network to IPv4, for example `::ffff:10.0.0.0/104` to `10.0.0.0/8`.
/// [`TrustedProxies::contains`] converts the addresses of peers in the same way.
fn canonical_network(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(network) => {
            network.addr().to_ipv4_mapped().zip(network.prefix_len().checked_sub(IPV4_MAPPED_PREFIX_LEN))
        }
        IpNet::V4(_) => None,
    };
    mapped.and_then(|(addr, prefix_len)| IpNet::new(addr.into(), prefix_len).ok()).unwrap_or(network)
}

/// Describes what is wrong with a [canonical](canonical_network) network: an IPv4-mapped address with a prefix shorter
/// than 96 bits. For example, `::ffff:10.0.0.0/8` means `::/8`, 1/256 of all IPv6 addresses. It matches no IPv4 peer,
/// because peers are compared as IPv4: certainly a mistake.
fn network_problem(network: &IpNet) -> Option<String> {
    let IpNet::V6(network) = network else { return None };
    let addr = network.addr().to_ipv4_mapped()?;
    let len = network.prefix_len();
    let meant = match len {
        0..=32 => format!("{addr}/{len}"),
        _ => format!("{addr}/32"),
    };
    Some(format!(
        "proxy_protocol cannot trust {network}: the prefix of an IPv4-mapped IPv6 network has \
         {IPV4_MAPPED_PREFIX_LEN} to 128 bits; write it as IPv4, such as {meant}"
    ))
}

/// Reads the header and not one byte more. Returns the client's address.
///
/// Returns `None` if the header has no IP address: the proxy does not know the client, the client uses a Unix socket,
/// or the proxy speaks for itself, as in a health check. The peer is then the proxy.
pub(crate) async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut start = [0; MIN_HEADER_LEN];
    stream.read_exact(&mut start).await?;
    if start.starts_with(v2::PROTOCOL_PREFIX) {
        read_v2(stream, start).await
    } else if start.starts_with(b"PROXY ") {
        read_v1(stream, start).await
    } else {
        Err(invalid_header("the connection does not start with one"))
    }
}

/// Reads the rest of a line of version 1.
async fn read_v1(
    stream: &mut (impl AsyncRead + Unpin),
    start: [u8; MIN_HEADER_LEN],
) -> io::Result<Option<SocketAddr>> {
    let mut line = start.to_vec();
    // Byte by byte, so that nothing after the header is read. This costs up to 92 reads, once per connection.
    while !line.ends_with(b"\r\n") {
        if line.len() == V1_MAX_LINE_LEN {
            return Err(invalid_header(format_args!("its line is longer than {V1_MAX_LINE_LEN} bytes")));
        }
        line.push(stream.read_u8().await?);
    }
    if line.starts_with(b"PROXY UNKNOWN ") {
        // "The receiver must ignore anything presented before the CRLF is found." It need not even be UTF-8.
        return Ok(None);
    }
    let header = v1::Header::try_from(&line[..]).map_err(invalid_header)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Tcp6(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

/// Reads the rest of a block of version 2.
async fn read_v2(
    stream: &mut (impl AsyncRead + Unpin),
    start: [u8; MIN_HEADER_LEN],
) -> io::Result<Option<SocketAddr>> {
    let mut prefix = [0; V2_PREFIX_LEN];
    prefix[..MIN_HEADER_LEN].copy_from_slice(&start);
    stream.read_exact(&mut prefix[MIN_HEADER_LEN..]).await?;
    let [.., version_and_command, family_and_protocol, rest_len_high, rest_len_low] = prefix;

    let rest_len = u16::from_be_bytes([rest_len_high, rest_len_low]);
    let mut block = prefix.to_vec();
    // Memory grows with the bytes that arrive, not with the announced length.
    let read = stream.take(rest_len.into()).read_to_end(&mut block).await?;
    if read < usize::from(rest_len) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }

    let (family, protocol) = (family_and_protocol >> 4, family_and_protocol & 0xf);
    match version_and_command {
        // "The receiver must accept this connection as valid and must use the real connection endpoints and discard the
        // protocol block including the family which is ignored."
        V2_LOCAL => return Ok(None),
        // If the family or the protocol is UNSPEC, "the receiver should ignore address information", whatever its
        // length. Unassigned values "must be rejected as invalid by receivers": the parser below does that.
        V2_PROXY
            if family == V2_UNSPEC && protocol <= V2_MAX_PROTOCOL
                || protocol == V2_UNSPEC && family <= V2_MAX_FAMILY =>
        {
            return Ok(None);
        }
        _ => {}
    }
    let header = v2::Header::try_from(&block[..]).map_err(invalid_header)?;
    Ok(match header.addresses {
        v2::Addresses::IPv4(of) => Some((of.source_address, of.source_port).into()),
        v2::Addresses::IPv6(of) => Some((of.source_address, of.source_port).into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    })
}

fn invalid_header(problem: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no acceptable PROXY header: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header that four more bytes follow, and checks that these are not read.
    async fn read(header: &[u8]) -> io::Result<Option<String>> {
        let stream = [header, b"rest"].concat();
        let mut stream = &stream[..];
        let addr = read_header(&mut stream).await?;
        assert_eq!(stream, b"rest", "after {header:?}");
        Ok(addr.map(|addr| addr.to_string()))
    }

    fn block(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, rest].concat()
    }

    #[tokio::test]
    async fn the_clients_address_comes_from_the_header() {
        let v6 =
            [&[0x20, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[0, 80, 0, 81]].concat();
        let v4 = [192, 0, 2, 7, 127, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let with_tlv = [&v4[..], &[4, 0, 1, 0]].concat();
        let cases: [(&[u8], _); 17] = [
            (b"PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\n", Some("192.0.2.7:8080")),
            (b"PROXY TCP6 2001:db8::1 ::1 80 81\r\n", Some("[2001:db8::1]:80")),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
            // Not UTF-8.
            (b"PROXY UNKNOWN \xff\xfe\0\r\n", None),
            (&block(0x21, 0x11, &v4), Some("192.0.2.7:8080")),
            (&block(0x21, 0x11, &with_tlv), Some("192.0.2.7:8080")),
            (&block(0x21, 0x21, &v6), Some("[2001:db8::1]:80")),
            // The proxy speaks for itself.
            (&block(0x20, 0x11, &v4), None),
            (&block(0x20, 0, &[]), None),
            // The address family is UNSPEC.
            (&block(0x21, 0, &[]), None),
            (&block(0x21, 0, &[1, 2, 3]), None),
            (&block(0x21, 0x01, &v4), None),
            // The protocol is UNSPEC.
            (&block(0x21, 0x10, &[1, 2, 3]), None),
            (&block(0x21, 0x20, &v6), None),
            (&block(0x21, 0x30, &[]), None),
            // A client of a Unix socket has no IP address.
            (&block(0x21, 0x31, &[0; 216]), None),
        ];
        for (header, expected) in cases {
            assert_eq!(read(header).await.unwrap().as_deref(), expected, "{header:?}");
        }
    }

    #[tokio::test]
    async fn the_content_of_a_local_block_is_ignored() {
        for family in 0..=255 {
            for len in [0, 1, 4, 11, 12, 36, 216, 1000] {
                let header = block(0x20, family, &vec![family; len]);
                assert_eq!(read(&header).await.unwrap(), None, "family {family:#04x} with {len} bytes");
            }
        }
    }

    #[tokio::test]
    async fn an_unassigned_command_family_or_protocol_is_refused() {
        for (command, family) in [
            (0x22, 0x11),
            (0x2f, 0),
            (0x10, 0),
            (0x30, 0),
            (0x21, 0x41),
            (0x21, 0x40),
            (0x21, 0x13),
            (0x21, 0x03),
        ] {
            let error = read(&block(command, family, &[0; 216])).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{command:#04x}, {family:#04x}");
        }
    }

    #[tokio::test]
    async fn streams_without_a_valid_header_are_refused() {
        let long = [b"PROXY TCP4 192.0.2.7 127.0.0.1 8080 80", &[b' '; 100][..], b"\r\n"].concat();
        let cases: [&[u8]; 8] = [
            b"\x05\0\0\0hello\x05\0\0\0hello",
            b"GET / HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 192.0.2.7 127.0.0.1 8080 99999\r\n",
            b"PROXY TCP4 2001:db8::1 127.0.0.1 8080 80\r\n",
            b"PROXY TCP9 192.0.2.7 127.0.0.1 8080 80\r\n",
            &long,
            // A version 2 block that claims version 1.
            &block(0x11, 0x11, &[0; 12]),
            // Addresses that are too short.
            &block(0x21, 0x11, &[0; 11]),
        ];
        for header in cases {
            assert_eq!(read(header).await.unwrap_err().kind(), io::ErrorKind::InvalidData, "{header:?}");
        }
        for header in [&b"PROXY TCP4"[..], &block(0x21, 0x11, &[0; 12])[..20]] {
            let error = read_header(&mut &header[..]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn an_ipv4_mapped_network_becomes_ipv4() {
        for (written, expected) in [
            ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
            ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            // These stay as they are. None of the IPv6 ones matches an IPv4 peer.
            ("::/0", "::/0"),
            ("::fffe:0:0/95", "::fffe:0:0/95"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            let network = canonical_network(written.parse().unwrap());
            assert_eq!(network.to_string(), expected, "{written}");
            assert_eq!(network_problem(&network), None);
        }
        let trusted = TrustedProxies::new(["::ffff:127.0.0.0/104".parse().unwrap()]);
        for (peer, expected) in
            [("127.0.0.1:1", true), ("[::ffff:127.9.9.9]:1", true), ("128.0.0.1:1", false)]
        {
            assert_eq!(trusted.contains(Some(peer.parse().unwrap())), expected, "{peer}");
        }
    }

    #[test]
    fn an_ipv4_mapped_network_with_a_prefix_shorter_than_96_bits_is_refused() {
        for (written, meant) in [
            ("::ffff:10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:127.0.0.1/0", "127.0.0.1/0"),
            ("::ffff:1.2.3.4/95", "1.2.3.4/32"),
        ] {
            let problem = network_problem(&canonical_network(written.parse().unwrap())).unwrap();
            assert!(problem.contains(written) && problem.ends_with(meant), "{problem}");
        }
    }

    #[test]
    fn the_canonical_address_of_a_peer_is_compared() {
        let trusted =
            TrustedProxies::new(["192.0.2.0/24", "2001:db8::/32"].map(|network| network.parse().unwrap()));
        for (peer, expected) in [
            ("192.0.2.200:1", true),
            ("[::ffff:192.0.2.200]:1", true),
            ("192.0.3.1:1", false),
            ("[2001:db8:9::1]:1", true),
            ("[::1]:1", false),
        ] {
            assert_eq!(trusted.contains(Some(peer.parse().unwrap())), expected, "{peer}");
        }
        assert!(trusted.contains(None));
    }
}
