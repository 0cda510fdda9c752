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

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use pktconn_codec::{Packet, PacketCodec};

use crate::Error;
use crate::connection::shared::{Found, Shared};
use crate::connection::state::is_for_now;
use crate::error::Reason;
use crate::pool::{self, CHUNK};
use crate::transport::Reader;
use crate::turn;

/// Less room than this is not worth a read, when it is not known how much will come.
const MIN_READ: usize = CHUNK / 4;

const HALF_A_CHUNK: usize = CHUNK / 2;

/// How much rustls makes room for behind what it holds back (0.23).
const RUSTLS_READ: usize = 4 * 1024;

/// How many packets a receiver gets before others on its thread have a turn. A chunk holds 16,384 empty ones, and tokio
/// itself counts reads, not packets. To count bytes too, and so yield after each mebibyte, is fairer to connections with
/// packets of that size and costs 1.6 times the CPU time: what has arrived of one leaves the cache for the others'.
const PACKETS_A_TURN: u32 = 512;

/// How much is received at most of what arrives after a server has begun to stop: more than the kernel holds for a connection
/// (6 MiB by Linux's default). A peer that floods does not keep the server from stopping.
const DRAINED_AT_MOST: usize = 8 * 1024 * 1024;

/// How often a transport that cannot tell by itself what has arrived is asked before nothing has, with turns of tokio's driver
/// in between. One does on a current-thread runtime; with several threads another one may be in the driver.
const LOOKS: u8 = 4;

