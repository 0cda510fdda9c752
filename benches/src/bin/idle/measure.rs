//! One measurement: starts a server, opens connections, uses them, and reads the server's memory in between.
//!
//! Each measurement starts the server anew, so it inherits nothing from another one.

use std::{
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pktconn_benches::{
    load::FrameGenerator,
    plan::{ServerSpec, SizeRange},
    system::{Pinning, ServerProcess, open_files, peak_rss_bytes, rss_bytes, usable_cores},
};

use crate::echo::{connect, echo_on_all, warm_up};
use crate::result::Memory;
use crate::steady::{Reading, Steady};

/// How long memory and open files must stay the same. These servers have no periodic work, so a server that has been
/// steady for this long waits for its clients.
const STEADY_SPAN: Duration = Duration::from_millis(500);

/// Twenty readings per [`STEADY_SPAN`].
const READING_INTERVAL: Duration = Duration::from_millis(25);

/// A server that cleans up in the background may never be steady; after this long its last reading counts.
const STEADY_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn measure(spec: &ServerSpec, conns: usize, sizes: SizeRange, seed: u64) -> Result<Memory> {
    // Memory does not depend on the core, so one is enough for server and client.
    let core = *usable_cores()?.first().context("there is no core to run on")?;
    let mut server = ServerProcess::start(spec, Pinning { server_core: core, client_core: core })?;
    warm_up(server.address()).context("warming up")?;
    let empty = wait_until_steady(&mut server, 0)?;
    let opened = open(&mut server, conns)?;
    let fresh = wait_until_steady(&mut server, empty.open_files + conns)?;
    let echoed = echo_on_all(&opened, FrameGenerator::new(sizes, seed));
    // Checked first: a server that died explains every error of the connections.
    server.check_alive()?;
    echoed?;
    // The number of files shows that no connection was closed.
    let used = wait_until_steady(&mut server, empty.open_files + conns)?;
    Ok(Memory {
        empty_rss_bytes: empty.rss_bytes,
        fresh_rss_bytes: fresh.rss_bytes,
        used_rss_bytes: used.rss_bytes,
        peak_rss_bytes: peak_rss_bytes(server.pid())?,
    })
}

fn open(server: &mut ServerProcess, conns: usize) -> Result<Vec<TcpStream>> {
    let opened = (0..conns).map(|_| connect(server.address())).collect::<Result<_>>();
    server.check_alive()?;
    opened.context("cannot connect")
}

/// Waits until the server has at least `min_files` files open and its memory is steady.
///
/// The open files show that the server has accepted all connections. An echo would show it too, but then the
/// connections would no longer be unused.
fn wait_until_steady(server: &mut ServerProcess, min_files: usize) -> Result<Reading> {
    let mut steady = Steady::new(STEADY_SPAN);
    let give_up_at = Instant::now() + STEADY_LIMIT;
    loop {
        server.check_alive()?;
        let reading = Reading { rss_bytes: rss_bytes(server.pid())?, open_files: open_files(server.pid())? };
        let now = Instant::now();
        if steady.add(reading, now) && reading.open_files >= min_files {
            return Ok(reading);
        }
        if now >= give_up_at {
            let missing = min_files.saturating_sub(reading.open_files);
            ensure!(missing == 0, "{missing} connections are not open in the server after {STEADY_LIMIT:?}");
            eprintln!("the server's memory still changes after {STEADY_LIMIT:?}; using its last reading");
            return Ok(reading);
        }
        thread::sleep(READING_INTERVAL);
    }
}
