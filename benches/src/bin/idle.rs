//! Tells how much memory an idle connection costs echo servers, before and after it was used.
//!
//! ```text
//! start, warm up  |  open N connections  |  echo bursts on all of them  |
//!               empty                  fresh                        after use     (resident memory of the server)
//! ```
//!
//! Each server is started anew for each number of connections, so that none inherits what another run left behind.

#![forbid(unsafe_code)]

use std::{
    env,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    process::ExitCode,
    slice, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use pktconn_benches::{
    IDLE_CHECK_CONNS, IDLE_LIMIT_BYTES, IDLE_TABLE_HEAD, IdleResult, Memory, OutputFile, Pattern, Pinning,
    Reading, ServerProcess, ServerSpec, SizeRange, Steady, check_open_file_limit, checked_servers,
    open_files, peak_rss_bytes, raise_open_file_limit, rss_bytes, standard_servers, usable_cores,
};

/// Measures the memory that an idle connection costs echo servers; prints a Markdown table.
#[derive(Parser)]
struct Options {
    /// A server, as NAME=COMMAND LINE. It has to print "listening on ADDR" and echo packets (u32 little-endian length,
    /// payload, no checksum) [default: those of the echo comparison]
    #[arg(long = "server")]
    servers: Vec<ServerSpec>,
    /// Connections
    #[arg(long = "conns", default_values = ["1000", "5000", "9000"], value_parser = clap::value_parser!(u32).range(1..))]
    conns: Vec<u32>,
    /// Fails where an idle connection costs pktecho more than 1536 B of resident memory, before or after use. Runs pktecho
    /// alone, with 2000 connections
    #[arg(long, conflicts_with_all = ["servers", "conns"])]
    check: bool,
    /// Payload sizes in bytes, drawn uniformly, both ends included
    #[arg(long, default_value = "0-2048")]
    sizes: SizeRange,
    /// Seed of the payload sizes, the same for all servers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes all readings to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Payload lengths of the warm-up, in bytes. Each packet waits for the echo of the one before: what a warm-up leaves in
/// the heap would be taken for room that the connections need not ask for.
const WARM_UP_LENS: [u32; 4] = [0, 1, 2048, 64 << 10];

/// Packets that stand on a connection at once: the most of the regimes of `echo_compare`.
const BURST: usize = 32;

/// Connections that are busy at once, of the same regime.
const BUSY_CONNS: usize = 64;

/// Bursts on each connection, in turns with all others: buffers that only a second one makes grow are found too.
const TURNS: usize = 3;

/// How long memory and open files must not move. These servers do nothing by the clock: what has been still for so long
/// waits for its peers.
const STEADY_SPAN: Duration = Duration::from_millis(500);

/// Twenty readings in the span.
const READING_INTERVAL: Duration = Duration::from_millis(25);

/// A server that tidies up in the background may never stand still: then what it holds after this counts.
const STEADY_LIMIT: Duration = Duration::from_secs(10);

/// Covers three tries of the kernel (after 1, 3 and 7 s), which a server with a short accept queue can need.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a server may take over one read or write.
const ECHO_LIMIT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("idle: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut options: Options) -> Result<()> {
    // The servers inherit the limit.
    raise_open_file_limit();
    if options.check {
        options.servers = checked_servers(&env::current_exe()?)?.split_off(1);
        options.conns = vec![IDLE_CHECK_CONNS];
    }
    for &conns in &options.conns {
        check_open_file_limit(conns as usize, 1)?;
    }
    if options.servers.is_empty() {
        options.servers = standard_servers(&env::current_exe()?)?;
    }
    let json = options.json.as_deref().map(OutputFile::create).transpose()?;
    let mut results = Vec::new();
    println!("{IDLE_TABLE_HEAD}");
    for &conns in &options.conns {
        for spec in &options.servers {
            let memory = measure(spec, conns as usize, &options)
                .with_context(|| format!("server {:?} with {conns} connections", spec.name))?;
            let result = IdleResult::new(spec, conns as usize, memory);
            println!("{}", result.row());
            results.push(result);
        }
    }
    if let Some(file) = json {
        file.write_json(&results)?;
    }
    if options.check {
        for result in &results {
            result.check(IDLE_LIMIT_BYTES)?;
        }
        println!("within the limit of {IDLE_LIMIT_BYTES} B");
    }
    Ok(())
}

fn measure(spec: &ServerSpec, conns: usize, options: &Options) -> Result<Memory> {
    // Memory does not depend on the core; with one alone, the client takes turns with the server.
    let core = *usable_cores()?.first().context("there is no core to run on")?;
    let mut server = ServerProcess::start(spec, Pinning { server_core: core, client_core: core })?;
    warm_up(server.address()).context("warming up")?;
    let empty = settle(&mut server, 0)?;
    let opened = open(&mut server, conns)?;
    let fresh = settle(&mut server, empty.open_files + conns)?;
    let exchanged = use_all(&opened, Pattern::new(options.sizes, options.seed));
    // First, as it explains whatever the connections saw.
    server.check_alive()?;
    exchanged?;
    // None may have been closed since.
    let used = settle(&mut server, empty.open_files + conns)?;
    Ok(Memory {
        empty_rss_bytes: empty.rss_bytes,
        fresh_rss_bytes: fresh.rss_bytes,
        used_rss_bytes: used.rss_bytes,
        peak_rss_bytes: peak_rss_bytes(server.pid())?,
    })
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ECHO_LIMIT))?;
    stream.set_write_timeout(Some(ECHO_LIMIT))?;
    Ok(stream)
}

