//! The only system call of `pktconn` that needs `unsafe` code, because no library has a safe wrapper for it.
//!
//! The other libraries of the project forbid `unsafe`.

use std::io;

/// Returns the number of bytes that were written to `socket`, a connected TCP socket, and that the peer's kernel has
/// not acknowledged. Bytes that are not sent yet count, and so does a FIN. Returns `None` on systems other than Linux.
///
/// Source: `SIOCOUTQ` in tcp(7).
///
/// # Errors
///
/// `socket` is not a TCP socket, or it is a listening socket.
#[cfg(target_os = "linux")]
pub fn unacked_bytes(socket: impl std::os::fd::AsFd) -> io::Result<Option<usize>> {
    use std::os::fd::AsRawFd;

    let mut bytes: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `fd` stays open while `socket` is borrowed. SIOCOUTQ writes one `int` to the address in its argument,
    // which is the address of `bytes`.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(Some(usize::try_from(bytes).unwrap_or(0)))
}

/// Returns `None`: this system does not report unacknowledged bytes.
///
/// # Errors
///
/// Never on this system.
#[cfg(not(target_os = "linux"))]
pub fn unacked_bytes<T>(_socket: T) -> io::Result<Option<usize>> {
    Ok(None)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    /// Waits until the number of unacknowledged bytes is as `expected`. Even on loopback, acknowledgements take time.
    fn assert_unacked(socket: &TcpStream, expected: impl Fn(usize) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let bytes = unacked_bytes(socket).unwrap().unwrap();
            if expected(bytes) {
                return;
            }
            assert!(Instant::now() < deadline, "{bytes} bytes");
            std::thread::yield_now();
        }
    }

    #[test]
    fn bytes_are_unacknowledged_until_the_peers_kernel_has_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        assert_unacked(&socket, |bytes| bytes == 0);
        socket.write_all(b"hello").unwrap();
        peer.read_exact(&mut [0; 5]).unwrap();
        assert_unacked(&socket, |bytes| bytes == 0);
        // Until the buffers of both sockets are full.
        socket.set_nonblocking(true).unwrap();
        while socket.write(&[0; 65_536]).is_ok() {}
        assert_unacked(&socket, |bytes| bytes > 0);
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(unacked_bytes(&file).is_err());
    }
}
