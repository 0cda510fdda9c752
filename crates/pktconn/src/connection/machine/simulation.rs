//! Runs the machine against a model of a kernel and a peer, with random events from a seed.
//!
//! It tests the deadlines and ends that depend on acknowledgements, which in-memory transports do not have.

use std::time::Duration;

use pktconn_codec::PacketCodec;
use tokio::time::Instant;

use super::{Limits, Machine, MinRate, Phase, Rules, SlowConsumer, Timeouts, WriteOutcome};
use crate::ConnConfig;
use crate::error::{Reason, Timeout};
use crate::transport::UnackedBytes;

const MS: Duration = Duration::from_millis(1);
const WRITE: Duration = Duration::from_secs(5);
const CLOSE: Duration = Duration::from_secs(8);
const GRACE: Duration = Duration::from_secs(1);
const LAG: Duration = Duration::from_millis(1600);

/// The quota and the window of the minimum rate. The quota is not larger than the smallest buffer of a kernel, so that a
/// blocked transport always has that much to send.
const QUOTA: u64 = 1000;
const WINDOW: Duration = Duration::from_secs(2);

/// How late a deadline may be noticed: the interval of samples, the pause between checks, and a confirming check.
const SLACK: Duration = Duration::from_millis(700);

/// `SplitMix64`.
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// A socket: the bytes that it accepted, the bytes that the peer acknowledged, and when.
struct Kernel {
    taken: u64,
    acked: u64,
    buffer: u64,
    fin: bool,
    /// When bytes were last accepted or acknowledged.
    progress_at: Instant,
    /// Positions in the stream, and when the bytes up to there were queued.
    queued: Vec<(u64, Instant)>,
    all_acked_at: Option<Instant>,
    /// When bytes were acknowledged, and how many were in total.
    acks: Vec<(Instant, u64)>,
}

struct World {
    rng: Rng,
    rules: Rules,
    machine: Machine,
    kernel: Kernel,
    now: Instant,
    closing_at: Option<Instant>,
    aborting_at: Option<Instant>,
    blocked_at: Instant,
    /// How long each turn of a busy thread takes. The flusher does not run in between. Zero for an idle thread.
    turn: Duration,
    ended: bool,
    /// Whether the peer takes only a few bytes at a time.
    drips: bool,
}

impl World {
    fn new(seed: u64, start: Instant) -> Self {
        let mut rng = Rng(seed);
        let turn = [Duration::ZERO, Duration::ZERO, Duration::ZERO, 6500 * MS][rng.below(4) as usize];
        let slow_consumer =
            [SlowConsumer::Block, SlowConsumer::DropOldest, SlowConsumer::Disconnect][rng.below(3) as usize];
        let mut config = ConnConfig::new().slow_consumer(slow_consumer).send_high_water(50_000);
        if slow_consumer != SlowConsumer::Block {
            config = config.send_max_lag(LAG);
        }
        let send_rate = rng.below(3) == 0;
        let drips = send_rate && rng.below(2) == 0;
        let timeouts =
            Timeouts { close: CLOSE, close_grace: GRACE, frame: None, idle: None, write: Some(WRITE) };
        let rules = Rules {
            codec: PacketCodec::default(),
            timeouts,
            limits: send_rate.then(|| {
                let send_rate = Some(MinRate::new(QUOTA / WINDOW.as_secs(), WINDOW));
                Box::new(Limits { send_rate, ..Limits::default() })
            }),
            times_silence: false,
            slow_consumer,
            send_high_water: 50_000,
            half_close: true,
        };
        let kernel = Kernel {
            taken: 0,
            acked: 0,
            buffer: 1000 + rng.below(100_000),
            fin: false,
            progress_at: start,
            queued: Vec::new(),
            all_acked_at: None,
            acks: Vec::new(),
        };
        Self {
            machine: Machine::new(&config),
            rng,
            rules,
            kernel,
            now: start,
            closing_at: None,
            aborting_at: None,
            blocked_at: start,
            turn,
            ended: false,
            drips,
        }
    }

