//! The load itself: connections, and the worker threads that drive them. This layer judges and reports nothing.

pub(crate) mod timer;

pub(crate) mod stream;

pub(crate) mod connect;

mod tls;

pub(crate) mod connection;

pub(crate) mod driver;

pub(crate) mod control;

pub(crate) mod event_loop;

pub(crate) mod worker;
