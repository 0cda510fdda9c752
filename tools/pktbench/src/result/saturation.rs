//! Why a load generator was saturated, as it is in a document. The limits are in `record::saturation::reasons`.

use serde::{Deserialize, Serialize};

/// The figure of `client` with a similar name has the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// A thread was busy all the time.
    BusyThread,
    /// Packets of an open loop were sent late, although nothing but the load generator delayed them.
    ScheduleLag,
    /// A thread waited for a CPU.
    RunQueue,
    /// The hypervisor gave the CPU to other virtual machines.
    Steal,
    /// The cgroup of the process had used up its CPU limit.
    Throttled,
    /// The process was stopped, or the machine was suspended.
    ClockGap,
}
