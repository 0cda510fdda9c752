//! Shows a run and its result (text, HTML, terminal) and writes files (JSON, NDJSON, CSV, HdrHistogram formats). This
//! layer measures and judges nothing.

pub(crate) mod paths;

pub(crate) mod sink;

pub(crate) mod hdr_log;

pub(crate) mod hgrm;

pub(crate) mod load_generator;

pub(crate) mod comparison;

pub(crate) mod connections;

pub(crate) mod search;

pub(crate) mod stages;

pub(crate) mod verdict;

pub(crate) mod text;

pub(crate) mod html;

pub(crate) mod output;

pub(crate) mod metrics;

pub(crate) mod live;

pub(crate) mod status;

pub(crate) mod progress;

pub(crate) mod tui;

pub(crate) mod view;
