//! Seeds: whole runs in the simulated world. `viewring sim` runs more of them, on all cores.

use std::process::Command;

use viewring::cluster::{Marks, RunConfig, run_seed, run_seed_twice};

/// `SEEDS=1000 cargo test --release -p viewring --test seeds` runs more; `SEED` is the first.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn config(seed: u64) -> RunConfig {
    RunConfig::of_seed(seed)
}

#[test]
fn a_batch_of_seeds_holds_everything() {
    let (first, count) = (number("SEED").unwrap_or(0), number("SEEDS").unwrap_or(40));
    let (mut marks, mut failures) = (Marks::default(), Vec::new());
    for seed in first..first + count {
        match run_seed(seed, &config(seed)) {
            Ok(report) => marks.merge(&report.marks),
            Err(failure) => failures.push(failure),
        }
    }
    println!("{marks}");
    for failure in failures.iter().take(3) {
        println!("{failure}");
    }
    assert!(failures.is_empty(), "{} of {count} failed", failures.len());
}

#[test]
fn a_seed_is_always_the_same() {
    for seed in 0..12 {
        if let Err(failure) = run_seed_twice(seed, &config(seed)) {
            panic!("{failure}");
        }
    }
}

/// Prints what comes of some seeds, for the process that has started this one.
const CHILD: &str = "VIEWRING_PRINT_HASHES";

#[test]
fn a_seed_is_the_same_in_another_process() {
    let hashes: Vec<String> = (0..4)
        .map(|seed| {
            let report =
                run_seed(seed, &config(seed)).unwrap_or_else(|failure| panic!("{failure}"));
            format!("hash {:016x} of {} events", report.hash, report.events)
        })
        .collect();
    if std::env::var_os(CHILD).is_some() {
        return println!("\n{}", hashes.join("\n"));
    }
    let program = std::env::current_exe().expect("a test has a path");
    let output = Command::new(program)
        .args([
            "a_seed_is_the_same_in_another_process",
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, "yes")
        .output();
    let output = String::from_utf8(output.expect("it runs").stdout).expect("it prints text");
    let printed = output.lines().filter(|line| line.starts_with("hash "));
    assert_eq!(printed.collect::<Vec<_>>(), hashes, "{output}");
}
