//! Serves metrics to Prometheus over HTTP: `GET /metrics`, without access control.
//!
//! ```text
//!   accept --> one task per connection: one request, one response, the end       page: rendered at most ten times per s
//!      '--> too many connections, or open files: evict one
//! ```

mod open_conns;

mod page;

use std::convert::Infallible;
use std::fs::File;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep, timeout};

use open_conns::OpenConns;
use page::Page;

/// How long a client may take to send the head of its request. A scraper needs one round trip.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take to read the response. The default timeout of Prometheus for a whole scrape is 10 s.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum length of the head of a request: the smallest that `hyper` offers.
const MAX_HEAD_LEN: usize = 8 * 1024;

/// The maximum number of connections; a further one evicts another. A scrape lasts milliseconds, so it ends before 63
/// newer connections have been accepted.
const MAX_CONNS: usize = 64;

/// So many connections are accepted before the tasks of the first of them run. More would let a flood evict connections
/// that were never served, and fewer would let its backlog overflow.
const BURST: usize = 16;

/// The pause after an accept that failed, if nothing can be closed to make the next one succeed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves the text that `render` returns, in the text format of Prometheus. Never returns.
///
/// A connection serves one request. It ends after 5 s without a complete request, and 5 s later if the response was not
/// read. There are at most 64 connections: a further one ends the oldest of the address that has most. One file
/// descriptor is kept in reserve, so that a scrape is served at the limit on open files, too. `render` is called at most
/// ten times per second on average; other requests get the newest page.
pub async fn serve<R>(listener: TcpListener, render: R)
where
    R: Fn() -> String + Send + 'static,
{
    let page = Arc::new(Mutex::new(Page::new(render)));
    let reserve = Arc::new(Reserve::default());
    let mut conns: OpenConns<JoinHandle<()>> = OpenConns::new();
    for number in 1_usize.. {
        reserve.fill();
        let (stream, addr) = accept(&listener, &mut conns, &reserve).await;
        conns.retain(|conn| !conn.is_finished());
        if conns.len() >= MAX_CONNS {
            end_one(&mut conns).await;
        }
        let (page, reserve) = (Arc::clone(&page), Arc::clone(&reserve));
        let conn = tokio::spawn(async move {
            serve_one(stream, page).await;
            // At the limit, the descriptor of the connection becomes the reserve again before others can use it.
            reserve.fill();
        });
        conns.add(addr, conn);
        if number % BURST == 0 {
            yield_now().await;
        }
    }
}

/// Accepts a connection. At the limit on open files it makes room for one.
async fn accept(
    listener: &TcpListener,
    conns: &mut OpenConns<JoinHandle<()>>,
    reserve: &Reserve,
) -> (TcpStream, IpAddr) {
    loop {
        let error = match listener.accept().await {
            Ok((stream, addr)) => return (stream, addr.ip()),
            Err(error) => error,
        };
        // Linux reports the limit even if no connection waits. Then nothing is given up for it.
        if !has_waiting_conn(listener) {
            sleep(ACCEPT_PAUSE).await;
            reserve.fill();
            continue;
        }
        tracing::debug!(%error, "cannot accept a connection for metrics");
        // The next accept follows at once, before other parts of the program can use the descriptor.
        if !reserve.release() && !end_one(conns).await {
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

fn has_waiting_conn(listener: &TcpListener) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Ends a connection and waits until its file is closed. Returns false if there is none.
async fn end_one(conns: &mut OpenConns<JoinHandle<()>>) -> bool {
    conns.retain(|conn| !conn.is_finished());
    let Some(conn) = conns.evict() else { return false };
    conn.abort();
    // An error says that it was aborted.
    let _ = conn.await;
    true
}

/// An open file whose descriptor can be used for a connection when the process may not open any more.
#[derive(Default)]
struct Reserve(Mutex<Option<File>>);

impl Reserve {
    /// Opens the file, if it is not open and the limit allows it.
    fn fill(&self) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            *file = File::open("/dev/null").ok();
        }
    }

    /// Closes the file. Returns false if it is not open.
    fn release(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

/// Serves one request. Ends early if a part takes too long.
async fn serve_one<S, R>(stream: S, page: Arc<Mutex<Page<R>>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Fn() -> String,
{
    let was_asked = Notify::new();
    let answer = service_fn(|request| {
        was_asked.notify_one();
        let response = respond(&request, &page);
        async { Ok::<_, Infallible>(response) }
    });
    let mut conn = Box::pin(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_LEN)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer),
    );
    let before_the_request = async { timeout(HEAD_TIMEOUT, was_asked.notified()).await };
    let ended = tokio::select! {
        biased;
        ended = &mut conn => Some(ended),
        asked = before_the_request => match asked {
            Ok(()) => timeout(WRITE_TIMEOUT, conn).await.ok(),
            Err(_) => None,
        },
    };
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "a connection for metrics failed"),
        None => tracing::debug!("a connection for metrics timed out"),
    }
}

