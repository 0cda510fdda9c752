//! Reads and writes packets over blocking streams: anything that implements [`Read`] or [`Write`].
//!
//! ```
//! use std::io::BufReader;
//! use std::net::{TcpListener, TcpStream};
//! use pktconn_codec::{CodecConfig, blocking};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let mut client = TcpStream::connect(listener.local_addr()?)?;
//! let (server, _) = listener.accept()?;
//! let config = CodecConfig::new();
//!
//! blocking::write_packet(&mut client, "hello", &config)?;
//! drop(client);
//!
//! let mut server = BufReader::new(server);
//! assert_eq!(blocking::read_packet(&mut server, &config)?, Some("hello".into()));
//! assert_eq!(blocking::read_packet(&mut server, &config)?, None);
//! # Ok(())
//! # }
//! ```

use std::io::{self, Read, Write};

use bytes::{Bytes, BytesMut};

use crate::{CodecConfig, CodecError, FrameError, Packet, PacketCodec};

/// The first buffer for a payload, in bytes. After that, the buffer doubles each time it is full. As large as in a
/// `Framed`.
const FIRST_CHUNK_LEN: usize = 8 * 1024;

/// Reads one packet. Returns `None` if the stream ends before its first byte.
///
/// Wrap a socket in a [`BufReader`](io::BufReader): this function makes one read for the header and one or more for the
/// rest. It reads no byte beyond the frame.
///
/// Memory grows with the bytes that arrive, not with the length that the header announces.
///
/// # Errors
///
/// - [`CodecError::Frame`]: the payload exceeds the limit, the checksum does not match, or the stream ended inside the
///   frame.
/// - [`CodecError::Io`]: the stream failed. This includes a read timeout.
///
/// Do not read from the stream after an error: part of a frame may have been read.
pub fn read_packet(stream: &mut impl Read, config: &CodecConfig) -> Result<Option<Packet>, CodecError> {
    let mut codec = PacketCodec::new(*config);
    let header_len = config.header_format().header_len();
    let mut frame = Vec::with_capacity(header_len);
    read_up_to(stream, &mut frame, header_len)?;
    let Some(frame_len) = codec.frame_len(&frame)? else {
        // The stream ended before the header or inside it.
        codec.decode_end(&frame)?;
        return Ok(None);
    };
    while frame.len() < frame_len {
        let step = frame.len().max(FIRST_CHUNK_LEN).min(frame_len - frame.len());
        frame.reserve_exact(step);
        if read_up_to(stream, &mut frame, step)? < step {
            return Err(FrameError::Truncated { needed: frame_len, available: frame.len() }.into());
        }
    }
    Ok(codec.decode_frame(&mut BytesMut::from(Bytes::from(frame)))?)
}

/// Appends `len` bytes to `buffer`, or fewer if the stream ends. Returns their number.
fn read_up_to(stream: &mut impl Read, buffer: &mut Vec<u8>, len: usize) -> io::Result<usize> {
    stream.by_ref().take(len as u64).read_to_end(buffer)
}

/// Writes one packet with one call of [`write_all`](Write::write_all). It does not call [`flush`](Write::flush).
///
/// If the packet was received in the same format, or frozen for it, the frame is written without a copy. Otherwise
/// header, payload and checksum are first copied to one buffer.
///
/// # Errors
///
/// - [`CodecError::Frame`]: the payload exceeds the limit. Nothing was written.
/// - [`CodecError::Io`]: the stream failed. Part of the frame may have been written.
pub fn write_packet(
    stream: &mut impl Write,
    packet: impl Into<Packet>,
    config: &CodecConfig,
) -> Result<(), CodecError> {
    let packet = packet.into();
    let codec = PacketCodec::new(*config);
    let frame = codec.frame(&packet)?;
    if frame.body().len() == frame.len() {
        return Ok(stream.write_all(frame.body())?);
    }
    let mut bytes = BytesMut::with_capacity(frame.len());
    frame.put_into(&mut bytes);
    Ok(stream.write_all(&bytes)?)
}
