//! TLS with rustls: the configurations of server and client, the stream, and what the handshake found out.

mod credentials;

mod record_tracker;

mod stream;
pub(crate) use stream::Tls;

mod info;
pub use info::TlsInfo;

mod server;
pub use server::TlsServerConfig;
pub(crate) use server::accept;

mod client;
pub use client::TlsClientConfig;
