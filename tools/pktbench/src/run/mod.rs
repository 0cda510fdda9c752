//! A run: its conductor, and what it comes to; or several, one after the other.

pub(crate) mod interrupt;

pub(crate) mod files;

pub(crate) mod server;

pub(crate) mod patience;

pub(crate) mod outcome;

pub(crate) mod to_document;

pub(crate) mod over_time;

pub(crate) mod conductor;

pub(crate) mod search;
