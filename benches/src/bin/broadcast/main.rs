//! Measures what it costs to send one packet to a thousand connections, compared to writing its bytes to a thousand
//! sockets.
//!
//! ```text
//! core 0:  sender     bare: one write per socket  |  pktconn: one try_send per connection, then it yields
//!                        |  1000 sockets          |       |  1000 sockets
//! core 1:  receiver   reads everything, and wakes the sender when the last byte of a broadcast has arrived
//! ```
//!
//! The figure is the CPU time of the sender's thread, from before the first packet of a broadcast until the sender was
//! woken. There is no backpressure: a broadcast begins only after the previous one has arrived.

#![forbid(unsafe_code)]

mod measure;
mod receiver;
mod result;
mod senders;

use std::{
    net::{TcpListener, TcpStream},
    process::ExitCode,
    thread,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pktconn_benches::{
    load::FrameGenerator,
    plan::SizeRange,
    report::exit_code,
    system::{check_open_file_limit, pin_this_thread, raise_open_file_limit, usable_cores},
};
use pktconn_tools::values::whole_number;
use tokio::{runtime::Builder, sync::mpsc::unbounded_channel};

use measure::{Measurement, WARM_UP_BROADCASTS};
use receiver::Receiver;
use senders::{BareSender, PktconnSender};

/// Compares a broadcast over pktconn with bare writes by the CPU time of the sender; prints a Markdown table.
#[derive(Parser)]
struct Options {
    /// Number of connections of each sender
    #[arg(long, default_value_t = 1000, value_parser = whole_number::<u32>(1.., 1000))]
    conns: u32,
    /// Number of rounds; each sender runs once per round
    #[arg(long, default_value_t = 9, value_parser = whole_number::<u32>(1.., 9))]
    rounds: u32,
    /// Broadcasts of each sender per round
    #[arg(long, default_value_t = 200, value_parser = whole_number::<u32>(1.., 200))]
    broadcasts: u32,
    /// Length of the payload, in bytes
    #[arg(long, default_value_t = 1024, value_parser = whole_number::<u32>(0.., 1024))]
    payload: u32,
}

/// Each sender has its own connections, and both ends of each are in this process.
const FILES_PER_CONN: usize = 4;

fn main() -> ExitCode {
    exit_code("broadcast", run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let receiver_core = pin_sender()?;
    raise_open_file_limit();
    check_open_file_limit(options.conns as usize, FILES_PER_CONN)?;
    let frame = frame(options.payload)?;
    let broadcast_len = frame.len() as u64 * u64::from(options.conns);

    let (bare, mut receiving) = connect(options.conns)?;
    let (pktconn, more_receiving) = connect(options.conns)?;
    receiving.extend(more_receiving);
    let receiver = Receiver::new(receiving, broadcast_len)?;
    let (notify, arrived) = unbounded_channel();
    let receiving = thread::spawn(move || {
        pin_this_thread(receiver_core)?;
        // If the sender is gone, it has failed, and reports that itself.
        receiver.run(|| {
            let _ = notify.send(());
        })
    });

    let runtime = Builder::new_current_thread().enable_all().build()?;
    let pktconn = PktconnSender::new(pktconn, &frame, &runtime)?;
    let bare = BareSender { streams: bare, frame };
    let conns = options.conns;
    let measured =
        Measurement { conns, bare, pktconn, arrived, runtime }.run(options.rounds, options.broadcasts);
    // Checked first: an error of the receiver explains the errors of the sender.
    let received = receiving.join().expect("the receiver does not panic").context("the receiver failed")?;
    let rounds = measured?;
    let broadcasts =
        u64::from(WARM_UP_BROADCASTS) + u64::from(options.rounds) * u64::from(options.broadcasts);
    check_all_arrived(&received, broadcasts * broadcast_len / u64::from(options.conns))?;
    println!("{}", result::TABLE_HEAD);
    println!("{}", result::rows(&rounds).join("\n"));
    Ok(())
}

/// Pins this thread to the first usable core, and returns the second one.
fn pin_sender() -> Result<usize> {
    let cores = usable_cores()?;
    let &[sender, receiver, ..] = cores.as_slice() else {
        eprintln!("broadcast: sender and receiver share one core: the figures will be too high");
        return cores.first().copied().context("there is no core to run on");
    };
    pin_this_thread(sender)?;
    Ok(receiver)
}

/// The bytes of the packet on the wire.
fn frame(payload_len: u32) -> Result<Vec<u8>> {
    let sizes: SizeRange = format!("{payload_len}-{payload_len}").parse()?;
    let mut frame = Vec::new();
    FrameGenerator::new(sizes, 0).encode_next(&mut frame);
    Ok(frame)
}

/// Both ends of `conns` connections: the sending ends and the receiving ends.
fn connect(conns: u32) -> Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let address = listener.local_addr()?;
    let pair = |_| -> Result<_> {
        let sending = TcpStream::connect(address).context("cannot connect")?;
        sending.set_nodelay(true)?;
        sending.set_nonblocking(true)?;
        let (receiving, peer) = listener.accept().context("cannot accept")?;
        ensure!(peer == sending.local_addr()?, "another process connected from {peer}; run it again");
        Ok((sending, receiving))
    };
    (0..conns).map(pair).collect()
}

fn check_all_arrived(received: &[u64], expected_len: u64) -> Result<()> {
    for (index, &received_len) in received.iter().enumerate() {
        ensure!(
            received_len == expected_len,
            "connection {index} received {received_len} bytes instead of {expected_len}"
        );
    }
    eprintln!("all bytes arrived: {expected_len} on each of {} connections", received.len());
    Ok(())
}