fn respond<R: Fn() -> String>(request: &Request<Incoming>, page: &Mutex<Page<R>>) -> Response<Full<Bytes>> {
    let (status, header, body) = if request.uri().path() != "/metrics" {
        (StatusCode::NOT_FOUND, (CONTENT_TYPE, "text/plain"), Bytes::from("the metrics are at /metrics\n"))
    } else if request.method() == Method::GET || request.method() == Method::HEAD {
        let body = page.lock().unwrap_or_else(PoisonError::into_inner).at(Instant::now());
        (StatusCode::OK, (CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), body)
    } else {
        (StatusCode::METHOD_NOT_ALLOWED, (ALLOW, "GET, HEAD"), Bytes::new())
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header.0, header.1.parse().expect("the header value is valid"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";

    fn page(text: &str) -> Arc<Mutex<Page<impl Fn() -> String + Send + 'static>>> {
        let text = text.to_owned();
        Arc::new(Mutex::new(Page::new(move || text.clone())))
    }

    /// Serves one end of a pipe that holds 64 bytes.
    fn served(text: &str) -> (tokio::io::DuplexStream, JoinHandle<Duration>) {
        let (client, server) = duplex(64);
        let page = page(text);
        let task = tokio::spawn(async move {
            let start = Instant::now();
            serve_one(server, page).await;
            start.elapsed()
        });
        (client, task)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_serves_one_request_and_closes() {
        let (mut client, task) = served("a 1\n");
        client.write_all(&REQUEST.repeat(2)).await.unwrap_or_default();
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert_eq!(response.matches("HTTP/1.1 200 OK").count(), 1, "{response}");
        assert!(response.contains("connection: close\r\n") && response.ends_with("\r\n\r\na 1\n"));
        assert_eq!(task.await.unwrap(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_no_complete_head_is_closed_after_5_s() {
        let (client, task) = served("a 1\n");
        assert_eq!(task.await.unwrap(), HEAD_TIMEOUT);
        drop(client);
        let (mut client, task) = served("a 1\n");
        tokio::spawn(async move {
            for byte in REQUEST {
                // Fails when the server has closed.
                let _ = client.write_all(&[*byte]).await;
                sleep(Duration::from_secs(1)).await;
            }
        });
        assert_eq!(task.await.unwrap(), HEAD_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_closed_after_5_s_more() {
        let (mut client, task) = served(&"a 1\n".repeat(10_000));
        sleep(Duration::from_secs(3)).await;
        client.write_all(REQUEST).await.unwrap();
        assert_eq!(task.await.unwrap(), Duration::from_secs(3) + WRITE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_of_more_than_8_kib_is_refused() {
        let (mut client, task) = served("a 1\n");
        let head = [b"GET /metrics HTTP/1.1\r\nHost: ", &[b'x'; MAX_HEAD_LEN][..]].concat();
        tokio::spawn(async move {
            let _ = client.write_all(&head).await;
            let _ = client.read_to_end(&mut Vec::new()).await;
        });
        assert_eq!(task.await.unwrap(), Duration::ZERO);
    }
}
