//! Connects to the first address of a host that answers. Runs the attempts that [`Attempts`] decides on.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::transport::happy_eyeballs::{Attempts, Step};

/// Calls `connect` for one address after the other and returns the first success. The other attempts are dropped.
/// `None` if all have failed; `attempts` then has their errors.
pub(crate) async fn connect_first<T, F>(
    attempts: &mut Attempts,
    mut connect: impl FnMut(SocketAddr) -> F,
) -> Option<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut running: Vec<(SocketAddr, Pin<Box<F>>)> = Vec::new();
    // Created only when there is a second address: the runtime may have no time driver.
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        loop {
            let mut connected = None;
            // In the order in which they started: if two are ready, the earlier one wins.
            running.retain_mut(|(addr, attempt)| {
                if connected.is_some() {
                    return true;
                }
                match attempt.as_mut().poll(cx) {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(stream)) => connected = Some(stream),
                    Poll::Ready(Err(error)) => attempts.fail(*addr, error),
                }
                false
            });
            if connected.is_some() {
                return Poll::Ready(connected);
            }
            match attempts.next_step(Instant::now()) {
                Step::Start(addr) => running.push((addr, Box::pin(connect(addr)))),
                Step::GiveUp => return Poll::Ready(None),
                Step::Wait => return Poll::Pending,
                Step::WaitUntil(at) => {
                    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
                    if timer.deadline() != at {
                        timer.as_mut().reset(at);
                    }
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::time::Duration;

    use super::*;

    fn addr(number: u8) -> SocketAddr {
        ([192, 0, 2, number], 1).into()
    }

    /// Decrements the count of live attempts when it is dropped.
    struct Counted<'a>(&'a Cell<usize>);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    /// Connects to addresses with these outcomes: after so many milliseconds success (`true`) or failure, or `None` for
    /// no answer. Returns when each was tried, which one connected, and when, in milliseconds.
    async fn simulate(outcomes: &[Option<(u64, bool)>]) -> (Vec<u128>, Option<u8>, u128) {
        let (start, starts, live) = (Instant::now(), RefCell::new(Vec::new()), Cell::new(0));
        let mut attempts = Attempts::new((0..outcomes.len() as u8).map(addr));
        let connected = connect_first(&mut attempts, |addr| {
            let SocketAddr::V4(v4) = addr else { unreachable!() };
            let number = v4.ip().octets()[3];
            starts.borrow_mut().push(start.elapsed().as_millis());
            live.set(live.get() + 1);
            let (outcome, counted) = (outcomes[usize::from(number)], Counted(&live));
            async move {
                let _counted = counted;
                match outcome {
                    None => std::future::pending().await,
                    Some((after, succeeds)) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        if succeeds { Ok(number) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
                    }
                }
            }
        })
        .await;
        assert_eq!(live.get(), 0, "attempts that were not dropped");
        (starts.into_inner(), connected, start.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_costs_a_quarter_of_a_second() {
        assert_eq!(simulate(&[None, Some((10, true))]).await, (vec![0, 250], Some(1), 260));
        assert_eq!(simulate(&[None, None, Some((10, true))]).await, (vec![0, 250, 500], Some(2), 510));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_one_is_tried_at_once_when_the_last_one_fails() {
        let outcomes = [Some((20, false)), Some((30, false)), Some((10, true)), None];
        assert_eq!(simulate(&outcomes).await, (vec![0, 20, 50], Some(2), 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_attempt_may_still_win() {
        assert_eq!(simulate(&[Some((300, true)), Some((100, true))]).await, (vec![0, 250], Some(0), 300));
        assert_eq!(simulate(&[Some((400, true)), Some((100, true))]).await, (vec![0, 250], Some(1), 350));
        assert_eq!(simulate(&[Some((249, true)), Some((0, true))]).await, (vec![0], Some(0), 249));
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_when_all_have_failed() {
        let outcomes = [Some((700, false)), Some((10, false)), Some((10, false))];
        assert_eq!(simulate(&outcomes).await, (vec![0, 250, 260], None, 700));
        assert_eq!(simulate(&[]).await, (vec![], None, 0));
    }

    #[test]
    fn one_address_needs_no_timer() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut attempts = Attempts::new([addr(1)]);
        let connected = runtime.block_on(connect_first(&mut attempts, |_| async { Ok(7) }));
        assert_eq!(connected, Some(7));
    }
}
