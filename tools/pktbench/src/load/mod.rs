//! The load itself: connections, and the worker threads that drive them. This layer judges and reports nothing.

pub(crate) mod timer;

pub(crate) mod stream;

pub(crate) mod target;

pub(crate) mod connect_error;

pub(crate) mod dialer;

mod tls;

pub(crate) mod connection;

pub(crate) mod slot;

pub(crate) mod driver;

pub(crate) mod control;

pub(crate) mod new_conns;

pub(crate) mod closing;

pub(crate) mod connect;

pub(crate) mod event_loop;

pub(crate) mod worker;
