//! What a receiver holds against a peer that drips or is silent.
//!
//! Looked at when a read finds nothing, and never for a packet. Without an `idle_timeout`, a connection whose peer pauses
//! between two frames has none of this.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::config::{Settings, Timeouts};
use crate::error::{Reason, Timeout};
use crate::timer::{self, Timer};

pub(crate) struct Deadlines {
    /// Since when the rest of a frame is waited for.
    in_frame_since: Option<Instant>,
    /// Since when nothing has arrived, after so many reads that found something.
    silent_since: Instant,
    reads: u64,
    timer: Timer,
}

impl Deadlines {
    pub(crate) fn new() -> Self {
        Self { in_frame_since: None, silent_since: Instant::now(), reads: 0, timer: Timer::default() }
    }

    /// A frame was received whole: the next one has a time of its own.
    pub(crate) fn frame_received(&mut self) {
        self.in_frame_since = None;
    }

    /// A read has found nothing. Ready when the peer has taken too long, also before the next read.
    pub(crate) fn poll_overdue(
        &mut self,
        settings: &Settings,
        in_frame: bool,
        reads: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Reason> {
        let now = Instant::now();
        if in_frame {
            self.in_frame_since.get_or_insert(now);
        }
        if self.reads != reads {
            (self.reads, self.silent_since) = (reads, now);
        }
        let Some((mut due, mut reason)) = self.due(&settings.timeouts) else { return Poll::Pending };
        if timer::is_long_past(due) {
            self.in_frame_since = self.in_frame_since.and(Some(now));
            self.silent_since = now;
            let Some(next) = self.due(&settings.timeouts) else { return Poll::Pending };
            (due, reason) = next;
        }
        ready!(self.timer.poll_until(due, &settings.runtime, cx));
        Poll::Ready(reason)
    }

    /// The deadline that passes first, and what the peer has missed then.
    fn due(&self, timeouts: &Timeouts) -> Option<(Instant, Reason)> {
        let dues = [
            (Timeout::Frame, self.in_frame_since.zip(timeouts.frame)),
            (Timeout::Idle, Some(self.silent_since).zip(timeouts.idle)),
        ];
        let dues = dues.into_iter().filter_map(|(timeout, times)| {
            let (since, within) = times?;
            // A time beyond what the clock can say is none.
            Some((since.checked_add(within)?, Reason::Timeout(timeout, within)))
        });
        dues.min_by_key(|(due, _)| *due)
    }

    /// Whether nothing is to be known of it any more, once there is nothing to wait for. Until then its timer is left as
    /// it is: the rest of a frame may soon be waited for again, and to set a timer costs as much as some packets.
    pub(crate) fn has_lapsed(&self) -> bool {
        self.timer.has_gone_off()
    }
}
