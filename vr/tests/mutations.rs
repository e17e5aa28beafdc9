//! The proof that the simulator finds bugs: each one that is planted must be caught.
//!
//! By default every bug is looked for from a seed that is known to show it, and a few behind it, in
//! case that the code has changed; `MUTATIONS=find` looks for them from seed 0 on, and prints the
//! seeds to be written here; `BUG` chooses bugs by their names:
//!
//! ```text
//! MUTATIONS=find BUG=vote cargo test --release -p viewring --test mutations -- --nocapture
//! ```

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use viewring::cluster::{Planted, RunConfig, WaitBug, run_script, run_script_with, run_seed};
use viewring::protocol::Bug;
use viewring_runtime::sim::Keep;

/// A bug that so many seeds do not show is not found.
const SEEDS_MAX: u64 = 2_000;

/// How a bug is caught.
enum Catch {
    Seed { first: u64, seeds: u64, how: String },
    Scenario { name: String, how: String },
}

/// The first seed from `first` on that shows the bug.
fn hunt(bug: Planted, first: u64, count: u64) -> Option<Catch> {
    (first..first + count).find_map(|seed| {
        let config = RunConfig {
            bug: Some(bug),
            ..RunConfig::of_seed(seed)
        };
        let failure = run_seed(seed, &config).err()?;
        // What fails without the bug, too, does not show it.
        run_seed(seed, &RunConfig::of_seed(seed)).ok()?;
        Some(Catch::Seed {
            first,
            seeds: seed - first + 1,
            how: failure.headline().to_owned(),
        })
    })
}

/// The first scenario that shows the bug.
fn play(bug: Planted) -> Option<Catch> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name != "README.txt"))
        .collect();
    names.sort();
    names.into_iter().find_map(|path| {
        let text = fs::read_to_string(&path).expect("readable text");
        let played = run_script_with(&text, Some(bug), Keep::Last(1)).expect("it makes sense");
        let how = played.err()?.headline().to_owned();
        run_script(&text).expect("it makes sense").ok()?;
        let name = path.file_stem()?.to_string_lossy().into_owned();
        Some(Catch::Scenario { name, how })
    })
}

#[test]
fn every_planted_bug_is_caught() {
    // What panics in a run is told in the table.
    std::panic::set_hook(Box::new(|_| {}));
    let finds = std::env::var("MUTATIONS").is_ok_and(|what| what == "find");
    let (mut table, mut missed) = (String::new(), Vec::new());
    let chosen = std::env::var("BUG").unwrap_or_default();
    let here = |bug: &Planted| bug.name().contains(&chosen) && !ELSEWHERE.contains(bug);
    for bug in Planted::all().filter(here) {
        let known = KNOWN.iter().find(|(known, _)| *known == bug);
        let by_seed = match known {
            _ if finds => hunt(bug, 0, SEEDS_MAX),
            Some(&(_, Some(seed))) => hunt(bug, seed, NEAR),
            Some((_, None)) => None,
            None => hunt(bug, 0, NEAR),
        };
        let (where_, how) = match by_seed.or_else(|| play(bug)) {
            Some(Catch::Seed { first, seeds, how }) => (format!("{seeds} from {first}"), how),
            Some(Catch::Scenario { name, how }) => (name, how),
            None => {
                missed.push(bug.name());
                (String::from("NOT FOUND"), String::new())
            }
        };
        writeln!(table, "{:<50} {where_:>24}  {how:.90}", bug.name()).expect("a string");
        if finds {
            println!("{:<50} {where_:>24}  {how:.90}", bug.name());
        }
    }
    let _default = std::panic::take_hook();
    println!("{table}");
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// What no simulated world shows: a frame's checksum finds what its network garbles. The
/// protocol's swarm garbles pieces of checkpoints behind that.
const ELSEWHERE: &[Planted] = &[Planted::Decision(Bug::DigestIgnored)];

/// So many seeds are tried behind one that is known.
const NEAR: u64 = 60;

/// Seeds that are known to show a bug; None: none is known below 2,000, and a scenario shows it. A
/// bug that is not here is looked for from seed 0 on.
///
/// What has no seed: an answer that is stale (S9), a request of an earlier life (V13), or one that
/// was cut off, must come at one moment of several view changes or lives later; a vote from before
/// a pause (X6), and a promise from before a restart (V14), must be the last one that is missing;
/// early Prepares that are forgotten (S10) cost time, and nothing that a run demands. A lease that
/// knows no drift (V14) shows where most clocks are at their limits while the primary is split off
/// with a reader. Old suspicions (V9), a back-off that ends too soon and round trips that nobody
/// measures (X7) end the views of groups that are farther apart than a run has them.
const KNOWN: &[(Planted, Option<u64>)] = &[
    (Planted::Decision(Bug::NonceIgnored), None),
    (Planted::Decision(Bug::TableUpdatedOnAccept), None),
    (Planted::Decision(Bug::SessionOutlivesClient), None),
    (Planted::Decision(Bug::AckWithoutChecksum), Some(116)),
    (Planted::Decision(Bug::JoinOnOneVote), Some(291)),
    (Planted::Decision(Bug::EarlyPreparesForgotten), None),
    (Planted::Decision(Bug::VoteNotRenewed), Some(103)),
    (Planted::Decision(Bug::RoundReused), Some(461)),
    (Planted::Decision(Bug::ReadBeforeInherited), Some(369)),
    (Planted::Decision(Bug::ReadBeforeExecuted), Some(369)),
    (Planted::Decision(Bug::PromiseBroken), Some(168)),
    (Planted::Wait(WaitBug::LeaseWithoutDrift), None),
    (Planted::Wait(WaitBug::LeaseFromReceipt), Some(1946)),
    (Planted::Wait(WaitBug::PromiseForgotten), None),
    (Planted::Decision(Bug::RecoveryNonceIgnored), None),
    (
        Planted::Decision(Bug::RecoveryAnsweredBetweenViews),
        Some(134),
    ),
    (Planted::Wait(WaitBug::NoBackOff), Some(126)),
    (Planted::Wait(WaitBug::VotesNeverExpire), None),
    (Planted::Wait(WaitBug::BackOffForgottenAtOnce), None),
    (Planted::Wait(WaitBug::OldVotesCount), None),
    (Planted::Wait(WaitBug::RoundTripsIgnored), None),
];
