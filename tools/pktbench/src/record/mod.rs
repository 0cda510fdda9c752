//! What the workers count and time, and the sum of all workers.

pub(crate) mod failure;

pub(crate) mod dials;

pub(crate) mod tls_problem;

pub(crate) mod histogram;

pub(crate) mod tally;

pub(crate) mod size_classes;

pub(crate) mod missed;

pub(crate) mod saturation;

pub(crate) mod recording;

pub(crate) mod intervals;
