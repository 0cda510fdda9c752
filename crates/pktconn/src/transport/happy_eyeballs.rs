//! Which address of a host to try when: "Happy Eyeballs", of RFC 8305. Without a socket, a timer or a clock.
//!
//! ```text
//!   IPv6 a  |-------------------------- no answer ------------------------ ... closed
//!   IPv4 b  :<-- 250 ms -->|--- refused
//!   IPv6 c  :                          |-------- connected: it wins
//!   IPv4 d  :                           <-- 250 ms -->  not started any more
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// How long an attempt is alone before the next one begins beside it: the "Connection Attempt Delay" that section 5 of RFC
/// 8305 recommends. It is longer than most round trips, so that an address that answers mostly needs no second attempt.
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The order of the attempts: IPv6 and IPv4 by turns, beginning with the family of the first address, so that a family that
/// does not work costs one delay at most (section 4). Within a family as the resolver sorted them; each address once.
pub(crate) fn in_order_of_attempts(addrs: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut of_first = VecDeque::new();
    let mut of_other = VecDeque::new();
    for addr in addrs {
        let family = match of_first.front() {
            Some(first) if SocketAddr::is_ipv4(first) != addr.is_ipv4() => &mut of_other,
            _ => &mut of_first,
        };
        if !family.contains(&addr) {
            family.push_back(addr);
        }
    }
    let mut ordered = Vec::new();
    while !of_first.is_empty() || !of_other.is_empty() {
        ordered.extend(of_first.pop_front());
        ordered.extend(of_other.pop_front());
    }
    ordered
}

/// The attempts to connect to the addresses of one host: which were started, and which have failed.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// Those that were not started.
    left: VecDeque<SocketAddr>,
    started: usize,
    /// The last one that was started, and when, unless it has failed: the next one waits for it.
    last: Option<(SocketAddr, Instant)>,
    failed: Vec<(SocketAddr, io::Error)>,
}

/// What to do next, until an attempt succeeds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Connect to this address, beside the attempts that are under way.
    Start(SocketAddr),
    /// Wait for the attempts that are under way, but no longer than until then.
    WaitUntil(Instant),
    /// Wait for the attempts that are under way: there is no other.
    Wait,
    /// Give up: all have failed.
    GiveUp,
}

impl Attempts {
    pub(crate) fn new(addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        let left = in_order_of_attempts(addrs).into();
        Self { left, started: 0, last: None, failed: Vec::new() }
    }

    /// What to do at `now`. An address that is to be started counts as started.
    pub(crate) fn next(&mut self, now: Instant) -> Step {
        let Some(&addr) = self.left.front() else {
            return if self.failed.len() == self.started { Step::GiveUp } else { Step::Wait };
        };
        match self.last {
            Some((_, since)) if now < since + ATTEMPT_DELAY => Step::WaitUntil(since + ATTEMPT_DELAY),
            _ => {
                self.left.pop_front();
                self.started += 1;
                self.last = Some((addr, now));
                Step::Start(addr)
            }
        }
    }

    /// Notes that the attempt to connect to `addr` has failed. If it was the last one that was started, the next one need not
    /// wait.
    pub(crate) fn fail(&mut self, addr: SocketAddr, error: io::Error) {
        self.failed.push((addr, error));
        self.last = self.last.filter(|(last, _)| *last != addr);
    }

    /// How many addresses were tried so far.
    pub(crate) fn started(&self) -> usize {
        self.started
    }

    /// How many addresses there are.
    pub(crate) fn total(&self) -> usize {
        self.started + self.left.len()
    }

    /// The failure that tells the most about the host, the first of them if there are several.
    pub(crate) fn most_telling(&self) -> Option<(SocketAddr, &io::Error)> {
        let most = self.failed.iter().map(|(_, error)| telling(error.kind())).max()?;
        let (addr, error) = self.failed.iter().find(|(_, error)| telling(error.kind()) == most)?;
        Some((*addr, error))
    }

    /// The same, taken out.
    pub(crate) fn take_most_telling(&mut self) -> Option<(SocketAddr, io::Error)> {
        let (addr, _) = self.most_telling()?;
        let index = self.failed.iter().position(|(failed, _)| *failed == addr)?;
        Some(self.failed.swap_remove(index))
    }
}

