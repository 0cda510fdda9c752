//! What is counted and timed, by each worker and put together.

pub(crate) mod failure;

pub(crate) mod histogram;

pub(crate) mod tally;

pub(crate) mod size_classes;

pub(crate) mod saturation;

pub(crate) mod recording;

pub(crate) mod intervals;
