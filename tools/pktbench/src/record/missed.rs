//! Missed packets of an open loop: they were due and were not sent. Counted by what prevented it.

/// Why a packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its connection had as many packets outstanding as allowed.
    Window,
    /// Its socket accepted no more bytes: the server did not read.
    Socket,
    /// Its connection had failed.
    Failed,
    /// Nothing but the load generator itself.
    Late,
}

/// The number of missed packets, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    pub(crate) window: u64,
    pub(crate) socket: u64,
    pub(crate) failed: u64,
    pub(crate) late: u64,
}

impl Missed {
    pub(crate) fn add(&mut self, cause: Cause, packets: u64) {
        let count = match cause {
            Cause::Window => &mut self.window,
            Cause::Socket => &mut self.socket,
            Cause::Failed => &mut self.failed,
            Cause::Late => &mut self.late,
        };
        *count += packets;
    }

    pub(crate) fn count(&self) -> u64 {
        self.window + self.socket + self.failed + self.late
    }
}

impl std::ops::AddAssign for Missed {
    fn add_assign(&mut self, other: Self) {
        self.window += other.window;
        self.socket += other.socket;
        self.failed += other.failed;
        self.late += other.late;
    }
}
