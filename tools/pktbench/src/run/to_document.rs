//! Converts the outcome of a run to the result document.

use hdrhistogram::Histogram;

use crate::plan::clock::unix_ns;
use crate::record::dials::Dials;
use crate::record::histogram::new_histogram;
use crate::record::recording::Traffic;
use crate::record::saturation::reasons::steal_pct;
use crate::result::config::config;
use crate::result::connections::{AddressResult, Connections};
use crate::result::document::{Document, Host, LoadGenerator, SCHEMA, Tool, Totals, Window};
use crate::result::latency::Latency;
use crate::result::verdict::Verdict;
use crate::run::outcome::Outcome;

pub(crate) fn document(outcome: &Outcome) -> Document {
    let (problems, window) = (outcome.problems(), window(outcome));
    let verdict = Verdict::worst(&problems);
    Document {
        schema: SCHEMA.to_owned(),
        tool: Tool::this_program(),
        host: host(),
        labels: outcome.plan.labels.clone(),
        config: config(&outcome.plan, outcome.own_addr),
        window,
        totals: totals(outcome, window),
        integrity: outcome.tally.integrity,
        errors: outcome.tally.errors.clone(),
        latency_ns: outcome.recording.latencies(&outcome.plan.percentiles),
        connections: Some(connections(outcome)),
        addresses: addresses(outcome, window),
        offered: outcome.offered(),
        load_generator: load_generator(outcome),
        intervals: outcome.intervals.clone(),
        stages: outcome.stages.clone(),
        sizes: outcome.tally.sizes.to_document(),
        search: None,
        aborted: outcome.aborted.clone(),
        thresholds: Vec::new(),
        baseline: None,
        verdict,
        problems,
        exit_code: verdict.exit_code(),
    }
}

fn host() -> Host {
    Host {
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

fn window(outcome: &Outcome) -> Window {
    Window {
        start_unix_ns: unix_ns(outcome.measured_from),
        end_unix_ns: unix_ns(outcome.measured_from + outcome.measured_time),
        seconds: outcome.measured_time.as_secs_f64(),
        drain_s: outcome.drain_time.as_secs_f64(),
    }
}

fn totals(outcome: &Outcome, window: Window) -> Totals {
    let traffic = &outcome.recording.traffic;
    Totals {
        sent: traffic.sent_packets,
        received: traffic.received_packets,
        packets_per_s: window.per_second(traffic.received_packets),
        bytes_sent: traffic.sent_bytes,
        bytes_received: traffic.received_bytes,
        drained: traffic.drained_packets,
        warmup_sent: traffic.warmup_packets,
    }
}

fn connections(outcome: &Outcome) -> Connections {
    let Dials { opened, retired, replaced, missed, down_ns, connect, handshake, not_opened, .. } =
        &outcome.tally.dials;
    let percentiles = &outcome.plan.percentiles;
    let of = |times: &Histogram<u64>| Latency::listing(percentiles, times, not_opened.as_ref(), *missed);
    Connections {
        opened: *opened,
        replaced: *replaced,
        retired: *retired,
        down_pct: outcome.plan.conns_per_second.is_none().then(|| down_pct(*down_ns, outcome)),
        missed: outcome.plan.conns_per_second.map(|_| *missed),
        connect_ns: connect.as_ref().map_or_else(|| of(&new_histogram()), of),
        handshake_ns: handshake.as_ref().map(|times| Latency::listing(percentiles, times, None, 0)),
    }
}

fn down_pct(down_ns: u64, outcome: &Outcome) -> f64 {
    let all_ns = outcome.measured_time.as_nanos() as f64 * outcome.plan.conns as f64;
    if down_ns == 0 { 0.0 } else { (down_ns as f64 / all_ns * 100.0).min(100.0) }
}

fn addresses(outcome: &Outcome, window: Window) -> Vec<AddressResult> {
    let targets = outcome.addresses.iter().zip(&outcome.tally.targets);
    let several = targets.filter_map(|(address, target)| {
        let recording = target.recording.as_deref()?;
        let Traffic { sent_packets, received_packets, .. } = recording.traffic;
        Some(AddressResult {
            address: address.clone(),
            opened: target.opened,
            failed: target.failed,
            first_error: target.first.clone(),
            sent: sent_packets,
            received: received_packets,
            packets_per_s: window.per_second(received_packets),
            latency_ns: recording.latencies(&outcome.plan.percentiles),
        })
    });
    several.collect()
}

fn load_generator(outcome: &Outcome) -> LoadGenerator {
    let client = &outcome.tally.client;
    let saturated_by = outcome.saturated_by();
    LoadGenerator {
        cpu_pct: client.cpu_pct(),
        busiest_thread_pct: Some(client.busiest_pct),
        run_queue_pct: Some(client.run_queue_pct),
        steal_pct: outcome.host.cpu.map(steal_pct),
        throttled_ns: outcome.host.throttled_ns,
        clock_gap_ns: outcome.host.gaps.map(|gaps| gaps.total_ns),
        schedule_lag_p99_ns: client.lag_p99_ns(),
        saturated: !saturated_by.is_empty(),
        saturated_by,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::json;
    use crate::run::outcome::tests::outcome;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn parsed(outcome: &Outcome) -> Value {
        serde_json::from_str(&json::to_line(&document(outcome))).unwrap()
    }

    #[test]
    fn the_document_has_what_was_measured() {
        let document = parsed(&outcome());
        assert_eq!(document["schema"], "pktbench/2");
        assert_eq!(
            document["window"],
            json!({"start_unix_ns": 10_000_000_000_u64, "end_unix_ns": 12_000_000_000_u64, "seconds": 2.0, "drain_s": 0.0})
        );
        assert_eq!(document["totals"]["packets_per_s"], 1.0);
        assert_eq!(document["latency_ns"]["service"]["count"], 2);
        assert_eq!(document["latency_ns"]["service"]["percentiles"][5][0], 99.99);
        assert_eq!(document["latency_ns"]["response"], Value::Null);
        assert_eq!(document["config"]["duration_s"], Value::Null);
        assert_eq!(document["verdict"], "pass");
        assert_eq!(document["exit_code"], 0);
    }

    #[test]
    fn a_run_that_measured_no_time_has_a_rate_of_0() {
        let outcome = Outcome { measured_time: Duration::ZERO, ..outcome() };
        assert_eq!(document(&outcome).totals.packets_per_s, 0.0);
    }

    #[test]
    fn a_document_that_is_read_again_is_the_one_that_was_written() {
        let document = document(&outcome());
        assert_eq!(serde_json::from_str::<Document>(&json::to_line(&document)).unwrap(), document);
        assert_eq!(document.verdict, Verdict::Pass);
    }
}
