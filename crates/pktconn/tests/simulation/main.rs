//! Simulations of connections and servers. A seed decides the order of events, and these invariants are checked:
//!
//! - order: packets are delivered in the order in which they were accepted;
//! - delivery: an accepted packet is delivered, or the error of `close` returns it as unsent;
//! - release: a connection that has ended drops its transport;
//! - memory: no connection and no server holds more bytes than its limits allow;
//! - progress: nothing waits longer than its deadline, or although it could proceed.
//!
//! 10,000 seeds run by default. To run more, or one of them again:
//!
//! ```text
//! PKTCONN_SEEDS=1000000 cargo test --release -p pktconn --test simulation
//! PKTCONN_SEED=4711 cargo test -p pktconn --test simulation
//! ```

#[cfg(unix)]
mod connections;
#[cfg(unix)]
mod handlers;
mod queue_memory;
mod rng;
#[cfg(unix)]
mod server_memory;
mod transport;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The seeds to run: only `PKTCONN_SEED`, or the first `PKTCONN_SEEDS` ones.
fn seeds() -> std::ops::Range<u64> {
    let var = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    match var("PKTCONN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..var("PKTCONN_SEEDS").unwrap_or(10_000),
    }
}

/// Runs `simulate` with each seed. If one fails, prints the command that runs it again.
fn for_each_seed(name: &str, simulate: impl Fn(u64)) {
    for seed in seeds() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| simulate(seed))) {
            eprintln!(
                "seed {seed} failed; run it again: PKTCONN_SEED={seed} cargo test -p pktconn --test simulation {name}"
            );
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn connections_keep_the_invariants_in_any_order_of_events() {
    for_each_seed("connections_keep_the_invariants_in_any_order_of_events", connections::simulate);
}

#[test]
fn queues_hold_no_more_memory_than_their_limits_allow() {
    for_each_seed("queues_hold_no_more_memory_than_their_limits_allow", queue_memory::simulate);
}

#[cfg(unix)]
#[test]
fn a_server_reports_the_memory_that_it_holds_and_keeps_to_its_budget() {
    for_each_seed(
        "a_server_reports_the_memory_that_it_holds_and_keeps_to_its_budget",
        server_memory::simulate,
    );
}
