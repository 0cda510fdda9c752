//! The result as a document: its types, to JSON and from it.

pub(crate) mod latency;

pub(crate) mod verdict;

pub(crate) mod comparison;

pub(crate) mod document;

pub(crate) mod units;

pub(crate) mod json;

pub(crate) mod config;

pub(crate) mod read;
