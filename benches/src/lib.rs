//! What the benchmarks share, in the order in which a comparison uses it: what to run, the processes that run it, the
//! wire that they speak, and what is made of the figures.
//!
//! Linux only: CPU time and memory come from `/proc`, and both bare programs rely on how epoll reports readiness.

#![forbid(unsafe_code)]

mod plan;
pub use plan::{Regime, ServerSpec, SizeRange};

mod standard;
pub use standard::{
    IDLE_CHECK_CONNS, IDLE_LIMIT_BYTES, STANDARD_REGIMES, check_ratios, checked_regimes, checked_servers,
    program_beside, standard_servers,
};

mod process;
pub use process::{Pinning, ServerProcess};

mod cores;
pub use cores::{pin_this_thread, usable_cores};

mod procfs;
pub use procfs::{
    check_open_file_limit, clock_ticks_per_s, core_busy_ticks, cpu_ticks, open_files, parse_core_busy_ticks,
    parse_cpu_ticks, parse_peak_rss_bytes, parse_rss_bytes, peak_rss_bytes, raise_open_file_limit, rss_bytes,
    thread_cpu_ns,
};

mod wire;
pub use wire::{
    CHECKSUM_LEN, Completed, FrameScan, HEADER_LEN, MAX_PAYLOAD_LEN, Oversized, PartialFrame,
    READ_BUFFER_LEN, ReplyReader, UnexpectedReply, scan_frames,
};

mod unsent;
pub use unsent::{Unsent, write_some};

mod pattern;
pub use pattern::{Pattern, Rng};

mod drain;
pub use drain::Drain;

mod schedule;
pub use schedule::{NotKeptUp, Schedule};

mod report;
pub use report::{Comparison, HalfRateRound, LoadReport, RegimeResult, Round, ServerResult, median};

mod idle;
pub use idle::{IDLE_TABLE_HEAD, IdleResult, Memory, Reading, Steady};

mod broadcast;
pub use broadcast::{BROADCAST_TABLE_HEAD, BroadcastRound, broadcast_rows};

mod output;
pub use output::OutputFile;

mod table;
pub use table::{HALF_RATE_TABLE_HEAD, TABLE_HEAD, half_rate_table_rows, ratio_cell, table_rows};

mod plot;
pub use plot::plot_svg;
