//! Connections that are being closed: our FIN was sent, and the FIN of the server is awaited, so that neither side resets
//! the connection.

use std::time::{Duration, Instant};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use slab::Slab;

use crate::load::connection::Connection;
use crate::load::driver::WorkerState;
use crate::load::stream::ReadOutcome;
use crate::plan::clock::Clock;

/// How long to wait for the FIN of the server. The load of the connection has ended: the wait changes no result.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Closing {
    conns: Slab<ClosingConnection>,
    /// The token of a connection is its key plus this.
    first_token: usize,
    /// Connections that have more to read, though no event says so.
    pub(crate) run_again: Vec<usize>,
}

struct ClosingConnection {
    connection: Connection,
    /// Whether everything was answered. Then each packet that still comes is a duplicate.
    is_complete: bool,
    deadline: Instant,
}

impl Closing {
    pub(crate) fn new(first_token: usize) -> Self {
        Self { conns: Slab::new(), first_token, run_again: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.conns.len()
    }

    /// Starts to close a connection. `is_complete` tells whether everything on it was answered.
    pub(crate) fn add(
        &mut self,
        mut connection: Connection,
        is_complete: bool,
        registry: &Registry,
        clock: Clock,
        state: &mut WorkerState,
    ) {
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
            let deadline = Instant::now() + CLOSE_TIMEOUT;
            entry.insert(ClosingConnection { connection, is_complete, deadline });
            self.drive(token, clock, state);
        }
    }

    /// Reads once after an event with this token, and counts duplicates.
    pub(crate) fn drive(&mut self, token: usize, clock: Clock, state: &mut WorkerState) {
        let Some(key) = token.checked_sub(self.first_token) else { return };
        let Some(ClosingConnection { connection, is_complete, .. }) = self.conns.get_mut(key) else { return };
        let WorkerState { tally, buffer, .. } = state;
        let outcome = match is_complete {
            true => connection.read(buffer, clock, |_, _| tally.integrity.duplicated += 1),
            false => connection.discard(buffer),
        };
        match outcome {
            Ok(ReadOutcome::WouldBlock) => {}
            Ok(_) => self.run_again.push(token),
            Err(_closed) => drop(self.conns.remove(key)),
        }
    }

    /// Drops the connections whose time is over.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.conns.retain(|_, closing| now < closing.deadline);
    }
}
