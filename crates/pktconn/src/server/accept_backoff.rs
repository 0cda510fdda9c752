//! How long a server pauses after a failed accept, and whether it logs the failure. No I/O.

use std::time::Duration;

use tokio::time::Instant;

/// The growing pauses of a server that cannot accept, for example because too many files are open. The pauses are short
/// because a file may be closed at any moment, and not zero because a busy loop would only cost CPU time.
pub(super) struct AcceptBackoff {
    next_pause: Duration,
    last_logged: Option<Instant>,
}

impl AcceptBackoff {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    /// The next pause, and whether to log the failure: at most once per second, even if accepting works in between.
    pub(super) fn next_pause(&mut self, now: Instant) -> (Duration, bool) {
        let pause = self.next_pause;
        self.next_pause = (pause * 2).min(Self::LONGEST);
        let should_log = self
            .last_logged
            .is_none_or(|last_logged| now.duration_since(last_logged) >= Duration::from_secs(1));
        if should_log {
            self.last_logged = Some(now);
        }
        (pause, should_log)
    }

    /// Starts with the shortest pause again, because a connection was accepted.
    pub(super) fn reset(&mut self) {
        self.next_pause = Self::FIRST;
    }
}

impl Default for AcceptBackoff {
    fn default() -> Self {
        Self { next_pause: Self::FIRST, last_logged: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_up_to_a_second_and_starts_again_after_an_accept() {
        let mut backoff = AcceptBackoff::default();
        for _ in 0..2 {
            let pauses = [(); 9].map(|()| backoff.next_pause(Instant::now()).0.as_millis());
            assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
            backoff.reset();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_logged_at_most_once_a_second() {
        let (mut backoff, started) = (AcceptBackoff::default(), Instant::now());
        let logged: Vec<_> = (0..30)
            .map(|number| number * 100)
            .filter(|&ms| {
                // As if a connection had been accepted in between.
                backoff.reset();
                backoff.next_pause(started + Duration::from_millis(ms)).1
            })
            .collect();
        assert_eq!(logged, [0, 1000, 2000]);
    }
}
