//! How a result is shown, and where it is written.

pub(crate) mod sink;

pub(crate) mod hdr_log;

pub(crate) mod hgrm;

pub(crate) mod comparison;

pub(crate) mod search;

pub(crate) mod text;

pub(crate) mod html;

pub(crate) mod output;

pub(crate) mod live;

pub(crate) mod status;

pub(crate) mod progress;

pub(crate) mod tui;

pub(crate) mod view;
