//! From the transport to packets.
//!
//! ```text
//!   transport -- a chunk a read --> buffer -- PacketCodec --> Packet, a slice of the buffer
//! ```
//!
//! Reading happens inside of `recv` alone, into a chunk that the thread lends. An idle connection holds no buffer at all,
//! and one that waits in the middle of a frame just what has arrived of it, or, from a quarter of a chunk on, the chunk.
//! Packets that have arrived and are not yet received wait in their part of the chunk that they came in; the rest of it
//! goes back to the thread.
//! Only a frame that is larger than a chunk gets a buffer of its own, which grows as its bytes arrive.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use pktconn_codec::{Packet, PacketCodec};

use crate::Error;
use crate::connection::shared::Shared;
use crate::connection::yielding;
use crate::error::Reason;
use crate::transport::Reader;

mod buffer;

mod handover;

mod wait;

/// How many packets a receiver gets before others on its thread have a turn. A chunk holds 16,384 empty ones, and tokio
/// itself counts reads, not packets. To count bytes too, and so yield after each mebibyte, is fairer to connections with
/// packets of that size and costs 1.6 times the CPU time: what has arrived of one leaves the cache for the others'.
const PACKETS_A_TURN: u32 = 512;

/// How much is received at most of what arrives after a server has begun to stop: more than the kernel holds for a connection
/// (6 MiB by Linux's default). A peer that floods does not keep the server from stopping.
const DRAINED_AT_MOST: usize = 8 * 1024 * 1024;

/// What a receiver is: the reading half, and what has been read and not yet received.
// In this order in memory: what each packet needs, and the rest.
#[repr(C)]
pub(crate) struct FrameReader {
    pub(crate) shared: Arc<Shared>,
    /// Gone once nothing more is received.
    reader: Option<Reader>,
    buffer: BytesMut,
    memory: Memory,
    end: End,
    /// Whether empty packets, which are heartbeats, are discarded.
    skips_empty: bool,
    /// Whether the transport may hold bytes back.
    may_hold_back: bool,
    /// Whether bytes have arrived since it last waited.
    has_read: bool,
    /// How many packets were received since it last waited.
    in_turn: u32,
    codec: PacketCodec,
    /// How many bytes the transport held back when it was last waited for.
    held_back: usize,
    /// Whether the connection keeps the time of its waiting.
    has_deadline: bool,
    /// Where the server stops: how often it was looked in vain for more, and how much more is taken.
    looks: u8,
    drain_left: usize,
}

/// What the buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// Nothing, or memory of this connection alone.
    Own,
    /// The thread's chunk.
    Chunk,
    /// A part of a chunk that the thread reads into no more, or into the rest of it.
    Part,
}

/// What `recv` says from now on.
#[derive(Clone, Copy)]
enum End {
    NotYet,
    Clean,
    /// Why, the shared state tells.
    Failed,
}

impl FrameReader {
    pub(crate) fn new(shared: &Arc<Shared>, reader: Reader) -> Self {
        shared.add_handle();
        Self {
            shared: Arc::clone(shared),
            skips_empty: shared.settings.skips_empty,
            may_hold_back: reader.may_hold_back(),
            reader: Some(reader),
            buffer: BytesMut::new(),
            memory: Memory::Own,
            codec: shared.settings.rules.codec.clone(),
            end: End::NotYet,
            held_back: 0,
            in_turn: 0,
            has_read: false,
            has_deadline: false,
            looks: 0,
            drain_left: DRAINED_AT_MOST,
        }
    }

    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Packet>, Error>> {
        loop {
            if let Some(end) = self.end() {
                return Poll::Ready(end.map(|()| None));
            }
            ready!(self.poll_turn(cx));
            match self.codec.decode_frame(&mut self.buffer) {
                Ok(Some(packet)) => {
                    let is_skipped = self.skips_empty && packet.is_empty();
                    self.arrived(1, usize::from(!is_skipped));
                    if !is_skipped {
                        return Poll::Ready(Ok(Some(packet)));
                    }
                }
                Ok(None) => ready!(self.poll_more(cx)),
                Err(error) => self.fail(&Reason::Frame(error)),
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
            if let Some(end) = self.end() {
                return Poll::Ready(end.map(|()| 0));
            }
            ready!(self.poll_turn(cx));
            if self.buffer.is_empty() {
                ready!(self.poll_more(cx));
                continue;
            }
            match self.codec.decode_many(&mut self.buffer, limit, packets) {
                Ok(0) => ready!(self.poll_more(cx)),
                Ok(count) => {
                    let skipped = if self.skips_empty { remove_empty(packets, count) } else { 0 };
                    self.arrived(count, count - skipped);
                    if skipped < count {
                        return Poll::Ready(Ok(count - skipped));
                    }
                }
                Err(error) => self.fail(&Reason::Frame(error)),
            }
        }
    }

    /// The end, once there is one.
    #[inline]
    fn end(&mut self) -> Option<Result<(), Error>> {
        if matches!(self.end, End::NotYet) && !self.shared.has_signals() { None } else { self.told_end() }
    }

    #[cold]
    fn told_end(&mut self) -> Option<Result<(), Error>> {
        if self.shared.is_closed_here() {
            self.stop();
        }
        match self.end {
            End::NotYet => None,
            End::Clean => Some(Ok(())),
            End::Failed => Some(Err(self.shared.stop_reason().into())),
        }
    }

    /// Pending once in a while, for a peer that sends without a pause not to keep a thread to itself.
    #[inline]
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.in_turn < PACKETS_A_TURN {
            return Poll::Ready(());
        }
        self.end_turn(cx);
        Poll::Pending
    }

