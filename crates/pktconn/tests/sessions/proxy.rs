//! A proxy between a client and a server that cuts their connections: by a reset, at any byte, in either direction.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    /// After how many bytes of one direction a connection is cut: a random number below this.
    cut_within: AtomicUsize,
    random: AtomicU64,
    cuts: AtomicUsize,
    is_refusing: AtomicBool,
    cut_all: Notify,
    frozen: watch::Sender<bool>,
}

impl Proxy {
    /// Forwards to `server`. `seed` chooses where connections are cut.
    pub(crate) async fn start(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            cut_within: AtomicUsize::new(usize::MAX),
            random: AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            cuts: AtomicUsize::new(0),
            is_refusing: AtomicBool::new(false),
            cut_all: Notify::new(),
            frozen: watch::Sender::new(false),
        });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if accepting.is_refusing.load(SeqCst) {
                    reset(&client);
                    continue;
                }
                tokio::spawn(forward(Arc::clone(&accepting), client));
            }
        });
        Self { addr, shared }
    }

    /// Cuts each connection from now on after fewer than `bytes` bytes of one direction.
    pub(crate) fn cut_within(&self, bytes: usize) {
        self.shared.cut_within.store(bytes, SeqCst);
    }

    /// Cuts all connections that there are.
    pub(crate) fn cut_all(&self) {
        self.shared.cut_all.notify_waiters();
    }

    /// Resets new connections.
    pub(crate) fn refuse(&self, is_refusing: bool) {
        self.shared.is_refusing.store(is_refusing, SeqCst);
    }

    /// Forwards nothing, and closes nothing.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        self.shared.frozen.send_replace(is_frozen);
    }

    pub(crate) fn cuts(&self) -> usize {
        self.shared.cuts.load(SeqCst)
    }
}

impl Shared {
    fn cut_after(&self) -> usize {
        let mut x = self.random.load(SeqCst);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.store(x, SeqCst);
        let within = self.cut_within.load(SeqCst);
        if within == usize::MAX { usize::MAX } else { (x >> 16) as usize % within }
    }
}

/// A connection is to be reset on both sides.
struct Cut;

async fn forward(shared: Arc<Shared>, client: TcpStream) {
    let Ok(server) = TcpStream::connect(shared.server).await else { return reset(&client) };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let limits = (shared.cut_after(), shared.cut_after());
    let up = copy(&shared, &mut from_client, &mut to_server, limits.0);
    let down = copy(&shared, &mut from_server, &mut to_client, limits.1);
    let cut = tokio::select! {
        forwarded = async { tokio::try_join!(up, down) } => forwarded.is_err(),
        () = shared.cut_all.notified() => true,
    };
    if cut {
        shared.cuts.fetch_add(1, SeqCst);
        reset(to_client.as_ref());
        reset(to_server.as_ref());
    }
}

/// Copies until the direction ends, or until `limit` bytes are copied.
async fn copy(
    shared: &Shared,
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    limit: usize,
) -> Result<(), Cut> {
    let (mut buffer, mut left) = ([0; 4096], limit);
    let mut frozen = shared.frozen.subscribe();
    while left > 0 {
        let len = left.min(buffer.len());
        let Ok(read @ 1..) = from.read(&mut buffer[..len]).await else {
            return to.shutdown().await.map_err(|_| Cut);
        };
        frozen.wait_for(|is_frozen| !is_frozen).await.map_err(|_| Cut)?;
        to.write_all(&buffer[..read]).await.map_err(|_| Cut)?;
        left -= read;
    }
    Err(Cut)
}

fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}
