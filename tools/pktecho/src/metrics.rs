//! Serves the metrics of the server to Prometheus: `GET /metrics`, on a separate address.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use pktconn::Addr;
use pktconn_tools::metrics_page;
use tokio::net::TcpListener;

/// Histogram buckets: from a single request of a device to a connection that lasts a day.
const CONNECTION_SECONDS: [f64; 9] = [0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0];

/// Histogram buckets: from a handshake on one machine to one that almost times out.
const HANDSHAKE_SECONDS: [f64; 9] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

/// Starts to record metrics and to serve them at `addr`. Returns the address with the real port. Call this before
/// starting the servers: they describe their metrics to the recorder when they start.
pub(crate) async fn serve_at(addr: &Addr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(addr.to_string())
        .await
        .map_err(|error| crate::output::cannot_listen(addr, error))?;
    let local_addr = listener.local_addr()?;
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(metric("pktconn_connection_duration_seconds"), &CONNECTION_SECONDS)?
        .set_buckets_for_metric(metric("pktconn_handshake_duration_seconds"), &HANDSHAKE_SECONDS)?
        .install_recorder()
        .context("cannot record metrics")?;
    tokio::spawn(upkeep(handle.clone()));
    tokio::spawn(metrics_page::serve(listener, move || handle.render()));
    Ok(local_addr)
}

fn metric(name: &str) -> Matcher {
    Matcher::Full(name.to_owned())
}

/// Sorts recorded values into the buckets regularly. Otherwise they pile up in memory until the next request.
async fn upkeep(handle: PrometheusHandle) {
    let mut interval = tokio::time::interval(Duration::from_secs(5));
    loop {
        interval.tick().await;
        handle.run_upkeep();
    }
}
