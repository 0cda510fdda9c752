//! The client side: sends frames on connections and checks that they come back.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    slice, thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use pktconn_benches::load::FrameGenerator;

/// Payload lengths of the warm-up, in bytes. Each packet waits for the echo of the one before: memory that a larger
/// warm-up leaves in the heap would be used by the connections, and would be missing in their figures.
const WARM_UP_LENS: [u32; 4] = [0, 1, 2048, 64 << 10];

/// Packets per burst: the highest number outstanding in a regime of `echo_compare`.
const BURST_PACKETS: usize = 32;

/// Connections that are busy at the same time, as in that regime.
const BUSY_CONNS: usize = 64;

/// Bursts per connection, alternating with all others: some buffers grow only at the second burst.
const BURSTS_PER_CONN: usize = 3;

/// Long enough for three retries of the kernel (after 1, 3 and 7 s), which a server with a short accept queue can need.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Timeout of one read or write.
const ECHO_LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ECHO_LIMIT))?;
    stream.set_write_timeout(Some(ECHO_LIMIT))?;
    Ok(stream)
}

/// Echoes packets on one connection and closes it, so that what the server sets up once is part of the empty figure.
pub(crate) fn warm_up(address: SocketAddr) -> Result<()> {
    let conn = connect(address)?;
    for payload_len in WARM_UP_LENS {
        let frame = [&payload_len.to_le_bytes()[..], &vec![0; payload_len as usize]].concat();
        exchange(slice::from_ref(&conn), &[frame])?;
    }
    conn.shutdown(Shutdown::Write)?;
    let rest_len = (&conn).read_to_end(&mut Vec::new())?;
    ensure!(rest_len == 0, "{rest_len} unexpected bytes followed the last echo");
    Ok(())
}

/// Sends bursts on all connections, [`BUSY_CONNS`] at a time, and checks their echoes.
pub(crate) fn echo_on_all(conns: &[TcpStream], mut generator: FrameGenerator) -> Result<()> {
    for _ in 0..BURSTS_PER_CONN {
        for busy in conns.chunks(BUSY_CONNS) {
            let bursts: Vec<_> = busy.iter().map(|_| burst(&mut generator)).collect();
            exchange(busy, &bursts)?;
        }
    }
    Ok(())
}

fn burst(generator: &mut FrameGenerator) -> Vec<u8> {
    let mut frames = Vec::new();
    for _ in 0..BURST_PACKETS {
        generator.encode_next(&mut frames);
    }
    frames
}

/// Sends a burst on each connection while it reads the echoes in the same order. Writing and reading are on two
/// threads: on one, they would wait for each other once the sockets' buffers are full.
fn exchange(conns: &[TcpStream], bursts: &[Vec<u8>]) -> Result<()> {
    let pairs = || conns.iter().zip(bursts);
    thread::scope(|scope| {
        let writing = scope.spawn(|| pairs().try_for_each(|(mut conn, burst)| conn.write_all(burst)));
        let read = pairs().try_for_each(|(conn, burst)| expect_echo(conn, burst));
        if read.is_err() {
            // Otherwise the writer continues until a write times out.
            conns.iter().for_each(|conn| drop(conn.shutdown(Shutdown::Both)));
        }
        let written = writing.join().expect("the writer does not panic");
        read?;
        written.context("cannot send")
    })
}

fn expect_echo(mut conn: &TcpStream, burst: &[u8]) -> Result<()> {
    let mut echo = vec![0; burst.len()];
    match conn.read_exact(&mut echo) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            bail!("the server echoed nothing for {ECHO_LIMIT:?}")
        }
        read => read.context("packets were not echoed")?,
    }
    ensure!(echo == burst, "the echo differs from what was sent");
    Ok(())
}
