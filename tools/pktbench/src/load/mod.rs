//! The connections, and the threads that drive them.

pub(crate) mod timer;

pub(crate) mod stream;

pub(crate) mod connect;

pub(crate) mod connection;

pub(crate) mod pacing;

pub(crate) mod control;

pub(crate) mod event_loop;

pub(crate) mod worker;
