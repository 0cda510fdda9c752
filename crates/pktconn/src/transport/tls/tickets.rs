//! The session tickets of a server: rotated keys, and no ticket for a session that would make a large one.

use std::sync::Arc;

use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::crypto::ring::Ticketer;
use tokio_rustls::rustls::server::ProducesTickets;

/// Maximum length of a session in a ticket. It contains the certificates of the client, usually 1 to 4 KiB. The
/// limit is for clients that present a chain of 64 KiB: the server would keep two such tickets until the client has
/// read them.
const MAX_SESSION_LEN: usize = 8 * 1024;

#[derive(Debug)]
struct SmallTickets(Arc<dyn ProducesTickets>);

/// Makes tickets with a new key, which changes every 6 hours. A ticket is valid for 12 hours at most.
pub(super) fn ticketer() -> Result<Arc<dyn ProducesTickets>, Error> {
    Ok(Arc::new(SmallTickets(Ticketer::new()?)))
}

impl ProducesTickets for SmallTickets {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        if session.len() > MAX_SESSION_LEN {
            return None;
        }
        self.0.encrypt(session)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_contains_a_small_session_and_is_valid_for_12_hours_and_one_load() {
        let (tickets, after_reload) = (ticketer().unwrap(), ticketer().unwrap());
        assert!(tickets.enabled());
        assert_eq!(tickets.lifetime(), 12 * 60 * 60);
        let ticket = tickets.encrypt(&[7; MAX_SESSION_LEN]).unwrap();
        assert_eq!(tickets.decrypt(&ticket).unwrap(), [7; MAX_SESSION_LEN]);
        assert!(after_reload.decrypt(&ticket).is_none());
        assert!(tickets.encrypt(&[7; MAX_SESSION_LEN + 1]).is_none());
    }
}
