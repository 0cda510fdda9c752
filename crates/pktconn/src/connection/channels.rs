//! A connection as a pair of channels.

use std::pin::pin;

use pktconn_codec::Packet;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Error, PacketConn, PacketReceiver, PacketSender};

/// How many packets pass from a channel to the connection at a time.
const BATCH: usize = 256;

impl PacketConn {
    /// Makes a pair of channels of the connection, each for `capacity` packets: one for packets to send, one of
    /// received packets. For code that is built on channels, such as a port from Go.
    ///
    /// - Received packets: when the channel is full, nothing more is read, and the peer has to wait. After a clean
    ///   close by the peer the channel ends. If the connection fails, the last item is the error.
    /// - Packets to send: when the channel is full, `send` waits. Once the connection has ended, `send` fails. A packet
    ///   over the limit is not sent: it is logged, and comes back in an error in the channel of received packets if
    ///   that has room.
    /// - The connection is [closed](PacketConn::close), and what was sent is delivered, when you have dropped all
    ///   senders and the channel of received packets has ended or is dropped too. If you drop only the latter, the
    ///   connection sends on and discards what arrives.
    ///
    /// Costs: two tasks, and a switch of tasks for each batch. An echo server that passes every packet through channels
    /// takes up to twice the CPU time (see the table in the README). Memory: `capacity` packets in each direction,
    /// whatever their size. When the connection fails, packets that wait in the channels are lost; with
    /// [`send`](PacketConn::send) they come back.
    ///
    /// ```
    /// # use pktconn::{Error, PacketConn};
    /// # async fn example(conn: PacketConn) -> Result<(), Error> {
    /// let (outgoing, mut incoming) = conn.into_channels(64);
    /// while let Some(received) = incoming.recv().await {
    ///     let packet = received?;
    ///     if outgoing.send(packet).await.is_err() {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or with a `capacity` of 0.
    #[must_use]
    pub fn into_channels(
        self,
        capacity: usize,
    ) -> (mpsc::Sender<Packet>, mpsc::Receiver<Result<Packet, Error>>) {
        let (outgoing, to_send) = mpsc::channel(capacity);
        let (received, incoming) = mpsc::channel(capacity);
        let (sender, receiver) = self.split();
        let nobody_receives = CancellationToken::new();
        tokio::spawn(send_from(to_send, sender, received.downgrade(), nobody_receives.clone()));
        tokio::spawn(receive_into(receiver, received, nobody_receives));
        (outgoing, incoming)
    }
}

/// Receives until the connection ends.
async fn receive_into(
    mut receiver: PacketReceiver,
    received: mpsc::Sender<Result<Packet, Error>>,
    nobody_receives: CancellationToken,
) {
    let _at_the_end = nobody_receives.clone().drop_guard();
    loop {
        let item = tokio::select! {
            item = receiver.recv() => item,
            () = received.closed(), if !nobody_receives.is_cancelled() => {
                nobody_receives.cancel();
                continue;
            }
        };
        let item = match item {
            Ok(Some(packet)) => Ok(packet),
            Ok(None) => break,
            Err(error) => Err(error),
        };
        let is_last = item.is_err();
        // If the channel is dropped, the packet is discarded: the peer must not wait, and a close needs somebody who
        // reads.
        let _ = received.send(item).await;
        if is_last {
            break;
        }
    }
}

/// Sends until the channel or the connection ends. Closes the connection once nobody receives either.
async fn send_from(
    mut to_send: mpsc::Receiver<Packet>,
    sender: PacketSender,
    received: mpsc::WeakSender<Result<Packet, Error>>,
    nobody_receives: CancellationToken,
) {
    let mut packets = Vec::new();
    let mut closed = pin!(sender.closed());
    // After a clean close by the peer, sending may go on.
    let mut has_peer_closed = false;
    loop {
        let count = tokio::select! {
            count = to_send.recv_many(&mut packets, BATCH) => count,
            reason = &mut closed, if !has_peer_closed => {
                has_peer_closed = reason.is_remote_close();
                if has_peer_closed { continue } else { return }
            }
        };
        if count == 0 {
            break;
        }
        while let Err(error) = sender.send_many(&mut packets).await {
            if !error.is_payload_too_large() {
                // The receiving task reports the reason.
                return;
            }
            // The first packet was refused. The rest is sent.
            let error = Error::new(error.into_reason(), vec![packets.remove(0)]);
            tracing::warn!(%error, "a packet was not sent");
            if let Some(received) = received.upgrade() {
                let _ = received.try_send(Err(error));
            }
        }
    }
    nobody_receives.cancelled().await;
    let _ = sender.close().await;
}
