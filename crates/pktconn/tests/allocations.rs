//! Echoing a packet in the steady state needs no allocation.

mod common;

use common::tcp_and_raw;
use pktconn::{Checksum, CodecConfig, ConnConfig, PacketCodec, PacketConn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

const PACKETS: usize = 100_000;

#[derive(Clone, Copy, Debug)]
enum Echo {
    OneByOne,
    InBatches,
    Split,
}

async fn echo(mut conn: PacketConn, how: Echo) -> Result<(), pktconn::Error> {
    match how {
        Echo::OneByOne => {
            while let Some(packet) = conn.recv().await? {
                conn.send(packet).await?;
            }
        }
        Echo::InBatches => {
            let mut packets = Vec::new();
            while conn.recv_many(&mut packets, 64).await? > 0 {
                conn.send_many(&mut packets).await?;
            }
        }
        Echo::Split => {
            let (sender, mut receiver) = conn.split();
            while let Some(packet) = receiver.recv().await? {
                sender.send(packet).await?;
            }
        }
    }
    Ok(())
}

/// Sends `frames` and reads them back, `rounds` times. It allocates nothing itself.
async fn load(raw: &mut TcpStream, frames: &[u8], back: &mut [u8], rounds: usize) {
    for _ in 0..rounds {
        raw.write_all(frames).await.unwrap();
        raw.read_exact(back).await.unwrap();
    }
    assert!(back == frames);
}

fn allocations(how: Echo, checksum: Checksum, payload_len: usize, outstanding: usize) -> u64 {
    let config = CodecConfig::new().checksum(checksum);
    let packet = vec![7; payload_len].into();
    let frame = PacketCodec::new(config).frame(&packet).unwrap();
    let frames = [frame.head(), frame.body(), frame.tail()].concat().repeat(outstanding);
    let mut back = vec![0; frames.len()];

    // The counter counts only the allocations of its thread, so everything runs on one thread.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut raw = runtime.block_on(async {
        let (conn, mut raw) = tcp_and_raw(ConnConfig::new().codec(config)).await;
        raw.set_nodelay(true).unwrap();
        tokio::spawn(echo(conn, how));
        load(&mut raw, &frames, &mut back, 100).await;
        raw
    });
    let rounds = PACKETS / outstanding;
    let counted = allocation_counter::measure(|| {
        runtime.block_on(load(&mut raw, &frames, &mut back, rounds));
    });
    counted.count_total
}

#[test]
fn a_hundred_packets_need_at_most_one_allocation() {
    for how in [Echo::OneByOne, Echo::InBatches, Echo::Split] {
        for checksum in [Checksum::None, Checksum::Crc32] {
            // Many packets outstanding, and only one. The latter is slow, and the checksum makes no difference for it.
            let one = (checksum == Checksum::None).then_some((2048, 1));
            for (payload_len, outstanding) in [(64, 32), (2048, 8)].into_iter().chain(one) {
                let count = allocations(how, checksum, payload_len, outstanding);
                assert!(
                    count <= PACKETS as u64 / 100,
                    "{count} allocations for {PACKETS} packets of {payload_len} B: {how:?}, {checksum:?}, \
                     {outstanding} outstanding"
                );
            }
        }
    }
}
