//! The state machine between bytes and packets.
//!
//! ```text
//!             header whole              frame whole
//!   Head ----------------> Body ----------------> Head, with a packet
//!    |  too large           |  wrong checksum, end of the stream
//!    +-------> Failed <-----+     every later call: the same error
//! ```
//!
//! Nothing is taken from the buffer before a frame is whole in it, so that a reader that is dropped at any point loses
//! nothing, and a packet can keep its header.

use bytes::{BufMut, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::config::Framing;
use crate::frame::Frame;
use crate::{CodecConfig, CodecError, FrameError, Packet};

/// Room made for the first bytes of a frame that is not whole yet; beyond it, room follows what has arrived. The size of
/// `Framed`'s own first buffer (tokio-util 0.7).
const FIRST_CHUNK: usize = 8 * 1024;

/// Room is made for at most so many packets on the strength of the lengths of others: some 4 KiB of them. An empty packet in
/// front of large ones promises thousands.
const MOST_LIKELY: usize = 64;

/// The codec of packets, for `tokio_util::codec::Framed` and for connections.
///
/// As a [`Decoder`] it makes a [`Packet`] of every frame, without a copy: the packet is a slice of the read buffer. As an
/// [`Encoder`] it takes a `Packet` or a `&Packet`.
///
/// The read buffer grows with the bytes that arrive, to at most twice as many plus 8 KiB, never by what a header claims.
///
/// After an error the stream is out of step: every later call of `decode` returns that error again.
// Small, as each connection has one of its own.
#[derive(Clone, Debug)]
pub struct PacketCodec {
    config: CodecConfig,
    /// What follows from the configuration, and is asked for with each frame.
    payload_limit: u32,
    around_len: u8,
    state: State,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Head,
    Body {
        frame_len: usize,
    },
    /// Boxed, because few streams fail.
    Failed(Box<FrameError>),
}

impl PacketCodec {
    /// A codec at the start of a stream.
    #[must_use]
    pub fn new(config: CodecConfig) -> Self {
        Self {
            config,
            payload_limit: config.payload_limit() as u32,
            around_len: config.framing.around_len() as u8,
            state: State::Head,
        }
    }

    /// The configuration in use.
    #[must_use]
    pub fn config(&self) -> &CodecConfig {
        &self.config
    }

    /// Takes the next packet off the front of `src`, or `None` while it is not whole.
    ///
    /// This is `decode` of [`Decoder`] with the error of a frame alone. It reserves nothing: the caller decides how much
    /// to read, see [`missing`](Self::missing).
    ///
    /// # Errors
    ///
    /// [`FrameError::PayloadTooLarge`] and [`FrameError::ChecksumMismatch`], from then on for ever.
    // In its caller the packet stays in registers: to pass it through memory costs half as much again as all of the rest.
    #[inline(always)]
    pub fn decode_frame(&mut self, src: &mut BytesMut) -> Result<Option<Packet>, FrameError> {
        match self.whole_frame(src) {
            Ok(Some(frame_len)) => {
                Ok(Some(Packet::from_frame(src.split_to(frame_len).freeze(), self.config.framing)))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Takes up to `limit` packets off the front of `src` and appends them to `packets`. Returns how many: none while the
    /// first is not whole.
    ///
    /// # Errors
    ///
    /// Those of `decode_frame`, of the first packet. Before a bad one that is not the first, this returns the good ones;
    /// the next call returns the error.
    #[inline]
    pub fn decode_many(
        &mut self,
        src: &mut BytesMut,
        limit: usize,
        packets: &mut Vec<Packet>,
    ) -> Result<usize, FrameError> {
        let (mut count, len_before) = (0, src.len());
        while count < limit {
            match self.decode_frame(src) {
                Ok(Some(packet)) => {
                    if packets.len() == packets.capacity() {
                        // As many as the rest holds if they go on like this: a vector that doubles on its own would be
                        // copied for each step, and whoever gives its memory up between batches pays for that each time.
                        let taken_len = (len_before - src.len()) / (count + 1);
                        let likely = src.len() / taken_len.max(1) + 1;
                        packets.reserve(likely.min(limit - count).min(MOST_LIKELY));
                    }
                    packets.push(packet);
                }
                Ok(None) => break,
                // The state holds it for the next call.
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
            count += 1;
        }
        Ok(count)
    }

    /// Looks at the packet at the front of `src`, or `None` while it is not whole: its payload, and how many bytes its frame
    /// takes. For those who only read what arrives: `src` may be any memory, and nothing of it is kept.
    ///
    /// The next call begins at another frame: go on behind this one.
    ///
    /// ```
    /// let mut codec = pktconn_codec::PacketCodec::default();
    /// let stream = b"\x02\0\0\0hi\x01\0\0\0";
    /// assert_eq!(codec.peek(stream), Ok(Some((&b"hi"[..], 6))));
    /// assert_eq!(codec.peek(&stream[6..]), Ok(None));
    /// assert!(codec.decode_end(&stream[6..]).is_err(), "the second one is not whole");
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `decode_frame`.
    #[inline]
    pub fn peek<'a>(&mut self, src: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, FrameError> {
        match self.whole_frame(src) {
            Ok(Some(frame_len)) => {
                let Framing { header, checksum } = self.config.framing;
                let payload = &src[header.header_len()..frame_len - checksum.checksum_len()];
                Ok(Some((payload, frame_len)))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// The length of the frame at the front of `bytes` when it is whole; it is to be taken off then. What is known of one
    /// that is not is kept.
    #[inline(always)]
    fn whole_frame(&mut self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let frame_len = match self.state {
            State::Head => match self.frame_len(bytes)? {
                Some(frame_len) if bytes.len() < frame_len => {
                    self.state = State::Body { frame_len };
                    return Ok(None);
                }
                Some(frame_len) => frame_len,
                None => return Ok(None),
            },
            State::Body { frame_len } if bytes.len() < frame_len => return Ok(None),
            State::Body { frame_len } => {
                self.state = State::Head;
                frame_len
            }
            State::Failed(ref error) => return Err(**error),
        };
        match self.config.framing.checksum.verify(&bytes[..frame_len]) {
            Ok(()) => Ok(Some(frame_len)),
            Err((expected, actual)) => Err(FrameError::ChecksumMismatch { expected, actual }),
        }
    }

    /// Judges the bytes that are left in `src` at the end of the stream, after `decode_frame` has returned `None`.
    ///
    /// # Errors
    ///
    /// [`FrameError::Truncated`] when the stream ended in the middle of a frame; an earlier error again.
    pub fn decode_end(&mut self, src: &[u8]) -> Result<(), FrameError> {
        let needed = match &self.state {
            State::Head if src.is_empty() => return Ok(()),
            State::Head => self.config.header_format().header_len(),
            State::Body { frame_len } => *frame_len,
            State::Failed(error) => return Err(**error),
        };
        Err(self.fail(FrameError::Truncated { needed, available: src.len() }))
    }

    /// Whether a whole frame stands at the front of `src`, or one of which more bytes would make no good one: whether
    /// [`decode_frame`](Self::decode_frame) has something to say.
    #[must_use]
    #[inline]
    pub fn is_ready(&self, src: &[u8]) -> bool {
        match self.state {
            State::Head => match self.frame_len(src) {
                Ok(frame_len) => frame_len.is_some_and(|frame_len| src.len() >= frame_len),
                Err(_) => true,
            },
            State::Body { frame_len } => src.len() >= frame_len,
            State::Failed(_) => true,
        }
    }

    /// How many bytes the frame at the front of `src` still lacks, as far as its header tells; 0 between frames.
    #[must_use]
    #[inline]
    pub fn missing(&self, src: &[u8]) -> usize {
        match self.state {
            State::Body { frame_len } => frame_len.saturating_sub(src.len()),
            State::Head | State::Failed(_) => 0,
        }
    }

    /// How much room to make behind `src` so that more of the frame at its front can arrive; 0 between frames.
    ///
    /// Never more than the frame lacks. Within that at least `at_least`, and at most what has arrived plus twice `at_least`.
    /// The room doubles from step to step and ends at the frame's length: a buffer that grows by these steps alone is no
    /// larger than its frame.
    #[must_use]
    pub fn room(&self, src: &[u8], at_least: usize) -> usize {
        let State::Body { frame_len } = self.state else { return 0 };
        let least = src.len().saturating_add(at_least);
        let Some(ratio) = frame_len.checked_div(least) else { return 0 };
        // The frame's length, halved as often as that leaves enough.
        let target = frame_len >> ratio.checked_ilog2().unwrap_or(0);
        target.saturating_sub(src.len())
    }

    /// The bytes of `packet` on the wire.
    ///
    /// # Errors
    ///
    /// [`FrameError::PayloadTooLarge`] when its payload is over the limit.
    #[inline]
    pub fn frame<'a>(&self, packet: &'a Packet) -> Result<Frame<'a>, FrameError> {
        Frame::new(packet, self.config.framing, self.payload_limit as usize)
    }

    /// Appends the frame of a packet of these bytes to `dst`. It takes less than to make the packet first.
    ///
    /// # Errors
    ///
    /// [`FrameError::PayloadTooLarge`] when they are over the limit; `dst` is as it was.
    #[inline]
    pub fn encode_payload(&self, payload: &[u8], dst: &mut BytesMut) -> Result<(), FrameError> {
        let (len, max) = (payload.len(), self.payload_limit as usize);
        let Framing { header, checksum } = self.config.framing;
        // The limit is one that the length field can say.
        let Some(head) = header.write(len).filter(|_| len <= max) else {
            return Err(FrameError::PayloadTooLarge { len, max });
        };
        dst.reserve(len + usize::from(self.around_len));
        head.put_into(dst);
        dst.put_slice(payload);
        checksum.trailer([head.as_slice(), payload]).put_into(dst);
        Ok(())
    }

    /// The length of the frame at the front of `src`, once its header is whole: of all of it, with header and checksum.
    ///
    /// # Errors
    ///
    /// [`FrameError::PayloadTooLarge`] when it announces a payload over the limit.
    #[inline]
    pub fn frame_len(&self, src: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(len) = self.config.framing.header.read(src) else { return Ok(None) };
        let max = self.payload_limit as usize;
        if len > max {
            return Err(FrameError::PayloadTooLarge { len, max });
        }
        // Saturates on 32-bit targets alone, at a length that no buffer there can reach.
        Ok(Some(len.saturating_add(self.around_len.into())))
    }

    #[cold]
    fn fail(&mut self, error: FrameError) -> FrameError {
        self.state = State::Failed(Box::new(error));
        error
    }
}

impl Default for PacketCodec {
    fn default() -> Self {
        Self::new(CodecConfig::default())
    }
}

impl Decoder for PacketCodec {
    type Item = Packet;
    type Error = CodecError;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        let packet = self.decode_frame(src)?;
        // Only a full buffer grows.
        if packet.is_none() && src.capacity() == src.len() {
            src.reserve(self.room(src, FIRST_CHUNK / 2));
        }
        Ok(packet)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        match self.decode_frame(src)? {
            Some(packet) => Ok(Some(packet)),
            None => Ok(self.decode_end(src).map(|()| None)?),
        }
    }
}

impl Encoder<&Packet> for PacketCodec {
    type Error = CodecError;

    #[inline]
    fn encode(&mut self, packet: &Packet, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.frame(packet)?.put_into(dst);
        Ok(())
    }
}

impl Encoder<Packet> for PacketCodec {
    type Error = CodecError;

    #[inline]
    fn encode(&mut self, packet: Packet, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.encode(&packet, dst)
    }
}
