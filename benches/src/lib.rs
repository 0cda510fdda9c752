//! What the benchmark programs share, the lowest layer first. Code of a single program is in `bin/`, in its folder.
//!
//! Linux only: CPU time and memory come from `/proc`, and both bare programs rely on how epoll reports readiness.

#![forbid(unsafe_code)]

pub mod wire;

pub mod plan;

pub mod load;

pub mod system;

pub mod report;
