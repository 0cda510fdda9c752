//! A connection: packets over a transport. This layer must not know servers, clients or groups.
//!
//! `machine` is a pure state machine for sending and for the end of a connection. `state` drives it over a transport.
//! `conn_core` holds the state behind a lock, for all handles of a connection. `flush` and `sweep` are the tasks that
//! write queued packets in the background. `frame_reader` reads frames. `memory` is the memory budget of a server.

pub(crate) mod config;
pub use config::ConnConfig;

mod edge;

mod id;
pub use id::ConnId;

pub(crate) mod stats;
pub use stats::ConnStats;

mod cut;
pub use cut::CutConn;

pub(crate) mod machine;
pub use machine::SlowConsumer;

pub(crate) mod conn_core;
pub(crate) mod deferred;
mod flush;
pub(crate) mod memory;
pub(crate) mod pool;
mod state;
mod sweep;
pub(crate) mod timer;
mod waiters;
pub(crate) mod yielding;

mod frame_reader;
mod packet_receiver;
pub use packet_receiver::PacketReceiver;

mod packet_sender;
pub use packet_sender::{PacketSender, SendPermit};

pub(crate) mod connect;

mod packet_conn;
pub use packet_conn::PacketConn;

mod channels;

mod framed;

mod packet_sink;
pub use packet_sink::{PacketSink, SinkSource};
