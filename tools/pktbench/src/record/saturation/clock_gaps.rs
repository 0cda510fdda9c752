//! Gaps of the clock: times in which the whole process did not run, because it was stopped (SIGSTOP) or the machine was
//! suspended. A timer of `host_watch` shows them: it fires late.

/// A shorter delay is not counted. With two busy loops on the core of the timer, it is mostly less than this late; the
/// run-queue delay finds that case.
const MIN_GAP_NS: u64 = 10_000_000;

/// The gaps in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClockGaps {
    pub(crate) total_ns: u64,
    pub(crate) longest_ns: u64,
}

impl ClockGaps {
    /// A timer that was due at `due_ns` fired at `now_ns`. Only the part from `from_ns` to `until_ns` counts.
    pub(crate) fn add_delay(&mut self, due_ns: u64, now_ns: u64, from_ns: u64, until_ns: u64) {
        self.add(now_ns.min(until_ns).saturating_sub(due_ns.max(from_ns)));
    }

    pub(crate) fn add(&mut self, gap_ns: u64) {
        if gap_ns >= MIN_GAP_NS {
            self.total_ns = self.total_ns.saturating_add(gap_ns);
            self.longest_ns = self.longest_ns.max(gap_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn only_delays_in_the_window_count_and_short_ones_do_not() {
        let cases = [
            // Due, fired, and what of it is in the window from 1 s to 3 s.
            (1500, 1509, 0, "within the noise of a busy machine"),
            (1500, 1510, 10, "late"),
            (1500, 3200, 1500, "beyond the end of the window"),
            (200, 1600, 600, "from before the window"),
            (200, 4000, 2000, "the whole window"),
            (200, 900, 0, "during the warm-up"),
            (3100, 9000, 0, "while waiting for the last answers"),
            (1600, 1500, 0, "an event came before the timer"),
        ];
        for (due, fired, gap, case) in cases {
            let mut gaps = ClockGaps::default();
            gaps.add_delay(due * MS, fired * MS, 1000 * MS, 3000 * MS);
            assert_eq!(gaps, ClockGaps { total_ns: gap * MS, longest_ns: gap * MS }, "{case}");
        }
    }

    #[test]
    fn gaps_add_up_and_the_longest_is_kept() {
        let mut gaps = ClockGaps::default();
        [20, 300, 50].into_iter().for_each(|ms| gaps.add(ms * MS));
        assert_eq!(gaps, ClockGaps { total_ns: 370 * MS, longest_ns: 300 * MS });
        gaps.add(u64::MAX);
        assert_eq!(gaps.total_ns, u64::MAX);
    }
}
