//! Connections over scripted transports, in any order of events that a seed decides, against the promises of DESIGN.md.
//!
//! 10,000 seeds run by default. More, and one again:
//!
//! ```text
//! PKTCONN_SEEDS=1000000 cargo test --release -p pktconn --test simulation
//! PKTCONN_SEED=4711 cargo test -p pktconn --test simulation
//! ```

#[cfg(unix)]
mod handlers;
mod hoard;
mod rng;
#[cfg(unix)]
mod server_memory;
mod transport;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The seeds to run: `PKTCONN_SEED` alone, or as many as `PKTCONN_SEEDS` says.
fn seeds() -> std::ops::Range<u64> {
    let var = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    match var("PKTCONN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..var("PKTCONN_SEEDS").unwrap_or(10_000),
    }
}

/// Runs `simulate` with each seed, and says how to run one again that fails.
fn for_each_seed(name: &str, simulate: impl Fn(u64)) {
    for seed in seeds() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| simulate(seed))) {
            eprintln!(
                "seed {seed} fails; again: PKTCONN_SEED={seed} cargo test -p pktconn --test simulation {name}"
            );
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_promises_hold_whatever_happens() {
    for_each_seed("the_promises_hold_whatever_happens", world::simulate);
}

#[test]
fn queues_hold_no_more_memory_than_they_may() {
    for_each_seed("queues_hold_no_more_memory_than_they_may", hoard::simulate);
}

#[cfg(unix)]
#[test]
fn a_server_holds_what_it_says_and_what_its_budget_allows() {
    for_each_seed("a_server_holds_what_it_says_and_what_its_budget_allows", server_memory::simulate);
}
