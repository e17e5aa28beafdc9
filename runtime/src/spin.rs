//! Looking for work before the loop sleeps.
//!
//! Waking a sleeping core costs tens of microseconds on a virtual machine; a core that looks finds
//! a completion within one. Between two looks it offers the core to whoever else wants it, perhaps
//! to the very process that it waits for: where there are more runtimes than cores, they would
//! hold up one another else. What it costs is power, and that the core looks busy.
//!
//! **Adaptive.** A look that found nothing was in vain. If the sleep that followed was short, a
//! longer look would have found what ended it, and the next one is as long as allowed; else the
//! next one is half as long, down to none. So a runtime that is idle does not burn its core, and
//! one that is busy does not sleep.

use std::cell::Cell;
use std::time::Duration;

use crate::time::Instant;

pub(crate) struct Spin {
    most_ns: u64,
    /// How long the next look may be.
    budget_ns: Cell<u64>,
    /// The last look took much longer than it was meant to: others want the core, and how long the
    /// sleep behind it was says nothing.
    is_crowded: Cell<bool>,
    /// Looks that found something, and those in vain.
    pub(crate) hits: Cell<u64>,
    pub(crate) misses: Cell<u64>,
}

/// Of a sleep's length, what may be the waking itself.
const WAKING_NS: u64 = 100_000;
/// A shorter look is not worth a look at the clock.
const LEAST_NS: u64 = 1_000;

impl Spin {
    /// Looks for at most `most`; not at all if that is zero.
    pub(crate) fn new(most: Duration) -> Self {
        let most_ns = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Self {
            most_ns,
            budget_ns: Cell::new(most_ns),
            is_crowded: Cell::new(false),
            hits: Cell::new(0),
            misses: Cell::new(0),
        }
    }

    /// Whether to look now, rather than sleep at once.
    pub(crate) fn is_worth_it(&self) -> bool {
        self.budget_ns.get() > 0
    }

    /// Looks until `found` says so, within the budget. Says whether it was found.
    pub(crate) fn look(
        &self,
        now: impl Fn() -> Instant,
        mut found: impl FnMut(Instant) -> bool,
    ) -> bool {
        let began = now();
        let give_up_at = began + Duration::from_nanos(self.budget_ns.get());
        let mut moment = began;
        loop {
            // Once more at the end: somebody else may have had the core for long.
            if found(moment) {
                self.hits.set(self.hits.get() + 1);
                return true;
            }
            if moment >= give_up_at {
                break;
            }
            std::thread::yield_now(); // sched_yield(2)
            moment = now();
        }
        self.misses.set(self.misses.get() + 1);
        self.is_crowded
            .set(moment - give_up_at > Duration::from_nanos(self.most_ns));
        false
    }

    /// The loop has slept, for so long.
    pub(crate) fn slept(&self, slept: Duration) {
        if self.most_ns == 0 {
            return;
        }
        let slept_ns = u64::try_from(slept.as_nanos()).unwrap_or(u64::MAX);
        let is_short = slept_ns <= self.most_ns.saturating_add(WAKING_NS);
        let next_ns = if is_short && !self.is_crowded.take() {
            self.most_ns
        } else {
            Some(self.budget_ns.get() / 2)
                .filter(|&half| half >= LEAST_NS)
                .unwrap_or(0)
        };
        self.budget_ns.set(next_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(50);

    /// Looks on a clock of which each glance takes a microsecond; there is something after `after`
    /// glances.
    fn look(spin: &Spin, after: u64) -> bool {
        let clock = Cell::new(0);
        let now = || {
            clock.set(clock.get() + 1_000);
            Instant::from_nanos(clock.get())
        };
        spin.look(now, |moment| moment >= Instant::from_nanos(after * 1_000))
    }

    #[test]
    fn what_comes_within_the_budget_is_found() {
        let spin = Spin::new(MOST);
        assert!(look(&spin, 40));
        assert!(!look(&spin, 60));
        assert_eq!((spin.hits.get(), spin.misses.get()), (1, 1));
    }

    #[test]
    fn an_idle_loop_soon_looks_no_more_and_a_busy_one_looks_again() {
        let spin = Spin::new(MOST);
        for _ in 0..10 {
            spin.slept(Duration::from_millis(50));
        }
        assert!(!spin.is_worth_it());
        spin.slept(Duration::from_micros(120));
        assert!(spin.is_worth_it() && look(&spin, 40));
    }

    #[test]
    fn who_is_kept_from_its_core_looks_less_however_short_its_sleeps_are() {
        let spin = Spin::new(MOST);
        let clock = Cell::new(0);
        let crowded = || {
            clock.set(clock.get() + 2_000_000);
            Instant::from_nanos(clock.get())
        };
        while spin.is_worth_it() {
            assert!(!spin.look(crowded, |_| false));
            spin.slept(Duration::ZERO);
        }
        assert!(spin.misses.get() < 10);
        // What has come meanwhile is found.
        spin.slept(Duration::ZERO);
        assert!(spin.look(crowded, |now| now
            >= Instant::from_nanos(clock.get() - 1_000)));
    }

    #[test]
    fn without_leave_it_never_looks() {
        let spin = Spin::new(Duration::ZERO);
        spin.slept(Duration::ZERO);
        assert!(!spin.is_worth_it());
    }
}
