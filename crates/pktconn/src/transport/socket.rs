//! What is asked of sockets behind tokio's back, without a call of the application's.

use std::io;

use bytes::BytesMut;
use tokio::net::TcpStream;

/// What is known of the bytes that a transport took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acks {
    /// So many bytes are not acknowledged by the peer's kernel, a FIN included; none, of a Unix socket.
    Missing(usize),
    /// The system does not tell; Linux does.
    Hidden,
    /// There is no socket that could tell, such as for a pipe in memory.
    NoNetwork,
}

/// How much is read at a time: what waits in the rare case that it is looked for is a few packets.
#[cfg(any(unix, feature = "tls"))]
pub(crate) const SCRATCH: usize = 16 * 1024;

/// How much may be read behind what is in `buffer`. Beyond its room it would double, though a frame has almost arrived.
#[cfg(any(unix, feature = "tls"))]
pub(crate) fn room_for_read_now(buffer: &BytesMut) -> usize {
    match buffer.capacity() - buffer.len() {
        // To read nothing would look like the end of the stream.
        0 => SCRATCH,
        room => room.min(SCRATCH),
    }
}

/// Reads once, whatever tokio knows of the socket. 0 bytes are the end of the stream.
#[cfg(unix)]
pub(crate) fn read_now(socket: impl rustix::fd::AsFd, buffer: &mut BytesMut) -> io::Result<usize> {
    let mut scratch = [0; SCRATCH];
    let count = recv_now(socket, &mut scratch[..room_for_read_now(buffer)])?;
    buffer.extend_from_slice(&scratch[..count]);
    Ok(count)
}

/// The same, into memory of a size that is given.
#[cfg(unix)]
pub(crate) fn recv_now(socket: impl rustix::fd::AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (count, _) = rustix::net::recv(socket, buffer, rustix::net::RecvFlags::DONTWAIT)?;
    Ok(count)
}

/// Writes once, whatever tokio knows of the socket.
#[cfg(unix)]
pub(crate) fn write_now(socket: impl rustix::fd::AsFd, bytes: &[u8]) -> io::Result<usize> {
    use rustix::net::SendFlags;

    #[cfg(not(target_vendor = "apple"))]
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // A socket of Rust's has SO_NOSIGPIPE there.
    #[cfg(target_vendor = "apple")]
    let flags = SendFlags::DONTWAIT;
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Whether bytes have arrived that were not read.
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
pub(crate) fn recv_now(_: &TcpStream, _: &mut [u8]) -> io::Result<usize> {
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

/// What the peer's kernel has acknowledged.
///
/// # Errors
///
/// The socket has failed: a reset has arrived, for one.
pub(crate) fn acks(stream: &TcpStream) -> io::Result<Acks> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    // Not every sandbox lets it through.
    Ok(match pktconn_sys::unacked_bytes(stream) {
        Ok(Some(bytes)) => Acks::Missing(bytes),
        Ok(None) | Err(_) => Acks::Hidden,
    })
}

/// Has the connection end with a reset: at once on Linux, also while the other half of the socket is held elsewhere, and
/// when the last half is dropped on other systems.
pub(crate) fn reset(stream: &TcpStream) {
    // Whoever closes a socket that has failed already has nothing to reset.
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
    // Source: connect(2), AF_UNSPEC; Linux answers it with a reset.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = rustix::net::connect_unspec(stream);
}

/// Tells the peer that nothing more comes, and the kernel that nothing more is read.
pub(crate) fn send_fin(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Both);
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_read_behind_tokios_back_leaves_a_buffer_as_large_as_it_is() {
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
