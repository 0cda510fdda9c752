//! The timer of a deadline that moves.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

/// Whether a deadline has passed for so long that nobody was there to see it pass: the future that waited was dropped, or the
/// process stood still. What happened meanwhile is not known then, and the deadline begins anew.
pub(crate) fn is_long_past(due: Instant) -> bool {
    const LONG: Duration = Duration::from_secs(1);
    Instant::now().saturating_duration_since(due) > LONG
}

/// Made when it is first waited for.
///
/// A deadline that moves into the future with every packet costs nothing here: the timer stays where it was set, and is
/// set anew when it goes off too early.
#[derive(Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// It belongs to `runtime`, wherever it is polled.
    pub(crate) fn poll_until(&mut self, until: Instant, runtime: &Handle, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| {
            let _inside = runtime.enter();
            Box::pin(tokio::time::sleep_until(until))
        });
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

    /// Whether it will wake nobody any more.
    pub(crate) fn has_gone_off(&self) -> bool {
        self.0.as_ref().is_none_or(|sleep| sleep.is_elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_at_the_time_that_it_was_last_polled_for() {
        for (first_ms, last_ms) in [(50, 50), (50, 80), (50, 20), (50, 0)] {
            let started = Instant::now();
            let at = |ms| started + Duration::from_millis(ms);
            let mut timer = Timer::default();
            let is_set = poll_fn(|cx| {
                Poll::Ready(timer.poll_until(at(first_ms), &Handle::current(), cx).is_pending())
            })
            .await;
            assert!(is_set && !timer.has_gone_off());
            poll_fn(|cx| timer.poll_until(at(last_ms), &Handle::current(), cx)).await;
            assert_eq!(started.elapsed(), Duration::from_millis(last_ms), "first {first_ms}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_polls_any_more_has_gone_off_in_the_end() {
        let mut timer = Timer::default();
        let until = Instant::now() + Duration::from_millis(50);
        poll_fn(|cx| Poll::Ready(timer.poll_until(until, &Handle::current(), cx).is_pending())).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(timer.has_gone_off());
    }
}
