//! Receiving over a client's connection into the inbox, until the connection ends and all that had arrived is there.

use std::pin::pin;
use std::time::Duration;

use pktconn_codec::Packet;
use tokio::time::sleep;

use super::event::ClientEvent;
use super::inbox::BATCH;
use super::link::Link;
use crate::connection::pool::CHUNK;
use crate::error::{Reason, Timeout};
use crate::{Error, PacketReceiver, PacketSender};

/// What the system may hold of a connection that has ended (6 MiB, by Linux's default). A peer that is there may send
/// on.
const MOST_AFTER_END: usize = 8 * 1024 * 1024;

/// How long the client waits for room in the inbox, in all, after a connection has failed. A receiver that works takes
/// the 8 MiB in less time. A reconnect is later by no more than this, and what is sent meanwhile is queued.
const WAIT_AFTER_END: Duration = Duration::from_secs(1);

/// How receiving came to its end.
pub(super) struct Received {
    pub(super) reason: Reason,
    /// Whether packets that had arrived may not have come to the inbox.
    pub(super) undelivered: bool,
}

/// Passes on what arrives, as fast as it is received there, until the connection ends.
pub(super) async fn receive(
    link: &Link,
    sender: &PacketSender,
    receiver: &mut PacketReceiver,
    has_received: &mut bool,
) -> Received {
    let mut packets = Vec::new();
    loop {
        if let Some(error) = end_before_room(link, sender).await {
            return receive_rest(link, error.into_reason(), receiver, has_received).await;
        }
        if let Err(received) = receive_batch(receiver, &mut packets).await {
            return received;
        }
        *has_received = true;
        link.tell(packets.drain(..).map(ClientEvent::Packet));
    }
}

/// Passes on what has arrived over a connection that has ended for `reason`. Where there is no room in the inbox it
/// waits, but not for long: senders wait for the next connection, and the receiver may be one that never receives.
async fn receive_rest(
    link: &Link,
    reason: Reason,
    receiver: &mut PacketReceiver,
    has_received: &mut bool,
) -> Received {
    let mut packets = Vec::new();
    let mut waited = pin!(sleep(WAIT_AFTER_END));
    let mut left = MOST_AFTER_END;
    loop {
        // Before it waits for room: mostly nothing more has arrived.
        if let Err(received) = receive_batch(receiver, &mut packets).await {
            return received;
        }
        *has_received = true;
        let has_room = tokio::select! {
            biased;
            () = link.wait_for_room() => true,
            () = &mut waited => false,
        };
        if left == 0 || !has_room {
            return Received { reason, undelivered: true };
        }
        let payload: usize = packets.iter().map(Packet::len).sum();
        // An empty one counts too.
        left = left.saturating_sub(payload + 4 * packets.len());
        if payload < CHUNK / 2 {
            // They may keep a chunk for themselves, as others on the thread may have used up the rest of it.
            packets.iter_mut().for_each(|packet| *packet = packet.detach());
        }
        link.tell(packets.drain(..).map(ClientEvent::Packet));
    }
}

/// Receives at least one packet, or fails with the end.
async fn receive_batch(receiver: &mut PacketReceiver, packets: &mut Vec<Packet>) -> Result<(), Received> {
    let reason = match receiver.recv_many(packets, BATCH).await {
        Ok(0) => Reason::RemoteClose,
        Ok(_) => return Ok(()),
        Err(error) => error.into_reason(),
    };
    // After any other end, all that had arrived has been received.
    let undelivered = matches!(
        reason,
        Reason::LocalClose
            | Reason::Timeout(Timeout::Write, _)
            | Reason::MutualStall(_)
            | Reason::SlowConsumer { .. }
            | Reason::OverBudget { .. }
    );
    Err(Received { reason, undelivered })
}

/// Waits until the receiver has taken all packets; or for the end of the connection, if that comes before: as where a
/// peer takes nothing, so that who waits for room need not wait for the receiver.
async fn end_before_room(link: &Link, sender: &PacketSender) -> Option<Error> {
    if let Some(error) = sender.close_reason() {
        return Some(error);
    }
    tokio::select! {
        // Mostly there is room, and nothing to be waited for.
        biased;
        () = link.wait_until_clear() => None,
        error = sender.closed() => Some(error),
    }
}
