//! From a stream that a server has accepted to a connection: what comes before the first packet.
//!
//! ```text
//!   accepted -- the header of a proxy --> the client's address -- TLS --> PacketConn
//!                       '-- each in the task of the connection, within handshake_timeout --'
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "proxy-protocol")]
use ipnet::IpNet;

use crate::connection::config::Settings;
#[cfg(feature = "proxy-protocol")]
use crate::error::failure::Operation;
use crate::error::{Reason, Timeout};
use crate::server::control::Control;
use crate::server::failure_log::{FailureLog, Kind};
use crate::server::registry::Ticket;
use crate::transport::byte_stream::ByteStream;
use crate::transport::connect::with_timeout;
use crate::transport::plain_stream::PlainStream;
use crate::{ConnConfig, Error, PacketConn};

/// What all connections of a server are made of.
pub(crate) struct Acceptor {
    pub(crate) config: ConnConfig,
    pub(crate) settings: Arc<Settings>,
    pub(crate) control: Arc<Control>,
    pub(crate) report: Arc<FailureLog>,
    /// The networks of those proxies, where connections come through them.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxies: Option<Arc<[IpNet]>>,
}

fn late(granted: Duration, peer: Option<SocketAddr>) -> Reason {
    let peer = peer.map_or_else(|| "the peer".to_owned(), |peer| peer.to_string());
    Reason::NamedTimeout(Timeout::Handshake, granted, format!("{peer} has not ended its handshake").into())
}

impl Acceptor {
    /// Whether the peer that was accepted is a proxy, and no client.
    pub(crate) fn is_behind_proxy(&self) -> bool {
        #[cfg(feature = "proxy-protocol")]
        return self.proxies.is_some();
        #[cfg(not(feature = "proxy-protocol"))]
        return false;
    }

    /// Whether there is something to wait for.
    pub(crate) fn has_handshake(&self) -> bool {
        #[cfg(feature = "tls")]
        let has_tls = self.control.has_tls();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        has_tls || self.is_behind_proxy()
    }

    /// Logs that there was no room for a connection.
    pub(crate) fn refused(&self, peer: Option<SocketAddr>) {
        let open = self.control.registry.stats().open;
        let limits = "max_conns, max_conns_per_ip or memory_budget is reached";
        self.report.tell(
            Kind::Refused,
            peer,
            "a connection was refused",
            format_args!("{limits}, open={open}"),
        );
    }

    /// The connection, once nothing comes before its first packet any more.
    pub(crate) fn open(
        &self,
        stream: impl Into<ByteStream>,
        peer: Option<SocketAddr>,
        ticket: Ticket,
    ) -> Result<PacketConn, Error> {
        PacketConn::from_stream(stream.into(), peer, &self.config, &self.settings, Some(Box::new(ticket)))
    }

    /// Does what comes before the first packet. `None` when it did not come to a connection.
    pub(crate) async fn shake_hands(
        self: Arc<Self>,
        stream: PlainStream,
        peer: Option<SocketAddr>,
        ticket: Ticket,
    ) -> Option<PacketConn> {
        #[cfg(feature = "metrics")]
        let since = ticket.since();
        let steps = self.steps(stream, peer, ticket);
        let shaken = tokio::select! {
            biased;
            shaken = with_timeout(self.config.handshake_timeout, steps) => shaken.unwrap_or_else(|granted| Err(late(granted, peer))),
            // No packet of its has been received.
            () = self.control.registry.stop.triggered() => return None,
        };
        let error = match shaken {
            Ok(conn) => {
                #[cfg(feature = "metrics")]
                if conn.is_some() {
                    super::metric_events::shaken_hands(since.elapsed());
                }
                return conn;
            }
            Err(reason) => Error::from(reason),
        };
        self.control.registry.handshake_failed();
        self.report.tell(Kind::Handshake, peer, "the handshake failed", &error);
        None
    }

    #[allow(unused_mut, clippy::unused_async, reason = "which features there are says what there is to do")]
    async fn steps(
        &self,
        mut stream: PlainStream,
        mut peer: Option<SocketAddr>,
        mut ticket: Ticket,
    ) -> Result<Option<PacketConn>, Reason> {
        #[cfg(feature = "proxy-protocol")]
        if let Some(proxies) = &self.proxies {
            let proxy = peer;
            let no_header = |error| Reason::io(Operation::ProxyHeader, proxy, error);
            if !crate::transport::proxy_protocol::is_trusted(proxies, peer) {
                let problem = "it is none of the proxies that are trusted";
                return Err(no_header(std::io::Error::new(std::io::ErrorKind::PermissionDenied, problem)));
            }
            peer =
                crate::transport::proxy_protocol::read_header(&mut stream).await.map_err(no_header)?.or(peer);
            if peer.is_some_and(|peer| !ticket.count_for(peer)) {
                self.refused(peer);
                return Ok(None);
            }
        }
        #[cfg(feature = "tls")]
        if let Some(acceptor) = self.control.tls() {
            let stream = crate::transport::tls::accept(acceptor, stream, peer).await?;
            return self.open(stream, peer, ticket).map(Some).map_err(Error::into_reason);
        }
        self.open(stream, peer, ticket).map(Some).map_err(Error::into_reason)
    }
}
