//! Seeds: a deterministic network of pure replicas and clients, faults, and a checker that
//! stands outside.
//!
//! `SWARM_SEEDS=20000 cargo test --release -p viewring-protocol --test swarm` runs more;
//! `SWARM_SEED=17` runs one. `SWARM_KEEP_GOING=1` counts the seeds that fail, and `SWARM_BUG=` with
//! one of the bugs of `Bug` makes some fail.

mod arrivals;
mod bugs;
mod checker;
mod faults;
mod lives;
mod reached;
mod timeouts;
mod world;

use reached::Reached;
use viewring_protocol::Bug;
use world::World;

/// A small generator: the only source of chance.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `per_mille` times of a thousand.
    pub(crate) fn hit(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let len = u64::try_from(of.len()).expect("small");
        of[usize::try_from(self.below(len)).expect("small")]
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// `SWARM_BUG=StalestLogChosen` plants a bug.
fn bug() -> Option<Bug> {
    let name = std::env::var("SWARM_BUG").ok()?;
    let bug = Bug::ALL.iter().find(|bug| format!("{bug:?}") == name);
    Some(*bug.unwrap_or_else(|| panic!("no bug {name}: there are {:?}", Bug::ALL)))
}

/// What a batch of seeds must have reached, or it is blind.
fn run(seed: u64) -> Reached {
    let outcome = std::panic::catch_unwind(|| World::new(seed, bug()).run());
    outcome.unwrap_or_else(|_| panic!("seed {seed} failed: SWARM_SEED={seed} replays it"))
}

#[test]
fn seeds() {
    if let Some(seed) = number("SWARM_SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let first = number("SWARM_FIRST").unwrap_or(1);
    let seeds = number("SWARM_SEEDS").unwrap_or(300);
    if number("SWARM_KEEP_GOING").is_some() {
        return survey(first, seeds);
    }
    let mut reached = Reached::default();
    for seed in first..first + seeds {
        reached.add(&run(seed));
    }
    println!("{reached:?}");
    if seeds >= 300 {
        reached.assert_all();
    }
}

/// Counts the failing seeds: for deliberate bugs.
fn survey(first: u64, seeds: u64) {
    let failing: Vec<_> = (first..first + seeds)
        .filter(|&seed| std::panic::catch_unwind(|| World::new(seed, bug()).run()).is_err())
        .collect();
    let head = failing.iter().take(10).collect::<Vec<_>>();
    println!(
        "SURVEY {} of {seeds} seeds fail, first {head:?}",
        failing.len()
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..=5 {
        assert_eq!(
            World::new(seed, None).run(),
            World::new(seed, None).run(),
            "seed {seed}"
        );
    }
}
