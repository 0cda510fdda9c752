//! When a client gives up on sessions at an address, because the server there has none.

use std::time::{Duration, Instant};

/// So many tries without an answer in a row: a server without sessions can stay silent, because it waits for the rest of a long
/// packet.
const MAX_SILENT: u32 = 2;

/// So many failed tries in a row: a server without sessions closes, because the length is too long. A network that loses
/// connections does the same, but not so often in a row.
const MAX_FAILED: u32 = 4;

/// How long an address is used without sessions before HELLO is tried again.
const LEGACY_FOR: Duration = Duration::from_secs(600);

/// What a client that may fall back knows about the server at one address.
///
/// Use it for new sessions only: a session that exists is resumed with HELLO, whatever happens.
#[derive(Clone, Debug, Default)]
pub struct Fallback {
    silent: u32,
    failed: u32,
    has_answered: bool,
    legacy_until: Option<Instant>,
}

/// Why HELLO got no answer on a connection that was established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The connection ended, in whatever way.
    Ended,
    /// The time for an answer has passed.
    Silence,
}

impl Fallback {
    /// Whether to use the address without a session.
    #[must_use]
    pub fn is_legacy(&self, now: Instant) -> bool {
        self.legacy_until.is_some_and(|until| now < until)
    }

    /// The server has sent a control frame, so it has sessions. It is never taken for one without them again.
    pub fn answered(&mut self) {
        *self = Self { has_answered: true, ..Self::default() };
    }

    /// HELLO was written, and no control frame came.
    pub fn failed(&mut self, why: NoAnswer, now: Instant) {
        if self.has_answered {
            return;
        }
        self.failed += 1;
        self.silent += u32::from(why == NoAnswer::Silence);
        if self.failed >= MAX_FAILED || self.silent >= MAX_SILENT {
            *self = Self { legacy_until: Some(now + LEGACY_FOR), ..Self::default() };
        }
    }
}
