//! Decides which address of a host to try, and when: "Happy Eyeballs" (RFC 8305). No socket, timer or clock.
//!
//! ```text
//!   IPv6 a  |-------------------------- no answer ------------------------ ... closed
//!   IPv4 b  :<-- 250 ms -->|--- refused
//!   IPv6 c  :                          |-------- connected: the winner
//!   IPv4 d  :                           <-- 250 ms -->  never started
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Time from the start of one attempt to the start of the next: the "Connection Attempt Delay" that RFC 8305, section
/// 5, recommends. It is longer than most round trips, so an address that answers rarely causes a second attempt.
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The order of the attempts (section 4): IPv6 and IPv4 alternate, starting with the family of the first address, so a
/// family that does not work costs at most one delay. Within a family the order of the resolver stays. Each address
/// occurs once.
pub(crate) fn in_order_of_attempts(addrs: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut first_family = VecDeque::new();
    let mut other_family = VecDeque::new();
    for addr in addrs {
        let family = match first_family.front() {
            Some(first) if SocketAddr::is_ipv4(first) != addr.is_ipv4() => &mut other_family,
            _ => &mut first_family,
        };
        if !family.contains(&addr) {
            family.push_back(addr);
        }
    }
    let mut ordered = Vec::new();
    while !first_family.is_empty() || !other_family.is_empty() {
        ordered.extend(first_family.pop_front());
        ordered.extend(other_family.pop_front());
    }
    ordered
}

/// The attempts to connect to the addresses of one host: which have started, and which have failed.
#[derive(Debug)]
pub(crate) struct Attempts {
    not_started: VecDeque<SocketAddr>,
    started: usize,
    /// The attempt that started last, and when. `None` after it has failed: the next one then starts at once.
    last_started: Option<(SocketAddr, Instant)>,
    failed: Vec<(SocketAddr, io::Error)>,
}

/// What the caller does next, until an attempt succeeds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Start an attempt to this address, in parallel to the running ones.
    Start(SocketAddr),
    /// Wait until a running attempt finishes, but not beyond this time.
    WaitUntil(Instant),
    /// Wait until a running attempt finishes: no address is left to start.
    Wait,
    /// Give up: all attempts have failed.
    GiveUp,
}

impl Attempts {
    pub(crate) fn new(addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        let not_started = in_order_of_attempts(addrs).into();
        Self { not_started, started: 0, last_started: None, failed: Vec::new() }
    }

    /// What to do at `now`. After it returns [`Step::Start`], the address counts as started.
    pub(crate) fn next_step(&mut self, now: Instant) -> Step {
        let Some(&addr) = self.not_started.front() else {
            return if self.failed.len() == self.started { Step::GiveUp } else { Step::Wait };
        };
        match self.last_started {
            Some((_, since)) if now < since + ATTEMPT_DELAY => Step::WaitUntil(since + ATTEMPT_DELAY),
            _ => {
                self.not_started.pop_front();
                self.started += 1;
                self.last_started = Some((addr, now));
                Step::Start(addr)
            }
        }
    }

    /// Records that the attempt to connect to `addr` has failed. If it started last, the next attempt starts at once.
    pub(crate) fn fail(&mut self, addr: SocketAddr, error: io::Error) {
        self.failed.push((addr, error));
        self.last_started = self.last_started.filter(|(last, _)| *last != addr);
    }

    /// How many addresses have been tried.
    pub(crate) fn started(&self) -> usize {
        self.started
    }

    /// How many addresses there are.
    pub(crate) fn total(&self) -> usize {
        self.started + self.not_started.len()
    }

    /// The failure that says most about the host; of equal ones the first.
    pub(crate) fn most_informative_error(&self) -> Option<(SocketAddr, &io::Error)> {
        let most = self.failed.iter().map(|(_, error)| informativeness(error.kind())).max()?;
        let (addr, error) = self.failed.iter().find(|(_, error)| informativeness(error.kind()) == most)?;
        Some((*addr, error))
    }

