//! Code that `pktecho` and `pktbench` share: option values, usage errors, logging, the page of metrics, text of others.
//!
//! Not a public API: it changes whenever the tools need it.

#![forbid(unsafe_code)]

pub mod input;
pub mod logging;
pub mod metrics_page;
pub mod printable;
pub mod usage;
pub mod values;
