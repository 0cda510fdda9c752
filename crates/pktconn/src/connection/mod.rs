//! A connection: packets over a transport.
//!
//! `machine` is the sending side and the way to the end as a pure state machine; `state` drives it over a transport, under the
//! lock of `shared`, which is what the handles of a connection have in common. `flush` and `sweep` are the tasks that write
//! what has to wait.
//!
//! This layer must not know servers, clients or groups.

pub(crate) mod config;
pub use config::ConnConfig;

mod id;
pub use id::ConnId;

pub(crate) mod stats;
pub use stats::ConnStats;

mod cut;
pub use cut::CutConn;

pub(crate) mod machine;
pub use machine::SlowConsumer;

pub(crate) mod deferred;
mod flush;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod shared;
mod state;
mod sweep;
mod timer;
mod waiters;
mod yielding;

mod frame_reader;
mod packet_receiver;
pub use packet_receiver::PacketReceiver;

mod packet_sender;
pub use packet_sender::{PacketSender, SendPermit};

pub(crate) mod connect;

mod packet_conn;
pub use packet_conn::PacketConn;

mod channels;

mod packet_sink;
pub use packet_sink::{PacketSink, SinkSource};
