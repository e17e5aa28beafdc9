//! Time: instants, timers, timeouts.
//!
//! A [`Timer`] is a future. It is armed when it is first polled and disarmed when it is dropped, in
//! user space: neither costs a system call. So a timeout is a *scope*: leaving it drops the timer,
//! entering it again arms a new one, and no timer can be forgotten.
//!
//! ```
//! # viewring_runtime::block_on(async {
//! use std::time::Duration;
//! use viewring_runtime::time::{Elapsed, sleep, timeout};
//!
//! // The rule "if nothing is heard for 5 ms, suspect".
//! let heard = std::future::pending::<()>();
//! assert_eq!(timeout(Duration::from_millis(5), heard).await, Err(Elapsed));
//! sleep(Duration::from_micros(300)).await;
//! # }).unwrap();
//! ```
//!
//! A timer fires at its deadline or later, by at most the runtime's
//! [`timer_slack`](crate::Config::timer_slack) and the time until the loop turns; never earlier.

use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::current;
use crate::inner::Inner;
use crate::timers::TimerKey;

/// A moment on the runtime's clock: `CLOCK_MONOTONIC`, or a simulated world's virtual time.
///
/// It compares and subtracts; its origin means nothing. Sums saturate at the end of time, some 584
/// years on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The present, of the runtime that this thread is running.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn now() -> Self {
        current::with_current(Inner::now)
    }

    /// The present, or None outside a runtime: for what is called from anywhere, as a logger is.
    pub fn try_now() -> Option<Self> {
        current::try_with_current(Inner::now)
    }

    /// The time that passed since this moment; zero if it lies in the future.
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }

    /// The time from `earlier` to this moment; zero if there is none.
    pub fn duration_since(self, earlier: Self) -> Duration {
        self - earlier
    }

    /// The moment `nanos` nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Saturates at zero.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}s",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000
        )
    }
}

/// A moment on a clock that goes on while the machine is suspended: `CLOCK_BOOTTIME`, or that of a
/// simulated node. For promises to others, who do not sleep meanwhile: no timer runs by it.
///
/// It compares and subtracts; its origin means nothing, and it is not that of [`Instant`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BootInstant(u64);

impl BootInstant {
    /// The present, of the runtime that this thread is running. It reads the clock at each call.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn now() -> Self {
        current::with_current(Inner::boot_now)
    }

    /// The moment `nanos` nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub for BootInstant {
    type Output = Duration;

    /// Saturates at zero.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Waits for `duration`, which begins now and not at the first poll.
///
/// # Cancel safety
/// Strict. Dropping the timer disarms it.
///
/// # Panics
/// Outside a runtime.
pub fn sleep(duration: Duration) -> Timer {
    Timer::after(duration)
}

/// Waits until `deadline`.
///
/// # Cancel safety
/// Strict. Dropping the timer disarms it.
///
/// # Panics
/// When polled outside a runtime.
pub fn sleep_until(deadline: Instant) -> Timer {
    Timer::at(deadline)
}

/// A future that is ready from its deadline on.
///
/// Armed by its first poll; dropping it disarms it. It belongs to the runtime that polls it first:
/// if that is dropped, an armed timer is never ready.
///
/// # Panics
/// Its first poll does outside a runtime.
#[must_use = "a timer does nothing unless it is awaited"]
pub struct Timer {
    deadline: Instant,
    armed: Option<Armed>,
}

struct Armed {
    runtime: Rc<Inner>,
    key: TimerKey,
}

impl Timer {
    /// A timer that is ready at `deadline`.
    pub fn at(deadline: Instant) -> Self {
        Self {
            deadline,
            armed: None,
        }
    }

