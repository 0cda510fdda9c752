//! What a result is worth: thresholds, another result, several results together.

pub(crate) mod threshold;

pub(crate) mod compare;

pub(crate) mod gate;
