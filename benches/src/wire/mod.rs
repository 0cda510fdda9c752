//! The wire format, as far as an echo needs it: where frames end, and what a full socket did not accept yet.
//!
//! ```text
//! +----------------+---------------------+------------------------+
//! | length: u32 LE | payload: length B   | CRC-32: u32 LE, if on  |
//! +----------------+---------------------+------------------------+
//! ```
//!
//! It never reads a payload and never verifies a checksum: the comparison is about moving frames. It uses no socket,
//! only `std::io::Write`, so it is tested without one.

mod format;
pub use format::{CHECKSUM_LEN, HEADER_LEN, MAX_PAYLOAD_LEN, Oversized, READ_BUFFER_LEN};

mod frames;
pub use frames::{Completed, FrameScan, PartialFrame, scan_frames};

mod replies;
pub use replies::{ReplyReader, UnexpectedReply};

mod send_queue;
pub use send_queue::{SendQueue, write_some};
