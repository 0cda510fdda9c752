//! Connecting to the first address of a host that answers: the attempts of [`Attempts`], made.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::transport::happy_eyeballs::{Attempts, Step};

/// Calls `connect` for one address after the other, and returns what the first one comes to that succeeds. The others are
/// dropped then. `None` where all have failed, as `attempts` tells.
pub(crate) async fn dial<T, F>(attempts: &mut Attempts, mut connect: impl FnMut(SocketAddr) -> F) -> Option<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut under_way: Vec<(SocketAddr, Pin<Box<F>>)> = Vec::new();
    // Made when there is a second address: a runtime may have no timers.
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        loop {
            let mut connected = None;
            // In the order of their begins: the earlier one wins where two are ready.
            under_way.retain_mut(|(addr, attempt)| {
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
            match attempts.next(Instant::now()) {
                Step::Start(addr) => under_way.push((addr, Box::pin(connect(addr)))),
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

    /// What is counted while it is there.
    struct Counted<'a>(&'a Cell<usize>);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    /// Dials addresses of which each answers after so many milliseconds, with success or not, or never. Returns the milliseconds
    /// at which each was tried, the number of the one that was connected, and when.
    async fn play(fates: &[Option<(u64, bool)>]) -> (Vec<u128>, Option<u8>, u128) {
        let (start, begun, there) = (Instant::now(), RefCell::new(Vec::new()), Cell::new(0));
        let mut attempts = Attempts::new((0..fates.len() as u8).map(addr));
        let connected = dial(&mut attempts, |addr| {
            let SocketAddr::V4(v4) = addr else { unreachable!() };
            let number = v4.ip().octets()[3];
            begun.borrow_mut().push(start.elapsed().as_millis());
            there.set(there.get() + 1);
            let (fate, counted) = (fates[usize::from(number)], Counted(&there));
            async move {
                let _counted = counted;
                match fate {
                    None => std::future::pending().await,
                    Some((after, succeeds)) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        if succeeds { Ok(number) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
                    }
                }
            }
        })
        .await;
        assert_eq!(there.get(), 0, "the others are dropped");
        (begun.into_inner(), connected, start.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_costs_a_quarter_of_a_second() {
        assert_eq!(play(&[None, Some((10, true))]).await, (vec![0, 250], Some(1), 260));
        assert_eq!(play(&[None, None, Some((10, true))]).await, (vec![0, 250, 500], Some(2), 510));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_one_is_tried_at_once_when_the_last_one_fails() {
        let fates = [Some((20, false)), Some((30, false)), Some((10, true)), None];
        assert_eq!(play(&fates).await, (vec![0, 20, 50], Some(2), 60));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_may_still_win() {
        assert_eq!(play(&[Some((300, true)), Some((100, true))]).await, (vec![0, 250], Some(0), 300));
        assert_eq!(play(&[Some((400, true)), Some((100, true))]).await, (vec![0, 250], Some(1), 350));
        assert_eq!(play(&[Some((249, true)), Some((0, true))]).await, (vec![0], Some(0), 249));
    }

    #[tokio::test(start_paused = true)]
    async fn all_must_fail_for_it_to_give_up() {
        let fates = [Some((700, false)), Some((10, false)), Some((10, false))];
        assert_eq!(play(&fates).await, (vec![0, 250, 260], None, 700));
        assert_eq!(play(&[]).await, (vec![], None, 0));
    }

    #[test]
    fn one_address_needs_no_timer() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut attempts = Attempts::new([addr(1)]);
        let connected = runtime.block_on(dial(&mut attempts, |_| async { Ok(7) }));
        assert_eq!(connected, Some(7));
    }
}
