//! Sends every packet back to its client: `cargo run --example echo_server -- 127.0.0.1:14572`. Ctrl-C stops it.

use pktconn::PacketServer;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:14572".to_owned());
    let server = PacketServer::bind(&addr).await?;
    println!("listening on {}", server.local_addr());

    let handle = server.handle();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            println!("stopping: draining the connections");
            handle.shutdown();
        }
    });

    server
        .serve(|mut conn| async move {
            while let Some(packet) = conn.recv().await? {
                conn.send(packet).await?;
            }
            Ok(conn.close().await?)
        })
        .await;
    Ok(())
}
