//! What one client network may use of a server: connections, their rate, handshakes, memory. Counts and decisions only:
//! nothing here knows sockets, connections or the server's table of them, and the time is passed in.

pub(crate) mod network;

pub(crate) mod network_counts;

pub(crate) mod token_bucket;

pub(crate) mod conn_rate;
pub use conn_rate::ConnRate;

pub(crate) mod network_rates;

pub(crate) mod network_memory;

pub(crate) mod overload;

pub(crate) mod handshakes;

pub(crate) mod running_handshakes;

pub(crate) mod refusal;
