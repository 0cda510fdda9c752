//! What is sent: how long packets are, what is in them, when they are due, and whether they came back.

pub(crate) mod parse;

pub(crate) mod random;

pub(crate) mod size_file;

pub(crate) mod sizes;

pub(crate) mod arrivals;

pub(crate) mod payload;

pub(crate) mod verify;
