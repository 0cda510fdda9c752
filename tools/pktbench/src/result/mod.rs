//! The result of a run as a document: its types, writing it as JSON, reading it from files, and units for people.

pub(crate) mod hdr_v2;

pub(crate) mod latency;

pub(crate) mod verdict;

pub(crate) mod saturation;

pub(crate) mod comparison;

pub(crate) mod connections;

pub(crate) mod document;

pub(crate) mod units;

pub(crate) mod json;

pub(crate) mod config;

pub(crate) mod limits;

pub(crate) mod version_1;

pub(crate) mod read;
