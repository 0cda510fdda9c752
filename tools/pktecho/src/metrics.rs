//! Serves the metrics of the server to Prometheus: `GET /metrics`, on a separate address.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use pktconn::Addr;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How long a client may take to send a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of connections; further ones wait. The only expected clients are Prometheus and an occasional person.
const MAX_CONNS: usize = 16;

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
    tokio::spawn(serve(listener, handle));
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

async fn serve(listener: TcpListener, handle: PrometheusHandle) {
    let permits = Arc::new(Semaphore::new(MAX_CONNS));
    // Always `Ok`: the semaphore is never closed.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let handle = handle.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let response = respond(&request, &handle);
                async { Ok::<_, Infallible>(response) }
            });
            let conn = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = conn.await {
                tracing::debug!(%error, "a connection for metrics failed");
            }
            drop(permit);
        });
    }
}

fn respond(request: &Request<Incoming>, handle: &PrometheusHandle) -> Response<Full<Bytes>> {
    let (status, header, body) = if request.uri().path() != "/metrics" {
        (StatusCode::NOT_FOUND, (CONTENT_TYPE, "text/plain"), "the metrics are at /metrics\n".to_owned())
    } else if request.method() == Method::GET || request.method() == Method::HEAD {
        (StatusCode::OK, (CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), handle.render())
    } else {
        (StatusCode::METHOD_NOT_ALLOWED, (ALLOW, "GET, HEAD"), String::new())
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header.0, header.1.parse().expect("the header value is valid"));
    response
}
