//! How fast small files come over, beside a plain copy of the same tree in the same run.

use super::tests::{LARGE, shell, sites, soon};
use super::*;
use crate::home::survey::survey;
use std::time::Instant;

/// `cargo test --release -p globalfs-dataplane --lib pace -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, of several seconds"]
async fn pace_of_small_files() {
    const FILES: u32 = 10_000;
    let sites = sites();
    let [from, to] = [0, 1].map(|site| sites.dirs[site].path());
    shell(
        from,
        "for d in $(seq 100); do mkdir $d; for f in $(seq 100); do head -c 4096 /dev/urandom > $d/$f; done; done; sync",
    );
    for round in 0..3 {
        let begun = Instant::now();
        shell(to, &format!("cp -a {} copy; sync", from.display()));
        let copied = FILES as f64 / begun.elapsed().as_secs_f64();
        shell(to, "rm -r copy; sync");
        let items = survey(&sites.origins[0], &GlobalPath::root(), LARGE, soon()).await.unwrap().unwrap();
        let begun = Instant::now();
        for batch in items.chunks(MAX_HOME_ITEMS) {
            assert!(sites.bring_items(batch.to_vec()).await.iter().all(Result::is_ok));
        }
        let brought = FILES as f64 / begun.elapsed().as_secs_f64();
        println!(
            "round {round}: {brought:.0} files/s, cp -a and sync {copied:.0}, ratio {:.2}",
            brought / copied
        );
        shell(to, "rm -r *; sync");
    }
}
