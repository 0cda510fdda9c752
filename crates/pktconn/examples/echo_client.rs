//! Sends numbers and strings to an echo server and reads them back:
//! `cargo run --example echo_client -- 127.0.0.1:14572`.

use anyhow::Context;
use pktconn::{PacketConn, PacketMut};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:14572".to_owned());
    let mut conn = PacketConn::connect(&addr)
        .await
        .with_context(|| format!("cannot connect to {addr}; start the example echo_server first"))?;

    for (id, text) in (1_u16..).zip(["hello", "packet", "world"]) {
        let mut request = PacketMut::new();
        request.write_u16(id);
        request.write_var_str_u16(text)?;
        conn.send(request).await?;
    }
    for _ in 0..3 {
        let mut reply = conn.recv().await?.context("the server closed the connection")?;
        println!("{}: {}", reply.read_u16()?, reply.read_var_str_u16()?);
    }
    conn.close().await?;
    Ok(())
}
