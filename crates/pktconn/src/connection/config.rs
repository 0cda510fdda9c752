//! The configuration of a connection, and the check that its settings agree.

use std::sync::Arc;
use std::time::Duration;

use pktconn_codec::{CodecConfig, PacketCodec};
use tokio::runtime;

#[cfg(feature = "tls")]
use crate::TlsClientConfig;
use crate::connection::machine::{Limits, MaxAge, MinRate, Rules, Timeouts, Timing};
use crate::error::Reason;
use crate::{Error, SlowConsumer, TcpConfig};

/// The configuration of a connection: frames, send queue, flushing, deadlines, close.
///
/// A deadline that passes ends the connection, with [`Error::timeout`]. A deadline of zero is refused, with
/// [`is_config`](Error::is_config), when the configuration is used; `None` turns a deadline off. Deadlines cost nothing
/// for a packet: a timer is set only while a frame is incomplete or the transport is full, and is then reused.
///
/// ```
/// use std::time::Duration;
/// use pktconn::{Checksum, CodecConfig, ConnConfig};
///
/// let config = ConnConfig::new()
///     .codec(CodecConfig::new().checksum(Checksum::Crc32))
///     .send_high_water(256 * 1024)
///     .close_timeout(Duration::from_secs(3));
/// ```
#[derive(Clone, Debug)]
pub struct ConnConfig {
    pub(crate) codec: CodecConfig,
    pub(crate) send_high_water: usize,
    pub(crate) slow_consumer: SlowConsumer,
    pub(crate) send_max_lag: Option<Duration>,
    flush_delay: Duration,
    max_flush_delay: Option<Duration>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) handshake_timeout: Option<Duration>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsClientConfig>,
    pub(crate) timeouts: Timeouts,
    limits: Limits,
    max_age_grace: Duration,
    half_close: Option<bool>,
    pub(crate) heartbeat: Option<Duration>,
    skip_empty: bool,
    pub(crate) tcp: TcpConfig,
}

impl ConnConfig {
    /// The default limit on the send queue: enough to fill a pipe of 100 Mbit/s over 80 ms, small enough that 1,000
    /// peers that do not read cost 1 GiB at most.
    const DEFAULT_SEND_HIGH_WATER: usize = 1024 * 1024;

    /// Long enough for a megabyte over a slow mobile link, short enough to wait for at a shutdown.
    const DEFAULT_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

    /// Long enough for an application that is told of the end to close its side, or for a reset to come back.
    const DEFAULT_CLOSE_GRACE: Duration = Duration::from_secs(1);

    /// Long enough for a handshake whose first two packets were lost (1 s and 2 s on Linux), and then some.
    const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// Long enough for some round trips over a slow link, with a packet of them lost.
    const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

    /// Long enough for a large packet over a slow link (32 MiB take 9 Mbit/s), or for a network that is gone and comes
    /// back; short enough that peers which hold connections up are gone before they are many.
    const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(30);

    /// Long enough for a handler to answer the request that it works on.
    const DEFAULT_MAX_AGE_GRACE: Duration = Duration::from_secs(10);

    /// The proportion of the Go library's defaults, 1 ms and 10 ms.
    const MAX_FLUSH_DELAYS: u32 = 10;

    /// The defaults, as each setter names them.
    #[must_use]
    pub fn new() -> Self {
        Self {
            codec: CodecConfig::new(),
            send_high_water: Self::DEFAULT_SEND_HIGH_WATER,
            slow_consumer: SlowConsumer::Block,
            send_max_lag: None,
            flush_delay: Duration::ZERO,
            max_flush_delay: None,
            connect_timeout: Some(Self::DEFAULT_CONNECT_TIMEOUT),
            handshake_timeout: Some(Self::DEFAULT_HANDSHAKE_TIMEOUT),
            #[cfg(feature = "tls")]
            tls: None,
            timeouts: Timeouts {
                close: Self::DEFAULT_CLOSE_TIMEOUT,
                close_grace: Self::DEFAULT_CLOSE_GRACE,
                frame: Some(Self::DEFAULT_STALL_TIMEOUT),
                idle: None,
                write: Some(Self::DEFAULT_STALL_TIMEOUT),
            },
            limits: Limits::default(),
            max_age_grace: Self::DEFAULT_MAX_AGE_GRACE,
            half_close: None,
            heartbeat: None,
            skip_empty: false,
            tcp: TcpConfig::new(),
        }
    }

