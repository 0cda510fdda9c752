//! Waits until a server has worked off what an earlier run has left behind: requests that were never answered, in its
//! buffers and in those of the kernel. Otherwise the next run of a search would measure them.

use std::time::{Duration, Instant};

use pktconn_tools::printable::print_warning;

use crate::judge::abort::AbortWatch;
use crate::plan::{Amount, Pace, Plan};
use crate::report::output::Output;
use crate::result::document::Document;
use crate::run::{conductor, to_document};

/// How long to wait. A server that needs longer is measured as it is, with a warning.
const MAX_WAIT: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(100);

/// A server without a backlog answers a single packet in a few times the shortest service time of the search.
const MAX_SLOWDOWN: u32 = 5;

/// What the scheduler of a busy machine may add.
const TOLERANCE: Duration = Duration::from_millis(5);

/// Sends single packets, one per server, until they are answered at once. `fastest` is the shortest service time so far.
pub(crate) fn wait(plan: &Plan, fastest: Duration, is_interrupted: impl Fn() -> bool) -> anyhow::Result<()> {
    let give_up_at = Instant::now() + MAX_WAIT;
    let limit = fastest * MAX_SLOWDOWN + TOLERANCE;
    while Instant::now() < give_up_at {
        let probe = conductor::run(probe(plan), Output::default().open()?, AbortWatch::default())?.0;
        if is_interrupted() || is_recovered(&to_document::document(&probe), limit) {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    print_warning(format_args!(
        "the server does not answer at once {} s after the last rate",
        MAX_WAIT.as_secs()
    ));
    Ok(())
}

fn is_recovered(document: &Document, limit: Duration) -> bool {
    let slowest = document.latency_ns.service.max.map(Duration::from_nanos);
    document.integrity.unanswered == 0 && slowest.is_some_and(|slowest| slowest <= limit)
}

fn probe(plan: &Plan) -> Plan {
    let conns = plan.connect.len().max(1);
    Plan {
        pace: Pace::Closed,
        stages: None,
        conns,
        threads: 1,
        connect_rate: None,
        pipeline: 1,
        amount: Amount::Packets(conns as u64),
        ramp: Duration::ZERO,
        warmup: Duration::ZERO,
        ..plan.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use crate::result::document::tests::document;

    #[test]
    fn a_probe_sends_one_packet_to_each_server() {
        let servers = vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()];
        let two = probe(&Plan { connect: servers, warmup: Duration::from_secs(1), ..plan() });
        assert_eq!((two.conns, two.amount, two.warmup), (2, Amount::Packets(2), Duration::ZERO));
        assert_eq!(probe(&plan()).amount, Amount::Packets(1));
    }

    #[test]
    fn a_server_has_recovered_if_all_packets_come_back_at_once() {
        let mut answered = document();
        answered.latency_ns.service.max = Some(30_000);
        assert!(is_recovered(&answered, Duration::from_micros(30)));
        assert!(!is_recovered(&answered, Duration::from_micros(29)));
        answered.integrity.unanswered = 1;
        assert!(!is_recovered(&answered, Duration::from_secs(1)));
    }
}
