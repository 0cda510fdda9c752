//! The transport of a connection: TCP or a Unix socket, optionally with TLS. All operations are non-blocking.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use tokio_rustls::rustls::ClientConnection;

pub(crate) struct Stream {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
}

pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// Bytes were read, and there may be more.
    MaybeMore,
    /// Bytes were read, and the socket is empty.
    Drained,
    /// Nothing was read.
    WouldBlock,
}

impl Stream {
    pub(crate) fn new(socket: Socket, tls: Option<ClientConnection>) -> Self {
        Self { socket, tls: tls.map(Box::new) }
    }

    /// Whether the socket is connected. `false` while the connect goes on.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        let Socket::Tcp(socket) = &self.socket else { return Ok(true) };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends small packets at once.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(socket) => socket.set_nodelay(true),
            Socket::Unix(_) => Ok(()),
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Begins TLS. Call [`handshake`](Self::handshake) until it is done.
    pub(crate) fn start_tls(&mut self, tls: ClientConnection) {
        self.tls = Some(Box::new(tls));
    }

    /// Goes on with the TLS handshake, as far as the socket allows. Returns whether it is done.
    pub(crate) fn handshake(&mut self) -> io::Result<bool> {
        loop {
            if !self.flush()? {
                return Ok(false);
            }
            let Self { socket, tls } = self;
            let Some(tls) = tls.as_mut().filter(|tls| tls.is_handshaking()) else { return Ok(true) };
            match retry_if_interrupted(|| tls.read_tls(socket))? {
                None => return Ok(false),
                Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Some(_) => {}
            }
            let processed = tls.process_new_packets();
            if let Err(error) = processed {
                // Tells the server why.
                let _ = self.flush();
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }

    /// Writes `bytes` and returns how many were accepted: fewer than all if the socket is full. With TLS, accepted
    /// bytes may wait here, encrypted, for [`flush`](Self::flush).
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while let Some(tls) = &mut self.tls {
            // rustls accepts some tens of KiB at a time.
            written += tls.writer().write(&bytes[written..])?;
            if !self.flush()? || written == bytes.len() {
                return Ok(written);
            }
        }
        Ok(retry_if_interrupted(|| self.socket.write(bytes))?.unwrap_or(0))
    }

    /// Writes encrypted bytes that the socket has not accepted yet. Returns whether all were written.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let Self { socket, tls } = self;
        let Some(tls) = tls else { return Ok(true) };
        while tls.wants_write() {
            match retry_if_interrupted(|| tls.write_tls(socket))? {
                None => return Ok(false),
                Some(0) => return Err(ErrorKind::WriteZero.into()),
                Some(_) => {}
            }
        }
        Ok(true)
    }

    /// Whether the socket has accepted all encrypted bytes.
    pub(crate) fn is_flushed(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Reads once into `room`, which must not be empty. `None` at the end of the stream.
    pub(crate) fn read(&mut self, room: &mut [u8]) -> io::Result<Option<(usize, ReadOutcome)>> {
        let room_len = room.len();
        let (len, is_all) = match &mut self.tls {
            None => {
                let len = retry_if_interrupted(|| self.socket.read(room))?;
                (len, len.is_some_and(|len| len < room_len))
            }
            // With TLS, a short read does not mean that the socket is empty.
            Some(tls) => {
                let wanted_write = tls.wants_write();
                let len = read_decrypted(tls, &mut self.socket, room)?;
                // rustls may have a message of its own to send, such as a key update. Flush it now: no event announces
                // that the socket is writable if nothing was waiting to be written before.
                if !wanted_write {
                    self.flush()?;
                }
                (len, false)
            }
        };
        Ok(match len {
            None => Some((0, ReadOutcome::WouldBlock)),
            Some(0) => None,
            Some(len) => Some((len, if is_all { ReadOutcome::Drained } else { ReadOutcome::MaybeMore })),
        })
    }

    /// Ends the sending side: TLS `close_notify` and FIN.
    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // If the socket is full, `close_notify` is not sent, and the server sees a truncated stream. The load has
            // ended, so it does not matter.
            self.flush()?;
        }
        match &self.socket {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Write),
        }
    }

    /// Reads once and discards the bytes without decrypting them. `None` at the end of the stream.
    pub(crate) fn discard(&mut self, buffer: &mut [u8]) -> io::Result<Option<ReadOutcome>> {
        Ok(match retry_if_interrupted(|| self.socket.read(buffer))? {
            None => Some(ReadOutcome::WouldBlock),
            Some(0) => None,
            Some(len) => Some(if len < buffer.len() { ReadOutcome::Drained } else { ReadOutcome::MaybeMore }),
        })
    }
}

/// Reads and decrypts. Unlike the stream of rustls it does not write first: the server may not read before its own
/// output is read.
fn read_decrypted(
    tls: &mut ClientConnection,
    socket: &mut Socket,
    room: &mut [u8],
) -> io::Result<Option<usize>> {
    loop {
        match retry_if_interrupted(|| tls.reader().read(room)) {
            Ok(None) => {}
            // The stream ended without `close_notify`. The frames tell whether it was cut.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Some(0)),
            read => return read,
        }
        if retry_if_interrupted(|| tls.read_tls(socket))?.is_none() {
            return Ok(None);
        }
        tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    }
}

/// Repeats `act` if a signal interrupted it. `None` if it would block.
fn retry_if_interrupted(mut act: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match act() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            done => return done.map(Some),
        }
    }
}

impl Read for Socket {
    #[inline]
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(room),
            Self::Unix(socket) => socket.read(room),
        }
    }
}

impl Write for Socket {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.register(registry, token, interests),
            Socket::Unix(socket) => socket.register(registry, token, interests),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.reregister(registry, token, interests),
            Socket::Unix(socket) => socket.reregister(registry, token, interests),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.deregister(registry),
            Socket::Unix(socket) => socket.deregister(registry),
        }
    }
}
