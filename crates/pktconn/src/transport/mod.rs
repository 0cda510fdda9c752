//! Byte streams and their addresses: TCP, Unix sockets, TLS, the PROXY protocol; how to connect and to listen.
//!
//! This layer knows bytes and sockets. It must not know packets, connections or servers.

pub(crate) mod addr;
pub use addr::Addr;

pub(crate) mod target;

pub(crate) mod tcp;
pub use tcp::TcpConfig;

mod socket;
pub(crate) use socket::Acks;

#[cfg(unix)]
mod socket_file;

pub(crate) mod shared_stream;

pub(crate) mod halves;
pub(crate) use halves::{Reader, Writer};

pub(crate) mod plain_stream;

#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(feature = "tls")]
pub use tls::{TlsClientConfig, TlsInfo, TlsServerConfig};

#[cfg(feature = "proxy-protocol")]
pub(crate) mod proxy;

pub(crate) mod byte_stream;

pub(crate) mod endpoints;

mod happy_eyeballs;

mod dial;

pub(crate) mod connect;

pub(crate) mod listener;
pub use listener::Listener;
