//! Seeds: whole runs in the simulated world.

use viewring::cluster::{Marks, RunConfig, run_seed};

#[test]
fn a_batch_of_seeds_holds_everything() {
    let first: u64 = std::env::var("SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    let count: u64 = std::env::var("SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(50);
    let mut marks = Marks::default();
    let mut failures = Vec::new();
    let mut calls = 0;
    let mut virt = 0.0;
    for seed in first..first + count {
        match run_seed(seed, &RunConfig::new(if seed % 3 == 0 { 5 } else { 3 })) {
            Ok(report) => {
                marks.merge(&report.marks);
                calls += report.calls;
                virt += report.virtual_time.as_secs_f64();
            }
            Err(failure) => failures.push(failure),
        }
    }
    println!("{marks}{calls} calls {virt} virtual seconds");
    for f in failures.iter().take(3) {
        println!("{f}");
    }
    assert!(failures.is_empty(), "{} of {count} failed", failures.len());
}
