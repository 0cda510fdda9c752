//! What a program prints at its end: medians, files, errors.
//!
//! Knows nothing of servers and clients. The tables and charts of one program are in the folder of that program.

mod statistics;
pub use statistics::{median, ratio_cell};

mod output_file;
pub use output_file::OutputFile;

mod exit;
pub use exit::exit_code;
