//! The figures of the server, for Prometheus: `GET /metrics` on an address of its own.

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

/// Who asks has this long for its question, and then again for the next one.
const PATIENCE: Duration = Duration::from_secs(10);

/// More than that at a time wait: nobody but Prometheus and who looks at it by hand is expected.
const CONNS: usize = 16;

/// From a request of a device to a connection that is kept for a day.
const CONNECTION_SECONDS: [f64; 9] = [0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0];

/// From a handshake on one machine to one that is just in time.
const HANDSHAKE_SECONDS: [f64; 9] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

/// Has what is counted from now on served at `addr`, and tells the address with the real port.
pub(crate) async fn serve_at(addr: &Addr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(addr.to_string())
        .await
        .map_err(|error| crate::messages::cannot_listen(addr, error))?;
    let local_addr = listener.local_addr()?;
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(buckets_of("pktconn_connection_duration_seconds"), &CONNECTION_SECONDS)?
        .set_buckets_for_metric(buckets_of("pktconn_handshake_duration_seconds"), &HANDSHAKE_SECONDS)?
        .install_recorder()
        .context("cannot record metrics")?;
    tokio::spawn(keep_up(handle.clone()));
    tokio::spawn(serve(listener, handle));
    Ok(local_addr)
}

fn buckets_of(name: &str) -> Matcher {
    Matcher::Full(name.to_owned())
}

/// What is recorded waits to be sorted into the buckets: also while nobody asks.
async fn keep_up(handle: PrometheusHandle) {
    let mut interval = tokio::time::interval(Duration::from_secs(5));
    loop {
        interval.tick().await;
        handle.run_upkeep();
    }
}

async fn serve(listener: TcpListener, handle: PrometheusHandle) {
    let room = Arc::new(Semaphore::new(CONNS));
    // It is never closed.
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "no connection for metrics can be accepted");
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
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = conn.await {
                tracing::debug!(%error, "a connection for metrics failed");
            }
            drop(place);
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
    response.headers_mut().insert(header.0, header.1.parse().expect("a constant"));
    response
}
