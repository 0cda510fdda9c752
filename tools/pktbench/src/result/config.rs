//! Turns the plan of a run into the `config` of its document.

use std::net::SocketAddr;

use super::document::{Config, Mode};
use crate::plan::{Amount, Pace, Plan, Tls};
use crate::traffic::sizes::Distribution;

pub(crate) fn config(plan: &Plan, own_addr: Option<SocketAddr>) -> Config {
    let (duration_s, packets) = match plan.amount {
        Amount::Time(duration) => (Some(duration.as_secs_f64()), None),
        Amount::Packets(packets) => (None, Some(packets)),
    };
    let (rate, arrival, max_outstanding) = match plan.pace {
        Pace::Closed => (None, None, None),
        Pace::Open { rate, arrival, max_outstanding } => (Some(rate), Some(arrival), Some(max_outstanding)),
        Pace::Replay { max_outstanding, .. } => (None, None, Some(max_outstanding)),
    };
    let replay = match plan.pace {
        Pace::Replay { replay, .. } => Some(replay),
        Pace::Closed | Pace::Open { .. } => None,
    };
    let payload = match plan.sizes.distribution {
        Distribution::Own(own) => Some(own.text.to_owned()),
        _ => None,
    };
    Config {
        mode: if plan.is_open() { Mode::Open } else { Mode::Closed },
        server: servers(plan, own_addr),
        tls: plan.tls.is_some(),
        tls_insecure: plan.tls.as_ref().is_some_and(Tls::is_insecure),
        builtin_server: plan.has_own_server(),
        builtin_server_threads: plan.has_own_server().then_some(plan.server_threads),
        conns: plan.conns,
        connect_rate: plan.connect_rate,
        conns_per_second: plan.conns_per_second,
        conn_packets: plan.conn_packets,
        conn_lifetime_s: plan.conn_lifetime.map(|time| time.as_secs_f64()),
        packet_timeout_s: plan.packet_timeout.map(|time| time.as_secs_f64()),
        source_addrs: plan.source_addrs.iter().map(ToString::to_string).collect(),
        pipeline: (!plan.is_open()).then_some(plan.pipeline),
        rate,
        stages: plan.stages.as_ref().map(ToString::to_string),
        arrival,
        max_outstanding,
        verify: plan.verify,
        sizes: plan.sizes.to_string(),
        payload,
        replay: replay.map(|replay| replay.file.to_owned()),
        tcp_port: replay.map(|replay| replay.tcp_port),
        speed: replay.map(|replay| replay.speed),
        by_segment: replay.map(|replay| replay.by_segment),
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