    /// Sets the format of frames and the limit on a payload. Both sides must agree on the format.
    ///
    /// Default: the Go library's format, payloads of up to 32 MiB.
    #[must_use]
    pub fn codec(mut self, codec: CodecConfig) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the high-water mark of the send queue, in bytes: packets that are accepted and not yet taken by the
    /// transport.
    ///
    /// Above it `send` waits and `try_send` fails, or the policy [`slow_consumer`](Self::slow_consumer) applies. A
    /// packet that is larger than the mark is accepted when the queue is empty. A packet of more than 64 KiB counts
    /// whole until the transport has taken all of it. Keyed packets
    /// ([`try_send_latest`](crate::PacketSender::try_send_latest)) have the same limit once more. Cost: up to this many
    /// bytes plus 128 KiB for each connection whose peer does not read, and one packet for each sink or permit. At
    /// least 1.
    ///
    /// Default: 1 MiB.
    #[must_use]
    pub fn send_high_water(mut self, bytes: usize) -> Self {
        self.send_high_water = bytes;
        self
    }

    /// Sets what to do with a packet that has no room in the send queue.
    ///
    /// Before a packet is dropped or the peer is disconnected, the transport is offered what is queued. Sockets and TLS
    /// are asked directly. Whether a custom stream has room may be known only since the last turn of tokio's driver, so
    /// `send` and `send_many` yield once before they judge it; `try_send` and broadcasts do not.
    ///
    /// Default: [`SlowConsumer::Block`]; nothing is dropped.
    #[must_use]
    pub fn slow_consumer(mut self, policy: SlowConsumer) -> Self {
        self.slow_consumer = policy;
        self
    }

    /// Sets the longest time that the send queue may stay non-empty: from when a byte is queued to when the peer's
    /// kernel has acknowledged it. After that the peer has no room, however few bytes are queued.
    ///
    /// Acknowledgements are visible for TCP on Linux, with or without TLS. Otherwise the time ends when the transport
    /// takes the byte. Bytes in the peer's receive buffer are acknowledged. The time is measured to a sixteenth of the
    /// limit.
    ///
    /// It needs a policy that drops or disconnects, and is refused with [`SlowConsumer::Block`]. `DropOldest` drops
    /// every queued packet of which no byte was written, when the next packet is sent. `Disconnect` ends the connection
    /// at that time, even if nothing more is sent. Default: `None`, no limit.
    #[must_use]
    pub fn send_max_lag(mut self, lag: impl Into<Option<Duration>>) -> Self {
        self.send_max_lag = lag.into();
        self
    }

    /// Sets timed coalescing, as in the Go library: packets are written when no other has followed for this long.
    ///
    /// A delay makes fewer and larger writes of packets that are sent over many scheduler turns. It costs latency, and
    /// throughput if connections wait for answers. Default: zero, adaptive flushing: packets leave at the end of the
    /// current scheduler turn, without a timer.
    #[must_use]
    pub fn flush_delay(mut self, delay: Duration) -> Self {
        self.flush_delay = delay;
        self
    }

    /// Sets the longest time that a packet waits for others under `flush_delay`.
    ///
    /// It must be at least `flush_delay`, and is refused without one. Default: ten times `flush_delay`.
    #[must_use]
    pub fn max_flush_delay(mut self, delay: Duration) -> Self {
        self.max_flush_delay = Some(delay);
        self
    }

