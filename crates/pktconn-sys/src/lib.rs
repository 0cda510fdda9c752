//! The one system call of `pktconn` that no library offers without `unsafe` code.
//!
//! The libraries of the project forbid `unsafe`; this crate holds the exception and nothing else.

use std::io;

/// How many bytes `socket`, a connected TCP socket, was given that the peer's kernel has not acknowledged: unsent ones and
/// a FIN count. `None` on systems that cannot tell; Linux can.
///
/// Source: `SIOCOUTQ` in tcp(7).
///
/// # Errors
///
/// The file is no TCP socket, or one that listens.
#[cfg(target_os = "linux")]
pub fn unacked_bytes(socket: impl std::os::fd::AsFd) -> io::Result<Option<usize>> {
    use std::os::fd::AsRawFd;

    let mut bytes: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `fd` is open as long as `socket` is borrowed, and SIOCOUTQ writes one `int` to the address that it is given,
    // which is that of `bytes`.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(Some(usize::try_from(bytes).unwrap_or(0)))
}

/// How many bytes a socket was given that the peer's kernel has not acknowledged: `None`, as this system cannot tell.
///
/// # Errors
///
/// None on this system.
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

    /// Waits until `socket` has `expected` bytes unacknowledged: the acknowledgement takes its time, also on loopback.
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
    fn what_the_peers_kernel_has_not_taken_is_unacknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        assert_unacked(&socket, |bytes| bytes == 0);
        socket.write_all(b"hello").unwrap();
        peer.read_exact(&mut [0; 5]).unwrap();
        assert_unacked(&socket, |bytes| bytes == 0);
        // More than both kernels hold.
        socket.set_nonblocking(true).unwrap();
        while socket.write(&[0; 65_536]).is_ok() {}
        assert_unacked(&socket, |bytes| bytes > 0);
    }

    #[test]
    fn a_file_that_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(unacked_bytes(&file).is_err());
    }
}