    fn send(&mut self) {
        let packet = vec![7; self.rng.below(5000) as usize].into();
        let frame = self.rules.codec.frame(&packet).unwrap();
        let now = self.now;
        if self.machine.check_open().is_err() {
            return;
        }
        if !self.machine.has_room(frame.len(), &self.rules, || now) {
            self.write();
            let missing = self.missing();
            self.machine.acknowledged(UnackedBytes::Count(missing), now);
            if !self.machine.has_room(frame.len(), &self.rules, || now)
                && self
                    .machine
                    .make_room(frame.len(), self.rules.slow_consumer, &self.rules, now, drop)
                    .is_err()
            {
                return;
            }
        }
        self.machine.push(&frame, || now);
        // Dropped packets shift the positions, so the ages are not exact here. The unit tests of `lag` check these.
        let end = self.kernel.taken + self.machine.queue.len() as u64;
        self.kernel.queued.retain(|(position, _)| *position < end);
        self.kernel.queued.push((end, now));
    }

    /// Writes the queue to the kernel, as the driver does.
    fn write(&mut self) {
        if self.machine.phase() == Phase::Ended {
            return;
        }
        let before = self.machine.bytes_out();
        let room = self.kernel.buffer.saturating_sub(self.kernel.taken - self.kernel.acked);
        let count = room.min(self.machine.queue.len() as u64);
        if count > 0 {
            self.machine.note_written(count as usize, drop);
            self.machine.flushed();
            self.kernel.taken += count;
            (self.kernel.progress_at, self.kernel.all_acked_at) = (self.now, None);
        }
        let outcome = if self.machine.queue.is_empty() { WriteOutcome::All } else { WriteOutcome::Blocked };
        let (now, was_blocked) = (self.now, self.machine.is_blocked());
        self.machine.finish_write(before, outcome, || now, drop);
        if !was_blocked {
            self.blocked_at = now;
        }
        if self.machine.phase() == Phase::Closing && !self.machine.has_output() {
            (self.kernel.fin, self.kernel.all_acked_at) = (true, None);
            self.machine.finished(now);
        }
    }

    fn missing(&self) -> usize {
        (self.kernel.taken - self.kernel.acked) as usize
            + usize::from(self.kernel.fin && self.kernel.all_acked_at.is_none())
    }

    /// The peer reads, and its kernel acknowledges.
    fn acknowledge(&mut self) {
        let missing = self.kernel.taken - self.kernel.acked;
        let count = match self.rng.below(3) {
            _ if self.drips => missing.min(100),
            0 => missing,
            1 => missing.min(100),
            _ => missing / 2,
        };
        if count > 0 {
            self.kernel.acked += count;
            self.kernel.progress_at = self.now;
            self.kernel.acks.push((self.now, self.kernel.acked));
        }
        if self.kernel.acked == self.kernel.taken {
            self.kernel.all_acked_at.get_or_insert(self.now);
        }
    }

    /// How many bytes were acknowledged in the last `time`.
    fn acked_within(&self, time: Duration) -> u64 {
        let before = self.kernel.acks.iter().rfind(|(at, _)| self.now - *at >= time);
        self.kernel.acked - before.map_or(0, |(_, acked)| *acked)
    }

    /// Runs the flusher once. Returns when it must run again.
    fn run_flusher(&mut self) -> Option<Instant> {
        self.write();
        for is_first in [true, false] {
            let missing = self.missing();
            let check = self
                .machine
                .check_deadlines(&self.rules, is_first, self.now, || Ok(UnackedBytes::Count(missing)));
            self.check_end();
            if !check.again {
                assert!(
                    check.next.is_none_or(|next| next > self.now),
                    "the flusher would run again at once, in an endless loop"
                );
                return check.next;
            }
            assert!(is_first, "a second check must not ask for a third");
            self.write();
        }
        unreachable!("the second check returns the time of the next one")
    }

