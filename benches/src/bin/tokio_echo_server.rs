//! Echo servers of one thread on tokio: `pktconn` used in the ways that it can be, and what is used without it.
//!
//! | `--kind` | a connection |
//! |---|---|
//! | `whole` | one task: `recv`, `send` |
//! | `batches` | one task: `recv_many`, `send_many` |
//! | `split` | `recv_many`, `send_many` on two halves, in one task |
//! | `handed-over` | the same; a second task sends the batches that the first has received |
//! | `framed-send` | `Framed<LengthDelimitedCodec>`: `next`, `send` |
//! | `framed-forward` | `Framed<LengthDelimitedCodec>`: one half forwarded into the other |
//!
//! What none of them needs is left out: no limit but the codec's own, no graceful end, no statistics.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::BytesMut;
use clap::{Parser, ValueEnum};
use futures::{SinkExt, StreamExt};
use pktconn::{ConnConfig, Packet, PacketConn};
use pktconn_benches::raise_open_file_limit;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Echoes packets (u32 little-endian length, payload, no checksum) from one thread of tokio.
#[derive(Parser)]
struct Options {
    /// Address to listen on; port 0 lets the system choose
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// How a connection is served
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

/// Packets that are taken at a time.
const BATCH: usize = 64;

/// One that is being sent, and one that waits.
const BATCHES_BETWEEN_TASKS: usize = 2;

/// The largest frame: the default of `pktconn`.
const MAX_FRAME_LEN: usize = 32 * 1024 * 1024;

fn main() -> Result<()> {
    // The runtime that pktecho has, which says why, for all of them.
    let runtime =
        Builder::new_current_thread().enable_all().max_io_events_per_tick(64).event_interval(128).build();
    runtime.context("cannot start")?.block_on(run(&Options::parse()))
}

async fn run(options: &Options) -> Result<()> {
    raise_open_file_limit();
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {}", listener.local_addr()?)
        .and_then(|()| stdout.flush())
        .context("cannot print the address")?;
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        let kind = options.kind;
        tokio::spawn(async move {
            // A connection that fails ends alone.
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
            // A batch at a time: a channel costs as much for one packet as for many.
            let (give, mut take) = tokio::sync::mpsc::channel::<Vec<Packet>>(BATCHES_BETWEEN_TASKS);
            let sending = tokio::spawn(async move {
                while let Some(mut packets) = take.recv().await {
                    sender.send_many(&mut packets).await?;
                }
                sender.close().await
            });
            let mut packets = Vec::new();
            while receiver.recv_many(&mut packets, BATCH).await? > 0 {
                // The other task ends early with an error alone, which it tells.
                if give.send(std::mem::take(&mut packets)).await.is_err() {
                    break;
                }
            }
            drop(give);
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
