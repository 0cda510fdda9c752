//! Turns an accepted stream into a connection: PROXY header, then TLS, then `PacketConn`.
//!
//! ```text
//!   accepted stream -- PROXY header --> client address -- TLS --> PacketConn
//!                      '-- in the task of the connection, within handshake_timeout --'
//! ```

use std::future::Future;
#[cfg(any(feature = "tls", feature = "proxy-protocol"))]
use std::future::poll_fn;
use std::net::SocketAddr;
#[cfg(any(feature = "tls", feature = "proxy-protocol"))]
use std::pin::pin;
use std::sync::Arc;
#[cfg(any(feature = "tls", feature = "proxy-protocol"))]
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::config::{Origin, Settings};
#[cfg(feature = "proxy-protocol")]
use crate::error::failure::Operation;
use crate::error::{Reason, Timeout};
#[cfg(feature = "tls")]
use crate::server::current_tls::CurrentTls;
use crate::server::limits::network::Network;
use crate::server::limits::refusal::Refusal;
use crate::server::limits::running_handshakes::HandshakePlace;
use crate::server::listener::ServerListener;
use crate::server::logs::failure_log::{FailureKind, FailureLog};
use crate::server::registry::ConnSlot;
use crate::server::server_handle::ServerState;
use crate::transport::byte_stream::ByteStream;
use crate::transport::connect::with_timeout;
use crate::transport::endpoints::KnownPeer;
#[cfg(feature = "proxy-protocol")]
use crate::transport::handshake_bytes::CountedReader;
#[cfg(any(feature = "tls", feature = "proxy-protocol"))]
use crate::transport::handshake_bytes::HandshakeBytes;
use crate::transport::plain_stream::PlainStream;
#[cfg(feature = "proxy-protocol")]
use crate::transport::proxy_protocol::{TrustedProxies, read_header};
use crate::{ConnConfig, Error, PacketConn};

/// What setting up a connection of one listener needs: its configuration, and the shared parts of the server.
pub(crate) struct ConnSetup {
    config: ConnConfig,
    settings: Arc<Settings>,
    pub(crate) server: Arc<ServerState>,
    pub(crate) failure_log: Arc<FailureLog>,
    #[cfg(feature = "tls")]
    tls: Option<CurrentTls>,
    /// `Some` if every connection starts with a PROXY header.
    #[cfg(feature = "proxy-protocol")]
    proxies: Option<TrustedProxies>,
}

fn timeout_error(limit: Duration, peer: Option<SocketAddr>) -> Reason {
    let peer = peer.map_or_else(|| "the peer".to_owned(), |peer| peer.to_string());
    Reason::NamedTimeout(Timeout::Handshake, limit, format!("{peer} did not complete its handshake").into())
}

impl ConnSetup {
    /// Call it inside the runtime that the connections will live in.
    pub(crate) fn new(
        listener: &ServerListener,
        server: &Arc<ServerState>,
        failure_log: &Arc<FailureLog>,
    ) -> Self {
        Self {
            settings: Settings::new(&listener.conn, Origin::Accepted),
            config: listener.conn.clone(),
            server: Arc::clone(server),
            failure_log: Arc::clone(failure_log),
            #[cfg(feature = "tls")]
            tls: listener.tls.clone(),
            #[cfg(feature = "proxy-protocol")]
            proxies: listener.proxies.clone(),
        }
    }

    /// The address of the client, as far as it is known at the accept. `None` if the peer is a proxy, which sends it. A
    /// peer that is no trusted proxy counts like a client, so that its floods cost no more than those of clients.
    pub(crate) fn client_at_accept(&self, peer: Option<SocketAddr>) -> Option<SocketAddr> {
        #[cfg(feature = "proxy-protocol")]
        if self.proxies.as_ref().is_some_and(|proxies| proxies.contains(peer)) {
            return None;
        }
        peer
    }

    /// Whether a connection has to wait for a PROXY header or for TLS before its first packet.
    pub(crate) fn has_handshake(&self) -> bool {
        #[cfg(feature = "tls")]
        let has_tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        #[cfg(feature = "proxy-protocol")]
        let has_proxies = self.proxies.is_some();
        #[cfg(not(feature = "proxy-protocol"))]
        let has_proxies = false;
        has_tls || has_proxies
    }

    /// Closes a connection that a limit refuses, and logs it.
    pub(crate) fn refuse(
        &self,
        stream: PlainStream,
        peer: Option<SocketAddr>,
        accepted_at: Instant,
        refusal: Refusal,
    ) {
        if refusal == Refusal::ConnRate {
            // A flood: a close with a FIN would cost more packets, and a minute of memory in the kernel.
            stream.reset_on_close();
        }
        drop(stream);
        self.log_refused(peer, accepted_at, refusal);
    }

    fn log_refused(&self, peer: Option<SocketAddr>, accepted_at: Instant, refusal: Refusal) {
        let kind = if refusal == Refusal::ConnRate { FailureKind::OverRate } else { FailureKind::Refused };
        let registry = &self.server.registry;
        let open = registry.open();
        self.failure_log.log(kind, peer, "a connection was refused", format_args!("{refusal}, open={open}"));
        registry.log_access_not_opened(peer, accepted_at, "refused", &refusal);
    }

    /// Makes the connection, after all handshakes.
    pub(crate) fn open_conn(
        &self,
        stream: impl Into<ByteStream>,
        peer: impl Into<KnownPeer>,
        slot: ConnSlot,
    ) -> Result<PacketConn, Error> {
        PacketConn::from_stream(stream.into(), peer, &self.config, &self.settings, Some(Box::new(slot)))
    }

