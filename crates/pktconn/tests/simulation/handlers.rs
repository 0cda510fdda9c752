//! What the handlers of a server may do with their connections, and what they have in hand meanwhile.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use allocation_counter::opt_out;
use pktconn::{Error, Group, Packet, PacketConn, PacketReceiver, PacketSender};
use tokio::sync::{Notify, Semaphore};

/// The most connections that a server of the simulation ever has.
pub(crate) const MOST_CONNS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Echo,
    EchoBatches,
    Consume,
    /// Forwards to another connection, and drops what has no room there.
    ForwardOrDrop,
    /// Forwards to another connection, and waits for room there.
    Forward,
    Broadcast,
    /// Receives one packet in each of its turns, and drops it.
    Slow,
    /// The same, and keeps the packet until its next turn.
    SlowAndKeeps,
    /// Polls `recv` once in each of its turns, and drops that call.
    Polls,
    /// Sleeps with each packet.
    Sleeps,
    /// Receives one packet and then no more.
    OnlyOne,
    Nothing,
    /// Drops its receiver.
    OnlySends,
}

impl Role {
    /// Whether what it queues is bounded by what its own connection may read.
    pub(crate) fn answers_its_peer_alone(self) -> bool {
        !matches!(self, Self::ForwardOrDrop | Self::Forward | Self::Broadcast)
    }

    /// Whether it receives all that comes, without a turn of its own.
    pub(crate) fn keeps_receiving(self) -> bool {
        matches!(self, Self::Echo | Self::EchoBatches | Self::Consume | Self::ForwardOrDrop | Self::Broadcast)
    }
}

/// What all handlers of a server share with the simulation.
pub(crate) struct Handlers {
    /// By the order in which they are called.
    pub(crate) roles: Vec<Role>,
    pub(crate) called: AtomicUsize,
    /// Those whose handler runs.
    pub(crate) senders: Mutex<Vec<Option<PacketSender>>>,
    group: Group,
    /// A turn for those who wait for one.
    pub(crate) turn: Notify,
    /// Closed when nobody is to wait any more.
    pub(crate) over: Semaphore,
    /// How many have packets that they have received.
    pub(crate) in_hand: AtomicUsize,
    /// The bytes of the last packets of those who have not come for more since.
    pub(crate) not_come_back: AtomicUsize,
    /// How many were told that their connection was over the budget.
    pub(crate) told_over_budget: AtomicUsize,
}

impl Handlers {
    pub(crate) fn new(roles: Vec<Role>) -> Self {
        Self {
            roles,
            called: AtomicUsize::new(0),
            senders: Mutex::new(vec![None; MOST_CONNS]),
            group: Group::new(),
            turn: Notify::new(),
            over: Semaphore::new(0),
            in_hand: AtomicUsize::new(0),
            not_come_back: AtomicUsize::new(0),
            told_over_budget: AtomicUsize::new(0),
        }
    }

    async fn over(&self) {
        let _ = self.over.acquire().await;
    }

    async fn turn(&self) {
        tokio::select! {
            biased;
            () = self.over() => {}
            () = self.turn.notified() => {}
        }
    }

    /// A connection to forward to. Never the first one, of the client that is to get its echoes alone.
    fn target(&self, number: usize) -> Option<PacketSender> {
        let senders = self.senders.lock().unwrap();
        let live = senders.iter().skip(1).flatten();
        live.clone().nth(number % live.count().max(1)).cloned()
    }

    pub(crate) async fn handle(self: Arc<Self>, conn: PacketConn) {
        let number = self.called.fetch_add(1, Relaxed);
        let role = self.roles[number];
        let (sender, receiver) = conn.split();
        if number > 0 {
            opt_out(|| self.group.join(&sender, ()));
        }
        self.senders.lock().unwrap()[number] = Some(sender.clone());
        let mut hand =
            Hand { of: &self, number, sender, is_told: false, has_some: false, last: 0, in_turn: 0 };
        let ended = hand.act(role, receiver).await;
        hand.is_told = ended.is_err_and(|error| error.is_over_budget());
    }
}

/// What one handler has received.
struct Hand<'a> {
    of: &'a Handlers,
    number: usize,
    sender: PacketSender,
    is_told: bool,
    has_some: bool,
    last: usize,
    in_turn: usize,
}

