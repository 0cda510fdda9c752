//! The result as a text for people.

use std::fmt::{self, Write};

use pktconn::HeaderFormat;

use crate::account::Integrity;
use crate::outcome::{Outcome, Verdict};
use crate::plan::{Amount, Plan};
use crate::tally::Tally;
use crate::units;

/// What is worth knowing of the latency, in percent.
pub(crate) const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

pub(crate) fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, outcome);
    text
}

fn write(text: &mut String, outcome: &Outcome) -> fmt::Result {
    let (plan, tally) = (&outcome.plan, &outcome.tally);
    writeln!(text, "load        {}", load(plan))?;
    writeln!(text, "server      {}", server(outcome))?;
    writeln!(text)?;
    writeln!(text, "packets     {}", packets(outcome))?;
    writeln!(text, "throughput  {}", throughput(outcome))?;
    writeln!(text, "latency     {}", range(tally))?;
    if !tally.latency_ns.is_empty() {
        writeln!(text, "            {}", percentiles(tally))?;
    }
    writeln!(text, "integrity   {}", integrity(&tally.integrity))?;
    if let Some(first) = &tally.failures.first {
        let (failed, conns) = (tally.failures.count(), plan.conns);
        writeln!(text, "errors      {failed} of {conns} connections failed; {first}")?;
    }
    write!(text, "verdict     {}", verdict(outcome))
}

fn load(plan: &Plan) -> String {
    let amount = match plan.amount {
        Amount::Time(duration) => format!("for {}", humantime::format_duration(duration)),
        Amount::Packets(packets) => format!("{} packets in all", units::count(packets)),
    };
    let warmup = match plan.warmup.is_zero() {
        true => String::new(),
        false => format!(" after {} of warm-up", humantime::format_duration(plan.warmup)),
    };
    let header = match plan.header {
        HeaderFormat::U32Le => String::new(),
        header => format!(" behind a length of {header}"),
    };
    format!(
        "{} x {} outstanding, payloads of {}{header}{}, {amount}{warmup}, on {}, seed {}",
        plural(plan.conns, "connection"),
        plural(plan.pipeline, "packet"),
        plan.sizes,
        if plan.crc { " with CRC-32" } else { "" },
        plural(plan.threads, "thread"),
        plan.seed,
    )
}

fn plural(count: usize, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {noun}{s}", units::count(count as u64))
}

fn server(outcome: &Outcome) -> String {
    let servers = outcome.servers();
    match outcome.own_addr {
        None if outcome.plan.tls.is_some() => format!("{servers}, by TLS"),
        None => servers,
        Some(_) => format!(
            "{servers}, an echo server of its own, in this process on {}",
            plural(outcome.plan.server_threads, "thread")
        ),
    }
}

fn packets(outcome: &Outcome) -> String {
    let traffic = &outcome.tally.traffic;
    format!(
        "{} sent, {} received, in {:.3} s",
        units::count(traffic.sent_packets),
        units::count(traffic.received_packets),
        outcome.time.as_secs_f64()
    )
}

fn throughput(outcome: &Outcome) -> String {
    let traffic = &outcome.tally.traffic;
    format!(
        "{} packets/s, payloads of {} sent and {} received",
        units::count(outcome.packets_per_s() as u64),
        units::bytes_per_s(outcome.per_second(traffic.sent_bytes)),
        units::bytes_per_s(outcome.per_second(traffic.received_bytes))
    )
}

fn range(tally: &Tally) -> String {
    let latency_ns = &tally.latency_ns;
    if latency_ns.is_empty() {
        return "no sample".to_owned();
    }
    format!(
        "min {}, mean {}, max {}",
        units::time(latency_ns.min() as f64),
        units::time(latency_ns.mean()),
        units::time(latency_ns.max() as f64)
    )
}

fn percentiles(tally: &Tally) -> String {
    let one = |percent: &f64| {
        let ns = tally.latency_ns.value_at_percentile(*percent);
        format!("p{percent} {}", units::time(ns as f64))
    };
    PERCENTILES.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn integrity(integrity: &Integrity) -> String {
    let fates = [
        ("verified", integrity.verified),
        ("altered", integrity.altered),
        ("reordered", integrity.reordered),
        ("doubled", integrity.doubled),
        ("lost", integrity.lost),
        ("unanswered", integrity.unanswered),
    ];
    let packets = fates.map(|(fate, count)| format!("{} {fate}", units::count(count))).join(", ");
    format!("{packets} (packets)")
}

fn verdict(outcome: &Outcome) -> String {
    let said = match outcome.verdict() {
        Verdict::Ok => "ok: every packet came back whole, in order and once",
        Verdict::Failed => "failed: a connection ended before it was done",
        Verdict::NoSample => "failed: no packet came back that counts",
        Verdict::Integrity => "integrity violated: packets were lost, altered, reordered or doubled",
        Verdict::Interrupted => "interrupted: these are the results so far",
    };
    format!("{said} (exit code {})", outcome.verdict().exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tests::outcome;

    #[test]
    fn a_report_has_a_unit_on_every_figure() {
        let expected = "\
load        10 connections x 1 packet outstanding, payloads of 0 B to 2048 B, 1,000 packets in all, on 1 thread, seed 1
server      127.0.0.1:14572, an echo server of its own, in this process on 1 thread

packets     2 sent, 2 received, in 2.000 s
throughput  1 packets/s, payloads of 2.00 KiB/s sent and 2.00 KiB/s received
latency     min 10.0 µs, mean 20.0 µs, max 30.0 µs
            p50 10.0 µs, p90 30.0 µs, p99 30.0 µs, p99.9 30.0 µs, p99.99 30.0 µs
integrity   2 verified, 0 altered, 0 reordered, 0 doubled, 0 lost, 0 unanswered (packets)
verdict     ok: every packet came back whole, in order and once (exit code 0)";
        assert_eq!(text(&outcome()), expected);
    }

    #[test]
    fn a_run_without_a_sample_shows_no_latency() {
        let outcome = Outcome { tally: Tally::new(), ..outcome() };
        let text = text(&outcome);
        assert!(text.contains("\nlatency     no sample\nintegrity"), "{text}");
        assert!(text.ends_with("(exit code 1)"), "{text}");
    }
}
