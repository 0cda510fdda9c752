//! The decoder and encoder: a state machine between bytes and packets.
//!
//! ```text
//!          header complete        frame complete
//!   Head ----------------> Body ----------------> Head, and returns a packet
//!    |  too large           |  wrong checksum, end of the stream
//!    +-------> Failed <-----+     every later call: the same error
//! ```
//!
//! A frame stays in the buffer until it is complete. So a reader can be dropped at any point without losing bytes, and
//! a packet can keep its header.
//!
//! The methods with `#[doc(hidden)]` are for `pktconn` and its tools. They can change in any release.

use bytes::{BufMut, Bytes, BytesMut};

use crate::config::Framing;
use crate::control::{CONTROL_PREFIX_LEN, FIRST_CONTROL_LEN, control_frame_len};
use crate::frame::{Frame, PartsFrame};
use crate::{CodecConfig, FrameError, Packet};

/// The largest number of packets that `decode_many` reserves a vector for by an estimate: 4 KiB of `Packet`. Without
/// this limit, an empty first packet would make the estimate thousands.
const MAX_ESTIMATED_PACKETS: usize = 64;

/// Decodes and encodes packets.
///
/// Use it in three ways:
///
/// - With `tokio_util::codec::Framed`: the codec is a `Decoder` of [`Packet`] and an `Encoder<Packet>`. This needs the
///   feature `tokio-util`, which is on by default. The read buffer grows with the bytes that arrive: it holds at most
///   twice as many plus 8 KiB, even if a header announces a larger frame.
/// - With blocking I/O: the functions of [`blocking`](crate::blocking).
/// - With any other I/O: [`decode_frame`](Self::decode_frame), [`decode_end`](Self::decode_end) and
///   [`encode_frame`](Self::encode_frame).
///
/// A decoded packet is a slice of the read buffer: nothing is copied.
///
/// After an error the decoder no longer knows where a frame begins, so every later call returns the same error.
// Small, because each connection has one.
#[derive(Clone, Debug)]
pub struct PacketCodec {
    config: CodecConfig,
    /// This and `overhead_len` follow from `config`, but every frame needs them.
    payload_limit: u32,
    /// The length of header and checksum together, in bytes.
    overhead_len: u8,
    state: State,
}

#[derive(Clone, Debug, Default)]
enum State {
    /// Waits for the header of the next frame.
    #[default]
    Head,
    /// Waits for the rest of a frame whose header is complete.
    Body { frame_len: usize },
    /// Boxed to keep the codec small: few streams fail.
    Failed(Box<FrameError>),
}

impl PacketCodec {
    /// A codec at the start of a stream.
    #[must_use]
    pub fn new(config: CodecConfig) -> Self {
        Self {
            config,
            payload_limit: config.payload_limit() as u32,
            overhead_len: config.framing.overhead_len() as u8,
            state: State::Head,
        }
    }

    /// The configuration in use.
    #[must_use]
    pub fn config(&self) -> &CodecConfig {
        &self.config
    }

