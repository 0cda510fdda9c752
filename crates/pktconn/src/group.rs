//! One packet to many connections.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pktconn_codec::{Checksum, HeaderFormat, Packet, PacketCodec, PacketMut};

use crate::connection::conn_core::ConnCore;
use crate::connection::deferred::catch_panic;
use crate::connection::machine::Encoded;
use crate::error::Reason;
use crate::{PacketSender, SlowConsumer};

/// Connections that get the same packets, such as the players in a room.
///
/// Each member has a tag: a name, a team. [`broadcast_if`](Self::broadcast_if) chooses members by it. A member leaves
/// when its connection ends: the group does not keep a connection open. Clones are the same group.
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
/// let sent = room.broadcast("hello");
/// assert_eq!((sent.accepted, sent.dropped, sent.gone), (1, 0, 0));
/// assert_eq!(peer.recv().await?.unwrap().payload(), b"hello");
/// room.broadcast_if("to all but alice", |name| *name != "alice");
/// # Ok(())
/// # }
/// ```
pub struct Group<T = ()> {
    members: Arc<Mutex<Members<T>>>,
    /// `None`: each connection has its own.
    policy: Option<SlowConsumer>,
}

struct Members<T> {
    /// By the address of the shared state, which is unique while a `Weak` points to it.
    conns: HashMap<usize, Arc<Member<T>>>,
    /// Those that joined as the only one with their tag.
    by_tag: HashMap<Arc<T>, Arc<Member<T>>>,
    /// The number of members at which those that have ended are removed.
    look_at: usize,
}

struct Member<T> {
    conn: Weak<ConnCore>,
    tag: Arc<T>,
}

/// What happened to a packet that was sent to a [`Group`], as numbers of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broadcast {
    /// Members that accepted it.
    pub accepted: usize,
    /// Members that had no room for it, or whose payload limit it exceeds. They count it in
    /// [`packets_dropped`](crate::ConnStats::packets_dropped).
    pub dropped: usize,
    /// Members whose connection had ended, or was ended as [too slow](SlowConsumer::Disconnect). They have left the
    /// group.
    pub gone: usize,
}

impl<T> Group<T> {
    const FIRST_LOOK: usize = 64;

    /// A group without members.
    #[must_use]
    pub fn new() -> Self {
        let members = Members { conns: HashMap::new(), by_tag: HashMap::new(), look_at: Self::FIRST_LOOK };
        Self { members: Arc::new(Mutex::new(members)), policy: None }
    }

    /// Sets what a broadcast does to a member that has no room for the packet, whatever
    /// [`slow_consumer`](crate::ConnConfig::slow_consumer) its connection has for [`send`](PacketSender::send). For
    /// example, broadcasts drop packets or disconnect slow members, while `send` waits. A broadcast never waits:
    /// `Block` drops the packet for that member.
    ///
    /// It holds for this handle and its later clones. [`DropOldest`](SlowConsumer::DropOldest) drops the oldest packets
    /// of the member's queue, also those that were not broadcast. Default: the policy of each connection.
    #[must_use]
    pub fn slow_consumer(mut self, policy: SlowConsumer) -> Self {
        self.policy = Some(policy);
        self
    }

    fn members(&self) -> MutexGuard<'_, Members<T>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection a member. A connection that is a member already gets the new tag.
    ///
    /// Several members can have the same tag. For one member for each tag, use [`join_as`](Self::join_as).
    pub fn join(&self, conn: impl AsRef<PacketSender>, tag: T) {
        let conn = Arc::downgrade(conn.as_ref().core());
        let mut members = self.members();
        let removed = members.insert(Arc::new(Member { conn, tag: Arc::new(tag) }));
        drop(members);
        // Dropping a tag may run code of the application.
        drop(removed);
    }

    /// Removes a connection. Returns whether it was a member.
    pub fn leave(&self, conn: impl AsRef<PacketSender>) -> bool {
        let key = key(&Arc::downgrade(conn.as_ref().core()));
        let left = self.members().conns.remove(&key);
        left.is_some()
    }

    /// The number of members. Connections that have ended count until the group notices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members().conns.len()
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends a packet to all members. It is encoded once for all members of the same format, and does not wait for any
    /// of them: see [`slow_consumer`](Self::slow_consumer) for a member that has no room.
    pub fn broadcast(&self, packet: impl Into<Packet>) -> Broadcast {
        self.broadcast_if(packet, |_| true)
    }

