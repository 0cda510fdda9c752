//! Byte streams and their addresses: TCP, Unix sockets, TLS, the PROXY protocol; connecting and listening.
//!
//! This layer knows bytes and sockets. It must not know packets, connections, servers or clients.

pub(crate) mod addr;
pub use addr::Addr;

mod unix_options;

pub(crate) mod parsed_addr;

pub(crate) mod tcp_config;
pub use tcp_config::TcpConfig;

mod socket;
pub(crate) use socket::UnackedBytes;

#[cfg(unix)]
mod lock_file;

#[cfg(unix)]
mod bound_sockets;

#[cfg(unix)]
mod file_access;

#[cfg(unix)]
mod socket_file;

pub(crate) mod peer_credentials;
pub use peer_credentials::PeerCredentials;

pub(crate) mod transport_stream;

pub(crate) mod locked_stream;

pub(crate) mod halves;
pub(crate) use halves::{Reader, Writer};

pub(crate) mod conn_stream;
pub use conn_stream::ConnStream;

pub(crate) mod plain_stream;

#[cfg(any(feature = "tls", feature = "proxy-protocol"))]
pub(crate) mod handshake_bytes;

#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(feature = "tls")]
pub use tls::{TlsClientConfig, TlsInfo, TlsServerConfig, TlsVersion};

#[cfg(feature = "proxy-protocol")]
pub(crate) mod proxy_protocol;
#[cfg(feature = "proxy-protocol")]
pub use proxy_protocol::{ProxyHeader, ProxySsl, ProxyTlv};

pub(crate) mod byte_stream;

pub(crate) mod canonical;

pub(crate) mod endpoints;

mod happy_eyeballs;

mod connect_first;

pub(crate) mod connect;

pub(crate) mod listen_socket;
