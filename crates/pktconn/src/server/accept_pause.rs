//! The pauses of a server that cannot accept.

use std::time::Duration;

use tokio::time::Instant;

/// How long to wait when nothing can be accepted: a file may be closed at any moment, and a busy loop helps nobody.
pub(super) struct AcceptPause {
    next: Duration,
    /// When it was last told of.
    told: Option<Instant>,
}

impl AcceptPause {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    /// The next pause, and whether it is worth a line in the log: one a second is, however often it comes and goes.
    pub(super) fn next(&mut self, now: Instant) -> (Duration, bool) {
        let pause = self.next;
        self.next = (pause * 2).min(Self::LONGEST);
        let tell = self.told.is_none_or(|told| now.duration_since(told) >= Duration::from_secs(1));
        if tell {
            self.told = Some(now);
        }
        (pause, tell)
    }

    /// Something was accepted.
    pub(super) fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

impl Default for AcceptPause {
    fn default() -> Self {
        Self { next: Self::FIRST, told: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_to_a_second_and_begins_anew_when_something_was_accepted() {
        let mut pause = AcceptPause::default();
        for _ in 0..2 {
            let pauses = [(); 9].map(|()| pause.next(Instant::now()).0.as_millis());
            assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
            pause.reset();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_of_at_once_and_then_once_a_second_at_most() {
        let (mut pause, started) = (AcceptPause::default(), Instant::now());
        let told: Vec<_> = (0..30)
            .map(|number| number * 100)
            .filter(|&ms| {
                // A file is free now and then, and taken at once.
                pause.reset();
                pause.next(started + Duration::from_millis(ms)).1
            })
            .collect();
        assert_eq!(told, [0, 1000, 2000]);
    }
}
