//! Moves packets from a client's connection into the receive queue, until the connection has ended and all packets that
//! arrived are in the queue.

use std::pin::pin;
use std::time::Duration;

use pktconn_codec::Packet;
use tokio::time::sleep;

use super::channel::ClientChannel;
use super::event::ClientEvent;
use super::receive_queue::BATCH;
use crate::connection::pool::CHUNK;
use crate::error::{Reason, Timeout};
use crate::{Error, PacketReceiver, PacketSender};

/// The limit on bytes that are read after a connection has failed. The system's buffers hold less (6 MiB by default on
/// Linux); the limit is for a peer that continues to send.
const MAX_BYTES_AFTER_END: usize = 8 * 1024 * 1024;

/// How long the client waits for room in the receive queue, in total, after a connection has failed. An application
/// that receives takes 8 MiB in less time. This is also the longest delay of the reconnect; sends are queued meanwhile.
const MAX_WAIT_AFTER_END: Duration = Duration::from_secs(1);

/// How receiving ended.
pub(super) struct Received {
    pub(super) reason: Reason,
    /// Whether packets that arrived may be missing in the receive queue.
    pub(super) undelivered: bool,
}

/// Moves packets to the receive queue until the connection ends. Waits while packets are in the queue: backpressure.
pub(super) async fn receive(
    channel: &ClientChannel,
    sender: &PacketSender,
    receiver: &mut PacketReceiver,
    has_received: &mut bool,
) -> Received {
    let mut packets = Vec::new();
    loop {
        if let Some(error) = wait_for_room_or_end(channel, sender).await {
            return receive_rest(channel, error.into_reason(), receiver, has_received).await;
        }
        if let Err(received) = receive_batch(receiver, &mut packets).await {
            return received;
        }
        *has_received = true;
        channel.push_events(packets.drain(..).map(ClientEvent::Packet));
    }
}

/// Moves the packets that arrived over a connection which has ended for `reason`. If the receive queue has no room, it
/// waits, but not for long: senders wait for the next connection, and the application may never receive.
async fn receive_rest(
    channel: &ClientChannel,
    reason: Reason,
    receiver: &mut PacketReceiver,
    has_received: &mut bool,
) -> Received {
    let mut packets = Vec::new();
    let mut waited = pin!(sleep(MAX_WAIT_AFTER_END));
    let mut left = MAX_BYTES_AFTER_END;
    loop {
        // Before waiting for room: usually nothing more has arrived.
        if let Err(received) = receive_batch(receiver, &mut packets).await {
            return received;
        }
        *has_received = true;
        let has_room = tokio::select! {
            biased;
            () = channel.wait_for_room() => true,
            () = &mut waited => false,
        };
        if left == 0 || !has_room {
            return Received { reason, undelivered: true };
        }
        let payload: usize = packets.iter().map(Packet::len).sum();
        // Counts 4 bytes per packet too, so that empty packets are bounded.
        left = left.saturating_sub(payload + 4 * packets.len());
        if payload < CHUNK / 2 {
            // Copies small batches: otherwise they could keep a whole read chunk alive, whose rest others have used.
            packets.iter_mut().for_each(|packet| *packet = packet.detach());
        }
        channel.push_events(packets.drain(..).map(ClientEvent::Packet));
    }
}

/// Receives at least one packet, or returns how receiving ended.
async fn receive_batch(receiver: &mut PacketReceiver, packets: &mut Vec<Packet>) -> Result<(), Received> {
    let reason = match receiver.recv_many(packets, BATCH).await {
        Ok(0) => receiver.clean_end_reason(),
        Ok(_) => return Ok(()),
        Err(error) => error.into_reason(),
    };
    // For all other reasons, the connection returned everything that had arrived before it failed.
    let undelivered = matches!(
        reason,
        Reason::LocalClose
            | Reason::Timeout(Timeout::Write | Timeout::MaxAge, _)
            | Reason::TooSlow { which: Timeout::MinSendRate, .. }
            | Reason::MutualStall(_)
            | Reason::SlowConsumer { .. }
            | Reason::OverBudget { .. }
    );
    Err(Received { reason, undelivered })
}

/// Waits until the receiver has taken all packets. Returns the error if the connection ends before that, for example
/// because the peer does not read: senders must not wait for the receiver then.
async fn wait_for_room_or_end(channel: &ClientChannel, sender: &PacketSender) -> Option<Error> {
    if let Some(error) = sender.close_reason() {
        return Some(error);
    }
    tokio::select! {
        // Biased because usually there is room.
        biased;
        () = channel.wait_until_no_packets() => None,
        error = sender.closed() => Some(error),
    }
}