    /// Sends a packet to the members whose tag `filter` accepts. See [`broadcast`](Self::broadcast).
    pub fn broadcast_if(&self, packet: impl Into<Packet>, filter: impl FnMut(&T) -> bool) -> Broadcast {
        self.send_to(packet.into(), filter, ConnCore::offer_with)
    }

    /// Sends a packet to all members that replaces the queued packet with the same `key`, where a member has not taken
    /// that one yet: for the state of something, of which a slow member needs only the latest. See
    /// [`PacketSender::try_send_latest`].
    pub fn broadcast_latest(&self, key: u64, packet: impl Into<Packet>) -> Broadcast {
        // Members of the same format share a copy.
        let mut copies = Vec::<(Format, Encoded)>::new();
        let offer = |conn: &Arc<ConnCore>, packet: &Packet, policy| {
            let codec = &conn.settings.rules.codec;
            let frame = codec.frame(packet).map_err(Reason::TooLarge)?;
            let copy = copies.iter().find(|(format, _)| *format == format_of(codec));
            let copy = copy.map(|(_, copy)| copy.clone()).unwrap_or_else(|| {
                let copy = Encoded::new(&frame);
                copies.push((format_of(codec), copy.clone()));
                copy
            });
            conn.offer_latest(key, copy, policy)
        };
        self.send_to(packet.into(), |_| true, offer)
    }

    fn send_to(
        &self,
        packet: Packet,
        mut filter: impl FnMut(&T) -> bool,
        mut offer: impl FnMut(&Arc<ConnCore>, &Packet, SlowConsumer) -> Result<(), Reason>,
    ) -> Broadcast {
        let mut framed = Framed::new(packet);
        // Sending and choosing may run code of the application, which may use the group.
        let members: Vec<_> = self.members().conns.values().map(Arc::clone).collect();
        let mut send = |conn: Arc<ConnCore>| {
            let rules = &conn.settings.rules;
            let result =
                offer(&conn, framed.in_format_of(&rules.codec), self.policy.unwrap_or(rules.slow_consumer));
            if let Err(Reason::Full | Reason::TooLarge(_)) = result {
                conn.drop_newest()?;
            }
            result
        };
        let mut result = Broadcast::default();
        let mut gone = Vec::new();
        for member in members.iter().filter(|member| filter(&member.tag)) {
            // A transport of the application that panics ends only its own connection. If the connection is still open,
            // it has accepted the packet: a waker panicked, or the memory of another packet.
            let sent = member
                .conn
                .upgrade()
                .map(|conn| catch_panic(|| send(Arc::clone(&conn))).unwrap_or_else(|| conn.check_open()));
            match sent {
                Some(Ok(())) => result.accepted += 1,
                Some(Err(Reason::Full | Reason::TooLarge(_))) => result.dropped += 1,
                Some(Err(_)) | None => gone.push(member),
            }
        }
        result.gone = gone.len();
        if !gone.is_empty() {
            let mut members = self.members();
            for member in gone {
                // Unless it has joined again. `members` above still holds it: nothing is dropped under the lock.
                if members.has(member) {
                    members.conns.remove(&key(&member.conn));
                }
            }
        }
        result
    }
}

impl<T: Eq + Hash> Group<T> {
    /// Makes the connection the holder of `tag`. The previous holder leaves the group and is returned if its connection
    /// is open: close it, or send it a last packet. Members that joined by [`join`](Self::join) with the same tag are
    /// not affected, and a connection that joins again by `join` holds no tag.
    ///
    /// ```
    /// # use pktconn::{Group, PacketConn};
    /// # async fn example(users: Group<u64>, conn: PacketConn) {
    /// if let Some(old) = users.join_as(&conn, 4711) {
    ///     let _ = old.try_send("you logged in elsewhere");
    ///     let _ = old.close().await;
    /// }
    /// # }
    /// ```
    pub fn join_as(&self, conn: impl AsRef<PacketSender>, tag: T) -> Option<PacketSender> {
        let conn = Arc::downgrade(conn.as_ref().core());
        let member = Arc::new(Member { conn, tag: Arc::new(tag) });
        let mut members = self.members();
        // Dropping a tag may run code of the application, which may use the group: all of these are dropped without the
        // lock.
        let mut removed = Vec::new();
        // With its key, which `insert` would keep.
        let last = members.by_tag.remove_entry(&member.tag);
        members.by_tag.insert(Arc::clone(&member.tag), Arc::clone(&member));
        let replaced = last
            .as_ref()
            .map(|(_, last)| last)
            .filter(|last| members.has(last) && !last.conn.ptr_eq(&member.conn));
        let replaced = replaced.map(|replaced| (key(&replaced.conn), replaced.conn.clone()));
        if let Some((key, _)) = &replaced {
            removed.extend(members.conns.remove(key));
        }
        removed.extend(last.map(|(_, last)| last));
        removed.extend(members.insert(member));
        if members.by_tag.len() >= 2 * members.conns.len().max(Self::FIRST_LOOK) {
            // Holders that have left.
            let mut by_tag = std::mem::take(&mut members.by_tag);
            by_tag.retain(|_, member| {
                let is_there = members.has(member);
                if !is_there {
                    removed.push(Arc::clone(member));
                }
                is_there
            });
            members.by_tag = by_tag;
        }
        drop(members);
        drop(removed);
        replaced.and_then(|(_, conn)| sender(&conn))
    }

