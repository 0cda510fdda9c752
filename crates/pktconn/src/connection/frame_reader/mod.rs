//! Reads frames from the transport and decodes packets, for `recv`.
//!
//! ```text
//!   transport -- reads of up to a chunk --> buffer -- PacketCodec --> Packet, a slice of the buffer
//! ```
//!
//! Only `recv` reads. It reads into a [chunk](super::pool) that the thread lends. What the connection holds then:
//!
//! - An idle connection holds no buffer.
//! - A connection that waits for the rest of a frame holds only the bytes received so far. From a quarter of a chunk
//!   on, it keeps the chunk instead of copying these bytes.
//! - Packets that are not yet received stay in their part of the chunk. The rest of the chunk goes back to the thread.
//! - Only a frame that is larger than a chunk has its own buffer, which grows as its bytes arrive.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use pktconn_codec::{Packet, PacketCodec};

use crate::Error;
use crate::connection::conn_core::ConnCore;
use crate::connection::yielding;
use crate::error::Reason;
use crate::transport::Reader;

mod buffer;

mod handover;

mod wait;

/// How many packets a receiver gets before it yields to other tasks on its thread. A chunk holds 16,384 empty packets,
/// and tokio's own budget counts reads, not packets. Yielding after each MiB, too, would be fairer between connections
/// with packets of that size, but costs 1.6 times the CPU time: the connections would evict each other's bytes from the
/// cache.
const PACKETS_A_TURN: u32 = 512;

/// How many bytes are received after the server has begun to shut down. More than the kernel holds for a connection
/// (6 MiB by Linux's default), and limited so that a peer that sends without pause cannot delay the shutdown.
const MAX_DRAINED_BYTES: u32 = 8 * 1024 * 1024;

/// The reading half of the transport, and the bytes that were read and not yet received.
// `repr(C)` keeps this order in memory: first the fields that each packet uses, then the rest.
#[repr(C)]
pub(crate) struct FrameReader {
    pub(crate) core: Arc<ConnCore>,
    /// `None` when nothing more is received.
    reader: Option<Reader>,
    buffer: BytesMut,
    memory: Memory,
    end: End,
    wait_clock: WaitClock,
    /// Whether the transport may hold back bytes: see [`Reader::held_back`].
    may_hold_back: bool,
    /// Whether bytes have arrived since the receiver last waited.
    has_read: bool,
    /// Whether no empty packet was discarded yet. Then the count of received packets says whether there was a first one.
    awaits_first: bool,
    /// How many polls in a row have found nothing since the server began to shut down or a write failed.
    empty_polls: u8,
    codec: PacketCodec,
    /// How many packets were received since the receiver last waited or yielded.
    packets_in_turn: u32,
    /// How many more bytes are received after the server has begun to shut down.
    drain_bytes_left: u32,
    /// What the account has of this receiver's memory.
    counted: Counted,
    /// How many bytes the transport held back when the receiver last waited.
    held_back: u32,
    /// Whether the end was returned: a stream then returns `None`, also after an error.
    end_returned: bool,
}

/// Whether the connection measures a wait against a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitClock {
    /// Not since the last packet.
    Off,
    /// It measures the current wait.
    Running,
    /// It has measured a wait, and nothing was received since then.
    Paused,
}

/// The memory, in bytes, that the account of the connection has: of the buffer, and of the transport's buffers for
/// reading. 0 without a memory budget.
#[derive(Default)]
struct Counted {
    buffer: u32,
    transport: u32,
}

/// The memory of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// No memory, or memory that only this connection uses.
    Own,
    /// A chunk that the thread lends.
    Chunk,
    /// A part of a chunk. The thread reads only into the rest of that chunk, or no longer into it.
    Part,
}

/// Whether receiving has ended, and what `recv` returns then.
#[derive(Clone, Copy)]
enum End {
    /// Packets are received.
    NotYet,
    /// `recv` returns `None`.
    Clean,
    /// `recv` returns an error: the [`stop_reason`](ConnCore::stop_reason).
    Failed,
}

