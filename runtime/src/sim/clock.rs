//! A node's clock: ahead of the world's, and drifting. It never goes back.

use std::time::Duration;

use crate::time::Instant;

/// Shows `local` at the world's moment `world`, and from then on runs at its own rate.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    world: Instant,
    local: Instant,
    /// Parts per million by which it is fast; at -1,000,000 it stands still.
    drift_ppm: i32,
}

const MILLION: u128 = 1_000_000;

impl Clock {
    pub(super) fn new() -> Self {
        let origin = Instant::from_nanos(0);
        Self {
            world: origin,
            local: origin,
            drift_ppm: 0,
        }
    }

    /// What it shows at the world's moment `now`.
    pub(super) fn local(&self, now: Instant) -> Instant {
        let passed = now - self.world;
        if self.drift_ppm == 0 {
            return self.local + passed;
        }
        let local_ns = passed.as_nanos() * self.rate() / MILLION;
        self.local + nanos(local_ns)
    }

    /// The world's first moment at which it shows `local` or more; `None` if it never does.
    pub(super) fn world_at(&self, local: Instant) -> Option<Instant> {
        let ahead = local - self.local;
        if self.drift_ppm == 0 || ahead.is_zero() {
            return Some(self.world + ahead);
        }
        if self.rate() == 0 {
            return None;
        }
        let world_ns = (ahead.as_nanos() * MILLION).div_ceil(self.rate());
        Some(self.world + nanos(world_ns))
    }

    pub(super) fn set_drift(&mut self, now: Instant, drift_ppm: i32) {
        assert!(drift_ppm >= -1_000_000, "a clock does not run backwards");
        self.local = self.local(now);
        self.world = now;
        self.drift_ppm = drift_ppm;
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.local = self.local + by;
    }

    fn rate(&self) -> u128 {
        (i64::from(self.drift_ppm) + 1_000_000) as u128
    }
}

fn nanos(ns: u128) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    #[test]
    fn a_fast_clock_gains_and_a_slow_one_loses() {
        let mut clock = Clock::new();
        clock.set_drift(at(0), 500);
        assert_eq!(clock.local(at(SECOND)), at(SECOND + 500_000));
        clock.set_drift(at(SECOND), -500);
        assert_eq!(clock.local(at(2 * SECOND)), at(2 * SECOND));
    }

    #[test]
    fn the_world_moment_of_a_deadline_is_the_first_that_shows_it() {
        for drift_ppm in [0, 1, -1, 300, -300, 999_999, -999_999] {
            let mut clock = Clock::new();
            clock.advance(Duration::from_secs(3));
            clock.set_drift(at(17), drift_ppm);
            for local in [1, 3 * SECOND + 18, 3 * SECOND + 12_345, 4 * SECOND] {
                let world = clock.world_at(at(local)).expect("it runs");
                assert!(clock.local(world) >= at(local));
                if world > at(17) {
                    assert!(clock.local(at(world.as_nanos() - 1)) < at(local));
                }
            }
        }
    }

    #[test]
    fn a_frozen_clock_reaches_no_deadline() {
        let mut clock = Clock::new();
        clock.set_drift(at(5), -1_000_000);
        assert_eq!(clock.local(at(SECOND)), at(5));
        assert_eq!(clock.world_at(at(6)), None);
    }
}