    /// Runs the handshakes within `handshake_timeout`. Returns `None` if no connection resulted: the handshake failed
    /// (it is logged), a limit is reached, or the server shuts down.
    // Not an `async fn`: the handshake takes its place before the task first runs.
    pub(crate) fn handshake(
        self: Arc<Self>,
        stream: PlainStream,
        mut peer: Option<SocketAddr>,
        slot: ConnSlot,
    ) -> impl Future<Output = Option<PacketConn>> + Send {
        let network = peer.map(|peer| Network::of(peer.ip()));
        let (place, must_end) = self.server.registry.handshakes.begin(network);
        async move {
            let accepted_at = slot.accepted_at();
            let handshake = self.run_handshake(stream, &mut peer, slot, place);
            let registry = &self.server.registry;
            let result = tokio::select! {
                biased;
                result = with_timeout(self.config.handshake_timeout, handshake) => {
                    result.unwrap_or_else(|limit| Err(timeout_error(limit, peer)))
                }
                Ok(refusal) = must_end => {
                    registry.count_refused(refusal);
                    self.log_refused(peer, accepted_at, refusal);
                    return None;
                }
                // No packet has been received from the peer, so nothing is lost.
                // Not with sessions: it may resume one.
                () = registry.shutdown.triggered(), if !registry.has_sessions() => {
                    let detail = "the server was shut down during the handshake";
                    registry.log_access_not_opened(peer, accepted_at, "local_close", &detail);
                    return None;
                }
            };
            let error = match result {
                Ok(conn) => {
                    #[cfg(feature = "metrics")]
                    if conn.is_some() {
                        super::metric_events::record_handshake(accepted_at.elapsed());
                    }
                    return conn;
                }
                Err(reason) => Error::from(reason),
            };
            registry.handshake_failed();
            self.failure_log.log(FailureKind::Handshake, peer, "the handshake failed", &error);
            registry.log_access_not_opened(peer, accepted_at, "handshake", &error);
            None
        }
    }

    /// Counts and logs that a running handshake is refused.
    #[cfg(any(feature = "tls", feature = "proxy-protocol"))]
    fn refuse_handshake(
        &self,
        peer: Option<SocketAddr>,
        slot: &ConnSlot,
        refusal: Refusal,
    ) -> Option<PacketConn> {
        self.server.registry.count_refused(refusal);
        self.log_refused(peer, slot.accepted_at(), refusal);
        None
    }

    /// Reads the PROXY header and runs the TLS handshake, as configured. Returns `None` if a limit is reached. Sets
    /// `client` to the address in the header.
    #[allow(
        unused_mut,
        unused_variables,
        clippy::unused_async,
        reason = "without the features there is nothing to do"
    )]
    async fn run_handshake(
        &self,
        mut stream: PlainStream,
        client: &mut Option<SocketAddr>,
        mut slot: ConnSlot,
        mut place: HandshakePlace,
    ) -> Result<Option<PacketConn>, Reason> {
        #[cfg(any(feature = "tls", feature = "proxy-protocol"))]
        let bytes = HandshakeBytes::default();
        let mut peer = *client;
        #[cfg(feature = "proxy-protocol")]
        let mut proxy_header = None;
        #[cfg(feature = "proxy-protocol")]
        if let Some(proxies) = &self.proxies {
            let proxy = peer;
            let proxy_error = |error| Reason::io(Operation::ProxyHeader, proxy, error);
            if !proxies.contains(peer) {
                let problem =
                    "its address is not in a trusted network; add it to proxy_protocol if it is a proxy";
                return Err(proxy_error(std::io::Error::new(std::io::ErrorKind::PermissionDenied, problem)));
            }
            let mut counted = CountedReader::new(&mut stream, &bytes);
            let header = read_header(&mut counted, proxy);
            let header = match counting(&slot, &bytes, header).await {
                Ok(header) => header.map_err(proxy_error)?,
                Err(refusal) => return Ok(self.refuse_handshake(peer, &slot, refusal)),
            };
            peer = header.source().or(peer);
            *client = peer;
            proxy_header = Some(Box::new(header));
            let counted = peer.map_or(Ok(()), |peer| slot.set_client_addr(peer));
            if let Err(refusal) = counted {
                self.refuse(stream, peer, slot.accepted_at(), refusal);
                return Ok(None);
            }
            place.set_network(peer.map(|peer| Network::of(peer.ip())));
        }
        let known_peer = KnownPeer {
            addr: peer,
            #[cfg(feature = "proxy-protocol")]
            proxy_header,
        };
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let accepting = crate::transport::tls::accept(tls.get(), stream, peer, bytes.clone());
            let stream = match counting(&slot, &bytes, accepting).await {
                Ok(stream) => stream?,
                Err(refusal) => return Ok(self.refuse_handshake(peer, &slot, refusal)),
            };
            // The bytes are freed.
            let _ = slot.note_handshake(0);
            return self.open_conn(stream, known_peer, slot).map(Some).map_err(Error::into_reason);
        }
        let _ = slot.note_handshake(0);
        self.open_conn(stream, known_peer, slot).map(Some).map_err(Error::into_reason)
    }
}

/// Runs a part of a handshake, and updates the account of the connection with the bytes that arrive. Fails if memory is
/// short and the network of the peer holds more than its share.
#[cfg(any(feature = "tls", feature = "proxy-protocol"))]
async fn counting<T>(
    slot: &ConnSlot,
    bytes: &HandshakeBytes,
    handshake: impl Future<Output = T>,
) -> Result<T, Refusal> {
    let mut handshake = pin!(handshake);
    poll_fn(|cx| {
        let polled = handshake.as_mut().poll(cx);
        match slot.note_handshake(bytes.arrived()) {
            Ok(()) => polled.map(Ok),
            Err(refusal) => Poll::Ready(Err(refusal)),
        }
    })
    .await
}
