//! Measures the load generator itself, and tells whether it was saturated: then the results show its own limit and not
//! that of the server.
//!
//! ```text
//!   thread_sampler   each load thread: CPU time, and time spent waiting for a CPU  --> client_tally --.
//!   host_watch       the machine: stolen and throttled time (`cgroup`), and                           reasons
//!                    gaps of the clock (`clock_gaps`): stopped, suspended              --> HostUsage --'
//! ```

pub(crate) mod thread_sampler;

pub(crate) mod client_tally;

pub(crate) mod cgroup;

pub(crate) mod clock_gaps;

pub(crate) mod host_watch;

pub(crate) mod reasons;
