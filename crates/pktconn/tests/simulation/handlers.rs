//! The handlers of the simulated server: what each of them does with its packets, and how many bytes it holds
//! meanwhile.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use allocation_counter::opt_out;
use pktconn::{Error, Group, Packet, PacketConn, PacketReceiver, PacketSender};
use tokio::sync::{Notify, Semaphore};

/// The number of connections that a simulated server accepts over its life.
pub(crate) const MAX_CONNS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Echo,
    EchoBatches,
    Consume,
    /// Forwards to another connection, and drops packets that its send queue has no room for.
    ForwardOrDrop,
    /// Forwards to another connection, and waits for room in its send queue.
    Forward,
    Broadcast,
    /// Receives one packet per step and drops it at once.
    Slow,
    /// Receives one packet per step and holds it until the next step.
    SlowHolding,
    /// Polls `recv` once per step and drops the future.
    PollsOnce,
    /// Sleeps for 7 ms while it holds each packet.
    Sleeps,
    /// Receives only one packet.
    ReceivesOne,
    /// Receives nothing and keeps the receiver.
    Nothing,
    /// Receives nothing and drops the receiver.
    DropsReceiver,
}

impl Role {
    /// Returns true if the handler queues no more bytes than it reads from its own connection.
    pub(crate) fn sends_only_to_its_peer(self) -> bool {
        !matches!(self, Self::ForwardOrDrop | Self::Forward | Self::Broadcast)
    }

    /// Returns true if the handler receives without waiting for steps or timers.
    pub(crate) fn keeps_receiving(self) -> bool {
        matches!(self, Self::Echo | Self::EchoBatches | Self::Consume | Self::ForwardOrDrop | Self::Broadcast)
    }
}

/// The state that all handlers of a server share with the simulation.
pub(crate) struct Handlers {
    /// The role of each handler, in the order in which they start.
    pub(crate) roles: Vec<Role>,
    /// How many handlers have started.
    pub(crate) started: AtomicUsize,
    /// The senders of the running handlers, by number.
    pub(crate) senders: Mutex<Vec<Option<PacketSender>>>,
    group: Group,
    /// Lets each waiting handler do one step.
    pub(crate) step: Notify,
    /// Closed at the end of the simulation: handlers no longer wait.
    pub(crate) stop: Semaphore,
    /// How many handlers hold packets that they have received.
    pub(crate) holding: AtomicUsize,
    /// The bytes of the last packets of all handlers that have not waited in `recv` since.
    pub(crate) last_bytes: AtomicUsize,
    /// How many handlers have seen that their connection was closed because the server was over its memory budget.
    pub(crate) over_budget_errors: AtomicUsize,
}

impl Handlers {
    pub(crate) fn new(roles: Vec<Role>) -> Self {
        Self {
            roles,
            started: AtomicUsize::new(0),
            senders: Mutex::new(vec![None; MAX_CONNS]),
            group: Group::new(),
            step: Notify::new(),
            stop: Semaphore::new(0),
            holding: AtomicUsize::new(0),
            last_bytes: AtomicUsize::new(0),
            over_budget_errors: AtomicUsize::new(0),
        }
    }

    async fn stop(&self) {
        let _ = self.stop.acquire().await;
    }

    async fn step(&self) {
        tokio::select! {
            biased;
            () = self.stop() => {}
            () = self.step.notified() => {}
        }
    }

    /// A connection to forward to. Never the first one, because its client expects only its own echoes.
    fn target(&self, number: usize) -> Option<PacketSender> {
        let senders = self.senders.lock().unwrap();
        let live = senders.iter().skip(1).flatten();
        live.clone().nth(number % live.count().max(1)).cloned()
    }

    pub(crate) async fn handle(self: Arc<Self>, conn: PacketConn) {
        let number = self.started.fetch_add(1, Relaxed);
        let role = self.roles[number];
        let (sender, receiver) = conn.split();
        if number > 0 {
            opt_out(|| self.group.join(&sender, ()));
        }
        self.senders.lock().unwrap()[number] = Some(sender.clone());
        let mut handler = Handler {
            handlers: &self,
            number,
            sender,
            is_over_budget: false,
            has_packets: false,
            last_len: 0,
            since_wait: 0,
        };
        let ended = handler.run(role, receiver).await;
        handler.is_over_budget = ended.is_err_and(|error| error.is_over_budget());
    }
}

/// A running handler, which keeps count of the packets that it holds.
struct Handler<'a> {
    handlers: &'a Handlers,
    number: usize,
    sender: PacketSender,
    is_over_budget: bool,
    has_packets: bool,
    /// The length of the packets of the last `recv`.
    last_len: usize,
    /// The number of packets since the last wait.
    since_wait: usize,
}

