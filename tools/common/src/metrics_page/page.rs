//! The page, rendered at most ten times per second: a flood of requests gets a copy instead of the CPU. Pure: the time is
//! passed in.

use std::time::Duration;

use hyper::body::Bytes;
use tokio::time::Instant;

/// Time for each further rendering. A copy is at most this old.
const PERIOD: Duration = Duration::from_millis(100);

/// So many requests in a row get a fresh page: more than scrapers and people send.
const BURST: u32 = 10;

/// A page, and when it may be rendered again.
pub(super) struct Page<R> {
    render: R,
    text: Bytes,
    /// Until when the renderings so far are paid for. At most `BURST` periods ahead of the time of a request.
    paid_until: Option<Instant>,
}

impl<R: Fn() -> String> Page<R> {
    pub(super) fn new(render: R) -> Self {
        Self { render, text: Bytes::new(), paid_until: None }
    }

    /// The page at `now`.
    pub(super) fn at(&mut self, now: Instant) -> Bytes {
        let paid_until = self.paid_until.map_or(now, |until| until.max(now)) + PERIOD;
        if paid_until <= now + PERIOD * BURST {
            self.paid_until = Some(paid_until);
            self.text = Bytes::from((self.render)());
        }
        self.text.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_flood_of_requests_renders_ten_pages_per_second() {
        let rendered = Cell::new(0);
        let mut page = Page::new(|| {
            rendered.set(rendered.get() + 1);
            rendered.get().to_string()
        });
        let start = Instant::now();
        let mut at = |ms| page.at(start + Duration::from_millis(ms));
        for fresh in 1..=10 {
            assert_eq!(at(0), fresh.to_string());
        }
        assert_eq!((at(0), at(99)), ("10".into(), "10".into()));
        assert_eq!((at(100), at(100)), ("11".into(), "11".into()));
        // A flood of 10 s.
        (0..100_000).for_each(|request| drop(at(200 + request / 10)));
        assert_eq!(rendered.get(), 11 + 100);
        // After a pause, requests get fresh pages again.
        let mut at = |ms| page.at(start + Duration::from_millis(ms));
        for fresh in 112..=121 {
            assert_eq!(at(60_000), fresh.to_string());
        }
        assert_eq!(at(60_000), "121");
    }
}