    /// A sender to the connection that [joined as](Self::join_as) `tag`. `None` if no member holds the tag, or if that
    /// connection has ended or is closing. Members of [`join`](Self::join) are not found.
    ///
    /// The sender keeps the connection open, like any other handle.
    #[must_use]
    pub fn get(&self, tag: &T) -> Option<PacketSender> {
        let members = self.members();
        let member = members.by_tag.get(tag).filter(|member| members.has(member))?;
        let conn = member.conn.clone();
        drop(members);
        // Without the lock: if this is the last handle by now, dropping it may run code of the application.
        sender(&conn)
    }
}

/// A sender of a connection that has not ended.
fn sender(conn: &Weak<ConnCore>) -> Option<PacketSender> {
    let conn = conn.upgrade()?;
    // Not of a connection whose last handle is gone: it is ending.
    conn.check_open().ok()?;
    Some(PacketSender::new(&conn))
}

fn key(conn: &Weak<ConnCore>) -> usize {
    conn.as_ptr() as usize
}

impl<T> Members<T> {
    /// Whether `member` is one: neither replaced nor gone.
    fn has(&self, member: &Arc<Member<T>>) -> bool {
        self.conns.get(&key(&member.conn)).is_some_and(|present| Arc::ptr_eq(present, member))
    }

    /// Adds a member. Returns the one that it replaces, and others whose connections have ended: to be dropped without
    /// the lock.
    fn insert(&mut self, member: Arc<Member<T>>) -> Vec<Arc<Member<T>>> {
        let mut removed = Vec::new();
        removed.extend(self.conns.insert(key(&member.conn), member));
        if self.conns.len() >= self.look_at {
            // If nobody broadcasts, nothing else notices ended connections.
            self.conns.retain(|_, member| {
                let is_there = member.conn.strong_count() > 0;
                if !is_there {
                    removed.push(Arc::clone(member));
                }
                is_there
            });
            let capacity = 2 * self.conns.len();
            self.conns.shrink_to(capacity);
            self.look_at = (2 * self.conns.len()).max(Group::<T>::FIRST_LOOK);
        }
        removed
    }
}

/// A packet in the formats that members have: mostly one.
struct Framed {
    packet: Packet,
    copies: Vec<(Format, Packet)>,
}

type Format = (HeaderFormat, Checksum);

fn format_of(codec: &PacketCodec) -> Format {
    (codec.config().header_format(), codec.config().checksum_kind())
}

impl Framed {
    fn new(packet: Packet) -> Self {
        Self { packet, copies: Vec::new() }
    }

    /// The packet with header and checksum, so that no member has to compute them.
    fn in_format_of(&mut self, codec: &PacketCodec) -> &Packet {
        let format = format_of(codec);
        // Before the look at the packet itself, which computes a checksum if it has none.
        if let Some(at) = self.copies.iter().position(|(of_copy, _)| *of_copy == format) {
            return &self.copies[at].1;
        }
        // A packet over the limit is refused, whatever its format.
        if codec.frame(&self.packet).map_or(true, |frame| frame.body().len() == frame.len()) {
            return &self.packet;
        }
        let mut copy = PacketMut::with_capacity(self.packet.len());
        copy.write_bytes(self.packet.payload());
        self.copies.push((format, copy.freeze_for(codec.config())));
        &self.copies[self.copies.len() - 1].1
    }
}

impl<T> Clone for Group<T> {
    fn clone(&self) -> Self {
        Self { members: Arc::clone(&self.members), policy: self.policy }
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