    fn check_end(&mut self) {
        if self.ended || self.machine.phase() != Phase::Ended {
            return;
        }
        self.ended = true;
        let since_progress = self.now - self.kernel.progress_at;
        match self.machine.failure() {
            Some(Reason::Timeout(Timeout::Write, _)) => {
                assert!(since_progress >= WRITE, "write timeout {since_progress:?} after progress");
            }
            Some(Reason::Timeout(Timeout::Close, _)) => {
                assert!(self.now - self.closing_at.unwrap() >= CLOSE);
            }
            Some(Reason::SlowConsumer { .. }) if self.machine.exceeds_max_lag(|| self.now) => {
                let oldest = self.kernel.queued.iter().find(|(end, _)| *end > self.kernel.acked);
                assert!(
                    oldest.is_none_or(|(_, at)| self.now - *at >= LAG - LAG / 8),
                    "below the maximum lag"
                );
            }
            Some(Reason::SlowConsumer { .. }) => {}
            Some(Reason::TooSlow { moved, expected, .. }) => {
                assert!(moved < expected && expected == QUOTA, "{moved} of {expected} bytes");
                let acked = self.acked_within(WINDOW);
                assert!(acked < QUOTA, "too slow although it has acknowledged {acked} bytes");
            }
            None if self.aborting_at.is_some() => assert!(self.machine.ends_by_reset()),
            None => assert!(!self.machine.ends_by_reset() && !self.machine.has_output(), "not a clean end"),
            Some(other) => panic!("{other:?}"),
        }
    }

    /// Fails if a deadline is overdue although the flusher runs at the times that it returned.
    fn check_waiting(&self) {
        if self.ended {
            return;
        }
        let slack = SLACK + self.turn;
        let blocked_for = self.now - self.kernel.progress_at.max(self.blocked_at);
        assert!(
            !self.machine.is_blocked() || blocked_for <= WRITE + slack,
            "no progress for {blocked_for:?}"
        );
        // A burst gives credit for one window, and the current window may be over just now.
        let windows = 3 * WINDOW + SLACK;
        let is_measured = self.rules.send_rate().is_some() && self.turn.is_zero();
        if is_measured && self.machine.is_blocked() && self.now - self.blocked_at > windows {
            let acked = self.acked_within(windows);
            assert!(acked >= QUOTA, "{acked} bytes in {windows:?}, and not too slow");
        }
        for (since, most) in [(self.closing_at, CLOSE), (self.aborting_at, Duration::from_secs(1))] {
            let within = since.map_or(Duration::ZERO, |since| self.now - since);
            assert!(within <= most + slack, "{:?} for {within:?}", self.machine.phase());
        }
        if let (Phase::Finished, Some(at)) = (self.machine.phase(), self.kernel.all_acked_at) {
            assert!(self.now - at <= GRACE + slack, "all bytes were acknowledged {:?} ago", self.now - at);
        }
    }

    fn run(&mut self) {
        let mut next = self.run_flusher();
        for _ in 0..60 {
            match self.rng.below(12) {
                0..=4 => self.send(),
                5..=7 => self.acknowledge(),
                8 if self.rng.below(12) == 0 && self.closing_at.is_none() => {
                    self.machine.stop(Reason::LocalClose);
                    self.machine.close(&self.rules, self.now);
                    self.closing_at.get_or_insert(self.now);
                }
                8 if self.rng.below(12) == 0 && self.machine.phase() == Phase::Open => {
                    self.machine.stop(Reason::LocalClose);
                    self.machine.abort(true, self.now);
                    self.aborting_at.get_or_insert(self.now);
                }
                _ => {
                    // Advance to the next deadline, by a random step before it, or by a long turn.
                    let step = (1 + self.rng.below(3000) as u32) * MS;
                    let until = next.map_or(self.now + step, |next| next.min(self.now + step));
                    self.now = if self.turn.is_zero() { until.max(self.now) } else { self.now + self.turn };
                }
            }
            next = self.run_flusher();
            self.check_waiting();
        }
    }
}

#[test]
fn deadlines_and_ends_that_depend_on_acknowledgements_hold_for_each_seed() {
    let seeds = std::env::var("PKTCONN_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(10_000);
    let start = Instant::now();
    for seed in 0..seeds {
        let ran = std::panic::catch_unwind(|| World::new(seed, start).run());
        assert!(ran.is_ok(), "seed {seed}");
    }
}
