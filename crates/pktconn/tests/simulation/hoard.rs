//! Memory: connections that forward to peers that take nothing, against what an allocation counter sees.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use pktconn::{ConnConfig, PacketConn, SlowConsumer};

use crate::rng::Rng;
use crate::transport::{Held, Transport};

const KIB: usize = 1024;

/// What one thread may hold for all of its connections: chunks to read into and to write from.
const OF_THE_THREAD: usize = 256 * KIB;

struct Nothing;

impl Wake for Nothing {
    fn wake(self: Arc<Self>) {}
}

pub(crate) fn simulate(seed: u64) {
    // Each is worth many others: it moves megabytes.
    if seed % 5 != 0 {
        return;
    }
    let mut rng = Rng::new(seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _inside = runtime.enter();
    let high_water = rng.pick(&[16, 64, 256, 512]) * KIB;
    let policy = rng.pick(&[SlowConsumer::Block, SlowConsumer::DropNewest, SlowConsumer::DropOldest]);
    let config = ConnConfig::new().send_high_water(high_water).slow_consumer(policy).write_timeout(None);
    let waker = Waker::from(Arc::new(Nothing));
    let mut cx = Context::from_waker(&waker);
    let mut conns = Vec::new();
    for _ in 0..1 + rng.below(3) {
        let transport = Transport::new(rng.below(100), false);
        let conn = PacketConn::new(Held(transport.clone()), config.clone()).unwrap();
        conns.push((transport, conn.split()));
    }
    // How much is allocated beyond the start, by the library alone: packets that are made and dropped here come to nothing.
    let mut held = 0;
    let payload = vec![7; 100_000];
    for _ in 0..60 {
        let at = rng.below(conns.len());
        // A packet that is kept, of any size, and others to the end of a chunk.
        let kept = rng.pick(&[1, 500, 4000, 8188, 9000, 20_000, 32_764, 40_000, 65_532, 100_000]);
        let mut rest = 2 * 65_536 - kept % 65_536;
        let transport = conns[at].0.clone();
        {
            let mut pipe = transport.pipe();
            let mut add = |len: usize| {
                pipe.arrived.extend(&(len as u32).to_le_bytes());
                pipe.arrived.extend(&payload[..len]);
            };
            add(kept);
            while rest > 4 {
                let len = (1 + rng.below(20_000)).min(rest - 4);
                add(len);
                rest -= len + 4;
            }
            pipe.is_readable = true;
        }
        let forward = rng.below(conns.len());
        held += allocation_counter::measure(|| {
            while let Poll::Ready(Ok(Some(packet))) = conns[at].1.1.poll_recv(&mut cx) {
                if packet.len() == kept {
                    let _ = conns[forward].1.0.try_send(packet);
                }
            }
        })
        .bytes_current;
        held += allocation_counter::measure(|| {
            runtime.block_on(async {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            });
        })
        .bytes_current;
        // One packet that is larger than the queue may pass alone.
        let limit = conns.len() * (high_water.max(100 * KIB) + 128 * KIB) + OF_THE_THREAD;
        assert!(held <= limit as i64, "{} KiB are held, and {} KiB may be", held / 1024, limit / KIB);
    }
}
