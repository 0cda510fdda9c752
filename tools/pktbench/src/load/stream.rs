//! What a connection runs over: TCP or a Unix socket, and TLS over it. Nothing here waits.

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

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// There may be more.
    MaybeMore,
    /// All that was there.
    Drained,
    WouldBlock,
}

impl Stream {
    pub(crate) fn new(socket: Socket, tls: Option<ClientConnection>) -> Self {
        Self { socket, tls: tls.map(Box::new) }
    }

    /// How much of `bytes` it takes: less than all when the socket takes no more now. With TLS some of that may wait
    /// here, [encrypted](Self::flush).
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while let Some(tls) = &mut self.tls {
            // It takes some tens of KiB at a time.
            written += tls.writer().write(&bytes[written..])?;
            if !self.flush()? || written == bytes.len() {
                return Ok(written);
            }
        }
        Ok(retried(|| self.socket.write(bytes))?.unwrap_or(0))
    }

    /// Writes what waits here. Whether that was all.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let Self { socket, tls } = self;
        let Some(tls) = tls else { return Ok(true) };
        while tls.wants_write() {
            match retried(|| tls.write_tls(socket))? {
                None => return Ok(false),
                Some(0) => return Err(ErrorKind::WriteZero.into()),
                Some(_) => {}
            }
        }
        Ok(true)
    }

    /// Whether nothing waits here.
    pub(crate) fn is_flushed(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Reads once into `room`, which is not empty. `None` at the end of the stream.
    pub(crate) fn read(&mut self, room: &mut [u8]) -> io::Result<Option<(usize, ReadOutcome)>> {
        let room_len = room.len();
        let (len, is_all) = match &mut self.tls {
            None => {
                let len = retried(|| self.socket.read(room))?;
                (len, len.is_some_and(|len| len < room_len))
            }
            // It gives out what it has decrypted, whatever else has arrived.
            Some(tls) => {
                let waited = tls.wants_write();
                let len = read_decrypted(tls, &mut self.socket, room)?;
                // Its own answer to something. Where nothing waited for the socket, nothing will tell that it is ready.
                if !waited {
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

    /// Sends the end of this side.
    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // What the socket does not take at once is of no matter: all packets are through.
            self.flush()?;
        }
        match &self.socket {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Write),
        }
    }

    /// Reads once and throws it away, as it stands on the wire. `None` at the end of the stream.
    pub(crate) fn discard(&mut self, buffer: &mut [u8]) -> io::Result<Option<ReadOutcome>> {
        Ok(match retried(|| self.socket.read(buffer))? {
            None => Some(ReadOutcome::WouldBlock),
            Some(0) => None,
            Some(len) => Some(if len < buffer.len() { ReadOutcome::Drained } else { ReadOutcome::MaybeMore }),
        })
    }
}

/// Reads without writing what waits, as rustls' own stream does first: the peer may take nothing until it is read.
fn read_decrypted(
    tls: &mut ClientConnection,
    socket: &mut Socket,
    room: &mut [u8],
) -> io::Result<Option<usize>> {
    loop {
        match retried(|| tls.reader().read(room)) {
            Ok(None) => {}
            // The end without a word of TLS is that of a server that is gone: packets tell whether it was whole.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Some(0)),
            read => return read,
        }
        if retried(|| tls.read_tls(socket))?.is_none() {
            return Ok(None);
        }
        tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    }
}

/// Does it again where a signal came in between; `None` where it would have to wait.
fn retried(mut act: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
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
