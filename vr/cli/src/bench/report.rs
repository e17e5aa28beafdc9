//! What a run found, as text and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::cpu::Used;
use super::measure::{Ending, Measured, Run};
use crate::duration::short;
use crate::meter::{Summary, tenths};
use crate::output::{counted, thousands};

/// What a run found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    wire: &'static str,
    pub(super) clients: u32,
    shared_socket: bool,
    op: &'static str,
    /// Requests a second of an open loop; null in a closed one.
    rate: Option<u32>,
    seconds: f64,
    #[serde(flatten)]
    pub(super) summary: Summary,
    /// Answers that were none to what was asked, and sessions that were lost.
    errors: u64,
    /// Operations without an answer in time. They are asked for again.
    unknown: u64,
    /// Operations that had no answer when all was over.
    unanswered: u64,
    /// The longest time in which no client had an answer.
    longest_pause_us: f64,
    /// Open loop: requests that were due at the end and had not begun.
    behind: u64,
    pub(super) cpu: Cpu,
    /// Whether ctrl-c ended it.
    interrupted: bool,
}

/// CPU time, in user space and in the kernel.
#[derive(Debug, Serialize)]
pub(super) struct Cpu {
    pub(super) client: Share,
    /// Null if it does not run on this machine, or if there was another primary at the beginning.
    pub(super) primary: Option<Share>,
    /// By id; null if it does not run on this machine.
    replicas: Vec<Option<Share>>,
}

/// What one process used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Share {
    /// Microseconds for each operation that was answered.
    pub(super) us_per_op: f64,
    /// Of one core, in percent.
    percent: f64,
}

impl Report {
    pub(super) fn of(run: &Run, measured: &Measured) -> Self {
        Self {
            wire: run.wire.name(),
            clients: run.clients,
            shared_socket: run.shared_socket,
            op: run.workload.op().name(),
            rate: run.rate,
            seconds: measured.elapsed.as_secs_f64(),
            summary: measured.summary,
            errors: measured.errors,
            unknown: measured.unknown,
            unanswered: measured.unanswered,
            longest_pause_us: tenths(measured.longest_pause.as_secs_f64() * 1e6),
            behind: measured.behind,
            cpu: Cpu::of(measured),
            interrupted: measured.ending == Ending::Interrupted,
        }
    }

    /// How many clients, on which sockets.
    pub(super) fn clients(&self) -> String {
        counted(self.clients, "client")
    }

    /// What the clients did.
    pub(super) fn load(&self) -> String {
        let op = self.op;
        let sockets = if self.shared_socket {
            "on one socket"
        } else {
            "with a socket each"
        };
        let pace = match self.rate {
            None => "closed loop".to_owned(),
            Some(rate) => format!("open loop of {} requests a second", thousands(rate.into())),
        };
        let wire = match self.wire {
            "viewring" => String::new(),
            wire => format!("; datagrams of {wire}"),
        };
        format!("{sockets}, {pace}; operation: {op}{wire}")
    }
}

impl Cpu {
    fn of(measured: &Measured) -> Self {
        let share = |used: Duration| Share {
            us_per_op: hundredths(used.as_secs_f64() * 1e6 / measured.summary.ops.max(1) as f64),
            percent: tenths(used.as_secs_f64() * 100.0 / measured.elapsed.as_secs_f64().max(1e-9)),
        };
        let Used { client, replicas } = &measured.cpu;
        let replicas: Vec<Option<Share>> = replicas.iter().map(|used| used.map(share)).collect();
        let primary = measured
            .primary
            .and_then(|id| *replicas.get(usize::from(id))?);
        Self {
            client: share(*client),
            primary: primary.filter(|_| !measured.primary_changed),
            replicas,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary)?;
        let (unknown, pause) = (self.unknown, short(self.longest_pause_us));
        write!(f, "errors        {}, unknown {unknown}", self.errors)?;
        if self.unanswered > 0 {
            write!(f, ", unanswered {}", self.unanswered)?;
        }
        writeln!(f, ", longest pause {pause}")?;
        let Cpu {
            client, primary, ..
        } = self.cpu;
        write!(f, "CPU an op     client {client}")?;
        if let Some(primary) = primary {
            write!(f, ", primary {primary}")?;
        }
        if let Some(rate) = self.rate.filter(|_| self.behind > 0) {
            let (behind, rate) = (thousands(self.behind), thousands(rate.into()));
            write!(
                f,
                "\nbehind        {behind} requests: {rate}/s is more than is answered"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({:.0} % of a core)",
            short(self.us_per_op),
            self.percent
        )
    }
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
impl Report {
    /// A run with these figures: operations a second, and p50 and p99 in microseconds.
    pub(super) fn example(clients: u32, ops_per_sec: f64, (p50, p99): (f64, f64)) -> Self {
        let none = Share {
            us_per_op: 0.0,
            percent: 0.0,
        };
        Self {
            wire: "viewring",
            clients,
            shared_socket: false,
            op: "null",
            rate: None,
            seconds: 1.0,
            summary: Summary::example(ops_per_sec, p50, p99),
            errors: 0,
            unknown: 0,
            unanswered: 0,
            longest_pause_us: 0.0,
            behind: 0,
            cpu: Cpu {
                client: none,
                primary: None,
                replicas: Vec::new(),
            },
            interrupted: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_were_left_unanswered_are_told_if_there_are_any() {
        let mut report = Report::example(4, 1000.0, (1.0, 2.0));
        assert!(!report.to_string().contains("unanswered"), "{report}");
        report.unanswered = 4;
        let text = report.to_string();
        assert!(
            text.contains("errors        0, unknown 0, unanswered 4, longest"),
            "{text}"
        );
    }
}
