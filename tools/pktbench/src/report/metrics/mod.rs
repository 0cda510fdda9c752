//! Live metrics of a run for Prometheus (`--metrics`): `GET /metrics`, on a separate address.
//!
//! ```text
//!   workers --progress, recordings--> conductor --ten times per second--> figures --> page --> a thread of its own
//! ```
//!
//! The conductor updates the figures from what the workers report anyway, so the metrics do not disturb the load.

mod buckets;

mod page;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use pktconn::Addr;
use pktconn_tools::metrics_page;
use tokio::net::TcpListener;

use crate::record::recording::Recording;
use crate::report::status::RunStatus;
use crate::result::document::Config;
use page::Figures;

/// Where to serve the metrics of a run with these options.
#[derive(Debug)]
pub(crate) struct MetricsOptions {
    pub(crate) addr: Addr,
    pub(crate) config: Config,
}

/// The served metrics. They end with the process.
pub(crate) struct Metrics {
    addr: SocketAddr,
    figures: Arc<Mutex<Figures>>,
}

impl Metrics {
    /// Starts to serve. Prints the address with the real port on standard error.
    pub(crate) fn serve(options: &MetricsOptions) -> anyhow::Result<Self> {
        const CANNOT_START: &str = "cannot start the thread of --metrics";
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context(CANNOT_START)?;
        let bind = TcpListener::bind(options.addr.to_string());
        let bound = runtime.block_on(bind).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (addr, listener) = bound.with_context(|| {
            format!(
                "cannot serve --metrics at {}; choose another address, or port 0 for a free one",
                options.addr
            )
        })?;
        let figures = Arc::new(Mutex::new(Figures::new(&options.config)));
        let shared = Arc::clone(&figures);
        let serve = move || runtime.block_on(metrics_page::serve(listener, move || locked(&shared).page()));
        std::thread::Builder::new().name("metrics".to_owned()).spawn(serve).context(CANNOT_START)?;
        let metrics = Self { addr, figures };
        eprintln!("metrics on {}", metrics.url());
        Ok(metrics)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/metrics", self.addr)
    }

    /// Updates what is known at any time.
    pub(crate) fn show(&self, status: &RunStatus<'_>) {
        locked(&self.figures).show(status);
    }

    /// Adds a complete interval.
    pub(crate) fn add(&self, recording: &Recording) {
        locked(&self.figures).add(recording);
    }
}

/// The figures are plain numbers, so a panic elsewhere leaves them valid.
fn locked(figures: &Mutex<Figures>) -> MutexGuard<'_, Figures> {
    figures.lock().unwrap_or_else(PoisonError::into_inner)
}