/// Has the server do once what it does for every connection, so that what it sets up once is part of the empty figure.
fn warm_up(address: SocketAddr) -> Result<()> {
    let conn = connect(address)?;
    for payload_len in WARM_UP_LENS {
        let frame = [&payload_len.to_le_bytes()[..], &vec![0; payload_len as usize]].concat();
        exchange(slice::from_ref(&conn), &[frame])?;
    }
    conn.shutdown(Shutdown::Write)?;
    let rest_len = (&conn).read_to_end(&mut Vec::new())?;
    ensure!(rest_len == 0, "{rest_len} bytes came behind the last echo");
    Ok(())
}

/// Waits until the server has at least `least_files` files open and stands still.
///
/// That all connections are accepted shows in the files: unlike an echo, this leaves them unused.
fn settle(server: &mut ServerProcess, least_files: usize) -> Result<Reading> {
    let mut steady = Steady::new(STEADY_SPAN);
    let give_up_at = Instant::now() + STEADY_LIMIT;
    loop {
        server.check_alive()?;
        let reading = Reading { rss_bytes: rss_bytes(server.pid())?, open_files: open_files(server.pid())? };
        let now = Instant::now();
        if steady.see(reading, now) && reading.open_files >= least_files {
            return Ok(reading);
        }
        if now >= give_up_at {
            let missing = least_files.saturating_sub(reading.open_files);
            ensure!(missing == 0, "{missing} connections are not open in the server after {STEADY_LIMIT:?}");
            eprintln!(
                "the server's memory still moves after {STEADY_LIMIT:?}: the figure is that of a moment"
            );
            return Ok(reading);
        }
        thread::sleep(READING_INTERVAL);
    }
}

fn open(server: &mut ServerProcess, conns: usize) -> Result<Vec<TcpStream>> {
    let opened = (0..conns).map(|_| connect(server.address())).collect::<Result<_>>();
    server.check_alive()?;
    opened.context("cannot connect")
}

/// Sends bursts on all connections, [`BUSY_CONNS`] at a time, and checks their echoes.
fn use_all(conns: &[TcpStream], mut pattern: Pattern) -> Result<()> {
    for _ in 0..TURNS {
        for busy in conns.chunks(BUSY_CONNS) {
            let bursts: Vec<_> = busy.iter().map(|_| burst(&mut pattern)).collect();
            exchange(busy, &bursts)?;
        }
    }
    Ok(())
}

fn burst(pattern: &mut Pattern) -> Vec<u8> {
    let mut frames = Vec::new();
    for _ in 0..BURST {
        pattern.encode_next(&mut frames);
    }
    frames
}

/// Sends a burst on each connection while it reads the echoes, in the same order: whatever the sockets hold, the two
/// cannot wait for each other.
fn exchange(conns: &[TcpStream], bursts: &[Vec<u8>]) -> Result<()> {
    let pairs = || conns.iter().zip(bursts);
    thread::scope(|scope| {
        let writing = scope.spawn(|| pairs().try_for_each(|(mut conn, burst)| conn.write_all(burst)));
        let read = pairs().try_for_each(|(conn, burst)| expect_echo(conn, burst));
        if read.is_err() {
            // Or the writer would go on until a write takes too long.
            conns.iter().for_each(|conn| drop(conn.shutdown(Shutdown::Both)));
        }
        let written = writing.join().expect("writing does not panic");
        read?;
        written.context("cannot send")
    })
}

fn expect_echo(mut conn: &TcpStream, burst: &[u8]) -> Result<()> {
    let mut echo = vec![0; burst.len()];
    match conn.read_exact(&mut echo) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("nothing was echoed for {ECHO_LIMIT:?}"),
        read => read.context("packets were not echoed")?,
    }
    ensure!(echo == burst, "the echo is not what was sent");
    Ok(())
}