impl FrameReader {
    pub(crate) fn new(core: &Arc<ConnCore>, reader: Reader) -> Self {
        core.add_handle();
        Self {
            core: Arc::clone(core),
            may_hold_back: reader.may_hold_back(),
            reader: Some(reader),
            buffer: BytesMut::new(),
            memory: Memory::Own,
            codec: core.settings.rules.codec.clone(),
            end: End::NotYet,
            held_back: 0,
            counted: Counted::default(),
            packets_in_turn: 0,
            has_read: false,
            awaits_first: true,
            wait_clock: WaitClock::Off,
            empty_polls: 0,
            end_returned: false,
            drain_bytes_left: MAX_DRAINED_BYTES,
        }
    }

    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Packet>, Error>> {
        loop {
            if let Some(end) = self.end_result() {
                return Poll::Ready(end.map(|()| None));
            }
            ready!(self.poll_yield(cx));
            match self.codec.decode_frame(&mut self.buffer) {
                Ok(Some(packet)) => {
                    let is_skipped = self.core.settings.skips_empty && packet.is_empty();
                    self.after_decode(1, usize::from(!is_skipped));
                    if !is_skipped {
                        return Poll::Ready(Ok(Some(packet)));
                    }
                    self.awaits_first = false;
                }
                Ok(None) => ready!(self.poll_more(cx)),
                Err(error) => match self.codec.decode_control(&mut self.buffer, error) {
                    Ok(Some(packet)) => {
                        self.after_decode(1, 1);
                        return Poll::Ready(Ok(Some(packet)));
                    }
                    Ok(None) => ready!(self.poll_more(cx)),
                    Err(error) => self.fail(&Reason::Frame(error)),
                },
            }
        }
    }

    pub(crate) fn poll_recv_many(
        &mut self,
        cx: &mut Context<'_>,
        packets: &mut Vec<Packet>,
        limit: usize,
    ) -> Poll<Result<usize, Error>> {
        if limit == 0 {
            return Poll::Ready(Ok(0));
        }
        loop {
            if let Some(end) = self.end_result() {
                return Poll::Ready(end.map(|()| 0));
            }
            ready!(self.poll_yield(cx));
            if self.buffer.is_empty() {
                ready!(self.poll_more(cx));
                continue;
            }
            match self.codec.decode_many(&mut self.buffer, limit, packets) {
                Ok(0) => ready!(self.poll_more(cx)),
                Ok(count) => {
                    let skipped =
                        if self.core.settings.skips_empty { remove_empty(packets, count) } else { 0 };
                    self.after_decode(count, count - skipped);
                    if skipped < count {
                        return Poll::Ready(Ok(count - skipped));
                    }
                    self.awaits_first = false;
                }
                Err(error) => self.fail(&Reason::Frame(error)),
            }
        }
    }

    /// What `recv` returns after the end. `None` while packets are received.
    #[inline]
    fn end_result(&mut self) -> Option<Result<(), Error>> {
        if matches!(self.end, End::NotYet) && !self.core.has_signals() {
            None
        } else {
            self.end_result_slow()
        }
    }

    #[cold]
    fn end_result_slow(&mut self) -> Option<Result<(), Error>> {
        if self.core.is_closed_locally() {
            self.stop();
        }
        let result = match self.end {
            End::NotYet => return None,
            End::Clean => Ok(()),
            End::Failed => Err(self.core.stop_reason().into()),
        };
        self.end_returned = true;
        Some(result)
    }

    /// Returns `Pending` after every [`PACKETS_A_TURN`] packets, so that a peer that sends without pause does not block
    /// other tasks on the thread.
    #[inline]
    fn poll_yield(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.packets_in_turn < PACKETS_A_TURN {
            return Poll::Ready(());
        }
        self.yield_turn(cx);
        Poll::Pending
    }

    #[cold]
    fn yield_turn(&mut self, cx: &mut Context<'_>) {
        self.packets_in_turn = 0;
        self.note_undelivered();
        if self.core.must_stop_receiving() {
            self.end_failed();
        }
        yielding::yield_turn(cx);
    }

    /// Updates the state after `packets` were decoded from the buffer. The caller returns `received` of them; the
    /// others are skipped heartbeats.
    #[inline(always)]
    fn after_decode(&mut self, packets: usize, received: usize) {
        self.core.received.packets.add(received as u64);
        self.packets_in_turn = self.packets_in_turn.saturating_add(packets as u32);
        if self.wait_clock != WaitClock::Off {
            self.wait_clock = WaitClock::Off;
            self.core.note_received();
        }
        self.note_undelivered();
        // The caller may not receive again for a long time.
        if !self.codec.is_ready(&self.buffer) {
            self.release_memory();
        } else if self.memory != Memory::Own {
            self.return_chunk_rest();
        }
    }