    /// Removes and returns the failure of [`most_informative_error`](Self::most_informative_error).
    pub(crate) fn take_most_informative_error(&mut self) -> Option<(SocketAddr, io::Error)> {
        let (addr, _) = self.most_informative_error()?;
        let index = self.failed.iter().position(|(failed, _)| *failed == addr)?;
        Some(self.failed.swap_remove(index))
    }
}

/// Ranks errors by how much they say about the host. From high to low: the host itself answered; a firewall answered,
/// or nobody; a router answered; anything else; this machine has no route for the address family, for example no IPv6.
fn informativeness(kind: io::ErrorKind) -> u8 {
    use io::ErrorKind as Kind;
    match kind {
        Kind::ConnectionRefused | Kind::ConnectionReset => 4,
        Kind::TimedOut | Kind::PermissionDenied => 3,
        Kind::HostUnreachable => 2,
        Kind::NetworkUnreachable | Kind::AddrNotAvailable => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_and_keep_the_order_of_the_resolver() {
        let v6 = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1"];
        let v4 = ["192.0.2.1:1", "192.0.2.2:1"];
        for (given, expected) in [
            (vec![v6[0], v6[1], v6[2], v4[0], v4[1]], vec![v6[0], v4[0], v6[1], v4[1], v6[2]]),
            (vec![v4[0], v6[0], v6[1], v4[1]], vec![v4[0], v6[0], v4[1], v6[1]]),
            (vec![v4[1], v4[0]], vec![v4[1], v4[0]]),
            (vec![v6[0], v6[0], v4[0], v6[0], v4[0]], vec![v6[0], v4[0]]),
            (vec![], vec![]),
        ] {
            assert_eq!(in_order_of_attempts(addrs(&given)), addrs(&expected), "{given:?}");
        }
    }

    #[test]
    fn the_next_attempt_begins_after_the_delay_or_when_the_last_one_has_failed() {
        let all = addrs(&["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "192.0.2.4:1"]);
        let mut attempts = Attempts::new(all.clone());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(attempts.next_step(at(0)), Step::Start(all[0]));
        assert_eq!(attempts.next_step(at(0)), Step::WaitUntil(at(250)));
        assert_eq!(attempts.next_step(at(249)), Step::WaitUntil(at(250)));
        assert_eq!(attempts.next_step(at(250)), Step::Start(all[1]));
        attempts.fail(all[1], io::ErrorKind::ConnectionRefused.into());
        assert_eq!(attempts.next_step(at(260)), Step::Start(all[2]));
        // The failure of an earlier attempt does not shorten the delay.
        attempts.fail(all[0], io::ErrorKind::TimedOut.into());
        assert_eq!(attempts.next_step(at(300)), Step::WaitUntil(at(510)));
        assert_eq!((attempts.started(), attempts.total()), (3, 4));
        assert_eq!(attempts.next_step(at(9999)), Step::Start(all[3]));
        assert_eq!(attempts.next_step(at(9999)), Step::Wait);
        attempts.fail(all[3], io::ErrorKind::TimedOut.into());
        assert_eq!(attempts.next_step(at(9999)), Step::Wait);
        attempts.fail(all[2], io::ErrorKind::HostUnreachable.into());
        assert_eq!(attempts.next_step(at(9999)), Step::GiveUp);
        let (addr, error) = attempts.take_most_informative_error().unwrap();
        assert_eq!((addr, error.kind()), (all[1], io::ErrorKind::ConnectionRefused));
    }

    #[test]
    fn without_addresses_it_gives_up_at_once() {
        let mut attempts = Attempts::new([]);
        assert_eq!(attempts.next_step(Instant::now()), Step::GiveUp);
        assert!(attempts.take_most_informative_error().is_none());
    }

    /// The outcome of an attempt, in milliseconds after its start.
    #[derive(Clone, Copy, Debug)]
    enum Outcome {
        Connects(u64),
        Fails(u64),
        NoAnswer,
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            (0..2000_u64).prop_map(Outcome::Connects),
            (0..600_u64).prop_map(Outcome::Fails),
            Just(Outcome::NoAnswer)
        ]
    }

    /// Simulates the attempts. Returns when each one started, and which one connected when.
    fn simulate(addrs: &[SocketAddr], outcomes: &[Outcome]) -> (Vec<u64>, Option<(usize, u64)>, Attempts) {
        let start = Instant::now();
        let mut attempts = Attempts::new(addrs.to_vec());
        let (mut now, mut starts, mut pending) = (0, Vec::new(), Vec::new());
        loop {
            let until = match attempts.next_step(start + Duration::from_millis(now)) {
                Step::Start(addr) => {
                    assert_eq!(addr, addrs[starts.len()], "out of order");
                    pending.push((starts.len(), now));
                    starts.push(now);
                    continue;
                }
                Step::GiveUp => return (starts, None, attempts),
                Step::Wait => u64::MAX,
                Step::WaitUntil(at) => (at - start).as_millis() as u64,
            };
            // When each pending attempt finishes.
            let event = |&(which, since): &(usize, u64)| match outcomes[which] {
                Outcome::Connects(after) | Outcome::Fails(after) => (since + after, which),
                Outcome::NoAnswer => (u64::MAX, which),
            };
            let (at, which) = pending.iter().map(event).min().unwrap_or((u64::MAX, 0));
            now = at.min(until);
            if now == u64::MAX {
                return (starts, None, attempts);
            }
            if at == now {
                pending.retain(|(pending, _)| *pending != which);
                match outcomes[which] {
                    Outcome::Connects(_) => return (starts, Some((which, now)), attempts),
                    _ => attempts.fail(addrs[which], io::ErrorKind::ConnectionRefused.into()),
                }
            }
        }
    }

    proptest! {
        /// Each attempt starts 250 ms after the previous one, or when that one fails. The first to connect wins.
        #[test]
        fn the_first_attempt_to_connect_wins(outcomes in prop::collection::vec(outcome(), 1..8)) {
            let addrs: Vec<_> = (1..=outcomes.len()).map(|n| SocketAddr::from(([192, 0, 2, n as u8], 1))).collect();
            let (starts, connected, attempts) = simulate(&addrs, &outcomes);
            let mut expected_starts = vec![0];
            for outcome in &outcomes {
                let after = match outcome {
                    Outcome::Fails(after) => 250.min(*after),
                    _ => 250,
                };
                expected_starts.push(expected_starts[expected_starts.len() - 1] + after);
            }
            let connects = outcomes.iter().zip(&expected_starts).enumerate().filter_map(|(which, (outcome, start))| match outcome {
                Outcome::Connects(after) => Some((start + after, which)),
                _ => None,
            });
            let expected = connects.min();
            prop_assert_eq!(connected.map(|(_, at)| at), expected.map(|(at, _)| at));
            prop_assert_eq!(&starts[..], &expected_starts[..starts.len()]);
            prop_assert_eq!(attempts.started(), starts.len());
            if connected.is_none() {
                prop_assert_eq!(starts.len(), outcomes.len(), "not all addresses were tried");
            }
        }

        #[test]
        fn no_address_is_lost_and_none_is_tried_twice(picks in prop::collection::vec((any::<bool>(), 0..6_u8), 0..20)) {
            let given: Vec<SocketAddr> = picks
                .iter()
                .map(|&(is_v6, n)| if is_v6 { format!("[2001:db8::{n}]:1") } else { format!("192.0.2.{n}:1") })
                .map(|text| text.parse().unwrap())
                .collect();
            let ordered = in_order_of_attempts(given.clone());
            let unique: std::collections::BTreeSet<_> = given.iter().collect();
            prop_assert_eq!(&ordered.iter().collect::<std::collections::BTreeSet<_>>(), &unique);
            prop_assert_eq!(ordered.len(), unique.len());
            prop_assert_eq!(ordered.first(), given.first());
            // The families alternate until one of them is used up.
            let fewer = 2 * ordered.iter().filter(|addr| addr.is_ipv4()).count().min(ordered.iter().filter(|addr| addr.is_ipv6()).count());
            prop_assert!(ordered[..fewer].windows(2).all(|pair| pair[0].is_ipv4() != pair[1].is_ipv4()));
        }
    }
}
