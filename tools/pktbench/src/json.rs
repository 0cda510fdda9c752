//! The result as a document, and that as one line of JSON, for programs.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::clock::whole_ns;
use crate::document::{Client, Config, Document, Host, Latencies, Mode, SCHEMA, Tool, Totals, Window};
use crate::latency::Latency;
use crate::outcome::Outcome;
use crate::plan::{Amount, Pace, Plan};

pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a document has no key but strings")
}

pub(crate) fn document(outcome: &Outcome) -> Document {
    let (verdict, window) = (outcome.verdict(), window(outcome));
    Document {
        schema: SCHEMA.to_owned(),
        tool: tool(),
        host: host(),
        labels: outcome.plan.labels.clone(),
        config: config(&outcome.plan, outcome.own_addr),
        window,
        totals: totals(outcome, window),
        integrity: outcome.tally.integrity,
        errors: outcome.tally.errors.clone(),
        latency_ns: latencies(outcome),
        client: client(outcome),
        intervals: outcome.intervals.clone(),
        sizes: outcome.tally.sizes.to_document(),
        search: None,
        thresholds: Vec::new(),
        baseline: None,
        verdict,
        exit_code: verdict.exit_code(),
    }
}

pub(crate) fn tool() -> Tool {
    Tool { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

fn host() -> Host {
    Host {
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

pub(crate) fn config(plan: &Plan, own_addr: Option<SocketAddr>) -> Config {
    let (duration_s, packets) = match plan.amount {
        Amount::Time(duration) => (Some(duration.as_secs_f64()), None),
        Amount::Packets(packets) => (None, Some(packets)),
    };
    let (rate, arrival, max_outstanding) = match plan.pace {
        Pace::Closed => (None, None, None),
        Pace::Open { rate, arrival, max_outstanding } => (Some(rate), Some(arrival), Some(max_outstanding)),
    };
    Config {
        mode: if plan.is_open() { Mode::Open } else { Mode::Closed },
        server: servers(plan, own_addr),
        tls: plan.tls.is_some(),
        own_server: plan.has_own_server(),
        own_server_threads: plan.has_own_server().then_some(plan.server_threads),
        conns: plan.conns,
        connect_rate: plan.connect_rate,
        pipeline: (!plan.is_open()).then_some(plan.pipeline),
        rate,
        arrival,
        max_outstanding,
        verify: plan.verify,
        sizes: plan.sizes.to_string(),
        duration_s,
        packets,
        ramp_s: plan.ramp.as_secs_f64(),
        interval_s: plan.interval.as_secs_f64(),
        warmup_s: plan.warmup.as_secs_f64(),
        timeout_s: plan.timeout.as_secs_f64(),
        seed: plan.seed,
        header: plan.header.to_string(),
        crc: plan.crc,
        max_payload_bytes: plan.max_payload_len,
        threads: plan.threads,
    }
}

fn servers(plan: &Plan, own_addr: Option<SocketAddr>) -> String {
    let own = own_addr.iter().map(ToString::to_string);
    own.chain(plan.connect.iter().map(ToString::to_string)).collect::<Vec<_>>().join(", ")
}

fn window(outcome: &Outcome) -> Window {
    let unix_ns = |time: SystemTime| whole_ns(time.duration_since(UNIX_EPOCH).unwrap_or_default());
    Window {
        start_unix_ns: unix_ns(outcome.since),
        end_unix_ns: unix_ns(outcome.since + outcome.time),
        seconds: outcome.time.as_secs_f64(),
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
        warmup_sent: traffic.warmup_packets,
    }
}

fn latencies(outcome: &Outcome) -> Latencies {
    let recording = &outcome.recording;
    Latencies {
        service: Latency::of(&recording.service),
        response: recording.response.as_ref().map(Latency::of),
    }
}

fn client(outcome: &Outcome) -> Client {
    let client = &outcome.tally.client;
    Client {
        cpu_pct: client.cpu_pct(),
        schedule_lag_p99_ns: client.lag_p99_ns(),
        not_sent: client.not_sent,
        saturated: client.is_saturated(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Verdict;
    use crate::outcome::tests::outcome;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn parsed(outcome: &Outcome) -> Value {
        serde_json::from_str(&text(&document(outcome))).unwrap()
    }

    #[test]
    fn the_document_says_what_was_measured() {
        let document = parsed(&outcome());
        assert_eq!(document["schema"], "pktbench/1");
        assert_eq!(
            document["window"],
            json!({"start_unix_ns": 10_000_000_000_u64, "end_unix_ns": 12_000_000_000_u64, "seconds": 2.0})
        );
        assert_eq!(document["totals"]["packets_per_s"], 1.0);
        assert_eq!(document["latency_ns"]["service"]["count"], 2);
        assert_eq!(document["latency_ns"]["service"]["percentiles"][4][0], 99.99);
        assert_eq!(document["latency_ns"]["response"], Value::Null);
        assert_eq!(document["config"]["duration_s"], Value::Null);
        assert_eq!(document["verdict"], "pass");
        assert_eq!(document["exit_code"], 0);
    }

    #[test]
    fn no_time_is_no_rate() {
        let outcome = Outcome { time: Duration::ZERO, ..outcome() };
        assert_eq!(document(&outcome).totals.packets_per_s, 0.0);
    }

    #[test]
    fn what_is_read_again_is_what_was_written() {
        let document = document(&outcome());
        assert_eq!(serde_json::from_str::<Document>(&text(&document)).unwrap(), document);
        assert_eq!(document.verdict, Verdict::Pass);
    }
}
