//! What a connection does at set times, whatever its traffic is: heartbeats, and the end of its maximum age.

use tokio::time::Instant;

use super::age::Age;
use super::heartbeat::Heartbeat;

#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub(super) heartbeat: Option<Heartbeat>,
    pub(super) age: Option<Age>,
}

impl Schedule {
    /// When to check the heartbeat and the age again.
    pub(super) fn next_check(&self) -> Option<Instant> {
        let heartbeat = self.heartbeat.as_ref().map(Heartbeat::next_check);
        let age = self.age.as_ref().and_then(Age::next_check);
        [heartbeat, age].into_iter().flatten().min()
    }
}
