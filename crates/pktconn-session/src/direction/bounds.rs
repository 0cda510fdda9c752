//! Checks the counters of the peer.

use std::fmt;
use std::ops::RangeInclusive;

/// A counter of the peer that contradicts the own ones: one of the two sides has lost its state, or has a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer states {counter} = {value}; possible are {min} to {max}")]
#[non_exhaustive]
pub struct OutOfBounds {
    /// The counter.
    pub counter: Counter,
    /// What the peer states.
    pub value: u64,
    /// The lowest possible value.
    pub min: u64,
    /// The highest possible value.
    pub max: u64,
}

/// A counter in a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Counter {
    /// `received`: how many packets the peer has handed to its application.
    Received,
    /// `first_held`: the lowest number of a packet that the peer still holds.
    FirstHeld,
    /// `sent`: how many packets the peer has numbered.
    Sent,
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Received => "received",
            Self::FirstHeld => "first_held",
            Self::Sent => "sent",
        })
    }
}

impl Counter {
    pub(crate) fn check(self, value: u64, bounds: RangeInclusive<u64>) -> Result<(), OutOfBounds> {
        if bounds.contains(&value) {
            return Ok(());
        }
        Err(OutOfBounds { counter: self, value, min: *bounds.start(), max: *bounds.end() })
    }
}
