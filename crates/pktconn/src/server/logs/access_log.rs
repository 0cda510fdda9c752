//! The access log: one event for each connection at its end, at most 1,000 per second.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::conn_core::EndedConn;
use crate::error::Reason;
use crate::{ConnId, ConnStats, Error};

/// Lines of 300 bytes make 300 kB per second then, which a disk and a person's tools can take.
const MAX_ENDED: u32 = 1000;

/// A flood of refused connections can come at any rate. A sample of it names the attackers.
const MAX_NOT_OPENED: u32 = 100;

const INTERVAL: Duration = Duration::from_secs(1);

/// Long enough for every error text of this crate with an address, and for the subject of a usual certificate.
const MAX_TEXT_CHARS: usize = 256;

/// The access log of one server.
#[derive(Default)]
pub(crate) struct AccessLog {
    ended: Mutex<LineLimit>,
    not_opened: Mutex<LineLimit>,
}

struct AccessLine<'a> {
    peer: Option<SocketAddr>,
    id: Option<ConnId>,
    server_name: Option<&'a str>,
    subject: Option<&'a str>,
    alpn: Option<&'a [u8]>,
    accepted_at: Instant,
    traffic: ConnStats,
    reason: &'static str,
    detail: &'a dyn fmt::Display,
}

impl AccessLog {
    pub(crate) fn log_ended(&self, conn: &EndedConn<'_>, accepted_at: Instant) {
        // Without a reason the handler has dropped the connection.
        let reason = conn.reason.clone().unwrap_or(Reason::LocalClose);
        #[cfg(feature = "tls")]
        let tls = conn.endpoints.tls();
        let line = AccessLine {
            peer: conn.endpoints.peer(),
            id: Some(conn.id),
            #[cfg(feature = "tls")]
            server_name: tls.and_then(|tls| tls.server_name.as_deref()),
            #[cfg(not(feature = "tls"))]
            server_name: None,
            #[cfg(feature = "tls")]
            subject: tls.and_then(|tls| tls.peer_subject.as_deref()),
            #[cfg(not(feature = "tls"))]
            subject: None,
            #[cfg(feature = "tls")]
            alpn: tls.and_then(|tls| tls.alpn.as_deref()),
            #[cfg(not(feature = "tls"))]
            alpn: None,
            accepted_at,
            traffic: conn.traffic,
            reason: reason.label(),
            detail: &Error::from(reason),
        };
        line.log(&self.ended, MAX_ENDED);
    }

    /// Logs an accepted connection that no handler has received.
    pub(crate) fn log_not_opened(
        &self,
        peer: Option<SocketAddr>,
        accepted_at: Instant,
        reason: &'static str,
        detail: &dyn fmt::Display,
    ) {
        let line = AccessLine {
            peer,
            id: None,
            server_name: None,
            subject: None,
            alpn: None,
            accepted_at,
            traffic: ConnStats::default(),
            reason,
            detail,
        };
        line.log(&self.not_opened, MAX_NOT_OPENED);
    }
}

impl AccessLine<'_> {
    fn log(&self, limit: &Mutex<LineLimit>, max: u32) {
        if !tracing::enabled!(target: "pktconn::access", tracing::Level::INFO) {
            return;
        }
        let now = Instant::now();
        let admitted = limit.lock().unwrap_or_else(PoisonError::into_inner).admit(max, now);
        let Some(suppressed) = admitted else { return };
        let duration = now.saturating_duration_since(self.accepted_at);
        let ConnStats { packets_received, bytes_received, packets_sent, bytes_sent, .. } = self.traffic;
        tracing::info!(
            target: "pktconn::access",
            // Whoever drops the last handle may be inside any span.
            parent: None,
            peer = self.peer.map(tracing::field::display),
            id = self.id.map(tracing::field::display),
            server_name = self.server_name.map(escape),
            // Its text is escaped already.
            subject = self.subject.map(cut),
            alpn = self.alpn.map(|alpn| escape(String::from_utf8_lossy(alpn))),
            duration_ms = duration.as_micros() as f64 / 1000.0,
            packets_received,
            bytes_received,
            packets_sent,
            bytes_sent,
            reason = self.reason,
            detail = escape(self.detail),
            suppressed = (suppressed > 0).then_some(suppressed),
        );
    }
}

/// Admits a number of lines per second, and counts the others.
#[derive(Default)]
struct LineLimit {
    second_started_at: Option<Instant>,
    /// In this second.
    lines: u32,
    suppressed: u64,
}

impl LineLimit {
    /// Decides whether to show a line. If so, returns how many were suppressed since the last one.
    fn admit(&mut self, max: u32, now: Instant) -> Option<u64> {
        let is_in_second = |started_at| now.saturating_duration_since(started_at) < INTERVAL;
        if !self.second_started_at.is_some_and(is_in_second) {
            self.second_started_at = Some(now);
            self.lines = 0;
        }
        if self.lines >= max {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Cuts a long text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Escapes what could forge a line or control a terminal, and cuts a long text.
fn escape(text: impl fmt::Display) -> String {
    let mut escaped = Escaped { text: String::new(), chars_left: MAX_TEXT_CHARS };
    // An error ends a text that is too long.
    if write!(escaped, "{text}").is_err() {
        escaped.text.push_str("...");
    }
    escaped.text
}

struct Escaped {
    text: String,
    chars_left: usize,
}

impl Write for Escaped {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for char in part.chars() {
            self.chars_left = self.chars_left.checked_sub(1).ok_or(fmt::Error)?;
            match char {
                '\'' => self.text.push(char),
                _ => self.text.extend(char.escape_debug()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_peers_cannot_forge_a_line_or_control_a_terminal() {
        let hostile = "a\r\nb\t\u{1b}[2J\u{9b}1m \"c\" \\ \u{202e}d\u{0}\u{2028}";
        let harmless = r#"a\r\nb\t\u{1b}[2J\u{9b}1m \"c\" \\ \u{202e}d\0\u{2028}"#;
        assert_eq!(escape(hostile), harmless);
        assert_eq!(escape("CN=it's Käse, 東京"), "CN=it's Käse, 東京");
    }

    #[test]
    fn long_text_is_cut() {
        let whole = "ä".repeat(MAX_TEXT_CHARS);
        assert_eq!((escape(&whole), cut(&whole)), (whole.clone(), whole.clone()));
        assert_eq!(cut(&format!("{whole}b")), format!("{whole}..."));
        assert_eq!(escape(format!("{whole}b")), format!("{whole}..."));
        assert_eq!(escape("\u{1b}".repeat(100_000)).len(), MAX_TEXT_CHARS * r"\u{1b}".len() + 3);
    }

    #[test]
    fn a_limited_number_of_lines_per_second_is_admitted_with_the_count_of_the_others() {
        let (mut limit, start) = (LineLimit::default(), Instant::now());
        let mut admitted = |count, ms| {
            let now = start + Duration::from_millis(ms);
            (0..count).filter_map(|_| limit.admit(10, now)).collect::<Vec<_>>()
        };
        assert_eq!(admitted(9, 0), [0; 9]);
        assert_eq!(admitted(21, 999), [0]);
        assert_eq!(admitted(2, 1000), [20, 0]);
        assert_eq!(admitted(1, 5000), [0]);
        assert_eq!(admitted(1, 0), [0], "a clock that seems to go back does not panic");
    }
}
