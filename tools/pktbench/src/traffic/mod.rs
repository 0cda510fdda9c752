//! The packets of the load: their sizes, contents and due times, and the check of what comes back. No I/O except
//! reading files of sizes, payloads and captured packets.

pub(crate) mod parse;

pub(crate) mod random;

pub(crate) mod size_file;

pub(crate) mod own_payloads;

pub(crate) mod capture;

pub(crate) mod sizes;

pub(crate) mod profile;

pub(crate) mod stages;

pub(crate) mod arrivals;

pub(crate) mod recorded;

pub(crate) mod payload;

pub(crate) mod verify;
