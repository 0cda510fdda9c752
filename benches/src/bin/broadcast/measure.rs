//! The rounds: each sender in turn, and the CPU time that it used.

use anyhow::Result;
use pktconn_benches::system::thread_cpu_ns;
use tokio::{runtime::Runtime, sync::mpsc::UnboundedReceiver};

use crate::result::Round;
use crate::senders::{BareSender, PktconnSender};

/// Broadcasts before the first round: enough for the kernel to allocate all socket buffers and for the core's clock
/// speed to rise.
pub(crate) const WARM_UP_BROADCASTS: u32 = 20;

/// Both senders. Dropping it closes the connections, which ends the receiver.
pub(crate) struct Measurement {
    pub(crate) conns: u32,
    pub(crate) bare: BareSender,
    pub(crate) pktconn: PktconnSender,
    /// One message per broadcast that has arrived. Each sender waits for it in its own way.
    pub(crate) arrived: UnboundedReceiver<()>,
    /// The last field: the connections must be dropped before their runtime.
    pub(crate) runtime: Runtime,
}

impl Measurement {
    pub(crate) fn run(mut self, rounds: u32, broadcasts: u32) -> Result<Vec<Round>> {
        self.round(WARM_UP_BROADCASTS)?;
        (1..=rounds)
            .map(|number| {
                let round = self.round(broadcasts)?;
                let Round { bare_ns, pktconn_ns } = round;
                eprintln!(
                    "round {number}/{rounds}: bare {bare_ns:.0}, pktconn {pktconn_ns:.0} ns, ratio {:.3}",
                    round.ratio()
                );
                Ok(round)
            })
            .collect()
    }

    fn round(&mut self, broadcasts: u32) -> Result<Round> {
        let packets = f64::from(broadcasts) * f64::from(self.conns);
        let started_ns = thread_cpu_ns();
        self.bare.round(broadcasts, &mut self.arrived)?;
        let bare_done_ns = thread_cpu_ns();
        self.runtime.block_on(self.pktconn.round(broadcasts, &mut self.arrived))?;
        let pktconn_done_ns = thread_cpu_ns();
        Ok(Round {
            bare_ns: (bare_done_ns - started_ns) as f64 / packets,
            pktconn_ns: (pktconn_done_ns - bare_done_ns) as f64 / packets,
        })
    }
}