/// What a receiver is: the reading half, and what has been read and not yet received.
// In this order in memory: what each packet needs, and the rest.
#[repr(C)]
pub(crate) struct Reading {
    pub(crate) shared: Arc<Shared>,
    /// Gone once nothing more is received.
    reader: Option<Reader>,
    buffer: BytesMut,
    memory: Memory,
    end: End,
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

impl Reading {
    pub(crate) fn new(shared: &Arc<Shared>, reader: Reader) -> Self {
        shared.add_handle();
        Self {
            shared: Arc::clone(shared),
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
                    self.received(1);
                    return Poll::Ready(Ok(Some(packet)));
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
                    self.received(count);
                    return Poll::Ready(Ok(count));
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
        turn::end(cx);
    }

    fn received(&mut self, packets: usize) {
        self.shared.received.packets.add(packets as u64);
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

    /// Packets that have arrived wait where they came in, without a copy; the rest of the chunk is for others. Where memory is
    /// counted they do not keep a whole chunk for a few bytes.
    fn keep_packets(&mut self) {
        let is_counted = self.shared.account().is_some();
        if is_counted && self.buffer.len() < MIN_READ {
            self.release_memory();
        } else if self.memory == Memory::Chunk {
            let rest = self.buffer.split_off(self.buffer.len());
            pool::return_read_chunk(rest);
            self.memory = Memory::Part;
        }
        if is_counted {
            self.note_held();
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

    /// Reads once. Ready when there are more bytes in the buffer, or an end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain_left == 0 {
            self.end_drained();
            return Poll::Ready(());
        }
        if self.shared.account().is_some() {
            return self.poll_more_counted(cx);
        }
        let read = self.poll_read(cx);
        self.after_read(read, cx)
    }

    /// What a read leads to.
    #[inline(always)]
    fn after_read(&mut self, read: Poll<std::io::Result<usize>>, cx: &mut Context<'_>) -> Poll<()> {
        match read {
            Poll::Ready(Ok(0)) => self.end_of_stream(),
            Poll::Ready(Ok(count)) => self.note_read(count),
            Poll::Ready(Err(error)) => self.fail(&error.into()),
            Poll::Pending => return self.poll_wait(cx),
        }
        Poll::Ready(())
    }

    #[inline(always)]
    fn note_read(&mut self, count: usize) {
        self.has_read = true;
        self.shared.received.bytes.add(count as u64);
        self.shared.received.reads.add(1);
        if self.shared.drains() {
            self.drain_left = self.drain_left.saturating_sub(count);
        }
    }

    /// A read has found nothing. Ready when there is an end after all.
    #[inline(always)]
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.in_turn = 0;
        let holds_back = self.may_hold_back && self.note_held_back();
        // An empty one is without memory already.
        if !self.buffer.is_empty() {
            self.release_memory();
        }
        self.note_undelivered();
        let timeouts = &self.shared.settings.rules.timeouts;
        let has_part = !self.buffer.is_empty() || holds_back;
        let in_frame = has_part && timeouts.frame.is_some();
        let has_deadline = in_frame || timeouts.idle.is_some();
        let found = if has_deadline {
            self.has_deadline = true;
            self.shared.before_timed_wait(in_frame, self.has_read, cx)
        } else {
            self.shared.before_wait(cx)
        };
        let has_read = std::mem::take(&mut self.has_read);
        match found {
            Found::Nothing if !self.shared.drains() => Poll::Pending,
            found => self.poll_end(found, has_read, cx),
        }
    }

    /// A part of a record of TLS is a part of a frame, and a sign of life. Whether there is one.
    #[cold]
    #[inline(never)]
    fn note_held_back(&mut self) -> bool {
        let held_back = self.reader.as_ref().map_or(0, Reader::held_back);
        self.has_read |= held_back > 0 && held_back != self.held_back;
        self.held_back = held_back;
        held_back > 0
    }

    /// A read has found nothing, and there is an end, or may be one: what tokio knows of a transport is as old as the last turn
    /// of its driver. Where the transport cannot tell by itself what has arrived, it is asked again after some of these.
    #[cold]
    fn poll_end(&mut self, found: Found, has_read: bool, cx: &mut Context<'_>) -> Poll<()> {
        match found {
            Found::End => self.end_failed(),
            Found::Overdue(reason) => self.fail(&reason),
            Found::Nothing | Found::LastPackets if self.read_now() || !matches!(self.end, End::NotYet) => {}
            found => {
                self.looks = if has_read { 0 } else { self.looks + 1 };
                if !self.can_read_now() && self.looks < LOOKS {
                    turn::end(cx);
                    return Poll::Pending;
                }
                match found {
                    Found::LastPackets => self.end_failed(),
                    _ => self.end_drained(),
                }
            }
        }
        Poll::Ready(())
    }

    /// Reads what has arrived, whatever tokio knows of it. Whether there was something, where the transport can say so.
    fn read_now(&mut self) -> bool {
        let Some(reader) = &mut self.reader else { return false };
        if !self.buffer.is_empty() {
            make_room(&mut self.buffer, &mut self.memory, &self.codec);
        }
        match reader.read_now(&mut self.buffer) {
            Some(Ok(0)) => self.end_of_stream(),
            Some(Ok(count)) => {
                self.note_read(count);
                return true;
            }
            Some(Err(error)) if !is_for_now(&error) => self.fail(&error.into()),
            Some(Err(_)) | None => {}
        }
        false
    }

    fn can_read_now(&self) -> bool {
        self.reader.as_ref().is_some_and(Reader::can_read_now)
    }

    /// The server stops, and what has arrived was received.
    fn end_drained(&mut self) {
        self.end = End::Clean;
        self.shared.told_end();
        self.park();
    }

    /// The memory that its bytes keep from other use. A part of a chunk may be the only one that keeps it alive. Of a chunk that
    /// goes back to the thread when its packets are received, a thread does not read into what is left when that is less than
    /// half: so it counts half as much again, by rule of thumb.
    fn held(&self) -> usize {
        let read = match (self.memory, self.buffer.len()) {
            (Memory::Own, _) => self.buffer.capacity(),
            (Memory::Chunk, len @ ..HALF_A_CHUNK) => len + len / 2,
            (Memory::Chunk | Memory::Part, _) => CHUNK,
        };
        // rustls has room for as much again as it reads at a time.
        read + if self.held_back > 0 { self.held_back + RUSTLS_READ } else { 0 }
    }

    /// What was read stays on the account, also when the caller has received it, until it comes for more.
    #[inline]
    fn note_held(&self) {
        if let Some(account) = self.shared.account() {
            account.note_read(self.held());
        }
    }

    #[inline(always)]
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        // Without a reader an end is set: `recv` does not come this far.
        let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(0)) };
        if self.buffer.is_empty() {
            // Most reads, and each that finds nothing: the chunk comes here with bytes alone.
            let mut chunk = pool::read_chunk(0);
            let read = tokio_util::io::poll_read_buf(Pin::new(reader), cx, &mut chunk);
            if chunk.is_empty() {
                pool::return_read_chunk(chunk);
            } else {
                (self.buffer, self.memory) = (chunk, Memory::Chunk);
            }
            return read;
        }
        make_room(&mut self.buffer, &mut self.memory, &self.codec);
        tokio_util::io::poll_read_buf(Pin::new(reader), cx, &mut self.buffer)
    }

    /// Reads once where memory is counted: under pressure little at a time, or not at all.
    #[cold]
    #[inline(never)]
    fn poll_more_counted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = match self.shared.may_read(self.held(), cx) {
            // A peer that is not read is not to blame for what has not arrived: it has no deadline.
            None => {
                self.pause();
                self.in_turn = 0;
                self.release_memory();
                self.note_undelivered();
                match self.shared.before_wait(cx) {
                    Found::Nothing => Poll::Pending,
                    found => self.poll_end(found, false, cx),
                }
            }
            Some(most) => {
                let read =
                    if most == usize::MAX { self.poll_read(cx) } else { self.poll_read_some(most, cx) };
                self.after_read(read, cx)
            }
        };
        self.note_held();
        polled
    }

    fn poll_read_some(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(0)) };
        // In memory of its own: who holds little is to hold no chunk.
        if self.buffer.capacity() - self.buffer.len() < most || self.memory != Memory::Own {
            let mut own = BytesMut::with_capacity(self.buffer.len() + most);
            own.extend_from_slice(&self.buffer);
            self.buffer = own;
            self.memory = Memory::Own;
        }
        let read = tokio_util::io::poll_read_buf(Pin::new(reader), cx, &mut (&mut self.buffer).limit(most));
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        read
    }

    /// Lets go of the memory that waiting does not need.
    fn release_memory(&mut self) {
        let len = self.buffer.len();
        let holds_more = self.memory != Memory::Own || self.buffer.capacity() > len;
        // An empty buffer may still be the end of a chunk, and keep the thread from using that anew.
        if len == 0 || (len < MIN_READ && holds_more) {
            // The start of a frame moves to memory of its own size.
            let start = if len == 0 { BytesMut::new() } else { BytesMut::from(&self.buffer[..]) };
            let large = std::mem::replace(&mut self.buffer, start);
            if self.memory == Memory::Chunk {
                pool::return_read_chunk(large);
            }
            self.memory = Memory::Own;
        }
        // What is more than that keeps the chunk: to copy it at each wait would make a peer that drips costly.
        if self.memory == Memory::Chunk {
            self.memory = Memory::Part;
        }
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

impl Drop for Reading {
    fn drop(&mut self) {
        self.park();
        self.shared.drop_handle();
    }
}

/// How much room is enough for a read: what is known to come, and not less than is worth it. But a chunk that was kept at
/// the last wait is not given up for more than it takes to fill it: a peer that drips would have it copied at each wait.
fn least_room(missing: usize, is_chunk: bool) -> usize {
    if is_chunk || missing == 0 { missing.max(MIN_READ) } else { missing }
}

/// Makes room in `buffer` for a read of `codec`'s next bytes, where there is not enough.
fn make_room(buffer: &mut BytesMut, memory: &mut Memory, codec: &PacketCodec) {
    let missing = codec.missing(buffer);
    let (len, spare) = (buffer.len(), buffer.capacity() - buffer.len());
    let is_chunk = *memory == Memory::Chunk;
    if len + missing > CHUNK {
        let room = codec.room(buffer, MIN_READ);
        // `reserve` would double what is in front of the frame too: packets that were received.
        let begins_with_frame = *memory == Memory::Own && len >= CHUNK;
        if is_chunk || (spare == 0 && !begins_with_frame) {
            let mut own = BytesMut::with_capacity(len + room);
            own.extend_from_slice(buffer);
            let last = std::mem::replace(buffer, own);
            if is_chunk {
                pool::return_read_chunk(last);
            }
            *memory = Memory::Own;
        } else if spare == 0 {
            buffer.reserve(room);
        }
    } else if spare < least_room(missing, is_chunk) && !(is_chunk && buffer.try_reclaim(CHUNK - len)) {
        let mut chunk = pool::read_chunk(len + missing);
        chunk.extend_from_slice(buffer);
        let last = std::mem::replace(buffer, chunk);
        if is_chunk {
            pool::return_read_chunk(last);
        }
        *memory = Memory::Chunk;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;

    /// Lets a frame of `len` bytes arrive in steps of `step`, as reads of whatever room there is, and shows each state of
    /// the buffer to `look`.
    fn arrive(
        buffer: &mut BytesMut,
        memory: &mut Memory,
        len: usize,
        step: usize,
        look: impl Fn(&BytesMut),
    ) -> Packet {
        let mut codec = PacketCodec::default();
        let frame: Vec<u8> = ((len - 4) as u32).to_le_bytes().into_iter().chain(vec![7; len - 4]).collect();
        for mut bytes in frame.chunks(step) {
            while !bytes.is_empty() {
                make_room(buffer, memory, &codec);
                let room = (buffer.capacity() - buffer.len()).min(bytes.len());
                assert!(room > 0, "a read without room");
                buffer.extend_from_slice(&bytes[..room]);
                bytes = &bytes[room..];
                look(buffer);
                if let Some(packet) = codec.decode_frame(buffer).unwrap() {
                    return packet;
                }
            }
        }
        panic!("the frame did not arrive");
    }

    #[test]
    fn room_for_a_large_frame_follows_what_has_arrived_and_ends_with_the_frame() {
        for len in [CHUNK + 1, 1024 * 1024 + 4, 3_333_333] {
            let (mut buffer, mut memory) = (BytesMut::new(), Memory::Own);
            arrive(&mut buffer, &mut memory, len, 10_000, |buffer| {
                let (arrived, capacity) = (buffer.len(), buffer.capacity());
                assert!(capacity <= 2 * arrived + CHUNK, "{capacity} bytes of room after {arrived}");
                assert!(capacity <= len, "{capacity} bytes of room for a frame of {len}");
            });
            assert_eq!(memory, Memory::Own, "the thread does not get such a buffer");
        }
    }

    #[test]
    fn a_buffer_for_a_large_frame_has_no_room_for_what_was_in_front_of_it() {
        const LEN: usize = 1024 * 1024;
        let head = (LEN as u32 - 4).to_le_bytes();
        for memory in [Memory::Own, Memory::Part] {
            let mut codec = PacketCodec::default();
            let mut buffer = BytesMut::from(&[&frame(7000)[..], &head, &[7; 9000]].concat()[..]);
            let mut memory = memory;
            drop(codec.decode_frame(&mut buffer).unwrap().unwrap());
            while codec.decode_frame(&mut buffer).unwrap().is_none() {
                make_room(&mut buffer, &mut memory, &codec);
                let room = buffer.capacity() - buffer.len();
                assert!(buffer.capacity() <= LEN, "{} bytes for a frame of {LEN}", buffer.capacity());
                buffer.extend_from_slice(&vec![7; room]);
            }
        }
    }

    #[test]
    fn no_chunk_grows_where_most_of_it_is_the_start_of_a_frame() {
        let mut codec = PacketCodec::default();
        let (mut buffer, mut memory) = (BytesMut::new(), Memory::Own);
        let frames =
            [[&[96, 0, 0, 0], &[1; 96][..]].concat(), [&[216, 255, 0, 0], &[2; 65_496][..]].concat()];
        let stream = frames.concat();
        make_room(&mut buffer, &mut memory, &codec);
        buffer.extend_from_slice(&stream[..CHUNK]);
        assert_eq!(codec.decode_frame(&mut buffer).unwrap().unwrap(), vec![1; 96].into());
        assert!(codec.decode_frame(&mut buffer).unwrap().is_none());
        make_room(&mut buffer, &mut memory, &codec);
        let capacity = buffer.capacity();
        assert!((frames[1].len()..=CHUNK).contains(&capacity), "{capacity} bytes");
        buffer.extend_from_slice(&stream[CHUNK..]);
        assert_eq!(codec.decode_frame(&mut buffer).unwrap().unwrap(), vec![2; 65_496].into());
    }

    #[test]
    fn frames_that_fit_a_chunk_are_read_into_it_again_and_again() {
        for len in [1000, 20_000, CHUNK - 1, CHUNK] {
            let (mut buffer, mut memory) = (BytesMut::new(), Memory::Own);
            for _ in 0..50 {
                arrive(&mut buffer, &mut memory, len, len, |buffer| {
                    assert!(buffer.capacity() <= CHUNK, "{} bytes for {len}", buffer.capacity());
                });
                assert_eq!(memory, Memory::Chunk);
            }
        }
    }

    /// A receiver of what is written to the other end of the pipe. All that the tests write fits into it.
    fn piped() -> (Reading, tokio::io::DuplexStream) {
        let (here, there) = tokio::io::duplex(1024 * 1024);
        let (reader, writer) = crate::transport::split(crate::transport::Foreign::new(here));
        let config = crate::ConnConfig::new();
        let settings = crate::config::Settings::new(&config, crate::config::Origin::Unknown);
        let shared = Shared::new(&config, &settings, writer, crate::ends::Ends::Unknown, None);
        (Reading::new(&shared, reader), there)
    }

    fn frame(len: usize) -> Vec<u8> {
        [&((len - 4) as u32).to_le_bytes()[..], &vec![7; len - 4]].concat()
    }

    async fn recv(receiver: &mut Reading) -> Result<Option<Packet>, Error> {
        poll_fn(|cx| receiver.poll_recv(cx)).await
    }

    async fn is_waiting(receiver: &mut Reading) -> bool {
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
