//! Requests and responses over a client that reconnects. `cargo run --example requests`
//!
//! ```text
//!   frame: number of the request, payload        <->        frame: the same number, payload of the response
//! ```
//!
//! Many tasks may call at the same time, and responses may arrive in any order. If the connection is lost, requests
//! that the server may have received fail at once, and their callers decide whether to repeat them. The other requests
//! are sent over the next connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use pktconn::{
    Addr, Client, ClientConfig, ClientEvent, ClientSender, HandlerResult, Packet, PacketConn, PacketMut,
    PacketServer,
};
use tokio::sync::{Semaphore, oneshot};

/// The waiting callers, by the number of their request. They get `None` if the delivery is unknown.
type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Option<Packet>>>>>;

/// Calls a server. Clones share one connection.
#[derive(Clone)]
pub(crate) struct Caller {
    sender: ClientSender,
    pending: Pending,
}

impl Caller {
    pub(crate) fn new(server: impl Into<Addr>, config: ClientConfig) -> anyhow::Result<Self> {
        let client = Client::new(server, config)?;
        let caller = Self { sender: client.sender(), pending: Pending::default() };
        tokio::spawn(route(client, caller.pending.clone()));
        Ok(caller)
    }

    /// Sends a request and waits for the response.
    pub(crate) async fn call(&self, request: &[u8], limit: Duration) -> anyhow::Result<Packet> {
        let (respond, response) = oneshot::channel();
        let permit = self.sender.reserve().await?;
        let number = permit.number();
        // Register before sending: the response may arrive before this task continues.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(number, respond);
        let mut packet = PacketMut::new();
        packet.write_u64(number);
        packet.write_bytes(request);
        // Removes the entry in every case: a response, an error, or a caller that drops this future.
        let _entry = Entry(&self.pending, number);
        permit.send(packet)?;
        let response = tokio::time::timeout(limit, response).await;
        let response = response.context("no response in time")?.context("the client has ended")?;
        response.context("the connection was lost; the server may have received the request")
    }
}

struct Entry<'a>(&'a Pending, u64);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// Passes responses to their callers.
async fn route(mut client: Client, pending: Pending) {
    while let Some(event) = client.recv().await {
        let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            ClientEvent::Packet(mut response) => {
                let caller = response.read_u64().ok().and_then(|number| pending.remove(&number));
                // There is no caller if its time limit has passed.
                let _ = caller.map(|caller| caller.send(Some(response)));
            }
            ClientEvent::Lost(lost) => {
                for number in lost.delivery_unknown {
                    let _ = pending.remove(&number).map(|caller| caller.send(None));
                }
            }
            _ => {}
        }
    }
    pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Serves up to 100 requests of a connection at the same time. The response is the payload in capitals, after up to 2
/// ms.
pub(crate) async fn serve(conn: &mut PacketConn) -> HandlerResult {
    let limit = Arc::new(Semaphore::new(100));
    while let Some(mut request) = conn.recv().await? {
        // At the limit nothing is received, so the requests of the client wait.
        let permit = limit.clone().acquire_owned().await?;
        let sender = conn.sender();
        tokio::spawn(async move {
            let number = request.read_u64()?;
            tokio::time::sleep(Duration::from_millis(number % 3)).await;
            let mut response = PacketMut::new();
            response.write_u64(number);
            response.write_bytes(&request.unread().to_ascii_uppercase());
            sender.send(response).await?;
            drop(permit);
            anyhow::Ok(())
        });
    }
    // Waits until all responses are sent, before the connection closes.
    let _all = limit.acquire_many(100).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = PacketServer::bind("127.0.0.1:0").await?;
    let caller = Caller::new(server.local_addr(), ClientConfig::new())?;
    tokio::spawn(server.serve_conn(serve));
    let response = caller.call(b"hello", Duration::from_secs(1)).await?;
    println!("{}", String::from_utf8_lossy(response.unread()));
    Ok(())
}
