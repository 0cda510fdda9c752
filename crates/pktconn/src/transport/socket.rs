//! System calls on sockets that bypass tokio: non-blocking reads and writes, unacknowledged bytes, resets.

use std::io;

use bytes::BytesMut;
use tokio::net::TcpStream;

/// How many of the bytes that were written to a transport the peer's kernel has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnackedBytes {
    /// This many bytes. An unacknowledged FIN counts as one. Always 0 for a Unix socket.
    Count(usize),
    /// The system does not report the number. Linux does.
    Unreported,
    /// The transport has no socket, such as a pipe in memory.
    NoSocket,
}

/// How many bytes one direct read takes. Direct reads are rare, and then usually a few packets are there.
#[cfg(any(unix, feature = "tls"))]
pub(crate) const SCRATCH_LEN: usize = 16 * 1024;

/// How many bytes a direct read may append to `buffer`: no more than its spare capacity. Growing would double the
/// buffer, although the frame in it may be almost complete.
#[cfg(any(unix, feature = "tls"))]
pub(crate) fn read_now_len(buffer: &BytesMut) -> usize {
    match buffer.capacity() - buffer.len() {
        // A read of 0 bytes would look like the end of the stream.
        0 => SCRATCH_LEN,
        room => room.min(SCRATCH_LEN),
    }
}

/// Reads once without blocking, and appends to `buffer`. 0 bytes are the end of the stream.
#[cfg(unix)]
pub(crate) fn read_now(socket: impl rustix::fd::AsFd, buffer: &mut BytesMut) -> io::Result<usize> {
    let mut scratch = [0; SCRATCH_LEN];
    let count = read_now_into(socket, &mut scratch[..read_now_len(buffer)])?;
    buffer.extend_from_slice(&scratch[..count]);
    Ok(count)
}

/// Reads once without blocking into a slice. 0 bytes are the end of the stream.
#[cfg(unix)]
pub(crate) fn read_now_into(socket: impl rustix::fd::AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (count, _) = rustix::net::recv(socket, buffer, rustix::net::RecvFlags::DONTWAIT)?;
    Ok(count)
}

/// Writes once without blocking.
#[cfg(unix)]
pub(crate) fn write_now(socket: impl rustix::fd::AsFd, bytes: &[u8]) -> io::Result<usize> {
    use rustix::net::SendFlags;

    #[cfg(not(target_vendor = "apple"))]
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // Rust's standard library sets SO_NOSIGPIPE on sockets there.
    #[cfg(target_vendor = "apple")]
    let flags = SendFlags::DONTWAIT;
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Whether the kernel holds bytes that arrived and were not read.
#[cfg(unix)]
pub(crate) fn has_unread(socket: impl rustix::fd::AsFd) -> bool {
    use rustix::net::RecvFlags;

    let peeked = rustix::net::recv(socket, &mut [0; 1][..], RecvFlags::DONTWAIT | RecvFlags::PEEK);
    matches!(peeked, Ok((1.., _)))
}

#[cfg(not(unix))]
pub(crate) fn read_now(_: &TcpStream, _: &mut BytesMut) -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}

#[cfg(not(unix))]
pub(crate) fn read_now_into(_: &TcpStream, _: &mut [u8]) -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}

#[cfg(not(unix))]
pub(crate) fn write_now(_: &TcpStream, _: &[u8]) -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}

#[cfg(not(unix))]
pub(crate) fn has_unread(_: &TcpStream) -> bool {
    false
}

/// How many written bytes the peer's kernel has not acknowledged.
///
/// # Errors
///
/// The socket has failed, for example because a reset has arrived.
pub(crate) fn unacked_bytes(stream: &TcpStream) -> io::Result<UnackedBytes> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    // Some sandboxes refuse the ioctl. That is no failure of the connection.
    Ok(match pktconn_sys::unacked_bytes(stream) {
        Ok(Some(bytes)) => UnackedBytes::Count(bytes),
        Ok(None) | Err(_) => UnackedBytes::Unreported,
    })
}

/// Ends the connection with a reset. On Linux at once, even if another owner holds the other half of the socket; on
/// other systems when the last half is dropped.
pub(crate) fn reset(stream: &TcpStream) {
    // This fails only for a socket that has failed already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
    // See connect(2), AF_UNSPEC: Linux then sends a reset.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = rustix::net::connect_unspec(stream);
}

/// Shuts down both directions: the peer gets a FIN, and the kernel knows that nothing more is read.
pub(crate) fn shut_down(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Both);
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_direct_read_does_not_grow_the_buffer() {
        let (here, mut there) = std::os::unix::net::UnixStream::pair().unwrap();
        there.write_all(&[7; 5000]).unwrap();
        let mut buffer = BytesMut::with_capacity(100_000);
        buffer.resize(99_000, 7);
        assert_eq!(read_now(&here, &mut buffer).unwrap(), 1000);
        assert_eq!((buffer.len(), buffer.capacity()), (100_000, 100_000));
        let mut empty = BytesMut::new();
        assert_eq!(read_now(&here, &mut empty).unwrap(), 4000);
    }
}
