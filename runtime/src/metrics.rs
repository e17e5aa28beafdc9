//! What a runtime counts.

/// Counters of one runtime, since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Rounds of the loop.
    pub turns: u64,
    /// Polls of spawned tasks.
    pub polls: u64,
    /// Tasks spawned.
    pub tasks_spawned: u64,
    /// Tasks that are alive now.
    pub tasks_alive: usize,
    /// Tasks that panicked.
    pub task_panics: u64,
    /// Looks for work before a sleep that found some: see [`Config::spin`](crate::Config::spin).
    pub spins_hit: u64,
    /// … that found none, so that the loop slept.
    pub spins_missed: u64,
    /// Operations that are in flight now.
    pub operations_in_flight: usize,
    /// Futures dropped while their operation was in flight.
    pub operations_orphaned: u64,
    /// Completions of operations that nobody knows: 0 unless something is wrong.
    pub completions_stale: u64,
    /// The reactor's own counters, by name.
    pub reactor: Vec<(&'static str, u64)>,
}

impl Metrics {
    /// The reactor's counter of this name; 0 if it has none.
    pub fn reactor(&self, name: &str) -> u64 {
        self.reactor
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |(_, count)| *count)
    }
}
