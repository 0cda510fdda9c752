//! A connection: packets over a transport.
//!
//! `machine` is the sending side and the way to the end as a pure state machine; `state` drives it over a transport, under the
//! lock of `shared`, which is what the handles of a connection have in common. `flush` and `sweep` are the tasks that write
//! what has to wait.
//!
//! This layer must not know servers, clients or groups.

pub(crate) mod flush;
pub(crate) mod later;
pub(crate) mod machine;
pub(crate) mod shared;
pub(crate) mod state;
pub(crate) mod sweep;
pub(crate) mod timer;
pub(crate) mod wait;
