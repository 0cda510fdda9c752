//! Tests `blocking::read_packet` and `blocking::write_packet` against byte literals.

use std::io::{self, Cursor, Read, Write};

use pktconn_codec::blocking::{read_packet, write_packet};
use pktconn_codec::{Checksum, CodecConfig, CodecError, FrameError, HeaderFormat, Packet, PacketMut};

/// Two packets, "hi" and an empty one.
const STREAM: &[u8] = b"\x02\0\0\0hi\0\0\0\0";

/// Returns one byte per read, and `Interrupted` before each byte.
struct InterruptedReader<'a> {
    bytes: &'a [u8],
    is_interrupted: bool,
}

impl Read for InterruptedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.is_interrupted = !self.is_interrupted;
        if self.is_interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buffer.len().min(1);
        self.bytes.read(&mut buffer[..len])
    }
}

/// Counts the calls of `write`.
#[derive(Default)]
struct CountingWriter {
    count: usize,
    bytes: Vec<u8>,
}

impl Write for CountingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.count += 1;
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        panic!("`write_packet` called `flush`")
    }
}

fn truncated(error: CodecError) -> (usize, usize) {
    match error {
        CodecError::Frame(FrameError::Truncated { needed, available }) => (needed, available),
        error => panic!("{error:?}"),
    }
}

#[test]
fn read_packet_reads_no_byte_beyond_the_frame() {
    let config = CodecConfig::new();
    let mut stream = Cursor::new(STREAM);
    assert_eq!(read_packet(&mut stream, &config).unwrap(), Some(b"hi".into()));
    assert_eq!(stream.position(), 6);
    assert_eq!(read_packet(&mut stream, &config).unwrap(), Some(Packet::default()));
    assert_eq!(read_packet(&mut stream, &config).unwrap(), None);
}

#[test]
fn short_and_interrupted_reads_return_the_same_packets() {
    let config = CodecConfig::new();
    let mut stream = InterruptedReader { bytes: STREAM, is_interrupted: false };
    assert_eq!(read_packet(&mut stream, &config).unwrap(), Some(b"hi".into()));
    assert_eq!(read_packet(&mut stream, &config).unwrap(), Some(Packet::default()));
    assert_eq!(read_packet(&mut stream, &config).unwrap(), None);
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_truncated() {
    for len in 1..6 {
        let needed = if len < 4 { 4 } else { 6 };
        let error = read_packet(&mut &STREAM[..len], &CodecConfig::new()).unwrap_err();
        assert_eq!(truncated(error), (needed, len));
    }
}

#[test]
fn a_header_alone_commits_no_memory() {
    // The header announces 32 MiB, but only 10,000 bytes arrive.
    let mut stream = (32_u32 << 20).to_le_bytes().to_vec();
    stream.resize(10_004, 7);
    let mut stream = BufferLenRecorder { bytes: &stream, largest_len: 0 };
    let error = read_packet(&mut stream, &CodecConfig::new()).unwrap_err();
    assert_eq!(truncated(error), ((32 << 20) + 4, 10_004));
    assert!(stream.largest_len <= 16 * 1024, "read into a buffer of {} bytes", stream.largest_len);
}

/// Records the length of the largest buffer passed to `read`.
struct BufferLenRecorder<'a> {
    bytes: &'a [u8],
    largest_len: usize,
}

impl Read for BufferLenRecorder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.largest_len = self.largest_len.max(buffer.len());
        self.bytes.read(buffer)
    }
}

#[test]
fn a_payload_over_the_limit_is_rejected_in_both_directions() {
    let config = CodecConfig::new().max_payload_len(1);
    let too_large =
        |error| matches!(error, CodecError::Frame(FrameError::PayloadTooLarge { len: 2, max: 1 }));
    assert!(too_large(read_packet(&mut &STREAM[..4], &config).unwrap_err()));
    let mut written = CountingWriter::default();
    assert!(too_large(write_packet(&mut written, "hi", &config).unwrap_err()));
    assert_eq!(written.count, 0);
}

#[test]
fn a_frame_is_one_write_in_every_format() {
    for header in [HeaderFormat::U32Le, HeaderFormat::U16Be] {
        for checksum in [Checksum::None, Checksum::Crc32] {
            let config = CodecConfig::new().header(header).checksum(checksum);
            let mut packet = PacketMut::new();
            packet.write_bytes(b"made");
            let packets = [Packet::from("text"), packet.freeze(), Packet::from(vec![7; 40_000])];
            for packet in packets {
                let mut written = CountingWriter::default();
                write_packet(&mut written, packet.clone(), &config).unwrap();
                assert_eq!(written.count, 1);
                let received = read_packet(&mut &written.bytes[..], &config).unwrap().unwrap();
                assert_eq!(received, packet, "{config:?}");
                let mut forwarded = CountingWriter::default();
                write_packet(&mut forwarded, received, &config).unwrap();
                assert!((forwarded.count, forwarded.bytes) == (1, written.bytes));
            }
        }
    }
}

#[test]
fn a_wrong_checksum_is_an_error() {
    let config = CodecConfig::new().checksum(Checksum::Crc32);
    let error = read_packet(&mut &b"\0\0\0\0\x1d\xdf\x44\x21"[..], &config).unwrap_err();
    assert!(matches!(error, CodecError::Frame(FrameError::ChecksumMismatch { .. })), "{error:?}");
    let good = read_packet(&mut &b"\0\0\0\0\x1c\xdf\x44\x21"[..], &config).unwrap();
    assert_eq!(good, Some(Packet::default()));
}

#[test]
fn an_error_of_the_stream_is_returned() {
    struct TimesOut;
    impl Read for TimesOut {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
    let error = read_packet(&mut TimesOut, &CodecConfig::new()).unwrap_err();
    assert!(
        matches!(&error, CodecError::Io(error) if error.kind() == io::ErrorKind::WouldBlock),
        "{error:?}"
    );
}
