//! Tells what it takes to send one packet to a thousand connections, next to writing its bytes to a thousand sockets.
//!
//! ```text
//! core 0:  sender   bare: a write for each socket | pktconn: a try_send for each connection, then it yields
//!                        |  1000 sockets          |       |  1000 sockets
//! core 1:  drain    reads all, and tells the sender, which sleeps, when the last byte of a broadcast is there
//! ```
//!
//! What counts is the CPU time of the sender's thread, from before the first packet of a broadcast to after the word that
//! all have arrived. There is no backpressure, as no broadcast begins before the one in front of it has arrived.

#![forbid(unsafe_code)]

use std::{
    net::{TcpListener, TcpStream},
    process::ExitCode,
    thread,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pktconn::{ConnConfig, Packet, PacketConn, PacketMut, PacketReceiver, PacketSender};
use pktconn_benches::{
    BROADCAST_TABLE_HEAD, BroadcastRound, Drain, HEADER_LEN, Pattern, SizeRange, broadcast_rows,
    check_open_file_limit, pin_this_thread, raise_open_file_limit, thread_cpu_ns, usable_cores, write_some,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

/// Compares a broadcast over pktconn with bare writes by the CPU time of the sender; prints a Markdown table.
#[derive(Parser)]
struct Options {
    /// Connections of each contender
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    conns: u32,
    /// Rounds, each contender once a round
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Broadcasts of each contender in a round
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    broadcasts: u32,
    /// Length of the payload, in bytes
    #[arg(long, default_value_t = 1024)]
    payload: u32,
}

/// Long enough for the buffers of all sockets to be there and for the clock of the core to rise.
const WARM_UP_BROADCASTS: u32 = 20;

/// Both contenders have their own connections, and both ends of each are in this process.
const FILES_A_CONN: usize = 4;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("broadcast: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let drain_core = pin_sender()?;
    raise_open_file_limit();
    check_open_file_limit(options.conns as usize, FILES_A_CONN)?;
    let frame = frame(options.payload)?;
    let broadcast_len = frame.len() as u64 * u64::from(options.conns);

    let (bare, mut receiving) = connect(options.conns)?;
    let (pktconn, more_receiving) = connect(options.conns)?;
    receiving.extend(more_receiving);
    let drain = Drain::new(receiving, broadcast_len)?;
    let (tell, arrived) = unbounded_channel();
    let draining = thread::spawn(move || {
        pin_this_thread(drain_core)?;
        // A sender that is gone has failed, and says so itself.
        drain.run(|| {
            let _ = tell.send(());
        })
    });

    let runtime = Builder::new_current_thread().enable_all().build()?;
    let pktconn = Pktconn::new(pktconn, &frame, &runtime)?;
    let measured =
        Setup { options, bare: Bare { streams: bare, frame }, pktconn, arrived, runtime }.measure();
    // First, as it explains what the sender saw.
    let received = draining.join().expect("the drain does not panic").context("the drain")?;
    let rounds = measured?;
    let broadcasts =
        u64::from(WARM_UP_BROADCASTS) + u64::from(options.rounds) * u64::from(options.broadcasts);
    check_all_arrived(&received, broadcasts * broadcast_len / u64::from(options.conns))?;
    println!("{BROADCAST_TABLE_HEAD}");
    println!("{}", broadcast_rows(&rounds).join("\n"));
    Ok(())
}

/// Pins this thread to the first core that may be used, and tells the second.
fn pin_sender() -> Result<usize> {
    let cores = usable_cores()?;
    let &[sender, drain, ..] = cores.as_slice() else {
        // Good enough to try the command.
        eprintln!("broadcast: sender and drain have one core between them: the figures will be too high");
        return cores.first().copied().context("there is no core to run on");
    };
    pin_this_thread(sender)?;
    Ok(drain)
}

/// The bytes of the packet as they stand on the wire.
fn frame(payload_len: u32) -> Result<Vec<u8>> {
    let sizes: SizeRange = format!("{payload_len}-{payload_len}").parse()?;
    let mut frame = Vec::new();
    Pattern::new(sizes, 0).encode_next(&mut frame);
    Ok(frame)
}

/// Both ends of `conns` connections: those to send from, and those to read from.
fn connect(conns: u32) -> Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let address = listener.local_addr()?;
    let pair = |_| -> Result<_> {
        let sending = TcpStream::connect(address).context("cannot connect")?;
        sending.set_nodelay(true)?;
        sending.set_nonblocking(true)?;
        let (receiving, peer) = listener.accept().context("cannot accept")?;
        ensure!(peer == sending.local_addr()?, "{peer}, a stranger, has connected");
        Ok((sending, receiving))
    };
    (0..conns).map(pair).collect()
}

fn check_all_arrived(received: &[u64], expected_len: u64) -> Result<()> {
    for (index, &received_len) in received.iter().enumerate() {
        ensure!(
            received_len == expected_len,
            "{received_len} bytes arrived on connection {index}, and {expected_len} were sent"
        );
    }
    eprintln!("all bytes arrived: {expected_len} on each of {} connections", received.len());
    Ok(())
}

/// What sends. Dropping it closes the connections, which ends the drain.
struct Setup<'a> {
    options: &'a Options,
    bare: Bare,
    pktconn: Pktconn,
    /// A word for each broadcast that has arrived. Both contenders wait for it in their own way to sleep.
    arrived: UnboundedReceiver<()>,
    /// Last, as connections are to be dropped before their runtime.
    runtime: Runtime,
}