/// The host itself has answered; nobody has, or a firewall has; the network has; this machine knows no way to an address of
/// that family, as one without IPv6.
fn telling(kind: io::ErrorKind) -> u8 {
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
    fn families_take_turns_and_keep_the_order_of_the_resolver() {
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
        assert_eq!(attempts.next(at(0)), Step::Start(all[0]));
        assert_eq!(attempts.next(at(0)), Step::WaitUntil(at(250)));
        assert_eq!(attempts.next(at(249)), Step::WaitUntil(at(250)));
        assert_eq!(attempts.next(at(250)), Step::Start(all[1]));
        attempts.fail(all[1], io::ErrorKind::ConnectionRefused.into());
        assert_eq!(attempts.next(at(260)), Step::Start(all[2]));
        // An earlier one says nothing about the last.
        attempts.fail(all[0], io::ErrorKind::TimedOut.into());
        assert_eq!(attempts.next(at(300)), Step::WaitUntil(at(510)));
        assert_eq!((attempts.started(), attempts.total()), (3, 4));
        assert_eq!(attempts.next(at(9999)), Step::Start(all[3]));
        assert_eq!(attempts.next(at(9999)), Step::Wait);
        attempts.fail(all[3], io::ErrorKind::TimedOut.into());
        assert_eq!(attempts.next(at(9999)), Step::Wait);
        attempts.fail(all[2], io::ErrorKind::HostUnreachable.into());
        assert_eq!(attempts.next(at(9999)), Step::GiveUp);
        let (addr, error) = attempts.take_most_telling().unwrap();
        assert_eq!((addr, error.kind()), (all[1], io::ErrorKind::ConnectionRefused));
    }

    #[test]
    fn no_address_is_given_up_at_once() {
        let mut attempts = Attempts::new([]);
        assert_eq!(attempts.next(Instant::now()), Step::GiveUp);
        assert!(attempts.take_most_telling().is_none());
    }

    /// What becomes of an attempt, in milliseconds after its begin.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Connects(u64),
        Fails(u64),
        NoAnswer,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            (0..2000_u64).prop_map(Fate::Connects),
            (0..600_u64).prop_map(Fate::Fails),
            Just(Fate::NoAnswer)
        ]
    }

    /// Plays the attempts against their fates, and tells when each began and which one was connected when.
    fn play(addrs: &[SocketAddr], fates: &[Fate]) -> (Vec<u64>, Option<(usize, u64)>, Attempts) {
        let start = Instant::now();
        let mut attempts = Attempts::new(addrs.to_vec());
        let (mut now, mut begun, mut pending) = (0, Vec::new(), Vec::new());
        loop {
            let until = match attempts.next(start + Duration::from_millis(now)) {
                Step::Start(addr) => {
                    assert_eq!(addr, addrs[begun.len()], "in order");
                    pending.push((begun.len(), now));
                    begun.push(now);
                    continue;
                }
                Step::GiveUp => return (begun, None, attempts),
                Step::Wait => u64::MAX,
                Step::WaitUntil(at) => (at - start).as_millis() as u64,
            };
            // The next event of an attempt.
            let event = |&(which, since): &(usize, u64)| match fates[which] {
                Fate::Connects(after) | Fate::Fails(after) => (since + after, which),
                Fate::NoAnswer => (u64::MAX, which),
            };
            let (at, which) = pending.iter().map(event).min().unwrap_or((u64::MAX, 0));
            now = at.min(until);
            if now == u64::MAX {
                return (begun, None, attempts);
            }
            if at == now {
                pending.retain(|(pending, _)| *pending != which);
                match fates[which] {
                    Fate::Connects(_) => return (begun, Some((which, now)), attempts),
                    _ => attempts.fail(addrs[which], io::ErrorKind::ConnectionRefused.into()),
                }
            }
        }
    }

    proptest! {
        /// Each begins 250 ms after the one before it, or when that has failed, and the first to be connected wins.
        #[test]
        fn whatever_the_addresses_do_the_first_to_be_connected_wins(fates in prop::collection::vec(fate(), 1..8)) {
            let addrs: Vec<_> = (1..=fates.len()).map(|n| SocketAddr::from(([192, 0, 2, n as u8], 1))).collect();
            let (begun, connected, attempts) = play(&addrs, &fates);
            let mut begins = vec![0];
            for fate in &fates {
                let after = match fate {
                    Fate::Fails(after) => 250.min(*after),
                    _ => 250,
                };
                begins.push(begins[begins.len() - 1] + after);
            }
            let connects = fates.iter().zip(&begins).enumerate().filter_map(|(which, (fate, begin))| match fate {
                Fate::Connects(after) => Some((begin + after, which)),
                _ => None,
            });
            let expected = connects.min();
            prop_assert_eq!(connected.map(|(_, at)| at), expected.map(|(at, _)| at));
            prop_assert_eq!(&begun[..], &begins[..begun.len()]);
            prop_assert_eq!(attempts.started(), begun.len());
            if connected.is_none() {
                prop_assert_eq!(begun.len(), fates.len(), "all were tried");
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
            // They take turns as long as there are two families.
            let fewer = 2 * ordered.iter().filter(|addr| addr.is_ipv4()).count().min(ordered.iter().filter(|addr| addr.is_ipv6()).count());
            prop_assert!(ordered[..fewer].windows(2).all(|pair| pair[0].is_ipv4() != pair[1].is_ipv4()));
        }
    }
}