    /// Records in the connection whether an end would discard bytes.
    #[inline]
    fn note_undelivered(&self) {
        self.core.note_undelivered(!self.buffer.is_empty());
    }

    /// No future waits in `recv` any more: it is ready or was dropped. Stops the deadline of the wait.
    #[inline]
    pub(crate) fn stop_waiting(&mut self) {
        if self.wait_clock == WaitClock::Running {
            self.wait_clock = WaitClock::Paused;
            self.core.pause_recv();
        }
    }

    /// The server shuts down, and everything that has arrived was received.
    fn end_drained(&mut self) {
        self.end = End::Clean;
        self.core.note_end_delivered();
        self.park();
    }

    /// A read has returned the end of the stream.
    fn end_of_stream(&mut self) {
        match self.codec.decode_end(&self.buffer) {
            Ok(()) => match self.core.remote_closed() {
                Ok(()) => {
                    self.end = End::Clean;
                    self.wait_clock = WaitClock::Off;
                    self.release_memory();
                    self.reader = None;
                }
                Err(_) => self.end_failed(),
            },
            Err(error) => self.fail(&Reason::Frame(error)),
        }
    }

    fn fail(&mut self, reason: &Reason) {
        self.core.receive_failed(reason);
        self.end_failed();
    }

    fn end_failed(&mut self) {
        self.end = End::Failed;
        self.park();
    }

    /// Whether receiving has ended, and its end was returned or this side was closed.
    pub(crate) fn has_ended(&self) -> bool {
        self.end_returned
    }

    /// Receives nothing more, because this side was closed. Bytes that arrive from now on are discarded.
    pub(crate) fn stop(&mut self) {
        if matches!(self.end, End::NotYet) {
            self.end_failed();
        }
        self.end_returned = true;
    }

    /// Drops the buffer, and passes the reading half to the connection. While that is closing, it reads and discards
    /// bytes until the peer closes.
    fn park(&mut self) {
        if !self.buffer.is_empty() {
            self.note_undelivered();
        }
        (self.buffer, self.memory) = (BytesMut::new(), Memory::Own);
        self.update_account();
        if let Some(reader) = self.reader.take() {
            self.core.park_reader(reader);
        }
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        self.park();
        self.core.drop_handle();
    }
}

