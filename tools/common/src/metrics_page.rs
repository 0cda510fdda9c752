//! Serves metrics to Prometheus over HTTP: `GET /metrics`, without access control.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How long a client may take to send a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of connections; further ones wait. The only expected clients are Prometheus and an occasional person.
const MAX_CONNS: usize = 16;

/// Serves the text that `render` returns, in the text format of Prometheus. Never returns.
pub async fn serve<R>(listener: TcpListener, render: R)
where
    R: Fn() -> String + Clone + Send + 'static,
{
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
        let render = render.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let response = respond(&request, &render);
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

fn respond(request: &Request<Incoming>, render: &impl Fn() -> String) -> Response<Full<Bytes>> {
    let (status, header, body) = if request.uri().path() != "/metrics" {
        (StatusCode::NOT_FOUND, (CONTENT_TYPE, "text/plain"), "the metrics are at /metrics\n".to_owned())
    } else if request.method() == Method::GET || request.method() == Method::HEAD {
        (StatusCode::OK, (CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), render())
    } else {
        (StatusCode::METHOD_NOT_ALLOWED, (ALLOW, "GET, HEAD"), String::new())
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header.0, header.1.parse().expect("the header value is valid"));
    response
}
