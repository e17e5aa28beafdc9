//! When a client calls next.
//!
//! In a *closed loop* that is when it has its answer. Then a group that stalls is asked less, and
//! most of what its users would have suffered is never measured: Gil Tene's coordinated omission.
//! In an *open loop* every request has its moment, whatever became of those before it; it is taken
//! by the first client that is free, and its latency counts from its moment.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use futures::future::{Either, select};
use viewring_runtime::time::{Instant, sleep_until};

/// When the clients of a run call.
pub(super) enum Pace {
    /// At once.
    Closed,
    /// At moments that were fixed before.
    Open(Schedule),
}

impl Pace {
    /// Waits for the moment of the next call, and gives it: where latency counts from. `None`:
    /// there is none, since before it came `stopped` was ready.
    pub(super) async fn next(&self, stopped: &(impl Future + Unpin + Clone)) -> Option<Instant> {
        let Self::Open(schedule) = self else {
            return Some(Instant::now());
        };
        let due = schedule.take();
        if due > Instant::now()
            && let Either::Right(_) = select(sleep_until(due), stopped.clone()).await
        {
            return None;
        }
        Some(due)
    }

    /// How many requests were due at `now` and had not begun.
    pub(super) fn behind(&self, now: Instant) -> u64 {
        match self {
            Self::Closed => 0,
            Self::Open(schedule) => schedule.behind(now),
        }
    }
}

/// The moments of an open loop: evenly spaced, without drift.
pub(super) struct Schedule {
    began: Instant,
    per_second: u32,
    taken: Cell<u64>,
}

impl Schedule {
    /// A schedule that begins at `began`.
    pub(super) fn new(began: Instant, per_second: u32) -> Self {
        Self {
            began,
            per_second,
            taken: Cell::new(0),
        }
    }

    /// The next moment that nobody has taken. It may have passed.
    fn take(&self) -> Instant {
        let number = self.taken.get();
        self.taken.set(number + 1);
        let ns = u128::from(number) * 1_000_000_000 / u128::from(self.per_second);
        self.began + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    fn behind(&self, now: Instant) -> u64 {
        let ns = (now - self.began).as_nanos();
        let due = ns * u128::from(self.per_second) / 1_000_000_000;
        u64::try_from(due)
            .unwrap_or(u64::MAX)
            .saturating_sub(self.taken.get())
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use viewring_runtime::block_on;

    use super::*;

    const ORIGIN: Instant = Instant::from_nanos(5);

    fn ns(moment: Instant) -> u64 {
        moment.as_nanos() - ORIGIN.as_nanos()
    }

    #[test]
    fn moments_are_evenly_spaced_and_do_not_drift() {
        let schedule = Schedule::new(ORIGIN, 3);
        let first: Vec<u64> = (0..4).map(|_| ns(schedule.take())).collect();
        assert_eq!(first, [0, 333_333_333, 666_666_666, 1_000_000_000]);
        // A week later, not a nanosecond off.
        schedule.taken.set(3 * 604_800);
        assert_eq!(ns(schedule.take()), 604_800_000_000_000);
    }

    #[test]
    fn what_is_due_and_was_not_taken_is_behind() {
        let schedule = Schedule::new(ORIGIN, 1000);
        let now = ORIGIN + Duration::from_millis(10);
        assert_eq!(schedule.behind(now), 10);
        for _ in 0..7 {
            schedule.take();
        }
        assert_eq!(schedule.behind(now), 3);
        assert_eq!(schedule.behind(ORIGIN), 0);
    }

    #[test]
    fn a_moment_that_has_passed_is_not_waited_for_but_counted_from() {
        block_on(async {
            let late = Duration::from_secs(3600);
            let now = Instant::now();
            let began = Instant::from_nanos(now.as_nanos().saturating_sub(late.as_nanos() as u64));
            let pace = Pace::Open(Schedule::new(began, 10));
            assert_eq!(pace.next(&pending::<()>()).await, Some(began));
            let second = pace.next(&pending::<()>()).await;
            assert_eq!(second, Some(began + Duration::from_millis(100)));
            let soon = Pace::Open(Schedule::new(now, 100));
            assert_eq!(soon.next(&pending::<()>()).await, Some(now));
            let second = soon.next(&pending::<()>()).await;
            assert_eq!(second, Some(now + Duration::from_millis(10)));
            assert!(second <= Some(Instant::now()), "it was waited for");
            assert_eq!(soon.next(&ready(())).await, None, "nobody waits any more");
        })
        .expect("io_uring");
    }
}
