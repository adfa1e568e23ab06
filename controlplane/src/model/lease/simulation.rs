//! Many sites and a coordinator in virtual time, over links that lose, repeat, reorder and partition, with clocks
//! that differ, crashes at any step, and administrators who give leases up. An oracle looks at all of it at once.
//!
//! `GLOBALFS_LEASE_SEED=n cargo test -p globalfs-controlplane lease::simulation -- --nocapture` runs one seed and
//! tells what happens; `GLOBALFS_LEASE_SEEDS=n` runs so many, from `GLOBALFS_LEASE_FIRST` on. `seeds.txt` keeps seeds
//! that once failed.

mod coordinator;
mod machine;
mod network;
mod oracle;
mod outcome;
mod site;
mod world;

use outcome::Outcome;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use world::World;

/// How many seeds an ordinary run tries.
const SEEDS: u64 = 10_000;
/// How long, after all faults have ended, a request may wait for its turn. The longest waits are a queue of requests
/// of all sites for one scope, and the end of a term.
const LONGEST_WAIT: Duration = Duration::from_secs(90);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number of a seed or of seeds"))
}

fn kept() -> impl Iterator<Item = u64> {
    let lines = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_whitespace().next()).map(|seed| seed.parse().expect("a seed"))
}

fn run(seed: u64) -> Result<Outcome, String> {
    let outcome = catch_unwind(|| World::new(seed, false).run());
    outcome.map_err(|_| {
        format!("seed {seed} failed: GLOBALFS_LEASE_SEED={seed} cargo test -p globalfs-controlplane lease::simulation -- --nocapture")
    })
}

/// Runs `seeds` on all processors, and adds up what happened.
fn run_all(seeds: &[u64]) -> (Outcome, Vec<String>) {
    let next = AtomicU64::new(0);
    let work = || {
        let (mut sum, mut failed) = (Outcome::default(), Vec::new());
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            match run(*seed) {
                Ok(outcome) => sum.add(&outcome),
                Err(failure) => failed.push(failure),
            }
        }
        (sum, failed)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("failures are caught")).collect()
    });
    results.into_iter().fold((Outcome::default(), Vec::new()), |(mut sum, mut all), (outcome, failed)| {
        sum.add(&outcome);
        all.extend(failed);
        (sum, all)
    })
}

#[test]
fn no_seed_breaks_a_promise() {
    if let Some(seed) = number("GLOBALFS_LEASE_SEED") {
        println!("{:?}", World::new(seed, true).run());
        return;
    }
    let first = number("GLOBALFS_LEASE_FIRST").unwrap_or(0);
    let count = number("GLOBALFS_LEASE_SEEDS").unwrap_or(SEEDS);
    let seeds: Vec<u64> = kept().chain(first..first + count).collect();
    let (sum, failed) = run_all(&seeds);
    println!("{} seeds: {sum:?}", seeds.len());
    assert!(
        failed.is_empty(),
        "{} of {} seeds:\n{}",
        failed.len(),
        seeds.len(),
        failed[..failed.len().min(10)].join("\n")
    );
    sum.assert_much_happened(seeds.len() as u64);
}