impl Hand<'_> {
    fn took(&mut self, packets: usize, bytes: usize) {
        self.in_turn += packets;
        self.note(true, bytes);
    }

    fn let_go(&mut self) {
        self.note(false, self.last);
    }

    fn note(&mut self, has_some: bool, last: usize) {
        let Handlers { in_hand, not_come_back, .. } = self.of;
        in_hand.store(in_hand.load(Relaxed) + usize::from(has_some) - usize::from(self.has_some), Relaxed);
        not_come_back.store(not_come_back.load(Relaxed) + last - self.last, Relaxed);
        (self.has_some, self.last) = (has_some, last);
    }

    /// It waits for more, unless it only leaves a turn to others.
    fn waits(&mut self) {
        if self.in_turn < 512 {
            self.note(false, 0);
        }
        self.in_turn = 0;
    }

    async fn recv(&mut self, receiver: &mut PacketReceiver) -> Result<Option<Packet>, Error> {
        let received = poll_fn(|cx| {
            let polled = receiver.poll_recv(cx);
            if polled.is_pending() {
                self.waits();
            }
            polled
        });
        let packet = received.await?;
        self.took(1, packet.as_ref().map_or(0, |packet| packet.len() + 8));
        Ok(packet)
    }

    async fn act(&mut self, role: Role, mut receiver: PacketReceiver) -> Result<(), Error> {
        let sender = self.sender.clone();
        match role {
            Role::Echo => {
                while let Some(packet) = self.recv(&mut receiver).await? {
                    sender.send(packet).await?;
                    self.let_go();
                }
                sender.close().await
            }
            Role::EchoBatches => self.echo_batches(&mut receiver).await,
            Role::Nothing => {
                self.of.over().await;
                Ok(())
            }
            Role::OnlySends => {
                drop(receiver);
                // Nobody reads, and so it may never hear of the peer's end.
                self.of.over().await;
                Ok(())
            }
            Role::Polls => {
                while !self.of.over.is_closed() {
                    self.of.turn().await;
                    let received = {
                        let mut recv = pin!(receiver.recv());
                        poll_fn(|cx| Poll::Ready(recv.as_mut().poll(cx))).await
                    };
                    match received {
                        Poll::Ready(Ok(Some(packet))) => self.took(1, packet.len() + 8),
                        Poll::Ready(Ok(None)) => return Ok(()),
                        Poll::Ready(Err(error)) => return Err(error),
                        Poll::Pending => self.waits(),
                    }
                    self.let_go();
                }
                Ok(())
            }
            _ => {
                while let Some(packet) = self.recv(&mut receiver).await? {
                    self.use_up(role, packet).await;
                    self.let_go();
                }
                Ok(())
            }
        }
    }

    async fn echo_batches(&mut self, receiver: &mut PacketReceiver) -> Result<(), Error> {
        let mut batch = Vec::with_capacity(32);
        loop {
            let received = poll_fn(|cx| {
                let polled = receiver.poll_recv_many(cx, &mut batch, 32);
                if polled.is_pending() {
                    self.waits();
                }
                polled
            });
            let count = received.await?;
            if count == 0 {
                return self.sender.close().await;
            }
            self.took(count, batch.iter().map(|packet| packet.len() + 8).sum());
            self.sender.send_many(&mut batch).await?;
            self.let_go();
        }
    }

    async fn use_up(&mut self, role: Role, packet: Packet) {
        match role {
            Role::ForwardOrDrop | Role::Forward => {
                let Some(target) = self.of.target(self.number + self.in_turn) else { return };
                if role == Role::Forward {
                    let _ = target.send(packet).await;
                } else {
                    let _ = target.try_send(packet);
                }
            }
            Role::Broadcast => {
                self.of.group.broadcast(packet);
            }
            Role::SlowAndKeeps => {
                self.of.turn().await;
                drop(packet);
            }
            Role::Sleeps => {
                if !self.of.over.is_closed() {
                    tokio::time::sleep(Duration::from_millis(7)).await;
                }
                drop(packet);
            }
            Role::Slow => {
                drop(packet);
                self.let_go();
                self.of.turn().await;
            }
            Role::OnlyOne => {
                drop(packet);
                self.let_go();
                self.of.over().await;
            }
            _ => {}
        }
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        self.note(false, 0);
        let is_told =
            self.is_told || self.sender.close_reason().is_some_and(|reason| reason.is_over_budget());
        self.of.told_over_budget.fetch_add(usize::from(is_told), Relaxed);
        self.of.senders.lock().unwrap()[self.number] = None;
    }
}
