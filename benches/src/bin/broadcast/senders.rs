//! The two senders that are compared.

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use pktconn::{ConnConfig, Packet, PacketConn, PacketMut, PacketReceiver, PacketSender};
use pktconn_benches::wire::{HEADER_LEN, write_some};
use tokio::{runtime::Runtime, sync::mpsc::UnboundedReceiver};

/// The least work that a broadcast can be: the bytes are ready, and each socket gets them in one system call.
pub(crate) struct BareSender {
    pub(crate) streams: Vec<TcpStream>,
    pub(crate) frame: Vec<u8>,
}

impl BareSender {
    pub(crate) fn round(&self, broadcasts: u32, arrived: &mut UnboundedReceiver<()>) -> Result<()> {
        for _ in 0..broadcasts {
            for mut stream in &self.streams {
                let (written_len, frame_len) = (write_some(&mut stream, &[], &self.frame)?, self.frame.len());
                ensure!(
                    written_len == frame_len,
                    "a socket took {written_len} of {frame_len} bytes: choose a smaller --payload"
                );
            }
            arrived.blocking_recv().context("the receiver has ended")?;
        }
        Ok(())
    }
}

/// What an application does: it makes one packet and sends a clone of it on each connection; the library writes them.
pub(crate) struct PktconnSender {
    conns: Vec<(PacketSender, PacketReceiver)>,
    packet: Packet,
}

impl PktconnSender {
    pub(crate) fn new(streams: Vec<TcpStream>, frame: &[u8], runtime: &Runtime) -> Result<Self> {
        let _guard = runtime.enter();
        let conn = |stream| -> Result<_> {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            Ok(PacketConn::from_tcp(stream, ConnConfig::new())?.split())
        };
        let conns = streams.into_iter().map(conn).collect::<Result<_>>()?;
        let payload = &frame[HEADER_LEN..];
        let mut packet = PacketMut::with_capacity(payload.len());
        packet.write_bytes(payload);
        Ok(Self { conns, packet: packet.freeze() })
    }

    pub(crate) async fn round(&self, broadcasts: u32, arrived: &mut UnboundedReceiver<()>) -> Result<()> {
        for _ in 0..broadcasts {
            for (sender, _) in &self.conns {
                sender.try_send(self.packet.clone())?;
            }
            arrived.recv().await.context("the receiver has ended")?;
        }
        Ok(())
    }
}