    /// A timer that is ready `duration` from now.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn after(duration: Duration) -> Self {
        Self::at(Instant::now() + duration)
    }

    /// When it is ready.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves the deadline. A timer that was ready is pending again if the new deadline is ahead.
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        let Some(Armed { runtime, key }) = &self.armed else {
            return;
        };
        if runtime.timers().has_fired(*key) {
            self.disarm(); // its waker is spent: the next poll arms it again
        } else {
            runtime.timers().reset(*key, deadline);
        }
    }

    fn disarm(&mut self) {
        if let Some(Armed { runtime, key }) = self.armed.take() {
            let waker = runtime.timers().remove(key);
            drop(waker); // the timers are no longer borrowed
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(Armed { runtime, key }) = &self.armed {
            if !runtime.timers().has_fired(*key) {
                let replaced = runtime.timers().set_waker(*key, cx.waker());
                drop(replaced);
                return Poll::Pending;
            }
            self.disarm();
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        self.armed = current::with_current(|inner| {
            if deadline <= inner.loop_time() {
                return None;
            }
            let key = inner.timers().insert(deadline, cx.waker().clone());
            Some(Armed {
                runtime: Rc::clone(inner),
                key,
            })
        });
        if self.armed.is_some() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("deadline", &self.deadline)
            .field("armed", &self.armed.is_some())
            .finish()
    }
}

/// The time of a [`timeout`] passed before its future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time has elapsed")
    }
}

impl std::error::Error for Elapsed {}

/// Awaits `future` for at most `duration`, which begins now.
///
/// # Cancel safety
/// That of `future`: when the time has elapsed, or when the timeout itself is dropped, `future` is
/// dropped where it stands.
///
/// # Errors
/// [`Elapsed`] when the time passed first. If both are ready in the same poll, `future` wins.
///
/// # Panics
/// Outside a runtime.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout {
        future,
        timer: Timer::after(duration),
    }
}

/// Like [`timeout`], with a deadline.
///
/// # Cancel safety
/// As for [`timeout`].
///
/// # Errors
/// As for [`timeout`].
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout {
        future,
        timer: Timer::at(deadline),
    }
}

pin_project! {
    /// The future of [`timeout`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        timer: Timer,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.timer).poll(cx).map(|()| Err(Elapsed))
    }
}

/// What an [`Interval`] does about ticks that nobody awaited in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissedTicks {
    /// Leaves them out and keeps to the original rhythm.
    #[default]
    Skip,
    /// Gives them all at once, then goes on in the original rhythm.
    Burst,
    /// Gives one at once; the rhythm begins anew from it.
    Delay,
}

/// Ticks every `period`, first one period from now.
///
/// # Panics
/// Outside a runtime, or when `period` is zero.
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval needs a period");
    Interval {
        timer: Timer::after(period),
        period,
        missed: MissedTicks::default(),
    }
}

/// A rhythm: see [`interval`].
#[derive(Debug)]
pub struct Interval {
    timer: Timer,
    period: Duration,
    missed: MissedTicks,
}

impl Interval {
    /// Chooses what happens to ticks that nobody awaited in time.
    #[must_use]
    pub fn on_missed(mut self, missed: MissedTicks) -> Self {
        self.missed = missed;
        self
    }

    /// The next tick, and the moment for which it was due.
    ///
    /// # Cancel safety
    /// Strict: a tick is taken in the poll that returns it.
    pub async fn tick(&mut self) -> Instant {
        (&mut self.timer).await;
        let due = self.timer.deadline();
        self.timer.reset(self.next_after(due, Instant::now()));
        due
    }

    fn next_after(&self, due: Instant, now: Instant) -> Instant {
        match self.missed {
            MissedTicks::Burst => due + self.period,
            MissedTicks::Delay => now + self.period,
            MissedTicks::Skip => {
                let period_ns = u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX);
                let late_ns = now.as_nanos().saturating_sub(due.as_nanos());
                let periods = (late_ns / period_ns).saturating_add(1);
                due + Duration::from_nanos(period_ns.saturating_mul(periods))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_sum_saturates_at_the_end_of_time() {
        assert_eq!((ms(1) + Duration::MAX).as_nanos(), u64::MAX);
        assert_eq!(ms(1) - ms(2), Duration::ZERO);
    }

    #[test]
    fn missed_ticks_follow_the_policy() {
        let next = |missed| {
            let period = Duration::from_millis(10);
            let interval = Interval {
                timer: Timer::at(ms(10)),
                period,
                missed,
            };
            (
                interval.next_after(ms(10), ms(11)),
                interval.next_after(ms(10), ms(45)),
            )
        };
        assert_eq!(next(MissedTicks::Skip), (ms(20), ms(50)));
        assert_eq!(next(MissedTicks::Burst), (ms(20), ms(20)));
        assert_eq!(next(MissedTicks::Delay), (ms(21), ms(55)));
    }
}
