//! Simulates connections that forward packets to peers that do not read, and checks the memory with an allocation
//! counter.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use pktconn::{ConnConfig, PacketConn, SlowConsumer};

use crate::rng::Rng;
use crate::transport::{ConnEnd, Transport};

const KIB: usize = 1024;

/// The buffers for reading and writing that a thread may keep for all of its connections, in bytes.
const PER_THREAD: usize = 256 * KIB;

struct NoWake;

impl Wake for NoWake {
    fn wake(self: Arc<Self>) {}
}

pub(crate) fn simulate(seed: u64) {
    // A seed moves megabytes, so one in five is enough.
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
    let waker = Waker::from(Arc::new(NoWake));
    let mut cx = Context::from_waker(&waker);
    let mut conns = Vec::new();
    for _ in 0..1 + rng.below(3) {
        let transport = Transport::new(rng.below(100), false);
        let conn = PacketConn::new(ConnEnd(transport.clone()), config.clone()).unwrap();
        conns.push((transport, conn.split()));
    }
    // The bytes that the library has allocated since the start. Packets that are created and dropped here cancel out.
    let mut held = 0;
    let payload = vec![7; 100_000];
    for _ in 0..60 {
        let at = rng.below(conns.len());
        // One packet that is forwarded, and filler packets that are dropped, up to the end of a chunk.
        let kept = rng.pick(&[1, 500, 4000, 8188, 9000, 20_000, 32_764, 40_000, 65_532, 100_000]);
        let mut rest = 2 * 65_536 - kept % 65_536;
        let transport = conns[at].0.clone();
        {
            let mut pipe = transport.pipe();
            let mut add = |len: usize| {
                pipe.unread.extend(&(len as u32).to_le_bytes());
                pipe.unread.extend(&payload[..len]);
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
        // An empty queue accepts one packet that is larger than its limit.
        let limit = conns.len() * (high_water.max(100 * KIB) + 128 * KIB) + PER_THREAD;
        assert!(
            held <= limit as i64,
            "memory: {} KiB are held; the limit is {} KiB",
            held / 1024,
            limit / KIB
        );
    }
}
