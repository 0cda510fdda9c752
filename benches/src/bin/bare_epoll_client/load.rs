//! What all connections share: the packets to send, the buffers, the measurement.

use std::{
    io::{ErrorKind, Read},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use pktconn_benches::{LoadReport, Pattern, READ_BUFFER_LEN};

use crate::{
    DRAIN_LIMIT, Options,
    conn::{Conn, Outstanding},
};

/// What the histogram tells apart at most; longer ones count as this.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// What all connections share: the packets to send, the buffers, the measurement.
pub(crate) struct Load {
    pattern: Pattern,
    frames: Vec<u8>,
    buffer: Vec<u8>,
    pub(crate) started: Instant,
    send_until: Instant,
    last_reply_at: Instant,
    pub(crate) outstanding: usize,
    latency_ns: Histogram<u64>,
}

impl Load {
    pub(crate) fn new(options: &Options) -> Self {
        let pattern = Pattern::new(options.sizes, options.seed);
        // Three digits: 0.1 % is far below the spread of a run.
        let latency_ns = Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).expect("bounds in order");
        let started = Instant::now();
        Self {
            pattern,
            frames: Vec::new(),
            buffer: vec![0; READ_BUFFER_LEN],
            started,
            send_until: started + options.duration,
            last_reply_at: started,
            outstanding: 0,
            latency_ns,
        }
    }

    pub(crate) fn give_up_at(&self) -> Instant {
        self.send_until + DRAIN_LIMIT
    }

    /// Sends what waits, takes all replies that are there, and sends as many new packets.
    pub(crate) fn turn(&mut self, conn: &mut Conn, read_closed: bool) -> Result<()> {
        conn.flush()?;
        loop {
            let fresh_len = match conn.stream.read(&mut self.buffer) {
                Ok(0) => bail!("closed by the server with {} packets unanswered", conn.outstanding.len()),
                Ok(fresh_len) => fresh_len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            // One reading of the clock serves the replies of this read and the packets that answer them: both share
            // one system call, so they have one moment.
            let now = Instant::now();
            let answered = self.take_replies(conn, fresh_len, now)?;
            if now < self.send_until {
                self.send(conn, answered, now)?;
            }
            // A short read emptied the socket, unless there is an end of the stream to find behind it.
            if fresh_len < self.buffer.len() && !read_closed {
                return Ok(());
            }
        }
    }

    /// Takes the replies in the first `fresh_len` bytes of the buffer, and tells how many became whole.
    fn take_replies(&mut self, conn: &mut Conn, fresh_len: usize, now: Instant) -> Result<usize> {
        let mut fresh = &self.buffer[..fresh_len];
        let mut answered = 0;
        while !fresh.is_empty() {
            let packet = conn.outstanding.front().context("a reply without a packet to answer")?;
            let whole = conn.replies.advance(&mut fresh, packet.payload_len).map_err(|reply| {
                let (actual, expected) = (reply.actual_len, reply.expected_len);
                anyhow::anyhow!("a reply of {actual} bytes to a packet of {expected} bytes")
            })?;
            if whole {
                self.latency_ns.saturating_record((now - packet.sent_at).as_nanos() as u64);
                conn.outstanding.pop_front();
                answered += 1;
            }
        }
        if answered > 0 {
            self.last_reply_at = now;
            self.outstanding -= answered;
        }
        Ok(answered)
    }

    pub(crate) fn send(&mut self, conn: &mut Conn, packets: usize, now: Instant) -> Result<()> {
        if packets == 0 {
            return Ok(());
        }
        self.frames.clear();
        for _ in 0..packets {
            let payload_len = self.pattern.encode_next(&mut self.frames);
            conn.outstanding.push_back(Outstanding { payload_len, sent_at: now });
        }
        self.outstanding += packets;
        conn.write(&self.frames)
    }

    pub(crate) fn report(&self) -> LoadReport {
        let packets = self.latency_ns.len();
        let seconds = (self.last_reply_at - self.started).as_secs_f64();
        LoadReport {
            packets,
            seconds,
            packets_per_s: packets as f64 / seconds,
            p50_ns: self.latency_ns.value_at_quantile(0.5),
            p99_ns: self.latency_ns.value_at_quantile(0.99),
            p999_ns: self.latency_ns.value_at_quantile(0.999),
        }
    }
}
