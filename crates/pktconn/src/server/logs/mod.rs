//! What a server logs about its connections: failures, limited to one line per second and kind, and the access log.

pub(crate) mod failure_log;

pub(crate) mod access_log;