/// Removes the empty packets among the last `count` packets, and returns how many were removed.
fn remove_empty(packets: &mut Vec<Packet>, count: usize) -> usize {
    let first = packets.len() - count;
    let mut kept = first;
    for at in first..packets.len() {
        if !packets[at].is_empty() {
            packets.swap(kept, at);
            kept += 1;
        }
    }
    let removed = packets.len() - kept;
    packets.truncate(kept);
    removed
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::connection::pool::{self, CHUNK};

    /// A receiver over a pipe, and the peer's end of the pipe. The pipe has room for everything that the tests write.
    fn piped() -> (FrameReader, tokio::io::DuplexStream) {
        piped_with(&crate::ConnConfig::new())
    }

    fn piped_with(config: &crate::ConnConfig) -> (FrameReader, tokio::io::DuplexStream) {
        let (here, there) = tokio::io::duplex(1024 * 1024);
        let (reader, writer) =
            crate::transport::halves::split(crate::transport::transport_stream::CustomStream::new(here));
        let settings =
            crate::connection::config::Settings::new(config, crate::connection::config::Origin::Unknown);
        let core =
            ConnCore::new(config, &settings, writer, crate::transport::endpoints::Endpoints::Unknown, None);
        (FrameReader::new(&core, reader), there)
    }

    fn frame(len: usize) -> Vec<u8> {
        [&((len - 4) as u32).to_le_bytes()[..], &vec![7; len - 4]].concat()
    }

    async fn recv(receiver: &mut FrameReader) -> Result<Option<Packet>, Error> {
        poll_fn(|cx| receiver.poll_recv(cx)).await
    }

    async fn is_waiting(receiver: &mut FrameReader) -> bool {
        tokio::select! {
            biased;
            _ = recv(receiver) => false,
            () = std::future::ready(()) => true,
        }
    }

    #[tokio::test]
    async fn a_receiver_holds_no_buffer_after_the_last_packet() {
        let (mut receiver, mut peer) = piped();
        peer.write_all(&[frame(1000), frame(1000)].concat()).await.unwrap();
        recv(&mut receiver).await.unwrap().unwrap();
        assert_eq!(
            (receiver.buffer.capacity(), receiver.memory),
            (1000, Memory::Part),
            "the buffer holds the second packet"
        );
        recv(&mut receiver).await.unwrap().unwrap();
        assert_eq!((receiver.buffer.capacity(), receiver.memory), (0, Memory::Own));
    }

    /// Without a task in the background, which would cost as much as several packets.
    #[tokio::test]
    async fn a_close_after_that_of_the_peer_is_complete_at_once() {
        for half_close in [true, false] {
            let (mut receiver, mut peer) = piped_with(&crate::ConnConfig::new().half_close(half_close));
            peer.shutdown().await.unwrap();
            let tasks_before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            assert!(recv(&mut receiver).await.unwrap().is_none());
            assert_eq!(receiver.core.has_ended(), !half_close);
            receiver.core.close();
            assert!(receiver.core.has_ended());
            let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            assert_eq!(tasks, tasks_before, "half_close: {half_close}");
            assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "the peer sees the end of the stream");
        }
    }

    #[tokio::test]
    async fn a_close_after_that_of_the_peer_waits_until_the_queue_is_written() {
        let (mut receiver, mut peer) = piped();
        peer.shutdown().await.unwrap();
        assert!(recv(&mut receiver).await.unwrap().is_none());
        // More than the pipe has room for.
        let packet = Packet::from(vec![7; 2 * 1024 * 1024]);
        receiver.core.add_handle();
        receiver.core.offer(&packet).unwrap();
        receiver.core.close();
        assert!(!receiver.core.has_ended());
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.unwrap();
        assert!(received[4..] == *packet.payload() && receiver.core.has_ended());
    }

    #[tokio::test]
    async fn a_receiver_that_has_skipped_heartbeats_holds_no_buffer() {
        for in_batches in [false, true] {
            let (mut receiver, mut peer) = piped_with(&crate::ConnConfig::new().skip_empty(true));
            peer.write_all(&[0; 4].repeat(3)).await.unwrap();
            let mut packets = Vec::new();
            let is_pending = poll_fn(|cx| {
                let is_pending = if in_batches {
                    receiver.poll_recv_many(cx, &mut packets, 10).is_pending()
                } else {
                    receiver.poll_recv(cx).is_pending()
                };
                Poll::Ready(is_pending)
            });
            assert!(is_pending.await && packets.is_empty());
            assert_eq!(
                (receiver.buffer.capacity(), receiver.memory),
                (0, Memory::Own),
                "in_batches: {in_batches}"
            );
        }
    }

    #[tokio::test]
    async fn connections_with_unreceived_packets_share_a_chunk() {
        let mut conns = Vec::new();
        for _ in 0..10 {
            let (mut receiver, mut peer) = piped();
            peer.write_all(&[frame(1000), frame(1000)].concat()).await.unwrap();
            recv(&mut receiver).await.unwrap().unwrap();
            conns.push(receiver);
        }
        let addresses = conns.iter().map(|receiver| receiver.buffer.as_ptr() as usize);
        let (first, last) = (addresses.clone().min().unwrap(), addresses.max().unwrap());
        assert!(last - first < CHUNK, "the buffers are {} bytes apart", last - first);
        for receiver in &mut conns {
            assert_eq!(recv(receiver).await.unwrap().unwrap(), vec![7; 996].into());
        }
    }

    #[tokio::test]
    async fn a_few_bytes_of_the_next_frame_keep_no_chunk() {
        // A frame of 100,000 bytes has its own buffer, which ends with the frame. So 3 bytes of the next frame are not
        // read yet.
        for (first, held) in [(100, 3), (30_000, 3), (100_000, 0)] {
            let (mut receiver, mut peer) = piped();
            let stream = [frame(first), frame(1000)].concat();
            // In two parts, so that the larger frames wait in a chunk or in their own buffer.
            let (start, rest) = stream[..first + 3].split_at(first * 2 / 3);
            peer.write_all(start).await.unwrap();
            assert!(is_waiting(&mut receiver).await);
            peer.write_all(rest).await.unwrap();
            recv(&mut receiver).await.unwrap().unwrap();
            assert_eq!((receiver.buffer.capacity(), receiver.memory), (held, Memory::Own), "after {first}");
            peer.write_all(&stream[first + 3..first + 5]).await.unwrap();
            assert!(is_waiting(&mut receiver).await);
            assert_eq!((receiver.buffer.capacity(), receiver.memory), (5, Memory::Own), "after {first}");
        }
    }

    #[tokio::test]
    async fn a_part_of_a_chunk_counts_as_the_chunk_that_it_keeps() {
        let (mut receiver, mut peer) = piped();
        // As if another connection had read into the start of the chunk.
        let mut chunk = pool::read_chunk(0);
        chunk.extend_from_slice(&[7; 20_000]);
        let _packet = chunk.split().freeze();
        pool::return_read_chunk(chunk);
        peer.write_all(&frame(30_000)[..17_000]).await.unwrap();
        assert!(is_waiting(&mut receiver).await);
        assert!(receiver.buffer.capacity() < CHUNK);
        assert_eq!(receiver.held(), CHUNK);
    }

    #[tokio::test]
    async fn the_part_of_a_chunk_is_released_with_its_last_packet() {
        let (mut receiver, mut peer) = piped();
        peer.write_all(&[frame(1000), frame(1000), frame(1000)].concat()[..2003]).await.unwrap();
        recv(&mut receiver).await.unwrap().unwrap();
        assert_eq!((receiver.buffer.capacity(), receiver.memory), (1003, Memory::Part));
        recv(&mut receiver).await.unwrap().unwrap();
        assert_eq!((receiver.buffer.capacity(), receiver.memory), (3, Memory::Own));
    }

    #[tokio::test]
    async fn bytes_that_arrive_one_by_one_are_not_copied_at_each_wait() {
        for len in [20_000, 40_000, 60_000, 65_000, CHUNK, 100_000] {
            let (mut receiver, mut peer) = piped();
            let frame = frame(len);
            let (start, drops) = frame.split_at(len - 1000);
            peer.write_all(start).await.unwrap();
            assert!(is_waiting(&mut receiver).await);
            let (mut copies, mut last) = (0, receiver.buffer.as_ptr());
            for drop in drops[1..].chunks(1) {
                peer.write_all(drop).await.unwrap();
                assert!(is_waiting(&mut receiver).await);
                copies += u32::from(std::mem::replace(&mut last, receiver.buffer.as_ptr()) != last);
            }
            assert!(copies <= 1, "{copies} copies of a frame of {len} bytes");
        }
    }

    #[tokio::test]
    async fn a_flood_of_packets_does_not_block_other_tasks() {
        let (mut receiver, mut peer) = piped();
        peer.write_all(&[0; 4 * 10_000]).await.unwrap();
        let mut packets = Vec::new();
        let mut turns = 0;
        while receiver.core.received.packets.total() < 10_000 {
            let before = receiver.core.received.packets.total();
            // Both single packets and batches count.
            tokio::select! {
                biased;
                () = async {
                    loop {
                        recv(&mut receiver).await.unwrap().unwrap();
                        poll_fn(|cx| receiver.poll_recv_many(cx, &mut packets, 10)).await.unwrap();
                    }
                } => {}
                () = std::future::ready(()) => turns += 1,
            }
            let count = receiver.core.received.packets.total() - before;
            assert!(count < u64::from(PACKETS_A_TURN) + 10, "{count} packets without a yield");
        }
        // Yielding costs CPU time, so it must be rare.
        assert!((10..=21).contains(&turns), "{turns} yields");
    }

    #[tokio::test]
    async fn a_stream_that_has_ended_holds_no_buffer() {
        for stream in [vec![], frame(30_000)[..20_000].to_vec()] {
            let (mut receiver, mut peer) = piped();
            peer.write_all(&stream).await.unwrap();
            assert!(is_waiting(&mut receiver).await);
            drop(peer);
            let end = recv(&mut receiver).await;
            assert_eq!(end.is_err(), !stream.is_empty());
            assert_eq!((receiver.buffer.capacity(), receiver.memory), (0, Memory::Own));
        }
    }
}