    #[cold]
    fn end_turn(&mut self, cx: &mut Context<'_>) {
        self.in_turn = 0;
        self.note_undelivered();
        if self.shared.is_given_up() {
            self.end_failed();
        }
        yielding::yield_turn(cx);
    }

    /// Packets were taken from the buffer, of which the caller gets `received`.
    #[inline(always)]
    fn arrived(&mut self, packets: usize, received: usize) {
        self.shared.received.packets.add(received as u64);
        self.in_turn = self.in_turn.saturating_add(packets as u32);
        if self.has_deadline {
            self.has_deadline = false;
            self.shared.pause_recv(true);
        }
        self.note_undelivered();
        // The caller may do other things for long before it receives again.
        if !self.codec.is_ready(&self.buffer) {
            self.release_memory();
        } else if self.memory != Memory::Own {
            self.keep_packets();
        }
    }

    /// Tells the connection what it would discard if it ended now.
    #[inline]
    fn note_undelivered(&self) {
        self.shared.note_undelivered(!self.buffer.is_empty());
    }

    /// Nobody waits any more: the future was dropped, or is ready.
    pub(crate) fn pause(&mut self) {
        if self.has_deadline {
            self.has_deadline = false;
            self.shared.pause_recv(false);
        }
    }

    /// The server stops, and what has arrived was received.
    fn end_drained(&mut self) {
        self.end = End::Clean;
        self.shared.told_end();
        self.park();
    }

    fn end_of_stream(&mut self) {
        match self.codec.decode_end(&self.buffer) {
            Ok(()) => match self.shared.remote_closed() {
                Ok(()) => {
                    self.end = End::Clean;
                    self.has_deadline = false;
                    self.release_memory();
                    self.reader = None;
                }
                Err(_) => self.end_failed(),
            },
            Err(error) => self.fail(&Reason::Frame(error)),
        }
    }

    fn fail(&mut self, reason: &Reason) {
        self.shared.receive_failed(reason);
        self.end_failed();
    }

    fn end_failed(&mut self) {
        self.end = End::Failed;
        self.park();
    }

    /// Whether there is nothing more to receive, not even an error that was not told yet.
    pub(crate) fn has_ended(&self) -> bool {
        self.reader.is_none()
    }

    /// Receives nothing more, because this side was closed. What arrives from now on is discarded.
    pub(crate) fn stop(&mut self) {
        if matches!(self.end, End::NotYet) {
            self.end_failed();
        }
    }

    /// Gives up the reading half and the buffer. A connection that is closing reads on without them.
    fn park(&mut self) {
        if !self.buffer.is_empty() {
            self.note_undelivered();
        }
        (self.buffer, self.memory) = (BytesMut::new(), Memory::Own);
        self.note_held();
        if let Some(reader) = self.reader.take() {
            self.shared.park_reader(reader);
        }
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        self.park();
        self.shared.drop_handle();
    }
}

