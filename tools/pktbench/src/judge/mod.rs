//! Judges a result: conditions (`--threshold`) and the comparison with another result (`compare`, `--baseline`).

pub(crate) mod threshold;

pub(crate) mod abort;

pub(crate) mod compare;

pub(crate) mod gate;
