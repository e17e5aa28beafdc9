//! Whether the demo's memory grows: how much is resident when everything has been done a few times,
//! and how much in the end.

use std::fs;
use std::time::Duration;

use serde::Serialize;
use viewring_runtime::time::Instant;

use crate::meter::tenths;

/// Resident memory of this process: all replicas and clients.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Resident {
    #[serde(skip)]
    early_at: Instant,
    /// The first number was asked for, whether or not there was an answer.
    #[serde(skip)]
    was_early: bool,
    /// When the first number was taken, after the clients began.
    pub(super) resident_early_s: f64,
    /// `None`: it ended before, or the system does not tell.
    pub(super) resident_early_mib: Option<f64>,
    pub(super) resident_end_mib: Option<f64>,
}

/// The first number is taken after so long, or a third of the time: by then there were checkpoints.
const EARLY: Duration = Duration::from_secs(20);

impl Resident {
    /// The clients have begun, and will work for so long.
    pub(super) fn new(began: Instant, duration: Duration) -> Self {
        let early = EARLY.min(duration / 3);
        Self {
            early_at: began + early,
            was_early: false,
            resident_early_s: tenths(early.as_secs_f64()),
            resident_early_mib: None,
            resident_end_mib: None,
        }
    }

    /// When the first number is due, if it was not asked for.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.was_early).then_some(self.early_at)
    }

    /// Takes the first number, if it is due.
    pub(super) fn look(&mut self, now: Instant) {
        self.take_early(now, resident_mib);
    }

    fn take_early(&mut self, now: Instant, read: impl FnOnce() -> Option<f64>) {
        if self.due().is_some_and(|due| due <= now) {
            self.was_early = true;
            self.resident_early_mib = read();
        }
    }

    /// Takes the last number.
    pub(super) fn end(&mut self) {
        self.resident_end_mib = resident_mib();
    }
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
    fn the_first_number_is_asked_for_once_whatever_the_answer() {
        viewring_runtime::block_on(async {
            let began = Instant::now();
            let due = began + Duration::from_secs(3);
            for answer in [None, Some(7.0)] {
                let mut resident = Resident::new(began, Duration::from_secs(9));
                resident.take_early(began, || unreachable!("it is not due"));
                assert_eq!(resident.due(), Some(due));
                resident.take_early(due, || answer);
                assert_eq!(
                    (resident.due(), resident.resident_early_mib),
                    (None, answer)
                );
                resident.take_early(due, || unreachable!("it was taken"));
            }
        })
        .expect("io_uring");
    }
}
