//! A client and a server over connections that are cut at any byte, delayed, raced and half-open, by seed.
//!
//! `PKTCONN_SEEDS` sets the number of seeds, `PKTCONN_SEED` runs a single one.

mod hostile;
mod random;
mod world;

use world::World;

/// Runs `run` for each seed, on all cores.
fn for_each_seed(run: fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("PKTCONN_SEED") {
        run(seed);
        return;
    }
    let seeds = number("PKTCONN_SEEDS").unwrap_or(20_000);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..seeds).step_by(threads as usize) {
                    let result = std::panic::catch_unwind(|| run(seed));
                    assert!(result.is_ok(), "failed with PKTCONN_SEED={seed}");
                }
            });
        }
    });
}

#[test]
fn packets_arrive_exactly_once_under_any_cuts() {
    // A single seed prints what happens.
    for_each_seed(|seed| World::new(seed, std::env::var_os("PKTCONN_SEED").is_some()).run());
}

#[test]
fn no_frame_of_a_hostile_peer_makes_a_side_panic_or_hold_more() {
    for_each_seed(hostile::run);
}
