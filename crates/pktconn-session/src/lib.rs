//! The session protocol of `pktconn`: packets arrive exactly once, in order, over any number of lost connections.
//!
//! This crate is a state machine. It opens no sockets, starts no tasks, reads no clock and makes no random numbers: its owner
//! gives it connections, frames, the time and random bytes, and writes what it returns. `SPEC.md` specifies the bytes and the
//! rules.
//!
//! ```text
//!             ClientSession                                    ServerSession
//!   HELLO     client.rs          frames over connections       server.rs     WELCOME, fencing
//!             session/           <----------------------->     session/      the same for both
//!             direction/                                       direction/    counters, replay, acknowledgements
//!             frame/                                           frame/        bytes
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod frame;

mod direction;
pub use direction::{Counter, OutOfBounds, PACKET_OVERHEAD};

mod liveness;

mod config;
pub use config::SessionConfig;

mod session;
pub use session::{ConnectionId, EndReason, Ended, FrameRefused, Received, Session, SessionState, Transmit};

mod client;
pub use client::ClientSession;

mod server;
pub use server::{ServerSession, check_new};

mod fallback;
pub use fallback::{Fallback, NoAnswer};

/// Compiles the example of the README as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
