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
            resident_early_s: tenths(early.as_secs_f64()),
            resident_early_mib: None,
            resident_end_mib: None,
        }
    }

    /// When the first number is due, if it was not taken.
    pub(super) fn due(&self) -> Option<Instant> {
        let is_taken = self.resident_early_mib.is_some();
        (!is_taken).then_some(self.early_at)
    }

    /// Takes the first number, if it is due.
    pub(super) fn look(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.resident_early_mib = resident_mib();
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
}
