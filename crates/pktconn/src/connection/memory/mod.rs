//! The memory budget that the connections of a server share, and the account of each connection.
//!
//! ```text
//!   receiver: bytes read but not received ---.
//!   state:    bytes in the send queue --------+--> account --> network of the client --> budget
//!   server:   bytes of a handshake ----------|
//!   setup:    what the handler may ask for --'
//! ```
//!
//! Each connection updates its account after a read, before a wait, and when its lock is released. Accounts change in
//! steps of 2 KiB, and reads of less than 4 KiB count only if bytes are left at the next wait. So not every packet
//! writes to the shared totals.
//!
//! | all connections hold | what happens |
//! |---|---|
//! | more than 3/4 of the budget, until at most 5/8 | pressure: the networks above their fair share are not read |
//! | more than the budget | the watcher closes connections of the heaviest networks |
//!
//! A watcher must end the pressure, wake the paused receivers and close connections. The server runs that watcher.

mod account;
pub(crate) use account::Account;

mod budget;
pub(crate) use budget::Budget;

mod network;
pub(crate) use network::NetworkMemory;

/// A connection that holds fewer bytes is read even under pressure, up to this many bytes per read. So a server with
/// 1,000 connections exceeds its budget by up to 8 MiB.
pub(crate) const EXEMPT_BYTES: usize = 4 * 1024;
