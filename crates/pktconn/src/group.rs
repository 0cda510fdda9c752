//! One packet to many connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pktconn_codec::{Checksum, HeaderFormat, Packet, PacketCodec, PacketMut};

use crate::PacketSender;
use crate::connection::deferred::catch_panic;
use crate::connection::shared::Shared;
use crate::error::Reason;

/// Connections that get the same packets, such as the guests of a room.
///
/// Each member can have a tag, a name or a team, for [`broadcast_if`](Self::broadcast_if) to choose by. A member whose
/// connection ends is one no more: the group does not keep a connection open. Clones are the same group.
///
/// ```
/// use pktconn::{ConnConfig, Group, PacketConn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), pktconn::Error> {
/// let (here, there) = tokio::io::duplex(4096);
/// let (conn, mut peer) = (PacketConn::new(here, ConnConfig::new())?, PacketConn::new(there, ConnConfig::new())?);
///
/// let room = Group::new();
/// room.join(&conn, "alice");
/// let told = room.broadcast(b"hello");
/// assert_eq!((told.delivered, told.dropped, told.gone), (1, 0, 0));
/// assert_eq!(peer.recv().await?.unwrap().payload(), b"hello");
/// room.broadcast_if(b"to all but alice", |name| *name != "alice");
/// # Ok(())
/// # }
/// ```
pub struct Group<T = ()>(Arc<Mutex<Members<T>>>);

struct Members<T> {
    /// By the address of what they share, which no other has while one of these points to it.
    conns: HashMap<usize, Arc<Member<T>>>,
    /// With so many of them, those that have ended are looked for.
    look_at: usize,
}

struct Member<T> {
    conn: Weak<Shared>,
    tag: T,
}

/// What became of a packet that was sent to a [`Group`]: how many members it concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broadcast {
    /// Connections that accepted it.
    pub delivered: usize,
    /// Connections that had no room for it, or whose limit on a payload it is over. They count it in
    /// [`packets_dropped`](crate::ConnStats::packets_dropped).
    pub dropped: usize,
    /// Connections that had ended, or ended for being [too slow](crate::SlowConsumer::Disconnect): members no more.
    pub gone: usize,
}

impl<T> Group<T> {
    const FIRST_LOOK: usize = 64;

    /// A group without members.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Members { conns: HashMap::new(), look_at: Self::FIRST_LOOK })))
    }

    fn members(&self) -> MutexGuard<'_, Members<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection a member. One that is a member already gets the new tag.
    pub fn join(&self, conn: impl AsRef<PacketSender>, tag: T) {
        let conn = Arc::downgrade(conn.as_ref().shared());
        let mut members = self.members();
        let last = members.conns.insert(key(&conn), Arc::new(Member { conn, tag }));
        let mut ended = Vec::new();
        if members.conns.len() >= members.look_at {
            // Where nobody broadcasts, nobody else notices.
            members.conns.retain(|_, member| {
                let is_there = member.conn.strong_count() > 0;
                if !is_there {
                    ended.push(Arc::clone(member));
                }
                is_there
            });
            let capacity = 2 * members.conns.len();
            members.conns.shrink_to(capacity);
            members.look_at = (2 * members.conns.len()).max(Self::FIRST_LOOK);
        }
        drop(members);
        // To drop a tag may run code of the application's.
        drop((last, ended));
    }

    /// Takes a connection out; says whether it was a member.
    pub fn leave(&self, conn: impl AsRef<PacketSender>) -> bool {
        let key = key(&Arc::downgrade(conn.as_ref().shared()));
        let left = self.members().conns.remove(&key);
        left.is_some()
    }

    /// How many connections are members, those that have ended and were not noticed yet among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members().conns.len()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends a packet to all members. It is encoded once for all that have the same format, and does not wait for any: what
    /// becomes of it where there is no room is the matter of each connection's
    /// [`slow_consumer`](crate::ConnConfig::slow_consumer). Under [`Block`](crate::SlowConsumer::Block), where nobody can
    /// be kept waiting here, it is dropped for that member.
    pub fn broadcast(&self, packet: impl Into<Packet>) -> Broadcast {
        self.broadcast_if(packet, |_| true)
    }

    /// Sends a packet to the members whose tag `filter` accepts, as [`broadcast`](Self::broadcast) does to all.
    pub fn broadcast_if(&self, packet: impl Into<Packet>, mut filter: impl FnMut(&T) -> bool) -> Broadcast {
        let mut framed = Framed::new(packet.into());
        // Sending and choosing may run code of the application's, which may use the group.
        let members: Vec<_> = self.members().conns.values().map(Arc::clone).collect();
        let mut result = Broadcast::default();
        let mut gone = Vec::new();
        for member in members.iter().filter(|member| filter(&member.tag)) {
            // A transport of the application's that panics ends its own connection alone. One that goes on has accepted the
            // packet: what panicked then was a waker, or the memory of another packet.
            let sent = member
                .conn
                .upgrade()
                .map(|conn| catch_panic(|| send(&conn, &mut framed)).unwrap_or_else(|| conn.check_open()));
            match sent {
                Some(Ok(())) => result.delivered += 1,
                Some(Err(Reason::Full | Reason::TooLarge(_))) => result.dropped += 1,
                Some(Err(_)) | None => gone.push(member),
            }
        }
        result.gone = gone.len();
        if !gone.is_empty() {
            let mut members = self.members();
            for member in gone {
                // Unless it has joined anew.
                if let Some(present) = members.conns.get(&key(&member.conn)) {
                    if Arc::ptr_eq(present, member) {
                        // Not the last one of it: so nothing is dropped under the lock.
                        members.conns.remove(&key(&member.conn));
                    }
                }
            }
        }
        result
    }
}

fn key(conn: &Weak<Shared>) -> usize {
    conn.as_ptr() as usize
}

fn send(conn: &Arc<Shared>, packet: &mut Framed) -> Result<(), Reason> {
    let result = conn.offer(packet.in_format_of(&conn.settings.rules.codec));
    if let Err(Reason::Full | Reason::TooLarge(_)) = result {
        conn.drop_newest()?;
    }
    result
}

/// A packet in the formats that were asked for: mostly one.
struct Framed {
    packet: Packet,
    copies: Vec<(Format, Packet)>,
}

type Format = (HeaderFormat, Checksum);

impl Framed {
    fn new(packet: Packet) -> Self {
        Self { packet, copies: Vec::new() }
    }

    /// The packet with all that stands around it on the wire: so no member has to compute a checksum.
    fn in_format_of(&mut self, codec: &PacketCodec) -> &Packet {
        let config = codec.config();
        let format = (config.header_format(), config.checksum_kind());
        // Before the look at the packet itself, which takes a checksum where it is not ready.
        if let Some(at) = self.copies.iter().position(|(of_copy, _)| *of_copy == format) {
            return &self.copies[at].1;
        }
        // One that is over the limit is refused, whatever its format.
        if codec.frame(&self.packet).map_or(true, |frame| frame.body().len() == frame.len()) {
            return &self.packet;
        }
        let mut copy = PacketMut::with_capacity(self.packet.len());
        copy.write_bytes(self.packet.payload());
        self.copies.push((format, copy.freeze_for(config)));
        &self.copies[self.copies.len() - 1].1
    }
}

impl<T> Clone for Group<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> std::fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("len", &self.len()).finish_non_exhaustive()
    }
}
