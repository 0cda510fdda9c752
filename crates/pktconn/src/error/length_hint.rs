//! Guesses why a frame's length is too large: the bytes belong to another protocol, or the length is in the other byte
//! order.
//!
//! An error contains only the length, and its text does not know the header format: this module restores the bytes from
//! the length, in both byte orders.

/// The longest length that is believed to be in the other byte order. Most first packets are shorter, and few lengths
/// that are too large become this short by chance.
const MAX_SWAPPED_LEN: u32 = 16 * 1024;

/// The first bytes of other protocols.
const PREFIXES: [(&[u8], &str); 14] = [
    (b"HTTP", "an HTTP response"),
    (b"GET ", "an HTTP request"),
    (b"HEAD", "an HTTP request"),
    (b"POST", "an HTTP request"),
    (b"PUT ", "an HTTP request"),
    (b"DELE", "an HTTP request"),
    (b"PATC", "an HTTP request"),
    (b"OPTI", "an HTTP request"),
    (b"CONN", "an HTTP request"),
    (b"TRAC", "an HTTP request"),
    (b"PRI ", "an HTTP/2 request"),
    (b"SSH-", "SSH"),
    (b"PROX", "a header of the PROXY protocol"),
    (b"\r\n\r\n", "a header of the PROXY protocol"),
];

/// The protocol that the bytes of `payload_len` look like.
pub(crate) fn protocol_of_len(payload_len: usize) -> Option<&'static str> {
    let len = u32::try_from(payload_len).ok()?;
    [len.to_le_bytes(), len.to_be_bytes()].iter().find_map(|bytes| {
        if is_tls(*bytes) {
            return Some("TLS");
        }
        PREFIXES.iter().find(|(prefix, _)| bytes.starts_with(prefix)).map(|(_, protocol)| *protocol)
    })
}

/// Whether the bytes look like a TLS record: its type, from `change_cipher_spec` to `application_data`; its version,
/// from TLS 1.0 on; and the upper half of its length, which is at most 16 KiB plus overhead.
fn is_tls([kind, major, minor, len]: [u8; 4]) -> bool {
    (0x14..=0x17).contains(&kind) && major == 3 && (1..=4).contains(&minor) && len <= 0x48
}

/// `payload_len` with its bytes swapped, if the result is short enough to be plausible.
pub(crate) fn swapped_len(payload_len: usize, limit: usize) -> Option<u32> {
    let swapped = u32::try_from(payload_len).ok()?.swap_bytes();
    (swapped <= MAX_SWAPPED_LEN && swapped as usize <= limit).then_some(swapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 32 * 1024 * 1024;

    #[test]
    fn other_protocols_are_recognized_by_their_first_bytes_in_either_byte_order() {
        let cases: [(&[u8; 4], &str); 9] = [
            (b"GET ", "an HTTP request"),
            (b"POST", "an HTTP request"),
            (b"HTTP", "an HTTP response"),
            (b"PRI ", "an HTTP/2 request"),
            (b"SSH-", "SSH"),
            (b"PROX", "a header of the PROXY protocol"),
            (b"\r\n\r\n", "a header of the PROXY protocol"),
            // A ClientHello of 512 bytes, and the alert that a TLS server sends to a client without TLS.
            (b"\x16\x03\x01\x02", "TLS"),
            (b"\x15\x03\x03\x00", "TLS"),
        ];
        for (bytes, expected) in cases {
            for len in [u32::from_le_bytes(*bytes), u32::from_be_bytes(*bytes)] {
                assert_eq!(protocol_of_len(len as usize), Some(expected), "{bytes:?}");
            }
        }
        assert_eq!(protocol_of_len(197_397), Some("TLS"));
        assert_eq!(protocol_of_len(542_393_671), Some("an HTTP request"));
    }

    #[test]
    fn other_large_lengths_match_no_protocol() {
        for len in [0, 1, 5635, 65_536, 1 << 20, 1 << 24, LIMIT, LIMIT + 1, u32::MAX as usize, usize::MAX] {
            assert_eq!(protocol_of_len(len), None, "{len}");
        }
        for len in 0..66_000 {
            assert_eq!(protocol_of_len(len), None, "{len}");
        }
    }

    #[test]
    fn a_short_length_in_the_other_byte_order_is_recognized() {
        for meant in [1_u32, 5, 1000, 16 * 1024] {
            assert_eq!(swapped_len(meant.swap_bytes() as usize, LIMIT), Some(meant));
        }
        assert_eq!(swapped_len(20_000_u32.swap_bytes() as usize, LIMIT), None, "too long to be likely");
        assert_eq!(swapped_len(1000_u32.swap_bytes() as usize, 999), None, "over the limit as well");
        assert_eq!(swapped_len(LIMIT + 1, LIMIT), None);
        assert_eq!(swapped_len(usize::MAX, LIMIT), None);
    }
}
