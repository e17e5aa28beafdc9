//! Counts operations and measures how long they take.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use viewring_runtime::time::Instant;

use crate::duration::short;
use crate::output::thousands;

/// Counts operations and measures how long they take, in all and since the last live line.
pub(crate) struct Meter {
    total: Histogram<u64>,
    recent: Histogram<u64>,
    began: Instant,
    recent_began: Instant,
    ended: Option<Instant>,
    last_answer: Instant,
    longest_pause: Duration,
}

/// A latency is recorded with three digits; what is longer counts as so long.
const LONGEST: Duration = Duration::from_secs(600);

impl Meter {
    /// A meter that begins now.
    pub(crate) fn new() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).expect("ten minutes in 64 bits");
        let histogram = Histogram::new_with_bounds(1, longest, 3).expect("sound bounds");
        let now = Instant::now();
        Self {
            total: histogram.clone(),
            recent: histogram,
            began: now,
            recent_began: now,
            ended: None,
            last_answer: now,
            longest_pause: Duration::ZERO,
        }
    }

    /// Forgets everything: what comes from now on counts.
    pub(crate) fn restart(&mut self) {
        self.total.reset();
        self.recent.reset();
        self.began = Instant::now();
        self.recent_began = self.began;
        self.ended = None;
        self.last_answer = self.began;
        self.longest_pause = Duration::ZERO;
    }

    /// Ends the time that counts.
    pub(crate) fn stop(&mut self) {
        let now = Instant::now();
        self.ended = Some(now);
        self.note_pause(now);
    }

    /// An operation that began then is answered now. How long that took.
    pub(crate) fn answered(&mut self, began: Instant) -> Duration {
        let now = Instant::now();
        self.note_pause(now);
        self.record(now - began);
        now - began
    }

    fn note_pause(&mut self, now: Instant) {
        self.longest_pause = self.longest_pause.max(now - self.last_answer);
        self.last_answer = now;
    }

    fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.total.saturating_record(ns);
        self.recent.saturating_record(ns);
    }

    /// What has been measured since the last time.
    pub(crate) fn lap(&mut self) -> Lap {
        let now = self.ended.unwrap_or_else(Instant::now);
        let seconds = (now - self.recent_began).as_secs_f64();
        let lap = Lap {
            elapsed: now - self.began,
            ops_per_sec: rate(self.recent.len(), seconds),
            p50_us: quantile_us(&self.recent, 0.5),
            p99_us: quantile_us(&self.recent, 0.99),
            is_dead: self.recent.is_empty(),
        };
        self.recent.reset();
        self.recent_began = now;
        lap
    }

    /// How long it has measured.
    pub(crate) fn elapsed(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now) - self.began
    }

    /// The longest time in which nothing was answered. It is known once the meter has stopped.
    pub(crate) fn longest_pause(&self) -> Duration {
        self.longest_pause
    }

    /// How many operations it has counted.
    pub(crate) fn ops(&self) -> u64 {
        self.total.len()
    }

    /// All latencies, in nanoseconds.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.total
    }

    /// All that has been measured, as of now.
    pub(crate) fn summary(&self) -> Summary {
        Summary {
            ops: self.total.len(),
            ops_per_sec: tenths(rate(self.total.len(), self.elapsed().as_secs_f64())),
            latency_us: Latency {
                min: tenths(self.total.min() as f64 / 1e3),
                mean: tenths(self.total.mean() / 1e3),
                p50: tenths(quantile_us(&self.total, 0.5)),
                p90: tenths(quantile_us(&self.total, 0.9)),
                p99: tenths(quantile_us(&self.total, 0.99)),
                p999: tenths(quantile_us(&self.total, 0.999)),
                max: tenths(quantile_us(&self.total, 1.0)),
            },
        }
    }
}

/// What one live line tells of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lap {
    elapsed: Duration,
    ops_per_sec: f64,
    p50_us: f64,
    p99_us: f64,
    /// Nothing was answered.
    is_dead: bool,
}

impl fmt::Display for Lap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed = self.elapsed.as_secs_f64();
        let ops_per_sec = thousands(self.ops_per_sec.round() as u64);
        write!(f, "{elapsed:>5.1} s  {ops_per_sec:>9} ops/s")?;
        let [p50, p99] = [self.p50_us, self.p99_us].map(|us| match self.is_dead {
            true => "-".into(),
            false => short(us),
        });
        write!(f, "  p50 {p50:>7}  p99 {p99:>7}")
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Summary {
    /// Operations that were answered.
    pub(crate) ops: u64,
    pub(crate) ops_per_sec: f64,
    pub(crate) latency_us: Latency,
}

/// How long operations took, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    min: f64,
    mean: f64,
    pub(crate) p50: f64,
    p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    max: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = thousands(self.ops_per_sec.round() as u64);
        writeln!(f, "operations    {}  ({rate}/s)", thousands(self.ops))?;
        let Latency {
            p50,
            p90,
            p99,
            p999,
            max,
            ..
        } = self.latency_us;
        let quantiles = [
            ("p50", p50),
            ("p90", p90),
            ("p99", p99),
            ("p99.9", p999),
            ("max", max),
        ];
        write!(f, "latency     ")?;
        for (name, us) in quantiles {
            write!(f, "  {name} {}", short(us))?;
        }
        Ok(())
    }
}

fn quantile_us(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    // The upper edge of the bucket may lie above all that was recorded.
    histogram.value_at_quantile(quantile).min(histogram.max()) as f64 / 1e3
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

pub(crate) fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
impl Summary {
    /// What might have been measured in a second.
    pub(crate) fn example(ops_per_sec: f64, p50: f64, p99: f64) -> Self {
        Self {
            ops: ops_per_sec as u64,
            ops_per_sec,
            latency_us: Latency {
                min: p50,
                mean: p50,
                p50,
                p90: p50,
                p99,
                p999: p99,
                max: p99,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use viewring_runtime::time::sleep;

    use super::*;

    #[test]
    fn what_is_recorded_is_told_and_forgotten_on_restart() {
        viewring_runtime::block_on(async {
            let mut meter = Meter::new();
            for us in 1..=1000 {
                meter.record(Duration::from_micros(us));
            }
            meter.record(Duration::from_secs(86_400));
            let Summary {
                ops, latency_us, ..
            } = meter.summary();
            assert_eq!(ops, 1001);
            assert!((latency_us.p50 - 501.0).abs() < 2.0, "{latency_us:?}");
            assert!((latency_us.p90 - 901.0).abs() < 2.0, "{latency_us:?}");
            assert!(
                (latency_us.max / 600e6 - 1.0).abs() < 0.01,
                "{latency_us:?}"
            );
            meter.restart();
            assert_eq!(meter.summary().ops, 0);
            let dead = meter.lap().to_string();
            assert!(dead.ends_with("p50       -  p99       -"), "{dead}");
        })
        .expect("io_uring");
    }

    #[test]
    fn the_longest_pause_may_be_before_between_and_after_answers() {
        viewring_runtime::block_on(async {
            let pause = Duration::from_millis(30);
            for at in 0..3 {
                let mut meter = Meter::new();
                sleep(pause * 10).await;
                meter.restart();
                for step in 0..3 {
                    if step == at {
                        sleep(pause).await;
                    }
                    if step < 2 {
                        meter.answered(Instant::now());
                    }
                }
                meter.stop();
                let longest = meter.longest_pause();
                assert!((pause..pause * 10).contains(&longest), "{at}: {longest:?}");
            }
        })
        .expect("io_uring");
    }
}
