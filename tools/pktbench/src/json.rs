//! The result as one JSON document, for programs.
//!
//! Its fields are described in the README. A change that takes one away or gives it another meaning takes another
//! `schema`.

use serde_json::{Value, json};

use crate::outcome::{Outcome, Verdict};
use crate::plan::{Amount, Plan};
use crate::report::PERCENTILES;
use crate::tally::Tally;

pub(crate) fn document(outcome: &Outcome) -> String {
    let Outcome { plan, tally, .. } = outcome;
    let traffic = &tally.traffic;
    let integrity = &tally.integrity;
    let failures = &tally.failures;
    let document = json!({
        "schema": "pktbench/1",
        "config": config(plan, outcome),
        "seconds": outcome.time.as_secs_f64(),
        "totals": {
            "sent": traffic.sent_packets,
            "received": traffic.received_packets,
            "packets_per_s": outcome.packets_per_s(),
            "bytes_sent": traffic.sent_bytes,
            "bytes_received": traffic.received_bytes,
            "warmup_sent": traffic.warmup_packets,
        },
        "integrity": {
            "verified": integrity.verified,
            "lost": integrity.lost,
            "altered": integrity.altered,
            "reordered": integrity.reordered,
            "doubled": integrity.doubled,
            "unanswered": integrity.unanswered,
        },
        "errors": {
            "connect": u64::from(outcome.not_connected.is_some()),
            "closed": failures.closed,
            "truncated": failures.truncated,
            "protocol": failures.protocol,
            "io": failures.io,
            "first": outcome.not_connected.as_ref().or(failures.first.as_ref()),
        },
        "latency_ns": latency_ns(tally),
        "verdict": name(outcome.verdict()),
        "exit_code": outcome.verdict().exit_code(),
    });
    document.to_string()
}

fn config(plan: &Plan, outcome: &Outcome) -> Value {
    let (duration_s, packets) = match plan.amount {
        Amount::Time(duration) => (Some(duration.as_secs_f64()), None),
        Amount::Packets(packets) => (None, Some(packets)),
    };
    json!({
        "server": outcome.servers(),
        "tls": plan.tls.is_some(),
        "own_server": plan.has_own_server(),
        "own_server_threads": plan.has_own_server().then_some(plan.server_threads),
        "conns": plan.conns,
        "pipeline": plan.pipeline,
        "sizes_bytes": [plan.sizes.min_len, plan.sizes.max_len],
        "duration_s": duration_s,
        "packets": packets,
        "warmup_s": plan.warmup.as_secs_f64(),
        "timeout_s": plan.timeout.as_secs_f64(),
        "seed": plan.seed,
        "header": plan.header.to_string(),
        "crc": plan.crc,
        "max_payload_bytes": plan.max_payload_len,
        "threads": plan.threads,
    })
}

/// Without a sample there are no figures, and none are made up.
fn latency_ns(tally: &Tally) -> Value {
    let latency_ns = &tally.latency_ns;
    let some = |ns: u64| (!latency_ns.is_empty()).then_some(ns);
    let percentiles: Vec<_> = PERCENTILES
        .iter()
        .map(|&percent| json!([percent, some(latency_ns.value_at_percentile(percent))]))
        .collect();
    json!({
        "count": latency_ns.len(),
        "min": some(latency_ns.min()),
        "mean": (!latency_ns.is_empty()).then_some(latency_ns.mean()),
        "max": some(latency_ns.max()),
        "percentiles": percentiles,
    })
}

fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Failed => "failed",
        Verdict::NoSample => "no_sample",
        Verdict::Integrity => "integrity",
        Verdict::Interrupted => "interrupted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tests::outcome;

    fn parsed(outcome: &Outcome) -> Value {
        serde_json::from_str(&document(outcome)).unwrap()
    }

    #[test]
    fn the_document_says_what_was_measured() {
        let document = parsed(&outcome());
        assert_eq!(document["schema"], "pktbench/1");
        assert_eq!(document["seconds"], 2.0);
        assert_eq!(document["totals"]["packets_per_s"], 1.0);
        assert_eq!(document["latency_ns"]["count"], 2);
        assert_eq!(document["latency_ns"]["percentiles"][4][0], 99.99);
        assert_eq!(document["config"]["duration_s"], Value::Null);
        assert_eq!(document["verdict"], "ok");
        assert_eq!(document["exit_code"], 0);
    }

    #[test]
    fn a_latency_that_was_not_measured_is_null() {
        let document = parsed(&Outcome { tally: Tally::new(), ..outcome() });
        assert_eq!(document["latency_ns"]["count"], 0);
        for figure in ["min", "mean", "max"] {
            assert_eq!(document["latency_ns"][figure], Value::Null, "{figure}");
        }
        assert_eq!(document["latency_ns"]["percentiles"][0], json!([50.0, null]));
        assert_eq!(document["verdict"], "no_sample");
    }
}
