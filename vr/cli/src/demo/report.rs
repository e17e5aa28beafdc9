//! What the demo tells in the end, and whether that is good.

use serde::Serialize;

use super::judge::Verdict;
use super::resident::Resident;
use super::turns::Crashes;
use super::workload::Forsaken;
use crate::exit::{Exit, Failure};
use crate::meter::Summary;
use crate::output::{self, thousands};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) summary: Summary,
    pub(super) view_changes: u64,
    /// The longest time without any acknowledgement.
    pub(super) unavailable_ms: u64,
    #[serde(flatten)]
    pub(super) crashes: Crashes,
    #[serde(flatten)]
    pub(super) resident: Resident,
    #[serde(flatten)]
    pub(super) verdict: Verdict,
    #[serde(flatten)]
    pub(super) forsaken: Forsaken,
    /// A replica that runs and is no member, although it had the time to become one.
    #[serde(skip)]
    pub(super) absent: Option<u8>,
    /// Replicas were to be stopped, and none was.
    #[serde(skip)]
    pub(super) spared: bool,
}

impl Report {
    /// Tells it.
    ///
    /// # Errors
    /// When it is not good.
    pub(super) fn tell(&self, as_json: bool) -> Result<Exit, Failure> {
        if as_json {
            output::json(self)?;
        } else {
            self.tell_people()?;
        }
        self.fault().map_or(Ok(Exit::Success), |(exit, message)| {
            Err(Failure::new(exit, message))
        })
    }

    /// What is not good. What the group must never do comes before what it did not come to.
    fn fault(&self) -> Option<(Exit, String)> {
        let Verdict {
            acknowledged,
            lost,
            duplicated,
            diverged,
        } = self.verdict;
        let Forsaken {
            sessions_lost,
            wedged,
        } = self.forsaken;
        if !self.verdict.is_clean() || !self.forsaken.is_nobody() {
            let message = format!(
                "{lost} acknowledged writes were lost, {duplicated} operations executed twice, \
                 {diverged} replicas have diverged, {sessions_lost} clients lost their session, \
                 {wedged} had no answer in the end"
            );
            return Some((Exit::Broken, message));
        }
        let message = if acknowledged == 0 {
            "no write was acknowledged: nothing was put to the test".to_owned()
        } else if let Some(id) = self.absent {
            format!("replica {id} is not a member in the end, or has not come back")
        } else if self.spared {
            "no replica was stopped: not all were members when it was time to".to_owned()
        } else {
            return None;
        };
        Some((Exit::Unreachable, message))
    }

    fn tell_people(&self) -> Result<(), Failure> {
        let Self {
            summary,
            view_changes,
            unavailable_ms,
            crashes,
            resident,
            verdict,
            forsaken,
            absent: _,
            spared: _,
        } = self;
        output::line(format_args!(
            "\n{summary}\n\
             view changes  {view_changes}, longest pause {unavailable_ms} ms"
        ))?;
        if let Some(slowest) = crashes.longest_recovery_ms {
            output::line(format_args!(
                "crashes       {}, {} came back, the slowest after {slowest} ms",
                crashes.crashes, crashes.recoveries
            ))?;
        }
        if let Some(early) = resident.resident_early_mib
            && let Some(end) = resident.resident_end_mib
        {
            let at = resident.resident_early_s;
            output::line(format_args!(
                "memory        at most {early:.0} MiB after {at} s, {end:.0} MiB at the end"
            ))?;
        }
        output::line(format_args!(
            "writes        {} acknowledged, {} lost; {} operations executed twice\n\
             replicas      {} diverged; {} clients lost their session, {} had no answer",
            thousands(verdict.acknowledged),
            thousands(verdict.lost),
            thousands(verdict.duplicated),
            verdict.diverged,
            forsaken.sessions_lost,
            forsaken.wedged,
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use viewring_runtime::time::Instant;

    use super::*;

    /// How the program ends with what `change` makes of a good report.
    fn exit(change: impl FnOnce(&mut Report)) -> Option<Exit> {
        let mut report = viewring_runtime::block_on(async { good() }).expect("io_uring");
        change(&mut report);
        report.fault().map(|(exit, _)| exit)
    }

    fn good() -> Report {
        Report {
            summary: Summary::example(100.0, 1.0, 2.0),
            view_changes: 1,
            unavailable_ms: 400,
            crashes: Crashes::default(),
            resident: Resident::new(Instant::now(), Duration::from_secs(3)),
            verdict: Verdict {
                acknowledged: 90,
                lost: 0,
                duplicated: 0,
                diverged: 0,
            },
            forsaken: Forsaken::default(),
            absent: None,
            spared: false,
        }
    }

    #[test]
    fn what_must_never_be_breaks_it() {
        assert_eq!(exit(|_| ()), None);
        let broken = Some(Exit::Broken);
        assert_eq!(exit(|it| it.verdict.lost = 1), broken);
        assert_eq!(exit(|it| it.verdict.duplicated = 1), broken);
        assert_eq!(exit(|it| it.verdict.diverged = 1), broken);
        assert_eq!(exit(|it| it.forsaken.sessions_lost = 1), broken);
        assert_eq!(exit(|it| it.forsaken.wedged = 1), broken);
    }

    #[test]
    fn a_demo_that_has_shown_nothing_is_no_success() {
        let unreachable = Some(Exit::Unreachable);
        assert_eq!(exit(|it| it.verdict.acknowledged = 0), unreachable);
        assert_eq!(exit(|it| it.absent = Some(0)), unreachable);
        assert_eq!(exit(|it| it.spared = true), unreachable);
        // If all have lost their sessions before the first answer, that is worse.
        let all_lost = exit(|it| {
            it.verdict.acknowledged = 0;
            it.forsaken.sessions_lost = 16;
        });
        assert_eq!(all_lost, Some(Exit::Broken));
    }
}
