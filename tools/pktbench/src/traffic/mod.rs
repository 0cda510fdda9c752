//! The packets of the load: their sizes, contents and due times, and the check of what comes back. No I/O except
//! reading a file of sizes.

pub(crate) mod parse;

pub(crate) mod random;

pub(crate) mod size_file;

pub(crate) mod sizes;

pub(crate) mod profile;

pub(crate) mod stages;

pub(crate) mod arrivals;

pub(crate) mod payload;

pub(crate) mod verify;
