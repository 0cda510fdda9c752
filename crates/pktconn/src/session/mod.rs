//! Sessions over connections: the handles, the state machine that they share, and the driver of a connection.
//!
//! ```text
//!   Session, SessionSender, SessionReceiver      handle
//!                  |
//!             SessionCore                        core: the state machine of `pktconn-session` behind a lock
//!                  |
//!             SessionConn                        driver: one connection after another
//! ```
//!
//! This layer uses connections through their handles. The server keeps its sessions by id, and the client makes the
//! connections of its session.

mod config;
pub use config::{SessionConfig, SessionMode};

mod machine;
pub(crate) use machine::Machine;

mod control_codec;
pub(crate) use control_codec::ControlCodec;

pub(crate) mod end_reason;

pub(crate) mod core;

pub(crate) mod driver;

mod random;
pub(crate) use random::random;

pub use pktconn_session::frame::SessionId;
pub use pktconn_session::{EndReason as SessionEndReason, Ended as SessionEnd, SessionState};

mod handle;
pub use handle::{Session, SessionReceiver, SessionSender};
