//! What all connections share: the frames to send, the buffers, the measurement.

use std::{
    io::{ErrorKind, Read},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use mio::Registry;
use pktconn_benches::{
    load::{FrameGenerator, LoadReport, NotKeptUp, Schedule},
    wire::READ_BUFFER_LEN,
};

use crate::connection::{Conn, Outstanding};

/// The highest latency of the histogram; longer ones count as this one.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// Maximum number of unanswered packets per connection in an open loop. At 10,000 packets/s per connection, the server
/// is a second behind. It limits the memory of the client, and ends a hopeless run early.
const MAX_OUTSTANDING: usize = 10_000;

/// Maximum length of unanswered payloads over all connections: half a second at 1 GiB/s.
const MAX_OUTSTANDING_BYTES: u64 = 512 << 20;

pub(crate) struct Load {
    generator: FrameGenerator,
    frames: Vec<u8>,
    buffer: Vec<u8>,
    pub(crate) started: Instant,
    /// Until then, each reply is followed by a new packet. `None` in an open loop.
    pub(crate) refill_until: Option<Instant>,
    last_reply_at: Instant,
    pub(crate) outstanding: usize,
    /// Payload bytes of the outstanding packets.
    outstanding_bytes: u64,
    latency_ns: Histogram<u64>,
    /// Open loop: how long after they were due the packets were written.
    late_ns: Histogram<u64>,
}

pub(crate) fn histogram() -> Histogram<u64> {
    // Three significant digits: 0.1 % is far below the spread of a run.
    Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).expect("the bounds are valid")
}

impl Load {
    pub(crate) fn new(generator: FrameGenerator) -> Self {
        let started = Instant::now();
        Self {
            generator,
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

    /// Flushes the send queue, reads all replies that have arrived, and sends as many new packets.
    pub(crate) fn serve(&mut self, conn: &mut Conn, is_read_closed: bool) -> Result<()> {
        conn.flush()?;
        loop {
            let read_len = match conn.stream.read(&mut self.buffer) {
                Ok(0) => bail!(
                    "the server closed the connection with {} packets unanswered",
                    conn.outstanding.len()
                ),
                Ok(read_len) => read_len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            // One clock reading for the replies of this read and the packets that follow them: they share a system
            // call.
            let now = Instant::now();
            let answered = self.count_replies(conn, read_len, now)?;
            if self.refill_until.is_some_and(|until| now < until) {
                self.send(conn, answered, now)?;
            }
            // A short read means that the socket is empty, unless the end of the stream follows.
            let is_short = read_len < self.buffer.len() && conn.stream.is_empty_after_short_read();
            if is_short && !is_read_closed {
                return Ok(());
            }
        }
    }

    /// Records the replies in the first `read_len` bytes of the buffer, and returns how many are complete.
    fn count_replies(&mut self, conn: &mut Conn, read_len: usize, now: Instant) -> Result<usize> {
        let mut bytes = &self.buffer[..read_len];
        let mut answered = 0;
        while !bytes.is_empty() {
            let packet = conn.outstanding.front().context("a reply arrived without an outstanding packet")?;
            let is_complete = conn.replies.advance(&mut bytes, packet.payload_len).map_err(|reply| {
                let (actual, expected) = (reply.actual_len, reply.expected_len);
                anyhow::anyhow!("a reply of {actual} bytes to a packet of {expected} bytes")
            })?;
            if is_complete {
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

    /// Sends `packets` packets whose latency counts from `now`.
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

    /// Sends the packets that are due `now`, from number `sent` on. Returns how many packets are sent in total. Packets
    /// of one connection share a write.
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
                check_limits(conn.outstanding.len(), self.outstanding_bytes)?;
            }
            conn.write(&self.frames)
                .and_then(|()| conn.watch(registry))
                .with_context(|| format!("connection {index}"))?;
        }
        Ok(due)
    }

    fn add_packet(&mut self, conn: &mut Conn, since: Instant) {
        let payload_len = self.generator.encode_next(&mut self.frames);
        conn.outstanding.push_back(Outstanding { payload_len, since });
        self.outstanding += 1;
        self.outstanding_bytes += u64::from(payload_len);
    }

    pub(crate) fn report(&self) -> LoadReport {
        let late_ns = (!self.late_ns.is_empty()).then_some(&self.late_ns);
        LoadReport::new(&self.latency_ns, late_ns, self.last_reply_at - self.started)
    }
}

fn check_limits(conn_outstanding: usize, outstanding_bytes: u64) -> Result<(), NotKeptUp> {
    let unanswered = match (conn_outstanding, outstanding_bytes) {
        (..=MAX_OUTSTANDING, ..=MAX_OUTSTANDING_BYTES) => return Ok(()),
        (..=MAX_OUTSTANDING, _) => format!("more than {} MiB", MAX_OUTSTANDING_BYTES >> 20),
        _ => format!("more than {MAX_OUTSTANDING} packets of one connection"),
    };
    Err(NotKeptUp { reason: format!("the rate was not reached: {unanswered} unanswered") })
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Duration};

    use mio::Poll;

    use super::*;

    #[test]
    fn unanswered_packets_and_bytes_are_limited() {
        assert_eq!(check_limits(MAX_OUTSTANDING, MAX_OUTSTANDING_BYTES), Ok(()));
        let reason = |packets, bytes| check_limits(packets, bytes).unwrap_err().reason;
        let start = "the rate was not reached: more than";
        assert_eq!(reason(10_001, 0), format!("{start} 10000 packets of one connection unanswered"));
        assert_eq!(reason(1, (512 << 20) + 1), format!("{start} 512 MiB unanswered"));
    }

    #[test]
    fn late_packets_count_from_when_they_were_due_and_go_to_the_connections_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let poll = Poll::new().unwrap();
        let mut conns: Vec<Conn> =
            (0..3).map(|index| Conn::open(address, None, poll.registry(), index, 0).unwrap()).collect();
        let mut load = Load::new(FrameGenerator::new("0-2048".parse().unwrap(), 1));
        let schedule = Schedule::new(10, Duration::from_secs(60));
        // The start is 30 s in the past, so every packet is written late. From 99 ms to 650 ms the client sends
        // nothing.
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
        // Each packet was written at least 29 s after it was due.
        assert!(load.report().late_p99_ns.unwrap() >= 29_000_000_000);
    }
}
