//! What all connections share: the packets to send, the buffers, the measurement.

use std::{
    io::{ErrorKind, Read},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use mio::Registry;
use pktconn_benches::{LoadReport, NotKeptUp, Pattern, READ_BUFFER_LEN, Schedule};

use crate::conn::{Conn, Outstanding};

/// What the histogram tells apart at most; longer ones count as this.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// Packets that a connection may have unanswered in an open loop: at 10,000 packets/s on each, a server that is a second
/// behind. It bounds what the client keeps, and ends a run that has no result before its time.
const MAX_OUTSTANDING: usize = 10_000;

/// The same for the payloads of all connections, which may be large: half a second of 1 GiB/s.
const MAX_OUTSTANDING_BYTES: u64 = 512 << 20;

/// What all connections share: the packets to send, the buffers, the measurement.
pub(crate) struct Load {
    pattern: Pattern,
    frames: Vec<u8>,
    buffer: Vec<u8>,
    pub(crate) started: Instant,
    /// Until when a reply is answered by a packet; never in an open loop.
    pub(crate) refill_until: Option<Instant>,
    last_reply_at: Instant,
    pub(crate) outstanding: usize,
    /// The payloads of these.
    outstanding_bytes: u64,
    latency_ns: Histogram<u64>,
    /// How long after they were due the packets of an open loop were written.
    late_ns: Histogram<u64>,
}

fn histogram() -> Histogram<u64> {
    // Three digits: 0.1 % is far below the spread of a run.
    Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).expect("bounds in order")
}

impl Load {
    pub(crate) fn new(pattern: Pattern) -> Self {
        let started = Instant::now();
        Self {
            pattern,
            frames: Vec::new(),
            buffer: vec![0; READ_BUFFER_LEN],
            started,
            refill_until: None,
            last_reply_at: started,
            outstanding: 0,
            outstanding_bytes: 0,
            latency_ns: histogram(),
            late_ns: histogram(),
        }
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
            if self.refill_until.is_some_and(|until| now < until) {
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
                self.latency_ns.saturating_record((now - packet.since).as_nanos() as u64);
                self.outstanding_bytes -= u64::from(packet.payload_len);
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

    /// Sends so many packets, whose latency counts from `now`.
    pub(crate) fn send(&mut self, conn: &mut Conn, packets: usize, now: Instant) -> Result<()> {
        if packets == 0 {
            return Ok(());
        }
        self.frames.clear();
        for _ in 0..packets {
            self.add_packet(conn, now);
        }
        conn.write(&self.frames)
    }

    /// Sends the packets from `sent` on that are due `now`, and tells how many are sent by then.
    pub(crate) fn send_due(
        &mut self,
        conns: &mut [Conn],
        schedule: &Schedule,
        sent: u64,
        now: Instant,
        registry: &Registry,
    ) -> Result<u64> {
        let due = schedule.due_by(now - self.started);
        let conns_len = conns.len();
        for first in sent..due.min(sent + conns_len as u64) {
            let index = (first % conns_len as u64) as usize;
            let conn = &mut conns[index];
            self.frames.clear();
            let written_at = Instant::now();
            for packet in (first..due).step_by(conns_len) {
                let due_at = self.started + schedule.due_at(packet);
                self.late_ns.saturating_record((written_at - due_at).as_nanos() as u64);
                self.add_packet(conn, due_at);
                check_bounds(conn.outstanding.len(), self.outstanding_bytes)?;
            }
            conn.write(&self.frames)
                .and_then(|()| conn.watch(registry))
                .with_context(|| format!("connection {index}"))?;
        }
        Ok(due)
    }

    fn add_packet(&mut self, conn: &mut Conn, since: Instant) {
        let payload_len = self.pattern.encode_next(&mut self.frames);
        conn.outstanding.push_back(Outstanding { payload_len, since });
        self.outstanding += 1;
        self.outstanding_bytes += u64::from(payload_len);
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
            late_p99_ns: (!self.late_ns.is_empty()).then(|| self.late_ns.value_at_quantile(0.99)),
        }
    }
}

fn check_bounds(conn_outstanding: usize, outstanding_bytes: u64) -> Result<(), NotKeptUp> {
    let unanswered = match (conn_outstanding, outstanding_bytes) {
        (..=MAX_OUTSTANDING, ..=MAX_OUTSTANDING_BYTES) => return Ok(()),
        (..=MAX_OUTSTANDING, _) => format!("more than {} MiB", MAX_OUTSTANDING_BYTES >> 20),
        _ => format!("more than {MAX_OUTSTANDING} packets of one connection"),
    };
    Err(NotKeptUp { reason: format!("the rate is not kept up with: {unanswered} unanswered") })
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Duration};

    use mio::Poll;

    use super::*;

    #[test]
    fn packets_and_bytes_are_bounded() {
        assert_eq!(check_bounds(MAX_OUTSTANDING, MAX_OUTSTANDING_BYTES), Ok(()));
        let reason = |packets, bytes| check_bounds(packets, bytes).unwrap_err().reason;
        let start = "the rate is not kept up with: more than";
        assert_eq!(reason(10_001, 0), format!("{start} 10000 packets of one connection unanswered"));
        assert_eq!(reason(1, (512 << 20) + 1), format!("{start} 512 MiB unanswered"));
    }

    #[test]
    fn what_is_sent_late_counts_from_when_it_was_due_and_goes_round_the_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let poll = Poll::new().unwrap();
        let mut conns: Vec<Conn> =
            (0..3).map(|index| Conn::open(address, poll.registry(), index, 0).unwrap()).collect();
        let mut load = Load::new(Pattern::new("0-2048".parse().unwrap(), 1));
        let schedule = Schedule::new(10, Duration::from_secs(60));
        // A client that did not come to it for 650 ms, on a clock of its own: the packets are due in the past.
        load.started -= Duration::from_secs(30);
        let mut send = |load: &mut Load, sent, ms| {
            let now = load.started + Duration::from_millis(ms);
            load.send_due(&mut conns, &schedule, sent, now, poll.registry()).unwrap()
        };
        assert_eq!(send(&mut load, 0, 0), 1);
        assert_eq!(send(&mut load, 1, 99), 1);
        assert_eq!(send(&mut load, 1, 650), 7);
        let since_ms = |conn: &Conn| -> Vec<u128> {
            conn.outstanding.iter().map(|packet| (packet.since - load.started).as_millis()).collect()
        };
        assert_eq!(since_ms(&conns[0]), [0, 300, 600]);
        assert_eq!(since_ms(&conns[1]), [100, 400]);
        assert_eq!(since_ms(&conns[2]), [200, 500]);
        assert_eq!(load.outstanding, 7);
        // None was written before 29 s had passed since it was due.
        assert!(load.report().late_p99_ns.unwrap() >= 29_000_000_000);
    }
}