    /// Sets the longest time that `close` takes: to write what was accepted, and to wait for the peer's close. See also
    /// [`close_grace`](Self::close_grace).
    ///
    /// Default: 10 s.
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.close = timeout;
        self
    }

    /// Sets how long `close` waits for the peer's close after the peer's kernel has acknowledged everything. A reset in
    /// this time is an error of the close.
    ///
    /// It works for TCP on Linux, where acknowledgements are visible, and for Unix sockets, with or without TLS.
    /// Otherwise `close` waits until [`close_timeout`](Self::close_timeout). Default: 1 s.
    #[must_use]
    pub fn close_grace(mut self, grace: Duration) -> Self {
        self.timeouts.close_grace = grace;
        self
    }

    /// Sets whether this side may keep sending after the peer has closed its side.
    ///
    /// If off, the connection closes when [`recv`](crate::PacketConn::recv) finds the peer's close: what is queued is
    /// written, and later sends fail with [`is_remote_close`](Error::is_remote_close). So a server's `close` does not
    /// wait for a client whose `recv` has returned `None` and that keeps a sender. If nobody calls `recv`, the setting
    /// has no effect.
    ///
    /// Default: on for connections that a server accepted or that were made of a stream; off for those made by
    /// `connect`.
    #[must_use]
    pub fn half_close(mut self, on: bool) -> Self {
        self.half_close = Some(on);
        self
    }

    /// Sets the longest time that connecting takes: to resolve the name and to try its addresses.
    ///
    /// Protects from an address that does not answer, for which the system waits for minutes. `None`: as long as the
    /// system waits. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.connect_timeout = timeout.into();
        self
    }

    /// Sets the longest time from the start of a connection to the end of its TLS handshake and its PROXY header,
    /// together. A server with sessions waits once more so long for a client to confirm its session.
    ///
    /// Protects from peers that connect and say nothing. On the open Internet, 2 s to 10 s: a handshake has one or two
    /// round trips, and each lost packet adds a second or more. `None`: no limit. Default: 10 s.
    #[cfg(any(feature = "tls", feature = "proxy-protocol", feature = "session"))]
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.handshake_timeout = timeout.into();
        self
    }

    /// Connects with TLS. Only for [`connect_with`](crate::PacketConn::connect_with): a server has
    /// [`ServerConfig::tls`](crate::ServerConfig::tls).
    ///
    /// If the peer closes without `close_notify`, the connection ends with [`is_io`](Error::is_io): somebody may have
    /// cut it.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: TlsClientConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the longest time that a frame takes, from its first byte to its last. Only the time counts in which
    /// [`recv`](crate::PacketConn::recv) waits, summed over calls. Single bytes do not extend it.
    ///
    /// Protects from peers that hold a connection, and memory for what they have sent, with hardly any traffic. Choose
    /// it for the largest packet over the slowest link: 32 MiB in 30 s are 9 Mbit/s. `None`: no limit. Default: 30 s.
    #[must_use]
    pub fn frame_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeouts.frame = timeout.into();
        self
    }

    /// Sends an empty packet when nothing else was sent for `interval`, so that the peer never waits for longer than
    /// that.
    ///
    /// For peers that have an idle timeout or sit behind a firewall that forgets idle connections, and that ignore
    /// empty packets. Set it to half of the peer's timeout. If the peer is also a `pktconn`, it sets
    /// [`skip_empty`](Self::skip_empty). A heartbeat lets the peer notice that this side is gone, by the peer's
    /// [`idle_timeout`](Self::idle_timeout).
    ///
    /// A heartbeat is sent at the earliest half an interval after the last packet. It counts as a packet in
    /// [`ConnStats`](crate::ConnStats). While bytes wait for the peer, none is sent. Cost: a small task and a timer for
    /// each connection, nothing for a packet. Default: `None`, no heartbeats.
    #[must_use]
    pub fn heartbeat(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.heartbeat = interval.into();
        self
    }

    /// Discards received packets that are empty: the peer's [heartbeats](Self::heartbeat).
    ///
    /// They count as a sign of life for [`idle_timeout`](Self::idle_timeout), and not in
    /// [`packets_received`](crate::ConnStats::packets_received). Default: off, an empty packet is received like any
    /// other.
    #[must_use]
    pub fn skip_empty(mut self, on: bool) -> Self {
        self.skip_empty = on;
        self
    }

    /// Sets how long a peer may show no sign of life while [`recv`](crate::PacketConn::recv) waits.
    ///
    /// Signs of life are received bytes, and progress of what is sent: on TCP on Linux, bytes that the peer's kernel
    /// acknowledges (checked in the second half of the time and at its end); otherwise, bytes that the transport takes.
    /// So on Linux a peer whose program hangs, and whose kernel acknowledges what you send, is not idle.
    ///
    /// Only the time counts in which `recv` waits. A call of `poll_recv` or a `Stream` waits from the poll that was
    /// pending to the next poll. A deadline that passes in this time counts, however late the thread notices it.
    ///
    /// Protects from peers that are gone without notice, if the protocol makes them send now and then. Cost: a small
    /// task for each connection that waits, and one look at the clock for each read. Default: `None`, no limit.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeouts.idle = timeout.into();
        self
    }

    /// Sets how long bytes may wait in the send queue while the peer takes none. The peer takes bytes when the
    /// transport does and, for TCP on Linux, when the peer's kernel acknowledges some. That is checked twice a second,
    /// so the connection ends up to 0.5 s late.
    ///
    /// Protects from peers that do not read or are gone: waiting senders get an error, and the memory of the queue is
    /// freed. For buffering transports, progress is a write into the buffer or a completed flush. `None`: no limit.
    /// Default: 30 s.
    #[must_use]
    pub fn write_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeouts.write = timeout.into();
        self
    }

    /// Sets the longest time from the start of the connection, after its handshakes, to the end of its first packet.
    /// Only the time counts in which [`recv`](crate::PacketConn::recv) waits, summed over calls.
    ///
    /// Protects from peers that connect and say nothing, or that drip the first packet. Later pauses are not limited:
    /// see [`idle_timeout`](Self::idle_timeout). An empty packet counts, also one that
    /// [`skip_empty`](Self::skip_empty) discards. Not for protocols in which this side may be the only one that sends.
    ///
    /// A connection that misses it ends with [`Timeout::FirstPacket`](crate::Timeout::FirstPacket). Cost: a small task
    /// and a timer for each connection, until the first packet. Default: `None`, no limit.
    #[must_use]
    pub fn first_packet_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.limits.first_packet = timeout.into();
        self
    }

    /// Sets the slowest rate at which the peer may send a frame, measured over windows of time in which
    /// [`recv`](crate::PacketConn::recv) waits for the rest of it.
    ///
    /// In each window the peer must send `bytes_per_second` times `window`, or the whole rest of the frame if that is
    /// less. Time between frames does not count, nor time in which nobody calls `recv`. A frame that is complete within
    /// a window is never too slow. Bytes beyond that count for the next window, up to one window's worth. Under TLS,
    /// bytes of incomplete records count.
    ///
    /// Protects from peers that drip bytes so that each frame stays just within
    /// [`frame_timeout`](Self::frame_timeout). It also allows a long `frame_timeout`, or none, for large packets over
    /// slow links. A peer that sends many tiny packets slowly holds no memory, and counts as one that is idle.
    ///
    /// Choose a rate far below the slowest honest link, and a window that is longer than its interruptions: 500 bytes/s
    /// over 5 s, for example. A zero rate or window is refused. A connection that is too slow ends with
    /// [`Timeout::MinRecvRate`](crate::Timeout::MinRecvRate). Cost: a timer for each window while a frame is
    /// incomplete. Default: `None`, no minimum; the window is then ignored.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use pktconn::ConnConfig;
    /// let window = Duration::from_secs(5);
    /// let config = ConnConfig::new().min_recv_rate(500, window).min_send_rate(8 * 1024, 6 * window);
    /// ```
    #[must_use]
    pub fn min_recv_rate(mut self, bytes_per_second: impl Into<Option<u64>>, window: Duration) -> Self {
        self.limits.recv_rate = bytes_per_second.into().map(|bytes| MinRate::new(bytes, window));
        self
    }

    /// Sets the slowest rate at which the peer may take what is sent, measured over windows of time in which the
    /// transport is full and more bytes are queued.
    ///
    /// In each window the peer must take `bytes_per_second` times `window`, or all that was due at its start if that is
    /// less. On TCP on Linux, with or without TLS, the bytes count that the peer's kernel acknowledges; otherwise, the
    /// bytes that the transport takes. Time in which nothing is queued does not count. Bytes beyond that count for the
    /// next window, up to one window's worth.
    ///
    /// Protects from peers that read a few bytes now and then, so that [`write_timeout`](Self::write_timeout) never
    /// passes and the send queue stays in memory.
    ///
    /// Kernels report progress in steps. TCP acknowledges up to two segments at a time, 3 KiB or on loopback 128 KiB.
    /// Where acknowledgements are not visible, a step is the transport's buffer, such as 208 KiB for a Unix socket. So
    /// choose a rate and a window whose product is larger than a step: 8 KiB/s over 30 s, for example. A zero rate or
    /// window is refused. A connection that is too slow ends with
    /// [`Timeout::MinSendRate`](crate::Timeout::MinSendRate); the packets in its send queue are lost. Cost: two system
    /// calls a second while the transport is full. Default: `None`, no minimum; the window is then ignored.
    #[must_use]
    pub fn min_send_rate(mut self, bytes_per_second: impl Into<Option<u64>>, window: Duration) -> Self {
        self.limits.send_rate = bytes_per_second.into().map(|bytes| MinRate::new(bytes, window));
        self
    }

    /// Sets the longest time that a connection lasts, from its start after the handshakes: for each connection up to a
    /// tenth more or less, so that peers which connected together do not all reconnect together.
    ///
    /// At that age the connection drains, as at a [shutdown](crate::ServerConfig::drain_on_shutdown): `recv` returns
    /// what has arrived, at most 8 MiB, and then `None`. So a handler that receives in a loop ends by itself, and
    /// closes the connection cleanly. If the connection is still open after
    /// [`max_connection_age_grace`](Self::max_connection_age_grace), it ends with
    /// [`Timeout::MaxAge`](crate::Timeout::MaxAge).
    ///
    /// Protects from peers that hold a connection for ever within all other limits, and from a lasting imbalance
    /// between servers behind a load balancer. Packets that the peer sends after the drain are lost, so the protocol
    /// must be able to repeat a request over a new connection. Meant for servers; a [`Client`](crate::Client) with this
    /// setting connects again.
    ///
    /// Cost: a small task and a timer for each connection. Default: `None`, no limit.
    #[must_use]
    pub fn max_connection_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        let grace = self.max_age_grace;
        self.limits.max_age = age.into().map(|age| MaxAge { age, grace });
        self
    }

    /// Sets how long a connection may stay open after its [`max_connection_age`](Self::max_connection_age). A close
    /// that has begun has its own [`close_timeout`](Self::close_timeout).
    ///
    /// It may be zero. Default: 10 s.
    #[must_use]
    pub fn max_connection_age_grace(mut self, grace: Duration) -> Self {
        self.max_age_grace = grace;
        if let Some(max) = &mut self.limits.max_age {
            max.grace = grace;
        }
        self
    }

    /// Sets the options of TCP sockets. Other transports ignore them.
    #[must_use]
    pub fn tcp(mut self, tcp: TcpConfig) -> Self {
        self.tcp = tcp;
        self
    }

    /// Refuses what cannot work; every way to make a connection or a server starts with this.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.send_high_water == 0 {
            return Err(Reason::Config("send_high_water must be at least 1 byte").into());
        }
        if self.send_max_lag.is_some() && self.slow_consumer == SlowConsumer::Block {
            let problem = "send_max_lag has no effect while senders wait: set another slow_consumer";
            return Err(Reason::Config(problem).into());
        }
        let timeouts = [
            (self.send_max_lag, "send_max_lag must not be zero"),
            (self.connect_timeout, "connect_timeout must not be zero"),
            (self.handshake_timeout, "handshake_timeout must not be zero"),
            (self.timeouts.frame, "frame_timeout must not be zero"),
            (self.timeouts.idle, "idle_timeout must not be zero"),
            (self.timeouts.write, "write_timeout must not be zero"),
            (self.heartbeat, "heartbeat must not be zero"),
            (self.limits.first_packet, "first_packet_timeout must not be zero"),
            (self.limits.max_age.map(|max| max.age), "max_connection_age must not be zero"),
        ];
        if let Some((_, problem)) = timeouts.into_iter().find(|(timeout, _)| *timeout == Some(Duration::ZERO))
        {
            return Err(Reason::Config(problem).into());
        }
        let rates = [
            (self.limits.recv_rate, "neither the rate nor the window of min_recv_rate may be zero"),
            (self.limits.send_rate, "neither the rate nor the window of min_send_rate may be zero"),
        ];
        if let Some((_, problem)) = rates.into_iter().find(|(rate, _)| rate.is_some_and(MinRate::is_zero)) {
            return Err(Reason::Config(problem).into());
        }
        self.tcp.check().map_err(Reason::Config)?;
        match self.max_flush_delay {
            Some(max) if max < self.flush_delay => {
                Err(Reason::Config("max_flush_delay must not be shorter than flush_delay").into())
            }
            Some(_) if self.flush_delay.is_zero() => {
                Err(Reason::Config("max_flush_delay has no effect without a flush_delay").into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses what cannot work for a connection that is not made by connecting.
    pub(crate) fn check_without_connect(&self) -> Result<(), Error> {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return Err(Reason::Config(
                "ConnConfig::tls is only for connecting; a server needs ServerConfig::tls",
            )
            .into());
        }
        self.check()
    }

    /// The part that the machine uses.
    pub(crate) fn rules(&self, origin: Origin) -> Rules {
        let Limits { first_packet, recv_rate, send_rate, max_age } = &self.limits;
        let has_limits =
            first_packet.is_some() || recv_rate.is_some() || send_rate.is_some() || max_age.is_some();
        Rules {
            codec: PacketCodec::new(self.codec),
            timeouts: self.timeouts.clone(),
            limits: has_limits.then(|| Box::new(self.limits.clone())),
            times_silence: self.timeouts.idle.is_some() || first_packet.is_some(),
            slow_consumer: self.slow_consumer,
            send_high_water: self.send_high_water,
            half_close: self.half_close.unwrap_or(origin != Origin::Connected),
        }
    }

    #[cfg(feature = "session")]
    pub(crate) fn skips_empty(&self) -> bool {
        self.skip_empty
    }

    /// `None` for adaptive flushing.
    pub(crate) fn timing(&self) -> Option<Timing> {
        if self.flush_delay.is_zero() {
            return None;
        }
        let max_delay =
            self.max_flush_delay.unwrap_or_else(|| self.flush_delay.saturating_mul(Self::MAX_FLUSH_DELAYS));
        Some(Timing::new(self.flush_delay, max_delay))
    }
}

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Connected,
    Accepted,
    /// Made of a stream of the application's.
    Unknown,
}

