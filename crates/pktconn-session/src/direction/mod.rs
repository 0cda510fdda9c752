//! The two directions of a session: packets that leave, and packets that arrive. Each has one counter.
//!
//! This layer knows neither frames nor connections, only numbers and packets.

mod bounds;
pub use bounds::{Counter, OutOfBounds};

mod queue;
pub use queue::PACKET_OVERHEAD;

mod outgoing;
pub(crate) use outgoing::Outgoing;

mod incoming;
pub(crate) use incoming::Incoming;
