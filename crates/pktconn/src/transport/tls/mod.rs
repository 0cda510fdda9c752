//! TLS with rustls: the configurations of server and client, the stream, and what the handshake found out.

mod file;

mod credentials;

mod distinguished_name;

mod x509;

mod checks;

mod version;
pub use version::TlsVersion;

mod record_tracker;

mod read_memory;

mod write_memory;

mod stream;
pub(crate) use stream::Tls;

mod info;
pub use info::TlsInfo;

mod tickets;

mod loaded;
pub(crate) use loaded::Loaded;

mod server_files;

mod server;
pub use server::TlsServerConfig;
pub(crate) use server::accept;

mod client;
pub use client::TlsClientConfig;