impl Setup<'_> {
    fn measure(mut self) -> Result<Vec<BroadcastRound>> {
        let Options { rounds, broadcasts, .. } = *self.options;
        self.round(WARM_UP_BROADCASTS)?;
        (1..=rounds)
            .map(|round| {
                let measured = self.round(broadcasts)?;
                let BroadcastRound { bare_ns, pktconn_ns } = measured;
                eprintln!(
                    "round {round}/{rounds}: bare {bare_ns:.0}, pktconn {pktconn_ns:.0} ns, ratio {:.3}",
                    measured.ratio()
                );
                Ok(measured)
            })
            .collect()
    }

    fn round(&mut self, broadcasts: u32) -> Result<BroadcastRound> {
        let packets = f64::from(broadcasts) * f64::from(self.options.conns);
        let started_ns = thread_cpu_ns();
        self.bare.round(broadcasts, &mut self.arrived)?;
        let bare_done_ns = thread_cpu_ns();
        self.runtime.block_on(self.pktconn.round(broadcasts, &mut self.arrived))?;
        let pktconn_done_ns = thread_cpu_ns();
        Ok(BroadcastRound {
            bare_ns: (bare_done_ns - started_ns) as f64 / packets,
            pktconn_ns: (pktconn_done_ns - bare_done_ns) as f64 / packets,
        })
    }
}

/// As little as a broadcast can be: the bytes are ready, and each socket gets them in one system call.
struct Bare {
    streams: Vec<TcpStream>,
    frame: Vec<u8>,
}

impl Bare {
    fn round(&self, broadcasts: u32, arrived: &mut UnboundedReceiver<()>) -> Result<()> {
        for _ in 0..broadcasts {
            for mut stream in &self.streams {
                let (sent_len, frame_len) = (write_some(&mut stream, &[], &self.frame)?, self.frame.len());
                ensure!(
                    sent_len == frame_len,
                    "a socket took {sent_len} of {frame_len} bytes: choose a smaller --payload"
                );
            }
            arrived.blocking_recv().context("the drain has ended")?;
        }
        Ok(())
    }
}

/// What an application does: one packet, made once, is given to all connections; the library writes it.
struct Pktconn {
    conns: Vec<(PacketSender, PacketReceiver)>,
    packet: Packet,
}

impl Pktconn {
    fn new(streams: Vec<TcpStream>, frame: &[u8], runtime: &Runtime) -> Result<Self> {
        let _inside = runtime.enter();
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

    async fn round(&self, broadcasts: u32, arrived: &mut UnboundedReceiver<()>) -> Result<()> {
        for _ in 0..broadcasts {
            for (sender, _) in &self.conns {
                sender.try_send(self.packet.clone())?;
            }
            arrived.recv().await.context("the drain has ended")?;
        }
        Ok(())
    }
}
