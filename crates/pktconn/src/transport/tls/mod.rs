//! TLS, by rustls: what a server and a client need for it, the stream that it makes, and what a connection tells of it.

mod files;

mod records;

mod stream;
pub(crate) use stream::Tls;

mod info;
pub use info::TlsInfo;

mod server;
pub use server::TlsServerConfig;
pub(crate) use server::accept;

mod client;
pub use client::TlsClientConfig;