    /// Removes the first packet from the front of `src`. Returns `None` while its frame is incomplete: then append more
    /// bytes to `src` and call again.
    ///
    /// This never reserves memory in `src`.
    ///
    /// # Errors
    ///
    /// [`FrameError::PayloadTooLarge`] or [`FrameError::ChecksumMismatch`]; every later call returns the same error.
    // Inlined to keep the packet in registers: passing it through memory makes decoding 1.5 times as expensive.
    #[inline(always)]
    pub fn decode_frame(&mut self, src: &mut BytesMut) -> Result<Option<Packet>, FrameError> {
        match self.complete_frame_len(src) {
            Ok(Some(frame_len)) => {
                Ok(Some(Packet::from_frame(src.split_to(frame_len).freeze(), self.config.framing)))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Removes a control frame from the front of `src`, after [`decode_frame`](Self::decode_frame) has failed with `error`
    /// because of it. Returns `None` while it is incomplete.
    ///
    /// A step of its own: another place where a packet is made would cost each packet 30 instructions.
    ///
    /// # Errors
    ///
    /// `error`, if it is about something else; a wrong checksum.
    #[doc(hidden)]
    #[cold]
    pub fn decode_control(
        &mut self,
        src: &mut BytesMut,
        error: FrameError,
    ) -> Result<Option<Packet>, FrameError> {
        if !self.is_control(&error) {
            return Err(error);
        }
        let framing = self.config.framing;
        let Some((frame_len, checksum_len)) = control_frame_len(src, framing) else { return Ok(None) };
        let Some(frame) = src.get(..frame_len) else { return Ok(None) };
        if checksum_len > 0 {
            if let Err((expected, actual)) = framing.checksum.verify(frame) {
                return Err(self.fail(FrameError::ChecksumMismatch { expected, actual }));
            }
        }
        let frame = src.split_to(frame_len).freeze();
        Ok(Some(Packet::from_control_frame(frame, framing, checksum_len)))
    }

    /// Like [`decode_control`](Self::decode_control). Returns whether there was a control frame.
    #[cold]
    fn push_control(
        &mut self,
        src: &mut BytesMut,
        error: FrameError,
        packets: &mut Vec<Packet>,
    ) -> Result<bool, FrameError> {
        let packet = self.decode_control(src, error)?;
        let is_complete = packet.is_some();
        packets.extend(packet);
        Ok(is_complete)
    }

    /// Whether the length that is too large begins a control frame, and these are decoded.
    fn is_control(&self, error: &FrameError) -> bool {
        let is_control_len = |len| len >= FIRST_CONTROL_LEN as usize;
        self.config.has_control_frames
            && matches!(error, FrameError::PayloadTooLarge { len, .. } if is_control_len(*len))
    }

    /// Moves up to `limit` packets from the front of `src` to `packets`. Returns their number: 0 while the first frame
    /// is incomplete.
    ///
    /// # Errors
    ///
    /// The errors of `decode_frame`, if the first frame is invalid. If a later frame is invalid, this returns the
    /// packets before it, and the next call returns the error.
    #[doc(hidden)]
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
                        // Reserves once for all packets in `src`, if they have the average length so far. A vector that
                        // doubles would be copied several times per batch, if the caller passes a new vector each time.
                        let average_len = (len_before - src.len()) / (count + 1);
                        let estimate = src.len() / average_len.max(1) + 1;
                        packets.reserve(estimate.min(limit - count).min(MAX_ESTIMATED_PACKETS));
                    }
                    packets.push(packet);
                }
                Ok(None) => break,
                Err(error) => match self.push_control(src, error, packets) {
                    Ok(true) => {}
                    Ok(false) => break,
                    // The state keeps the error for the next call.
                    Err(_) if count > 0 => break,
                    Err(error) => return Err(error),
                },
            }
            count += 1;
        }
        Ok(count)
    }

    /// The payload of the first packet in `src` and the length of its frame, or `None` while the frame is incomplete.
    /// Nothing is copied or kept, so `src` can be any memory. Call it next with the bytes after this frame.
    ///
    /// # Errors
    ///
    /// The errors of `decode_frame`.
    #[doc(hidden)]
    #[inline]
    pub fn peek<'a>(&mut self, src: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, FrameError> {
        match self.complete_frame_len(src) {
            Ok(Some(frame_len)) => {
                let Framing { header, checksum } = self.config.framing;
                let payload = &src[header.header_len()..frame_len - checksum.checksum_len()];
                Ok(Some((payload, frame_len)))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// The length of the frame at the front of `bytes` once it is complete and verified. The caller must then remove
    /// it. The state remembers the length of an incomplete frame.
    #[inline(always)]
    fn complete_frame_len(&mut self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
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

    /// Checks that the stream ended between two frames. Call it at the end of the stream, after `decode_frame` has
    /// returned `None`; `src` contains the bytes that are left.
    ///
    /// # Errors
    ///
    /// [`FrameError::Truncated`] if the stream ended inside a frame, or the error that an earlier call returned.
    pub fn decode_end(&mut self, src: &[u8]) -> Result<(), FrameError> {
        let needed = match &self.state {
            State::Head if src.is_empty() => return Ok(()),
            State::Head => match self.control_len(src) {
                Some(frame_len) => frame_len,
                None => self.config.header_format().header_len(),
            },
            State::Body { frame_len } => *frame_len,
            State::Failed(error) => return Err(**error),
        };
        Err(self.fail(FrameError::Truncated { needed, available: src.len() }))
    }

    /// Whether `decode_frame` would return a packet or an error.
    #[doc(hidden)]
    #[must_use]
    #[inline]
    pub fn is_ready(&self, src: &[u8]) -> bool {
        match self.state {
            State::Head => match self.frame_len(src) {
                Ok(frame_len) => frame_len.is_some_and(|frame_len| src.len() >= frame_len),
                Err(_) => self.control_len(src).is_none_or(|frame_len| src.len() >= frame_len),
            },
            State::Body { frame_len } => src.len() >= frame_len,
            State::Failed(_) => true,
        }
    }

    /// How many bytes of the control frame at the front of `src` are needed next. `None` if there is none.
    #[cold]
    fn control_len(&self, src: &[u8]) -> Option<usize> {
        self.frame_len(src).err().filter(|error| self.is_control(error))?;
        Some(
            control_frame_len(src, self.config.framing)
                .map_or(CONTROL_PREFIX_LEN, |(frame_len, _)| frame_len),
        )
    }

    /// How many bytes of the frame at the front of `src` are missing; 0 while its header is incomplete.
    #[doc(hidden)]
    #[must_use]
    #[inline]
    pub fn missing(&self, src: &[u8]) -> usize {
        match self.state {
            State::Body { frame_len } => frame_len.saturating_sub(src.len()),
            State::Head | State::Failed(_) => 0,
        }
    }

    /// How much memory to reserve after `src` for the rest of an incomplete frame, in bytes; 0 while its header is
    /// incomplete.
    ///
    /// The result is between `at_least` and `src.len() + 2 * at_least`, but never more than is missing. A buffer that
    /// grows by these steps doubles each time, and its last step ends exactly at the length of the frame.
    #[doc(hidden)]
    #[must_use]
    pub fn room(&self, src: &[u8], at_least: usize) -> usize {
        let State::Body { frame_len } = self.state else { return 0 };
        let least = src.len().saturating_add(at_least);
        let Some(ratio) = frame_len.checked_div(least) else { return 0 };
        // Halves the length of the frame as long as the result is still at least `least`.
        let target = frame_len >> ratio.checked_ilog2().unwrap_or(0);
        target.saturating_sub(src.len())
    }

    /// Appends the frame of `packet` to `dst`. A packet that was received in the same format is copied with its header
    /// and checksum, not encoded again.
    ///
    /// # Errors
    ///
    /// [`FrameError::PayloadTooLarge`] if its payload exceeds the limit; `dst` is unchanged.
    #[inline]
    pub fn encode_frame(&self, packet: &Packet, dst: &mut BytesMut) -> Result<(), FrameError> {
        self.frame(packet)?.put_into(dst);
        Ok(())
    }

    /// The bytes of `packet` on the wire.
    ///
    /// # Errors
    ///
    /// [`FrameError::PayloadTooLarge`] if its payload exceeds the limit.
    #[doc(hidden)]
    #[inline]
    pub fn frame<'a>(&self, packet: &'a Packet) -> Result<Frame<'a>, FrameError> {
        Frame::new(packet, self.config.framing, self.payload_limit as usize)
    }

    /// The bytes on the wire of a packet whose payload is the concatenation of `parts`.
    ///
    /// # Errors
    ///
    /// [`FrameError::PayloadTooLarge`] if the parts together exceed the limit.
    #[doc(hidden)]
    pub fn frame_of_parts<'a>(&self, parts: &'a [Bytes]) -> Result<PartsFrame<'a>, FrameError> {
        PartsFrame::new(parts, self.config.framing, self.payload_limit as usize)
    }

    /// Appends the frame of a packet with this payload to `dst`, without making a [`Packet`].
    ///
    /// # Errors
    ///
    /// [`FrameError::PayloadTooLarge`] if `payload` exceeds the limit; `dst` is unchanged.
    #[doc(hidden)]
    #[inline]
    pub fn encode_payload(&self, payload: &[u8], dst: &mut BytesMut) -> Result<(), FrameError> {
        let (len, max) = (payload.len(), self.payload_limit as usize);
        let Framing { header, checksum } = self.config.framing;
        // The length field can always hold the limit, so a missing header also means that the limit is exceeded.
        let Some(head) = header.encode_len(len).filter(|_| len <= max) else {
            return Err(FrameError::PayloadTooLarge { len, max });
        };
        dst.reserve(len + usize::from(self.overhead_len));
        head.put_into(dst);
        dst.put_slice(payload);
        checksum.trailer([head.as_slice(), payload]).put_into(dst);
        Ok(())
    }

    /// The length of the frame at the front of `src`, including header and checksum. `None` while the header is
    /// incomplete.
    ///
    /// # Errors
    ///
    /// [`FrameError::PayloadTooLarge`] if the header announces a payload over the limit.
    #[doc(hidden)]
    #[inline]
    pub fn frame_len(&self, src: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(len) = self.config.framing.header.decode_len(src) else { return Ok(None) };
        let max = self.payload_limit as usize;
        if len > max {
            return Err(FrameError::PayloadTooLarge { len, max });
        }
        // Saturates only on 32-bit targets, where no buffer can be so long.
        Ok(Some(len.saturating_add(self.overhead_len.into())))
    }

    #[cold]
    fn fail(&mut self, error: FrameError) -> FrameError {
        if self.is_control(&error) {
            // For `decode_control`.
            return error;
        }
        self.state = State::Failed(Box::new(error));
        error
    }
}

impl Default for PacketCodec {
    fn default() -> Self {
        Self::new(CodecConfig::default())
    }
}
