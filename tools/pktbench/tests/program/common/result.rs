//! A result for tests of the report: that of a real run, with made-up values of an open loop that ran for 30 s and met
//! a stall of the server.

use std::f64::consts::TAU;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use serde_json::{Value, json};

use crate::common::pktbench;

const PACKETS: u64 = 1_200_000;

pub(crate) fn result() -> Value {
    let mut result = closed_loop();
    let (service, response) = (histogram(1.0, 38e6), histogram(1.25, 412e6));
    result["labels"] = json!({"git": "c5bb231", "kernel": "6.1", "note": "pool of 64"});
    result["totals"]["packets_per_s"] = json!(PACKETS as f64 / 30.0);
    result["totals"]["received"] = json!(PACKETS);
    result["totals"]["bytes_received"] = json!(PACKETS * 1024);
    result["window"]["seconds"] = json!(30.0);
    result["config"]["mode"] = json!("open");
    result["latency_ns"] = json!({"service": latency(&service), "response": latency(&response)});
    result["load_generator"] = json!({"cpu_pct": 61.3, "schedule_lag_p99_ns": 41_200, "saturated": false});
    result["intervals"] = intervals();
    result["sizes"] = sizes();
    result["thresholds"] = json!([
        {"expr": "p99<5ms", "value": 2_310_000.0, "ok": true},
        {"expr": "rate>=39k", "value": 40_000.0, "ok": true},
        {"expr": "throughput>30MiB", "value": 41e6, "ok": true},
        {"expr": "response:p99.99<50ms", "value": 212_000_000.0, "ok": false},
    ]);
    result["verdict"] = json!("threshold");
    result["exit_code"] = json!(99);
    result
}

/// The document of a short closed-loop run against the built-in server.
pub(crate) fn closed_loop() -> Value {
    pktbench("--conns 4 --packets 400 --json").document()
}

/// Latencies around 200 µs, with a tail of 1 packet in 50, and some packets delayed by a stall.
fn histogram(factor: f64, slowest_ns: f64) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).unwrap();
    for step in 0..10_000_u32 {
        let quantile = (f64::from(step) + 0.5) / 10_000.0;
        let body = 70e3 + 130e3 * (quantile / (1.0 - quantile)).powf(0.33);
        let tail = if quantile > 0.98 { body * ((quantile - 0.98) * 90.0).exp() } else { body };
        histogram.record_n((tail * factor) as u64, PACKETS / 10_000).unwrap();
    }
    for step in 0..1_000_u32 {
        histogram.record((slowest_ns * f64::from(step + 1) / 1_000.0) as u64).unwrap();
    }
    histogram
}

fn latency(histogram: &Histogram<u64>) -> Value {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).unwrap();
    let percentile = |percent: f64| json!([percent, histogram.value_at_percentile(percent)]);
    let percentiles = [50.0, 90.0, 99.0, 99.9, 99.99].map(percentile);
    json!({
        "count": histogram.len(), "min": histogram.min(), "mean": histogram.mean(), "stddev": histogram.stdev(),
        "max": histogram.max(), "percentiles": percentiles,
        "hdr_v2": STANDARD.encode(bytes),
    })
}

/// The server stalls in second 19 and catches up in second 20.
fn intervals() -> Value {
    let interval = |second: u64| {
        let wave = 1.0 + 0.08 * (TAU * second as f64 / 11.0).sin() + 0.03 * (second as f64 * 2.3).cos();
        let (received, slow) = match second {
            19 => (23_500, 180.0),
            20 => (55_800, 60.0),
            _ => (40_000 + (second * 37 % 11) * 60, 1.0),
        };
        let ns = |ns: f64| (ns * wave) as u64;
        json!({
            "t_s": second as f64, "received": received, "p50_ns": ns(198e3 * f64::sqrt(slow).min(4.0)),
            "p99_ns": ns(1.3e6 * slow), "p999_ns": ns(3.1e6 * slow.min(125.0)), "max_ns": ns(3.3e6 * slow.min(125.0)),
        })
    };
    (1..=30).map(interval).collect()
}

fn sizes() -> Value {
    let ends = [0_u32, 63, 127, 255, 511, 1023, 2047];
    let class = |index: usize| {
        let from = if index == 0 { 0 } else { ends[index - 1] + 1 };
        let growth = 1.0 + f64::from(ends[index]) / 3000.0;
        json!({
            "from_bytes": from, "to_bytes": ends[index], "count": u64::from(ends[index] - from + 1) * 586,
            "p50_ns": (170e3 * growth) as u64, "p99_ns": (1.1e6 * growth * growth) as u64,
        })
    };
    (0..ends.len()).map(class).collect()
}
