//! Echo servers with one thread on tokio: `pktconn`, used in each possible way, and `LengthDelimitedCodec`.
//!
//! | `--kind` | a connection |
//! |---|---|
//! | `whole` | one task: `recv`, `send` |
//! | `batches` | one task: `recv_many`, `send_many` |
//! | `split` | `recv_many`, `send_many` on two halves, in one task |
//! | `handed-over` | as `split`, but a second task sends the batches that the first one received |
//! | `framed-send` | `Framed<LengthDelimitedCodec>`: `next`, `send` |
//! | `framed-forward` | `Framed<LengthDelimitedCodec>`: one half forwarded into the other |
//!
//! They have no limits except those of the codec, no shutdown and no statistics.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::BytesMut;
use clap::{Parser, ValueEnum};
use futures::{SinkExt, StreamExt};
use pktconn::{ConnConfig, Packet, PacketConn};
use pktconn_benches::system::{print_listening, raise_open_file_limit};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Echoes packets (u32 little-endian length, payload, no checksum) from one thread on tokio.
#[derive(Parser)]
struct Options {
    /// Address to listen on; port 0 asks for a free port
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// How to serve a connection
    #[arg(long, value_enum)]
    kind: Kind,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Whole,
    Batches,
    Split,
    HandedOver,
    FramedSend,
    FramedForward,
}

/// Maximum number of packets per batch.
const BATCH: usize = 64;

/// Capacity of the channel between two tasks, in batches: one that is being sent, and one that waits.
const CHANNEL_BATCHES: usize = 2;

/// The default limit of `pktconn`, in bytes.
const MAX_FRAME_LEN: usize = 32 * 1024 * 1024;

fn main() -> Result<()> {
    // The same runtime settings as pktecho; see `threads.rs` there.
    let runtime =
        Builder::new_current_thread().enable_all().max_io_events_per_tick(64).event_interval(128).build();
    runtime.context("cannot start")?.block_on(run(&Options::parse()))
}

async fn run(options: &Options) -> Result<()> {
    raise_open_file_limit();
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    print_listening(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        let kind = options.kind;
        tokio::spawn(async move {
            // A failed connection does not affect the others.
            if let Err(error) = serve(stream, kind).await {
                eprintln!("tokio_echo_server: {error:#}");
            }
        });
    }
}

async fn serve(stream: TcpStream, kind: Kind) -> Result<()> {
    match kind {
        Kind::FramedSend | Kind::FramedForward => {
            stream.set_nodelay(true)?;
            let codec =
                LengthDelimitedCodec::builder().little_endian().max_frame_length(MAX_FRAME_LEN).new_codec();
            framed(Framed::new(stream, codec), kind).await
        }
        _ => packets(PacketConn::from_tcp(stream, ConnConfig::new())?, kind).await,
    }
}

async fn framed(mut framed: Framed<TcpStream, LengthDelimitedCodec>, kind: Kind) -> Result<()> {
    if let Kind::FramedForward = kind {
        let (sink, stream) = framed.split();
        return Ok(stream.map(|frame| frame.map(BytesMut::freeze)).forward(sink).await?);
    }
    while let Some(frame) = framed.next().await {
        framed.send(frame?.freeze()).await?;
    }
    Ok(())
}

async fn packets(mut conn: PacketConn, kind: Kind) -> Result<()> {
    match kind {
        Kind::Batches => {
            let mut packets = Vec::new();
            while conn.recv_many(&mut packets, BATCH).await? > 0 {
                conn.send_many(&mut packets).await?;
            }
            conn.close().await?;
        }
        Kind::Split => {
            let (sender, mut receiver) = conn.split();
            let mut packets = Vec::new();
            while receiver.recv_many(&mut packets, BATCH).await? > 0 {
                sender.send_many(&mut packets).await?;
            }
            sender.close().await?;
        }
        Kind::HandedOver => {
            let (sender, mut receiver) = conn.split();
            // Whole batches: sending one through a channel costs as much as sending one packet.
            let (batches, mut received) = tokio::sync::mpsc::channel::<Vec<Packet>>(CHANNEL_BATCHES);
            let sending = tokio::spawn(async move {
                while let Some(mut packets) = received.recv().await {
                    sender.send_many(&mut packets).await?;
                }
                sender.close().await
            });
            let mut packets = Vec::new();
            while receiver.recv_many(&mut packets, BATCH).await? > 0 {
                // The other task has failed; its error is returned below.
                if batches.send(std::mem::take(&mut packets)).await.is_err() {
                    break;
                }
            }
            drop(batches);
            sending.await??;
        }
        _ => {
            while let Some(packet) = conn.recv().await? {
                conn.send(packet).await?;
            }
            conn.close().await?;
        }
    }
    Ok(())
}
