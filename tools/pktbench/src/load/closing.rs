//! Connections that are being closed: our FIN was sent, and the FIN of the server is awaited, so that neither side resets
//! the connection.

use std::time::{Duration, Instant};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use slab::Slab;

use crate::load::connection::Connection;
use crate::load::stream::ReadOutcome;

/// How long to wait for the FIN of the server. The load of the connection has ended: the wait changes no result.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Closing {
    conns: Slab<(Connection, Instant)>,
    /// The token of a connection is its key plus this.
    first_token: usize,
    /// Connections that have more to read, though no event says so.
    pub(crate) run_again: Vec<usize>,
}

impl Closing {
    pub(crate) fn new(first_token: usize) -> Self {
        Self { conns: Slab::new(), first_token, run_again: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.conns.len()
    }

    /// Starts to close a connection.
    pub(crate) fn add(&mut self, mut connection: Connection, registry: &Registry, buffer: &mut [u8]) {
        // If this fails, the connection is already gone.
        if connection.shutdown().is_err() {
            return;
        }
        let entry = self.conns.vacant_entry();
        let token = self.first_token + entry.key();
        // Also announces what has happened before.
        let registered =
            connection.source().reregister(registry, Token(token), Interest::READABLE | Interest::WRITABLE);
        if registered.is_ok() {
            entry.insert((connection, Instant::now() + CLOSE_TIMEOUT));
            self.drive(token, buffer);
        }
    }

    /// Reads and discards what was received, after an event with this token.
    pub(crate) fn drive(&mut self, token: usize, buffer: &mut [u8]) {
        let Some(key) = token.checked_sub(self.first_token) else { return };
        let Some((connection, _)) = self.conns.get_mut(key) else { return };
        match connection.discard(buffer) {
            Ok(ReadOutcome::WouldBlock) => {}
            Ok(_) => self.run_again.push(token),
            Err(_closed) => drop(self.conns.remove(key)),
        }
    }

    /// Drops the connections whose time is over.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.conns.retain(|_, (_, deadline)| now < *deadline);
    }
}