/// What a connection looks at from its configuration while it lives. The connections of a server have theirs in common:
/// so each holds a pointer to it, and what they look at for each packet stays in the cache.
pub(crate) struct Settings {
    pub(crate) rules: Rules,
    pub(crate) home: Home,
    pub(crate) skips_empty: bool,
    /// Whether no one else can have a handle to the sockets, as of those that a server has accepted. Closing such a socket
    /// is enough to send FIN.
    pub(crate) owns_socket: bool,
}

/// The runtime that a connection lives in: that of its own tasks.
pub(crate) struct Home {
    pub(crate) runtime: runtime::Handle,
    pub(crate) id: runtime::Id,
}

impl Settings {
    /// Those for `config`, which was checked, of the connections of a server or of one connection. To be called in a
    /// runtime.
    pub(crate) fn new(config: &ConnConfig, origin: Origin) -> Arc<Self> {
        let runtime = runtime::Handle::current();
        let home = Home { id: runtime.id(), runtime };
        let owns_socket = origin == Origin::Accepted;
        Arc::new(Self { rules: config.rules(origin), home, skips_empty: config.skip_empty, owns_socket })
    }
}

impl Default for ConnConfig {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        let ms = Duration::from_millis;
        let cases = [
            (ConnConfig::new().send_high_water(0), "send_high_water"),
            (ConnConfig::new().flush_delay(ms(5)).max_flush_delay(ms(4)), "shorter"),
            (ConnConfig::new().max_flush_delay(ms(4)), "without a flush_delay"),
            (ConnConfig::new().connect_timeout(ms(0)), "connect_timeout"),
            (ConnConfig { handshake_timeout: Some(ms(0)), ..ConnConfig::new() }, "handshake_timeout"),
            (ConnConfig::new().frame_timeout(ms(0)), "frame_timeout"),
            (ConnConfig::new().idle_timeout(ms(0)), "idle_timeout"),
            (ConnConfig::new().write_timeout(ms(0)), "write_timeout"),
            (ConnConfig::new().heartbeat(ms(0)), "heartbeat"),
            (ConnConfig::new().first_packet_timeout(ms(0)), "first_packet_timeout"),
            (ConnConfig::new().max_connection_age(ms(0)), "max_connection_age"),
            (ConnConfig::new().min_recv_rate(0, ms(1)), "min_recv_rate"),
            (ConnConfig::new().min_recv_rate(1, ms(0)), "min_recv_rate"),
            (ConnConfig::new().min_send_rate(0, ms(1)), "min_send_rate"),
            (ConnConfig::new().min_send_rate(1, ms(0)), "min_send_rate"),
            (ConnConfig::new().tcp(TcpConfig::new().keepalive(ms(999))), "keepalive"),
            (ConnConfig::new().tcp(TcpConfig::new().send_buffer(0)), "send_buffer"),
            (ConnConfig::new().send_max_lag(ms(4)), "slow_consumer"),
            (ConnConfig::new().slow_consumer(SlowConsumer::DropOldest).send_max_lag(ms(0)), "send_max_lag"),
        ];
        for (config, expected) in cases {
            let error = config.check().unwrap_err();
            assert!(error.is_config(), "{error:?}");
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(ConnConfig::new().check().is_ok());
        assert!(ConnConfig::new().flush_delay(ms(1)).check().is_ok());
        assert!(ConnConfig::new().flush_delay(ms(1)).max_flush_delay(ms(1)).check().is_ok());
        assert!(ConnConfig::new().min_recv_rate(0, ms(0)).min_recv_rate(None, ms(0)).check().is_ok());
    }

    #[test]
    fn the_grace_of_the_maximum_age_may_be_set_before_or_after_it() {
        let (age, grace) = (Duration::from_secs(60), Duration::from_secs(3));
        for config in [
            ConnConfig::new().max_connection_age(age).max_connection_age_grace(grace),
            ConnConfig::new().max_connection_age_grace(grace).max_connection_age(age),
        ] {
            assert_eq!(config.limits.max_age, Some(MaxAge { age, grace }));
        }
    }

    #[test]
    fn the_longest_delay_follows_from_the_delay() {
        let delay = Duration::from_millis(1);
        let timing = ConnConfig::new().flush_delay(delay).timing();
        assert_eq!(timing, Some(Timing::new(delay, Duration::from_millis(10))));
        assert_eq!(ConnConfig::new().timing(), None);
    }
}
