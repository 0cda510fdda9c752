//! A timer for a deadline that moves often.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep};

/// A timer that is created on first use.
///
/// Moving the deadline into the future costs nothing, even for every packet: the timer keeps its old time, and is set
/// again when it expires too early.
#[derive(Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    pub(crate) fn poll_until(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= until || Instant::now() >= until {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_timer_expires_at_the_last_polled_time() {
        for (first_ms, last_ms) in [(50, 50), (50, 80), (50, 20), (50, 0)] {
            let started = Instant::now();
            let at = |ms| started + Duration::from_millis(ms);
            let mut timer = Timer::default();
            let is_set = poll_fn(|cx| Poll::Ready(timer.poll_until(at(first_ms), cx).is_pending())).await;
            assert!(is_set);
            poll_fn(|cx| timer.poll_until(at(last_ms), cx)).await;
            assert_eq!(started.elapsed(), Duration::from_millis(last_ms), "first {first_ms}");
        }
    }
}
