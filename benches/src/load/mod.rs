//! What a client sends, when it sends it, and what it reports. Pure: no socket and no clock.

mod random;

mod generator;
pub use generator::FrameGenerator;

mod schedule;
pub use schedule::{NotKeptUp, Schedule};

mod report;
pub use report::{CONNECTED_LINE, LoadReport};
