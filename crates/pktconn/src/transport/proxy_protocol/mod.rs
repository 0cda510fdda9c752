//! The PROXY protocol, versions 1 and 2: a proxy sends the client's address in a line (version 1) or a binary block
//! (version 2) before all other bytes, also before TLS.
//!
//! On a listener with this protocol the server requires a header on every connection, and refuses connections that do
//! not come from a trusted proxy. This folder has no timeout: the caller limits the time of the whole handshake.
//!
//! The parser is our own, although there is the crate `ppp`. These bytes are read before anything is authenticated, and
//! `ppp` has one maintainer. It also leaves to its caller most of what is needed here: it knows no checksum, neither
//! bounds the length of a block nor checks the TLVs, refuses headers without addresses that the specification allows
//! (`PROXY UNKNOWN` with bytes that are not UTF-8, UNSPEC with a few bytes), and takes ports such as `+80`. The format is
//! small and frozen. The tests compare with `ppp` on valid and on mutated headers, and list where the two differ.
//!
//! Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

mod crc32c;
mod header;
mod parse;
mod problem;
mod tlv;
mod trusted_proxies;

pub use header::{ProxyHeader, ProxySsl};
pub use tlv::ProxyTlv;
pub(crate) use trusted_proxies::TrustedProxies;

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt};

use self::parse::{
    V1_MAX_LINE_LEN, V1_START, V2_PREFIX_LEN, V2_SIGNATURE, check_prefix, parse_block, parse_line,
};
use self::problem::Problem;

/// The length of the shortest header: `PROXY UNKNOWN\r\n`.
const MIN_HEADER_LEN: usize = 15;

/// Reads the header and not one byte more. `proxy` is the address of the peer, which sends it.
pub(crate) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
    proxy: Option<SocketAddr>,
) -> io::Result<ProxyHeader> {
    let mut start = [0; MIN_HEADER_LEN];
    stream.read_exact(&mut start).await?;
    let mut header = if start.starts_with(V2_SIGNATURE) {
        read_block(stream, start).await?
    } else if start.starts_with(V1_START) {
        read_line(stream, start).await?
    } else {
        return Err(invalid_header(&Problem::NoHeader));
    };
    header.proxy = proxy;
    Ok(header)
}

/// Reads the rest of a line of version 1.
async fn read_line(
    stream: &mut (impl AsyncRead + Unpin),
    start: [u8; MIN_HEADER_LEN],
) -> io::Result<ProxyHeader> {
    let mut line = start.to_vec();
    // Byte by byte, so that nothing after the header is read. This costs up to 92 reads, once per connection.
    while !line.ends_with(b"\r\n") {
        if line.len() == V1_MAX_LINE_LEN {
            return Err(invalid_header(&Problem::LineTooLong { max: V1_MAX_LINE_LEN }));
        }
        line.push(stream.read_u8().await?);
    }
    parse_line(&line).map_err(|problem| invalid_header(&problem))
}

/// Reads the rest of a block of version 2.
async fn read_block(
    stream: &mut (impl AsyncRead + Unpin),
    start: [u8; MIN_HEADER_LEN],
) -> io::Result<ProxyHeader> {
    let mut prefix = [0; V2_PREFIX_LEN];
    prefix[..MIN_HEADER_LEN].copy_from_slice(&start);
    stream.read_exact(&mut prefix[MIN_HEADER_LEN..]).await?;
    let len = check_prefix(&prefix).map_err(|problem| invalid_header(&problem))?;
    let mut block = prefix.to_vec();
    // Memory grows with the bytes that arrive, not with the announced length.
    let read = stream.take(len as u64).read_to_end(&mut block).await?;
    if read < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    parse_block(&block).map_err(|problem| invalid_header(&problem))
}

fn invalid_header(problem: &Problem) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header that four more bytes follow, and checks that these are not read.
    async fn read(header: &[u8]) -> io::Result<Option<String>> {
        let stream = [header, b"rest"].concat();
        let mut stream = &stream[..];
        let header = read_header(&mut stream, None).await?;
        assert_eq!(stream, b"rest", "after {header:?}");
        Ok(header.source().map(|addr| addr.to_string()))
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
            let error = read_header(&mut &header[..], None).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[tokio::test]
    async fn a_block_that_announces_too_much_is_refused_before_its_body_is_read() {
        let stream = [&V2_SIGNATURE[..], &[0x21, 0x11, 0x40, 0x01], &[0; 1000]].concat();
        let mut rest = &stream[..];
        let error = read_header(&mut rest, None).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "no acceptable PROXY header: it announces 16385 bytes, but the maximum is 16384"
        );
        assert_eq!(rest.len(), 1000, "bytes that are left to read");
    }

    proptest::proptest! {
        /// Exactly the header is read, in whatever pieces it arrives.
        #[test]
        fn nothing_after_a_header_is_read(
            start in "(\\PC|\r\n){0,3}|PROXY (UNKNOWN|TCP4 1\\.2\\.3\\.4 5\\.6\\.7\\.8 1 2|.{0,20})",
            is_block in proptest::bool::ANY,
            command in 0x20..=0x22_u8,
            family in 0..=0x33_u8,
            body in proptest::collection::vec(0..4_u8, 0..300),
            announced in 0..310_u16,
            piece_len in 1..40_usize,
        ) {
            let [high, low] = announced.to_be_bytes();
            let stream = match is_block {
                true => [&V2_SIGNATURE[..], &[command, family, high, low], &body].concat(),
                false => [start.as_bytes(), b"\r\n", &body].concat(),
            };
            let header_len = if is_block { 16 + usize::from(announced) } else { start.len() + 2 };
            let mut script = tokio_test::io::Builder::new();
            stream.chunks(piece_len).for_each(|piece| { script.read(piece); });
            let mut io = script.build();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let rest = runtime.block_on(async {
                let read = read_header(&mut io, None).await;
                let mut rest = Vec::new();
                io.read_to_end(&mut rest).await.unwrap();
                read.is_ok().then_some(rest)
            });
            if let Some(rest) = rest {
                // A line ends at its first CRLF.
                let end = if is_block { header_len } else { stream.windows(2).position(|two| two == b"\r\n").unwrap() + 2 };
                proptest::prop_assert_eq!(rest, &stream[end..]);
            }
        }
    }
}
