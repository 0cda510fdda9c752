//! The server: accepts and limits connections, runs a handler for each, and shuts down.
//!
//! A connection reports to its server only through traits of the `connection` layer. The server layer must not know
//! clients or groups.

pub(crate) mod config;
pub use config::ServerConfig;

mod machine_limits;
pub use machine_limits::MachineLimits;

mod edge;

mod limits;
pub use limits::ConnRate;

mod logs;

mod stats;
pub use stats::{ServerStats, ShutdownReport};

mod shutdown_signal;

mod memory_budget;

mod resident_memory;

mod process_memory;

#[cfg(feature = "metrics")]
mod metric_events;

mod registry;

#[cfg(feature = "tls")]
mod current_tls;

mod server_handle;
pub use server_handle::ServerHandle;

#[cfg(feature = "metrics")]
mod metrics;

pub(crate) mod listener;
pub use listener::Listener;

mod conn_setup;

mod conn_task;
pub use conn_task::{BoxError, HandlerResult};

mod drain;

mod accept_backoff;

mod packet_server;
pub use packet_server::PacketServer;

mod serve_conn;
pub use serve_conn::ConnHandler;

#[cfg(feature = "session")]
mod sessions;
