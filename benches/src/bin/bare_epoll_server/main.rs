//! The reference of the echo comparison: an echo server with one thread, one epoll loop, and as little work per packet
//! as that allows.
//!
//! ```text
//! socket --read--> one 64 KiB buffer for all connections --write, whole frames only--> socket
//!                       |  incomplete frame: kept until its end arrives
//!                       |  bytes that the socket does not accept: kept until it is writable
//! ```
//!
//! It is not fair: a peer that always has 64 KiB ready is served until it pauses.

#![forbid(unsafe_code)]

mod connection;
mod server;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Parser;
use pktconn_benches::system::{print_listening, raise_open_file_limit};

use server::Server;

/// Echoes packets (u32 little-endian length, payload, no checksum) from one thread.
#[derive(Parser)]
struct Options {
    /// Address to listen on; port 0 asks for a free port
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

fn main() -> Result<()> {
    let options = Options::parse();
    raise_open_file_limit();
    let server =
        Server::bind(options.listen).with_context(|| format!("cannot listen on {}", options.listen))?;
    print_listening(server.local_addr()?)?;
    server.run().context("the event loop failed")
}
