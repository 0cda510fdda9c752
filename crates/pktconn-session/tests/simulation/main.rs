//! A client and a server over connections that are cut at any byte, delayed, raced and half-open, by seed.
//!
//! `PKTCONN_SEEDS` sets the number of seeds, `PKTCONN_SEED` runs a single one.

mod random;
mod world;

use world::World;

#[test]
fn packets_arrive_exactly_once_under_any_cuts() {
    let seed = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = seed("PKTCONN_SEED") {
        World::new(seed, true).run();
        return;
    }
    let seeds = seed("PKTCONN_SEEDS").unwrap_or(20_000);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..seeds).step_by(threads as usize) {
                    let run = std::panic::catch_unwind(|| World::new(seed, false).run());
                    assert!(run.is_ok(), "failed with PKTCONN_SEED={seed}");
                }
            });
        }
    });
}