/// Removes the empty ones of the last `count` packets, and returns their number.
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

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::connection::pool::{self, CHUNK};

    /// A receiver of what is written to the other end of the pipe. All that the tests write fits into it.
    fn piped() -> (FrameReader, tokio::io::DuplexStream) {
        piped_with(&crate::ConnConfig::new())
    }

    fn piped_with(config: &crate::ConnConfig) -> (FrameReader, tokio::io::DuplexStream) {
        let (here, there) = tokio::io::duplex(1024 * 1024);
        let (reader, writer) =
            crate::transport::halves::split(crate::transport::transport_stream::CustomStream::new(here));
        let settings =
            crate::connection::config::Settings::new(config, crate::connection::config::Origin::Unknown);
        let shared =
            Shared::new(config, &settings, writer, crate::transport::endpoints::Endpoints::Unknown, None);
        (FrameReader::new(&shared, reader), there)
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
    async fn who_has_received_the_last_packet_holds_no_buffer() {
        let (mut receiver, mut peer) = piped();
        peer.write_all(&[frame(1000), frame(1000)].concat()).await.unwrap();
        recv(&mut receiver).await.unwrap().unwrap();
        assert_eq!(
            (receiver.buffer.capacity(), receiver.memory),
            (1000, Memory::Part),
            "the second packet is in there"
        );
        recv(&mut receiver).await.unwrap().unwrap();
        assert_eq!((receiver.buffer.capacity(), receiver.memory), (0, Memory::Own));
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
            assert_eq!((receiver.buffer.capacity(), receiver.memory), (0, Memory::Own), "{in_batches}");
        }
    }

    #[tokio::test]
    async fn connections_with_packets_that_wait_share_a_chunk() {
        let mut conns = Vec::new();
        for _ in 0..10 {
            let (mut receiver, mut peer) = piped();
            peer.write_all(&[frame(1000), frame(1000)].concat()).await.unwrap();
            recv(&mut receiver).await.unwrap().unwrap();
            conns.push(receiver);
        }
        let addresses = conns.iter().map(|receiver| receiver.buffer.as_ptr() as usize);
        let (first, last) = (addresses.clone().min().unwrap(), addresses.max().unwrap());
        assert!(last - first < CHUNK, "they lie {} bytes apart", last - first);
        for receiver in &mut conns {
            assert_eq!(recv(receiver).await.unwrap().unwrap(), vec![7; 996].into());
        }
    }

    #[tokio::test]
    async fn a_few_bytes_of_the_next_frame_hold_no_chunk() {
        // A buffer that is a large frame's own ends with it.
        for (first, held) in [(100, 3), (30_000, 3), (100_000, 0)] {
            let (mut receiver, mut peer) = piped();
            let stream = [frame(first), frame(1000)].concat();
            // In two parts, so that the larger frames wait in a chunk or in a buffer of their own.
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
        // Another connection has read into the start of the chunk.
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
    async fn the_part_of_a_chunk_goes_back_with_the_last_packet_in_it() {
        let (mut receiver, mut peer) = piped();
        peer.write_all(&[frame(1000), frame(1000), frame(1000)].concat()[..2003]).await.unwrap();
        recv(&mut receiver).await.unwrap().unwrap();
        assert_eq!((receiver.buffer.capacity(), receiver.memory), (1003, Memory::Part));
        recv(&mut receiver).await.unwrap().unwrap();
        assert_eq!((receiver.buffer.capacity(), receiver.memory), (3, Memory::Own));
    }

    #[tokio::test]
    async fn bytes_that_drip_are_not_copied_each_time() {
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
    async fn a_flood_of_packets_leaves_turns_to_others() {
        let (mut receiver, mut peer) = piped();
        peer.write_all(&[0; 4 * 10_000]).await.unwrap();
        let mut packets = Vec::new();
        let mut turns = 0;
        while receiver.shared.received.packets.total() < 10_000 {
            let before = receiver.shared.received.packets.total();
            // One by one, and in batches.
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
            let count = receiver.shared.received.packets.total() - before;
            assert!(count < u64::from(PACKETS_A_TURN) + 10, "{count} packets in a turn");
        }
        // Yielding costs something: it is not for each packet.
        assert!((10..=21).contains(&turns), "{turns} turns");
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
