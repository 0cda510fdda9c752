//! The PROXY protocol, versions 1 and 2: a line or a block in front of a stream, in which a proxy tells whom it speaks for.
//!
//! Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The shortest of all headers: `PROXY UNKNOWN\r\n`.
const SHORTEST: usize = 15;

/// What a header of version 2 begins with: a signature, the version, the family and the length of the rest.
const V2_PREFIX: usize = 16;

/// Version 2 with its commands, in one byte.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

/// The highest family and the highest protocol that are assigned in version 2.
const V2_UNIX: u8 = 3;
const V2_DGRAM: u8 = 2;

/// The longest line of version 1, its end included, as the protocol says.
const LONGEST_LINE: usize = 107;

/// How many bits stand in front of an IPv4 address that is written as a part of IPv6: `::ffff:0:0/96`.
const MAPPED_LEN: u8 = 96;

/// `network` in the form that peers are compared in: an IPv4 network that is written as a part of IPv6, `::ffff:10.0.0.0/104`,
/// as IPv4.
pub(crate) fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(network) => {
            network.addr().to_ipv4_mapped().zip(network.prefix_len().checked_sub(MAPPED_LEN))
        }
        IpNet::V4(_) => None,
    };
    mapped.and_then(|(addr, prefix_len)| IpNet::new(addr.into(), prefix_len).ok()).unwrap_or(network)
}

/// What is wrong with a [canonical] network: written with an IPv4 address as a part of IPv6, and with the length of an IPv4
/// prefix. It says `::/8`, a 256th of all IPv6 addresses and none of IPv4, and nobody means that.
pub(crate) fn problem(network: &IpNet) -> Option<String> {
    let IpNet::V6(network) = network else { return None };
    let addr = network.addr().to_ipv4_mapped()?;
    let len = network.prefix_len();
    let meant = match len {
        0..=32 => format!("{addr}/{len}"),
        _ => format!("{addr}/32"),
    };
    Some(format!(
        "proxy_protocol cannot trust {network}: an IPv4 network within IPv6 has a prefix of {MAPPED_LEN} to 128 bits; \
         write it as IPv4, such as {meant}"
    ))
}

