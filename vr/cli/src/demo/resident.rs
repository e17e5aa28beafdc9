//! Whether the demo's memory grows: how much is resident when everything has been done a few times,
//! and how much in the end.
//!
//! It rises and falls with the log between two checkpoints and with who comes back, so one moment
//! says little: the most of a few seconds is taken, of the same number of seconds at both ends.

use std::fs;
use std::time::Duration;

use serde::Serialize;
use viewring_runtime::time::Instant;

use crate::meter::tenths;

/// Resident memory of this process: all replicas and clients.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Resident {
    #[serde(skip)]
    early: Span,
    #[serde(skip)]
    late: Span,
    #[serde(skip)]
    next_at: Instant,
    /// From when on the first number was looked for, after the clients began.
    pub(super) resident_early_s: f64,
    /// The most of a few seconds. `None`: it ended before, or the system does not tell.
    pub(super) resident_early_mib: Option<f64>,
    /// The most of as many seconds at the end.
    pub(super) resident_end_mib: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    from: Instant,
    to: Instant,
}

impl Span {
    fn contains(self, moment: Instant) -> bool {
        self.from <= moment && moment <= self.to
    }
}

/// The first number is of this moment on, or of a third of the time: by then there were
/// checkpoints.
const EARLY: Duration = Duration::from_secs(20);
/// Of that, this part is looked at.
const PART: u32 = 4;
/// So often.
const EVERY: Duration = Duration::from_millis(100);

impl Resident {
    /// The clients have begun, and will work for so long.
    pub(super) fn new(began: Instant, duration: Duration) -> Self {
        let early = EARLY.min(duration / 3);
        let (from, end) = (began + early, began + duration);
        Self {
            early: Span {
                from,
                to: from + early / PART,
            },
            late: Span {
                from: began + (duration - early / PART),
                to: end,
            },
            next_at: from,
            resident_early_s: tenths(early.as_secs_f64()),
            resident_early_mib: None,
            resident_end_mib: None,
        }
    }

    /// When it is to be looked at next, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        let is_over = self.next_at > self.late.to;
        (!is_over).then_some(self.next_at)
    }

    /// Looks, if it is due.
    pub(super) fn look(&mut self, now: Instant) {
        self.look_with(now, resident_mib);
    }

    fn look_with(&mut self, now: Instant, read: impl FnOnce() -> Option<f64>) {
        if now < self.next_at {
            return;
        }
        let soon = now + EVERY;
        self.next_at = if now <= self.early.to {
            soon
        } else {
            soon.max(self.late.from)
        };
        let number = if self.early.contains(now) {
            &mut self.resident_early_mib
        } else if self.late.contains(now) {
            &mut self.resident_end_mib
        } else {
            return;
        };
        *number = most(*number, read());
    }

    /// It ends, perhaps before its time.
    pub(super) fn end(&mut self) {
        self.resident_end_mib = most(self.resident_end_mib, resident_mib());
    }
}

fn most(before: Option<f64>, now: Option<f64>) -> Option<f64> {
    before.into_iter().chain(now).reduce(f64::max)
}

fn resident_mib() -> Option<f64> {
    in_status(&fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmRSS` of `/proc/PID/status`: proc_pid_status(5).
fn in_status(status: &str) -> Option<f64> {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(tenths(kib as f64 / 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status() {
        let status = "Name:\tviewring\nVmHWM:\t  999999 kB\nVmRSS:\t  204851 kB\nThreads:\t4\n";
        assert_eq!(in_status(status), Some(200.0));
        assert_eq!(in_status("Name:\tviewring\n"), None);
        assert!(resident_mib() > Some(0.5), "this process has some");
    }

    #[test]
    fn the_most_of_a_few_seconds_is_taken_early_and_at_the_end() {
        viewring_runtime::block_on(async {
            let began = Instant::now();
            let at = |ms| began + Duration::from_millis(ms);
            let mut resident = Resident::new(began, Duration::from_secs(60));
            assert_eq!(resident.due(), Some(at(20_000)));
            resident.look_with(at(19_999), || unreachable!("it is not due"));
            for (ms, mib) in [(20_000, 5.0), (22_000, 9.0), (24_900, 7.0)] {
                resident.look_with(at(ms), || Some(mib));
            }
            resident.look_with(at(22_000), || unreachable!("it was looked at"));
            resident.look_with(at(25_050), || unreachable!("nobody asks for the middle"));
            assert_eq!(resident.due(), Some(at(55_000)));
            for (ms, mib) in [(55_000, None), (57_000, Some(8.0)), (60_000, Some(6.0))] {
                resident.look_with(at(ms), || mib);
            }
            assert_eq!(resident.due(), None);
            let numbers = (resident.resident_early_mib, resident.resident_end_mib);
            assert_eq!(numbers, (Some(9.0), Some(8.0)));
        })
        .expect("io_uring");
    }
}
