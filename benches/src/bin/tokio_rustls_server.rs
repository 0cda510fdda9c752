//! The reference of the comparison over TLS: an echo server with one thread on tokio-rustls, without `pktconn`.
//!
//! It reads what a record holds and writes it back, without looking for frames.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::Parser;
use pktconn_benches::system::{print_listening, raise_open_file_limit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// Echoes bytes over TLS from one thread on tokio-rustls.
#[derive(Parser)]
struct Options {
    /// Address to listen on; port 0 asks for a free port
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Certificate chain, as PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: PathBuf,

    /// Private key of the certificate, as PEM
    #[arg(long, value_name = "FILE")]
    tls_key: PathBuf,
}

/// The largest record that TLS allows (RFC 8446, 5.1): a read returns at most one.
const RECORD_LEN: usize = 16 * 1024;

fn main() -> Result<()> {
    // The same runtime settings as pktecho; see `worker.rs` there.
    let runtime =
        Builder::new_current_thread().enable_all().max_io_events_per_tick(64).event_interval(128).build();
    runtime.context("cannot start")?.block_on(run(&Options::parse()))
}

async fn run(options: &Options) -> Result<()> {
    raise_open_file_limit();
    let acceptor = acceptor(options)?;
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    print_listening(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A failed connection does not affect the others.
            if let Err(error) = echo(stream, acceptor).await {
                eprintln!("tokio_rustls_server: {error:#}");
            }
        });
    }
}

fn acceptor(options: &Options) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(&options.tls_cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot use {}", options.tls_cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(&options.tls_key)
        .with_context(|| format!("cannot use {}", options.tls_key.display()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config).into())
}

async fn echo(stream: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let mut buffer = vec![0; RECORD_LEN];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return Ok(stream.shutdown().await?),
            Ok(len) => stream.write_all(&buffer[..len]).await?,
            // The benchmark's client closes without a close_notify.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        stream.flush().await?;
    }
}
