//! The metrics that servers and clients report to the recorder of the crate `metrics`.
#![cfg(feature = "metrics")]

mod common;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use common::{numbered, tcp_addr};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use pktconn::{Client, ClientConfig, ClientState, ConnConfig, PacketConn, PacketServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The metrics since the last snapshot, by name and labels. A histogram has the number of its values.
fn figures(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let snapshot = snapshotter.snapshot().into_vec();
    let figures = snapshot.into_iter().map(|(key, _unit, description, value)| {
        assert!(description.is_some(), "{key:?} is not described");
        let (_, key) = key.into_parts();
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = [&[key.name().to_owned()], &labels[..]].concat().join(" ");
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        (name, value)
    });
    figures.collect()
}

/// Runs `test` with its own recorder on a single-threaded runtime.
fn recorded<F: Future<Output = ()>>(test: impl FnOnce(Snapshotter) -> F) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(test(snapshotter)));
}

/// Waits until the servers have reported. They do so once per second, with timers of a millisecond's resolution, so
/// this sleeps for a millisecond longer.
async fn a_second_later() {
    tokio::time::pause();
    tokio::time::sleep(Duration::from_millis(1001)).await;
    tokio::time::resume();
}

#[test]
fn a_server_reports_its_metrics_every_second_and_when_it_ends() {
    recorded(|snapshotter| async move {
        let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
        let (addr, handle) = (tcp_addr(&server), server.handle());
        let serving = tokio::spawn(server.serve(|mut conn| async move {
            while let Some(packet) = conn.recv().await? {
                conn.send(packet).await?;
            }
            Ok(conn.close().await?)
        }));
        let mut conn = PacketConn::connect(addr).await.unwrap();
        for number in 0..10 {
            conn.send(numbered(number)).await.unwrap();
            conn.recv().await.unwrap();
        }
        let bytes = conn.stats().bytes_sent as f64;
        a_second_later().await;
        let meanwhile = figures(&snapshotter);
        for (name, expected) in [
            ("pktconn_connections_accepted_total", 1.0),
            ("pktconn_connections_refused_total", 0.0),
            ("pktconn_connections_over_rate_total", 0.0),
            ("pktconn_connections_open", 1.0),
            ("pktconn_packets_received_total", 10.0),
            ("pktconn_packets_sent_total", 10.0),
            ("pktconn_packets_dropped_total", 0.0),
            ("pktconn_received_bytes_total", bytes),
            ("pktconn_sent_bytes_total", bytes),
            ("pktconn_reads_total", 10.0),
            ("pktconn_writes_total", 10.0),
            ("pktconn_queued_bytes", 0.0),
            ("pktconn_held_bytes", 0.0),
        ] {
            assert_eq!(meanwhile.get(name), Some(&expected), "{name} of {meanwhile:?}");
        }

        conn.send(numbered(10)).await.unwrap();
        conn.recv().await.unwrap();
        conn.close().await.unwrap();
        let mut torn = TcpStream::connect(addr).await.unwrap();
        torn.write_all(b"\x05\0\0\0abc").await.unwrap();
        torn.shutdown().await.unwrap();
        torn.read_to_end(&mut Vec::new()).await.unwrap_err();
        handle.shutdown();
        serving.await.unwrap();
        // Each snapshot of this recorder starts at zero.
        let at_the_end = figures(&snapshotter);
        for (name, expected) in [
            ("pktconn_connections_ended_total reason=remote_close", 1.0),
            ("pktconn_connections_ended_total reason=truncated", 1.0),
            ("pktconn_connection_duration_seconds", 2.0),
            ("pktconn_connections_open", -1.0),
            ("pktconn_packets_received_total", 1.0),
        ] {
            assert_eq!(at_the_end.get(name), Some(&expected), "{name} of {at_the_end:?}");
        }
        let traffic = handle.traffic();
        assert_eq!((traffic.packets_received, traffic.packets_sent, traffic.queued_bytes), (11, 11, 0));
    });
}

#[test]
fn the_servers_of_a_process_add_up_to_one_sum() {
    recorded(|snapshotter| async move {
        let mut servers = Vec::new();
        for _ in 0..3 {
            // Longer than the test, so that connections stay open until the clients close their side.
            let config = ConnConfig::new().close_grace(Duration::from_secs(10));
            let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
            let (addr, handle) = (tcp_addr(&server), server.handle());
            let serving = tokio::spawn(server.serve(|mut conn| async move { Ok(conn.close().await?) }));
            servers.push((addr, handle, serving));
        }
        let mut open = Vec::new();
        for (addr, ..) in &servers {
            let conn = PacketConn::connect_with(addr, ConnConfig::new().half_close(true)).await;
            let mut conn = conn.unwrap();
            conn.recv().await.unwrap();
            open.push(conn);
        }
        a_second_later().await;
        assert_eq!(figures(&snapshotter)["pktconn_connections_open"], 3.0);
        drop(open);
        for (addr, handle, serving) in servers {
            let mut conn = PacketConn::connect(addr).await.unwrap();
            assert!(conn.recv().await.unwrap().is_none());
            conn.close().await.unwrap();
            handle.shutdown();
            serving.await.unwrap();
        }
        let figures = figures(&snapshotter);
        assert_eq!(figures["pktconn_connections_accepted_total"], 3.0);
        assert_eq!(figures["pktconn_connections_ended_total reason=local_close"], 6.0);
        assert_eq!(figures["pktconn_connections_open"], -3.0);
    });
}

#[test]
fn a_client_counts_its_connections_and_failed_attempts() {
    recorded(|snapshotter| async move {
        let tries = std::sync::atomic::AtomicU32::new(0);
        let (made, _pipes) = std::sync::mpsc::channel();
        let config = ClientConfig::new().min_backoff(Duration::from_millis(1));
        let client = Client::with_connector(config, move |config| {
            let fails = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2;
            let made = made.clone();
            async move {
                if fails {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
                }
                let (here, there) = tokio::io::duplex(64);
                made.send(there)?;
                Ok(PacketConn::new(here, config)?)
            }
        })
        .unwrap();
        client.state().wait_for(ClientState::is_connected).await.unwrap();
        let figures = figures(&snapshotter);
        assert_eq!(figures["pktconn_client_failed_tries_total"], 2.0);
        assert_eq!(figures["pktconn_client_connections_total"], 1.0);
    });
}
