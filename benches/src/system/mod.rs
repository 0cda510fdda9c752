//! The operating system: cores, limits, processes, and what the kernel reports about them.

mod cores;
pub use cores::{pin_this_thread, usable_cores};

mod open_files;
pub use open_files::{check_open_file_limit, raise_open_file_limit};

mod procfs;
pub use procfs::{
    CpuTime, clock_ticks_per_s, core_busy_ticks, open_files, peak_rss_bytes, rss_bytes, thread_cpu_ns,
};

mod listening;
pub use listening::print_listening;

mod process;
pub use process::{HeldClient, Pinning, ServerProcess};
