//! The two directions of a session: packets that leave, and packets that arrive. Each has one counter.
//!
//! This layer knows neither frames nor connections, only numbers and packets.

mod bounds;
pub use bounds::{Counter, OutOfBounds};

mod outgoing;
pub(crate) use outgoing::Outgoing;
pub use outgoing::PACKET_OVERHEAD;

mod incoming;
pub(crate) use incoming::Incoming;