impl Handler<'_> {
    fn note_received(&mut self, packets: usize, bytes: usize) {
        self.since_wait += packets;
        self.update(true, bytes);
    }

    fn note_dropped(&mut self) {
        self.update(false, self.last_len);
    }

    fn update(&mut self, has_packets: bool, last_len: usize) {
        let Handlers { holding, last_bytes, .. } = self.handlers;
        holding
            .store(holding.load(Relaxed) + usize::from(has_packets) - usize::from(self.has_packets), Relaxed);
        last_bytes.store(last_bytes.load(Relaxed) + last_len - self.last_len, Relaxed);
        (self.has_packets, self.last_len) = (has_packets, last_len);
    }

    /// Notes that a receive call is pending. After 512 packets that is only a yield to other tasks, not a wait.
    fn note_wait(&mut self) {
        if self.since_wait < 512 {
            self.update(false, 0);
        }
        self.since_wait = 0;
    }

    async fn recv(&mut self, receiver: &mut PacketReceiver) -> Result<Option<Packet>, Error> {
        let received = poll_fn(|cx| {
            let polled = receiver.poll_recv(cx);
            if polled.is_pending() {
                self.note_wait();
            }
            polled
        });
        let packet = received.await?;
        self.note_received(1, packet.as_ref().map_or(0, |packet| packet.len() + 8));
        Ok(packet)
    }

    async fn run(&mut self, role: Role, mut receiver: PacketReceiver) -> Result<(), Error> {
        let sender = self.sender.clone();
        match role {
            Role::Echo => {
                while let Some(packet) = self.recv(&mut receiver).await? {
                    sender.send(packet).await?;
                    self.note_dropped();
                }
                sender.close().await
            }
            Role::EchoBatches => self.echo_batches(&mut receiver).await,
            Role::Nothing => {
                self.handlers.stop().await;
                Ok(())
            }
            Role::DropsReceiver => {
                drop(receiver);
                // Without a receiver the handler may not learn that the peer has closed.
                self.handlers.stop().await;
                Ok(())
            }
            Role::PollsOnce => {
                while !self.handlers.stop.is_closed() {
                    self.handlers.step().await;
                    let received = {
                        let mut recv = pin!(receiver.recv());
                        poll_fn(|cx| Poll::Ready(recv.as_mut().poll(cx))).await
                    };
                    match received {
                        Poll::Ready(Ok(Some(packet))) => self.note_received(1, packet.len() + 8),
                        Poll::Ready(Ok(None)) => return Ok(()),
                        Poll::Ready(Err(error)) => return Err(error),
                        Poll::Pending => self.note_wait(),
                    }
                    self.note_dropped();
                }
                Ok(())
            }
            _ => {
                while let Some(packet) = self.recv(&mut receiver).await? {
                    self.handle_packet(role, packet).await;
                    self.note_dropped();
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
                    self.note_wait();
                }
                polled
            });
            let count = received.await?;
            if count == 0 {
                return self.sender.close().await;
            }
            self.note_received(count, batch.iter().map(|packet| packet.len() + 8).sum());
            self.sender.send_many(&mut batch).await?;
            self.note_dropped();
        }
    }

    async fn handle_packet(&mut self, role: Role, packet: Packet) {
        match role {
            Role::ForwardOrDrop | Role::Forward => {
                let Some(target) = self.handlers.target(self.number + self.since_wait) else { return };
                if role == Role::Forward {
                    let _ = target.send(packet).await;
                } else {
                    let _ = target.try_send(packet);
                }
            }
            Role::Broadcast => {
                self.handlers.group.broadcast(packet);
            }
            Role::SlowHolding => {
                self.handlers.step().await;
                drop(packet);
            }
            Role::Sleeps => {
                if !self.handlers.stop.is_closed() {
                    tokio::time::sleep(Duration::from_millis(7)).await;
                }
                drop(packet);
            }
            Role::Slow => {
                drop(packet);
                self.note_dropped();
                self.handlers.step().await;
            }
            Role::ReceivesOne => {
                drop(packet);
                self.note_dropped();
                self.handlers.stop().await;
            }
            _ => {}
        }
    }
}

impl Drop for Handler<'_> {
    fn drop(&mut self) {
        self.update(false, 0);
        let is_over_budget =
            self.is_over_budget || self.sender.close_reason().is_some_and(|reason| reason.is_over_budget());
        self.handlers.over_budget_errors.fetch_add(usize::from(is_over_budget), Relaxed);
        self.handlers.senders.lock().unwrap()[self.number] = None;
    }
}
