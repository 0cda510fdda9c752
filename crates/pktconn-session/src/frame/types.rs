//! The control frames and their fields.

use std::fmt;

/// The highest version of the protocol that this crate speaks.
pub const VERSION: u8 = 1;

/// What identifies a session: 16 random bytes, chosen by the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// The id in the HELLO of a new session. No session has it.
    pub const NEW: Self = Self([0; 16]);
}

/// The id as 32 hexadecimal digits.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What proves that a client may resume a session: 16 random bytes, chosen by the server. `Debug` does not show it.
#[derive(Clone, Copy, Default, Eq)]
pub struct Secret(pub [u8; 16]);

/// Takes the same time for all secrets, so that a client cannot guess one byte by byte.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(other.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A control frame of a known type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlFrame {
    /// 0x00, from the client: begins or resumes a session.
    Hello(Hello),
    /// 0x01, from the server: accepts HELLO.
    Welcome(Welcome),
    /// 0x02, from the server: refuses HELLO, or ends an older connection of a session.
    Reject(Reject),
    /// 0x03: how many packets were handed to the application.
    Ack {
        /// The number of packets.
        received: u64,
    },
    /// 0x04: asks for a PONG with the same data.
    Ping {
        /// Opaque bytes.
        data: [u8; 8],
    },
    /// 0x05: answers a PING.
    Pong {
        /// The bytes of the PING.
        data: [u8; 8],
    },
    /// 0x06, from the server: asks the client to move.
    GoAway(GoAway),
    /// 0x07: ends the direction of its sender.
    Bye(Bye),
    /// 0x08: its sender hands no more packets to its application.
    Stop {
        /// The final number of packets that were handed to the application.
        received: u64,
    },
    /// 0x09: its sender is settled, and so is its receiver.
    Done,
}

impl ControlFrame {
    /// Its name in the specification.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "HELLO",
            Self::Welcome(_) => "WELCOME",
            Self::Reject(_) => "REJECT",
            Self::Ack { .. } => "ACK",
            Self::Ping { .. } => "PING",
            Self::Pong { .. } => "PONG",
            Self::GoAway(_) => "GOAWAY",
            Self::Bye(_) => "BYE",
            Self::Stop { .. } => "STOP",
            Self::Done => "DONE",
        }
    }
}

/// The body of HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The highest version that the client supports.
    pub version: u8,
    /// The optional features that the client supports; version 1 defines none.
    pub features: u32,
    /// The session, or [`SessionId::NEW`].
    pub id: SessionId,
    /// The secret of WELCOME, or zeros for a new session.
    pub secret: Secret,
    /// 1 for a new session, and one more with each HELLO of the session.
    pub attempt: u32,
    /// How many packets of the server were handed to the application.
    pub received: u64,
    /// The lowest number of a packet that the client holds.
    pub first_held: u64,
    /// How many bytes of packets the client can hold.
    pub replay_bytes: u32,
}

/// The body of WELCOME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version of the session.
    pub version: u8,
    /// The features that both sides support.
    pub features: u32,
    /// The session.
    pub id: SessionId,
    /// Proves at a resume that the client may use the session.
    pub secret: Secret,
    /// Whether the session existed before.
    pub resumed: bool,
    /// How many packets of the client were handed to the application.
    pub received: u64,
    /// The lowest number of a packet that the server holds.
    pub first_held: u64,
    /// How many bytes of packets the server can hold.
    pub replay_bytes: u32,
    /// How long the server keeps the session without a connection, in milliseconds.
    pub ttl_ms: u32,
    /// The shortest interval of PINGs that the client should use, in milliseconds.
    pub min_ping_ms: u32,
    /// The address at which to resume; empty: the address that the client used. At most 255 bytes.
    pub resume_at: String,
}

/// The body of REJECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// When to try again, in milliseconds.
    pub retry_after_ms: u32,
}

/// The body of GOAWAY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoAway {
    /// Why, for logs.
    pub reason: GoAwayReason,
    /// When the server ends the session, in milliseconds.
    pub deadline_ms: u32,
    /// Within which time the client should pick a random moment to move, in milliseconds.
    pub spread_ms: u32,
    /// Another server, or empty. At most 255 bytes.
    pub address: String,
}

/// The body of BYE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bye {
    /// Why.
    pub reason: ByeReason,
    /// How many packets the sender has numbered in the whole session. It numbers no more.
    pub sent: u64,
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A reason that this version does not know.
            Other(u8),
        }

        impl From<u8> for $name {
            fn from(code: u8) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    other => Self::Other(other),
                }
            }
        }

        impl From<$name> for u8 {
            fn from(reason: $name) -> Self {
                match reason {
                    $($name::$variant => $code,)*
                    $name::Other(code) => code,
                }
            }
        }
    };
}

reasons! {
    /// Why a server sends REJECT.
    RejectReason {
        /// No such session, or a wrong secret.
        Unknown = 1,
        /// A counter in HELLO is out of its bounds. The session has ended.
        Diverged = 2,
        /// The session is used by a newer connection.
        Superseded = 3,
        /// Try again later.
        Busy = 4,
        /// The server accepts no new sessions.
        Draining = 5,
        /// No common version.
        Version = 6,
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "it does not know the session",
            Self::Diverged => "a counter of this side is out of its bounds",
            Self::Superseded => "the session is used by a newer connection",
            Self::Busy => "it has no room for a session now",
            Self::Draining => "it accepts no new sessions",
            Self::Version => "it has no version of the protocol in common",
            Self::Other(code) => return write!(f, "reason {code}"),
        })
    }
}

reasons! {
    /// Why a server sends GOAWAY.
    GoAwayReason {
        /// No reason given.
        Unspecified = 0,
        /// The server stops.
        Shutdown = 1,
        /// The server has too much load.
        Load = 2,
    }
}

reasons! {
    /// Why a side ends its direction.
    ByeReason {
        /// The application sends no more.
        Finished = 0,
        /// The client moves to another server.
        Moved = 1,
        /// The application has closed the session.
        Closed = 2,
        /// The server ends.
        Shutdown = 3,
        /// The application has failed.
        Failed = 4,
        /// A counter of the peer was out of its bounds.
        Diverged = 5,
    }
}
