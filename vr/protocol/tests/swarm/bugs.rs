//! The proof that the swarm finds bugs: each one that is planted must be caught.
//!
//! `cargo test -p viewring-protocol --test swarm bugs -- --nocapture` shows how soon, and by what.

use super::number;
use super::world::World;
use viewring_protocol::Bug;

/// A bug that so many seeds do not show is not found.
const SEEDS_MAX: u64 = 2000;

/// The first seed that shows the bug, and how.
fn hunt(bug: Bug) -> Option<(u64, String)> {
    (1..=number("SWARM_SEEDS").unwrap_or(SEEDS_MAX)).find_map(|seed| {
        let caught = std::panic::catch_unwind(|| World::new(seed, Some(bug)).run()).err()?;
        let text = caught.downcast_ref::<String>().cloned();
        let text = text.or_else(|| caught.downcast_ref::<&str>().map(|&text| text.into()));
        let text = text.unwrap_or_default();
        Some((seed, text.lines().next().unwrap_or_default().into()))
    })
}

/// The swarm's clients live for ever and there is room for all: these are for the simulated world.
const OF_SESSIONS: [Bug; 3] = [
    Bug::EvictionDiffers,
    Bug::EvictedExecuted,
    Bug::SessionOutlivesClient,
];

/// Here all that happens is that a view is left that could have stayed, or stays for longer: the
/// simulated world knows calm in which that must not be.
const OF_TIME: [Bug; 2] = [Bug::NoResendOfPrepares, Bug::AnyAnswerIsEnough];

#[test]
fn bugs_are_found() {
    let mut missed = Vec::new();
    // Nobody reads here; the simulated groups of the whole system find those of reads.
    let elsewhere =
        |bug: &Bug| OF_SESSIONS.contains(bug) || OF_TIME.contains(bug) || bug.is_of_reads();
    for &bug in Bug::ALL.iter().filter(|bug| !elsewhere(bug)) {
        match hunt(bug) {
            Some((seed, how)) => println!("{:<50} {seed:>5}  {how:.80}", bug.name()),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
