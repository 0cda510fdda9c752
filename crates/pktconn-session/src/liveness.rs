//! Whether the peer is alive: any received byte says so; silence is answered with PING, then with the end of the connection.

use std::time::{Duration, Instant};

/// Of one connection.
pub(crate) struct Liveness {
    interval: Duration,
    timeout: Duration,
    last_byte_at: Instant,
    /// The newest PING, which is also its number, until its PONG.
    ping: Option<(u64, Instant)>,
    last_ping_at: Option<Instant>,
    pings: u64,
    /// A PING is due and waits for room.
    owes_ping: bool,
}

impl Liveness {
    pub(crate) fn new(interval: Duration, timeout: Duration, now: Instant) -> Self {
        Self {
            interval,
            timeout,
            last_byte_at: now,
            ping: None,
            last_ping_at: None,
            pings: 0,
            owes_ping: false,
        }
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_byte_at = now;
        self.owes_ping = false;
    }

    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        now >= self.last_byte_at + self.timeout
    }

    fn ping_at(&self) -> Instant {
        self.last_byte_at.max(self.last_ping_at.unwrap_or(self.last_byte_at)) + self.interval
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.owes_ping |= now >= self.ping_at();
    }

    /// The data of a PING to write now.
    pub(crate) fn poll_ping(&mut self, now: Instant) -> Option<[u8; 8]> {
        self.handle_timeout(now);
        if !std::mem::take(&mut self.owes_ping) {
            return None;
        }
        self.pings += 1;
        self.last_ping_at = Some(now);
        self.ping = Some((self.pings, now));
        Some(self.pings.to_le_bytes())
    }

    /// The round-trip time, if `data` is that of the newest PING.
    pub(crate) fn pong(&mut self, data: [u8; 8], now: Instant) -> Option<Duration> {
        let (_, since) = self.ping.take_if(|(number, _)| number.to_le_bytes() == data)?;
        Some(now.saturating_duration_since(since))
    }

    pub(crate) fn timeout(&self) -> Instant {
        let dead_at = self.last_byte_at + self.timeout;
        if self.owes_ping { dead_at } else { self.ping_at().min(dead_at) }
    }
}
