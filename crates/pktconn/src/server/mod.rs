//! A server: connections accepted and limited, a handler for each, and its shutdown.
//!
//! What a connection tells its server, it tells through what `connection` defines. This layer must not know clients or
//! groups.

pub(crate) mod config;
pub use config::ServerConfig;

mod stats;
pub use stats::{ServerStats, ShutdownReport};

mod shutdown_signal;

mod budget;

#[cfg(feature = "metrics")]
mod metric_events;

mod registry;

mod control;
pub use control::ServerHandle;

#[cfg(feature = "metrics")]
mod metrics;

mod failure_log;

mod acceptor;

mod handler;
pub use handler::{BoxError, HandlerResult};

mod drain;

mod accept_pause;

mod serve;
pub use serve::PacketServer;

mod serve_conn;
pub use serve_conn::ConnHandler;