/// Whether connections of `peer` may come with a header. Those by a Unix socket may: its file's permissions say who connects.
pub(crate) fn trusts(networks: &[IpNet], peer: Option<SocketAddr>) -> bool {
    let Some(peer) = peer else { return true };
    // A listener for both families shows IPv4 addresses as a part of IPv6.
    let ip: IpAddr = peer.ip().to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

/// Reads the header, and not a byte more, and tells the client's address: `None` where the proxy speaks for itself, as for
/// its checks of health, or does not know.
pub(crate) async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; SHORTEST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        read_rest_of_block(stream, &mut header).await?;
        return source_of_block(&header);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(bad("there is none"));
    }
    // Byte by byte, for what comes behind it not to be read: that is up to 92 reads, once in a connection's life.
    while !header.ends_with(b"\r\n") {
        if header.len() == LONGEST_LINE {
            return Err(bad("the line is too long"));
        }
        header.push(stream.read_u8().await?);
    }
    if header.starts_with(b"PROXY UNKNOWN ") {
        // "The receiver must ignore anything presented before the CRLF is found": also what is no UTF-8.
        return Ok(None);
    }
    let header = v1::Header::try_from(&header[..]).map_err(bad)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Tcp6(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

/// The source in a whole block of version 2.
fn source_of_block(block: &[u8]) -> io::Result<Option<SocketAddr>> {
    let (version_and_command, family, protocol) =
        (block[V2_PREFIX - 4], block[V2_PREFIX - 3] >> 4, block[V2_PREFIX - 3] & 0xf);
    match version_and_command {
        // "The receiver must accept this connection as valid and must use the real connection endpoints and discard the
        // protocol block including the family which is ignored."
        V2_LOCAL => return Ok(None),
        // Where the family or the protocol is UNSPEC, "the receiver should ignore address information", of whatever length.
        // Values that are not assigned "must be rejected as invalid by receivers": below.
        V2_PROXY if family == 0 && protocol <= V2_DGRAM || protocol == 0 && family <= V2_UNIX => {
            return Ok(None);
        }
        _ => {}
    }
    let header = v2::Header::try_from(block).map_err(bad)?;
    Ok(match header.addresses {
        v2::Addresses::IPv4(of) => Some((of.source_address, of.source_port).into()),
        v2::Addresses::IPv6(of) => Some((of.source_address, of.source_port).into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    })
}

async fn read_rest_of_block(stream: &mut (impl AsyncRead + Unpin), header: &mut Vec<u8>) -> io::Result<()> {
    header.push(stream.read_u8().await?);
    let rest = u16::from_be_bytes([header[V2_PREFIX - 2], header[V2_PREFIX - 1]]);
    // Memory follows what arrives, not what the length says.
    let read = stream.take(rest.into()).read_to_end(header).await?;
    if read < usize::from(rest) { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn bad(problem: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no acceptable PROXY header: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header in front of four more bytes, and expects these to be left.
    async fn read(header: &[u8]) -> io::Result<Option<String>> {
        let stream = [header, b"rest"].concat();
        let mut stream = &stream[..];
        let addr = read_header(&mut stream).await?;
        assert_eq!(stream, b"rest", "behind {header:?}");
        Ok(addr.map(|addr| addr.to_string()))
    }

    fn block(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, rest].concat()
    }

    #[tokio::test]
    async fn the_clients_address_is_what_the_header_says() {
        let v6 =
            [&[0x20, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[0, 80, 0, 81]].concat();
        let v4 = [192, 0, 2, 7, 127, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let with_tlv = [&v4[..], &[4, 0, 1, 0]].concat();
        let cases: [(&[u8], _); 17] = [
            (b"PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\n", Some("192.0.2.7:8080")),
            (b"PROXY TCP6 2001:db8::1 ::1 80 81\r\n", Some("[2001:db8::1]:80")),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
            (&block(0x21, 0x11, &v4), Some("192.0.2.7:8080")),
            (&block(0x21, 0x11, &with_tlv), Some("192.0.2.7:8080")),
            (&block(0x21, 0x21, &v6), Some("[2001:db8::1]:80")),
            (&block(0x20, 0x11, &v4), None),
            (&block(0x20, 0, &[]), None),
            (&block(0x21, 0, &[]), None),
            // A source that the proxy does not know, or of a protocol that it has no number for.
            (&block(0x21, 0, &[1, 2, 3]), None),
            (&block(0x21, 0x01, &v4), None),
            (&block(0x21, 0x10, &[1, 2, 3]), None),
            (&block(0x21, 0x20, &v6), None),
            (&block(0x21, 0x30, &[]), None),
            (&block(0x21, 0x31, &[0; 216]), None),
            (b"PROXY UNKNOWN \xff\xfe\0\r\n", None),
        ];
        for (header, expected) in cases {
            assert_eq!(read(header).await.unwrap().as_deref(), expected, "{header:?}");
        }
    }

    #[tokio::test]
    async fn a_local_block_is_skipped_whatever_it_says() {
        for family in 0..=255 {
            for len in [0, 1, 4, 11, 12, 36, 216, 1000] {
                let header = block(0x20, family, &vec![family; len]);
                assert_eq!(read(&header).await.unwrap(), None, "family {family:#04x} with {len} bytes");
            }
        }
    }

    #[tokio::test]
    async fn a_command_a_family_or_a_protocol_that_is_not_assigned_is_refused() {
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
    async fn anything_else_is_refused() {
        let long = [b"PROXY TCP4 192.0.2.7 127.0.0.1 8080 80", &[b' '; 100][..], b"\r\n"].concat();
        let cases: [&[u8]; 8] = [
            b"\x05\0\0\0hello\x05\0\0\0hello",
            b"GET / HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 192.0.2.7 127.0.0.1 8080 99999\r\n",
            b"PROXY TCP4 2001:db8::1 127.0.0.1 8080 80\r\n",
            b"PROXY TCP9 192.0.2.7 127.0.0.1 8080 80\r\n",
            &long,
            // Version 1 in the block of version 2; and addresses that are too short.
            &block(0x11, 0x11, &[0; 12]),
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
    fn a_mapped_network_is_the_ipv4_network_that_it_maps() {
        for (written, expected) in [
            ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
            ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            // These are what they say. None of them has IPv4 addresses among its own.
            ("::/0", "::/0"),
            ("::fffe:0:0/95", "::fffe:0:0/95"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            let network = canonical(written.parse().unwrap());
            assert_eq!(network.to_string(), expected, "{written}");
            assert_eq!(problem(&network), None);
        }
        let trusted = ["::ffff:127.0.0.0/104"].map(|network| canonical(network.parse().unwrap()));
        for (peer, expected) in
            [("127.0.0.1:1", true), ("[::ffff:127.9.9.9]:1", true), ("128.0.0.1:1", false)]
        {
            assert_eq!(trusts(&trusted, Some(peer.parse().unwrap())), expected, "{peer}");
        }
    }

    #[test]
    fn a_mapped_network_with_the_prefix_of_another_family_is_refused() {
        for (written, meant) in [
            ("::ffff:10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:127.0.0.1/0", "127.0.0.1/0"),
            ("::ffff:1.2.3.4/95", "1.2.3.4/32"),
        ] {
            let problem = problem(&canonical(written.parse().unwrap())).unwrap();
            assert!(problem.contains(written) && problem.ends_with(meant), "{problem}");
        }
    }

    #[test]
    fn networks_are_those_of_the_canonical_address() {
        let networks = ["192.0.2.0/24", "2001:db8::/32"].map(|network| network.parse().unwrap());
        for (peer, expected) in [
            ("192.0.2.200:1", true),
            ("[::ffff:192.0.2.200]:1", true),
            ("192.0.3.1:1", false),
            ("[2001:db8:9::1]:1", true),
            ("[::1]:1", false),
        ] {
            assert_eq!(trusts(&networks, Some(peer.parse().unwrap())), expected, "{peer}");
        }
        assert!(trusts(&networks, None));
        assert!(!trusts(&[], Some("127.0.0.1:1".parse().unwrap())));
    }
}
