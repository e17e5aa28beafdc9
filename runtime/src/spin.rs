//! Looking for work before the loop sleeps.
//!
//! Waking a sleeping core costs tens of microseconds on a virtual machine; a core that looks finds
//! a completion within one. Between two looks it offers the core to whoever else wants it, perhaps
//! to the very process that it waits for: where there are more runtimes than cores, they would
//! hold up one another else. What it costs is power, and that the core looks busy.
//!
//! **Adaptive.** A look that found nothing was in vain. If the sleep that followed was short, and
//! ended for something, a longer look would have found that, and the next one is as long as
//! allowed; else the next one is half as long, down to none. So a runtime that is idle does not
//! burn its core, and one that is busy does not sleep.
//!
//! **Crowded.** Who offers its core to somebody that computes gets it back milliseconds later,
//! where a sleeper would have been woken at once. Such a look costs more than it can save, whether
//! it found something or not: the loop rests from looking, for ever more sleeps while that goes on,
//! and then tries again.

use std::cell::Cell;
use std::time::Duration;

use crate::time::Instant;

pub(crate) struct Spin {
    most_ns: u64,
    /// How long the next look may be.
    budget_ns: Cell<u64>,
    /// So many sleeps are left in which it rests from looking.
    rest: Cell<u32>,
    /// How long the last such rest was, or is thought to be worth by now.
    pause: Cell<u32>,
    /// Looks that found something, and those in vain.
    pub(crate) hits: Cell<u64>,
    pub(crate) misses: Cell<u64>,
}

/// Of a sleep's length, what may be the waking itself.
const WAKING_NS: u64 = 100_000;
/// A shorter look is not worth a look at the clock.
const LEAST_NS: u64 = 1_000;
/// The longest rest from looking: one crowded look in a thousand sleeps costs next to nothing.
const PAUSE_MAX: u32 = 1_023;

impl Spin {
    /// Looks for at most `most`; not at all if that is zero.
    pub(crate) fn new(most: Duration) -> Self {
        let most_ns = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Self {
            most_ns,
            budget_ns: Cell::new(most_ns),
            rest: Cell::new(0),
            pause: Cell::new(0),
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
        let mut is_found = found(moment);
        // The last one comes after the end: somebody else may have had the core for long.
        while !is_found && moment < give_up_at {
            std::thread::yield_now(); // sched_yield(2)
            moment = now();
            is_found = found(moment);
        }
        let count = if is_found { &self.hits } else { &self.misses };
        count.set(count.get() + 1);
        // Who did not offer the core does not know whether others want it.
        if moment > began {
            self.returned(moment - give_up_at);
        }
        is_found
    }

    /// The core was offered to others, and came back so long after the look was to end.
    fn returned(&self, late: Duration) {
        let pause = self.pause.get();
        if late > Duration::from_nanos(self.most_ns) {
            self.pause.set((2 * pause + 1).min(PAUSE_MAX));
            self.rest.set(self.pause.get());
            self.budget_ns.set(0);
        } else {
            self.pause.set(pause / 2);
        }
    }

    /// The loop has slept, for so long. Whether that ended for something: there is work to do.
    pub(crate) fn slept(&self, slept: Duration, is_for_work: bool) {
        if self.most_ns == 0 {
            return;
        }
        if self.rest.get() > 0 {
            self.rest.set(self.rest.get() - 1);
            return;
        }
        let slept_ns = u64::try_from(slept.as_nanos()).unwrap_or(u64::MAX);
        let is_short = slept_ns <= self.most_ns.saturating_add(WAKING_NS);
        let next_ns = if is_short && is_for_work {
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
            spin.slept(Duration::from_millis(50), true);
        }
        assert!(!spin.is_worth_it());
        spin.slept(Duration::from_micros(120), true);
        assert!(spin.is_worth_it() && look(&spin, 40));
    }

    #[test]
    fn short_sleeps_that_end_for_nothing_do_not_keep_an_idle_loop_looking() {
        let spin = Spin::new(Duration::from_millis(1));
        for _ in 0..20 {
            spin.slept(Duration::from_millis(1), false);
        }
        assert!(!spin.is_worth_it());
    }

    /// Looks where others have the core for four milliseconds between two glances; what it looks
    /// for has come meanwhile, or not.
    fn look_crowded(spin: &Spin, is_found: bool) {
        let clock = Cell::new(0);
        let now = || {
            clock.set(clock.get() + 4_000_000);
            Instant::from_nanos(clock.get())
        };
        spin.look(now, |moment| {
            is_found && moment > Instant::from_nanos(4_000_000)
        });
    }

    /// A thousand short sleeps, with a look before each that wants one. How many looks there were.
    fn looks_of_a_thousand_sleeps(spin: &Spin, look: impl Fn(&Spin)) -> usize {
        let looks = (0..1000).filter(|_| {
            let looks = spin.is_worth_it();
            if looks {
                look(spin);
            }
            // After a look that found something there is work to do, and then it sleeps.
            spin.slept(Duration::from_micros(20), true);
            looks
        });
        looks.count()
    }

    #[test]
    fn who_is_kept_from_its_core_hardly_looks_however_short_its_sleeps_are() {
        for is_found in [true, false] {
            let spin = Spin::new(MOST);
            let crowded = |spin: &Spin| look_crowded(spin, is_found);
            let looks = looks_of_a_thousand_sleeps(&spin, crowded);
            assert!(looks <= 10, "{looks} looks; found: {is_found}");
            let later = looks_of_a_thousand_sleeps(&spin, crowded);
            assert!(later <= 1, "{later} looks; found: {is_found}");
        }
    }

    #[test]
    fn what_has_come_while_others_had_the_core_is_found() {
        let spin = Spin::new(MOST);
        look_crowded(&spin, true);
        assert_eq!((spin.hits.get(), spin.misses.get()), (1, 0));
    }

    #[test]
    fn who_has_its_core_again_looks_again() {
        let spin = Spin::new(MOST);
        for _ in 0..10 {
            looks_of_a_thousand_sleeps(&spin, |spin| look_crowded(spin, true));
        }
        let alone = |spin: &Spin| assert!(look(spin, 40));
        let looks = [0; 3].map(|_| looks_of_a_thousand_sleeps(&spin, alone));
        assert_eq!(looks[2], 1000, "{looks:?}");
        // And one hog now and then does not make it rest for long.
        look_crowded(&spin, false);
        assert!(looks_of_a_thousand_sleeps(&spin, alone) > 990);
    }

    #[test]
    fn without_leave_it_never_looks() {
        let spin = Spin::new(Duration::ZERO);
        spin.slept(Duration::ZERO, true);
        assert!(!spin.is_worth_it());
    }
}
