//! One run of the load, from connecting to its result; or several runs one after the other, to search for the highest
//! rate.
//!
//! The conductor starts the workers of `load/`, waits for them and adds up what they measured. Judging and formatting
//! the result are done elsewhere (`judge/`, `report/`).

pub(crate) mod interrupt;

pub(crate) mod open_files;

pub(crate) mod server;

pub(crate) mod start;

pub(crate) mod response_timeout;

pub(crate) mod outcome;

pub(crate) mod to_document;

pub(crate) mod stage_results;

pub(crate) mod time_series;

pub(crate) mod conductor;

pub(crate) mod recovery;

pub(crate) mod search;
