//! `viewring status`: ask every replica how it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use viewring::{Status, query_status};

use crate::duration::parse_positive;
use crate::exit::{self, Exit, Failure};
use crate::output;
use crate::settings::Settings;

/// Show how each replica of a group is.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  viewring status --config cluster.toml
  viewring status --config cluster.toml --json

Exit code 0: a quorum answers and is normal, in one view. Exit code 3: the group cannot serve.")]
pub(crate) struct Args {
    /// Describes the group.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How long to wait for the replicas.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_positive)]
    timeout: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let settings = Settings::load(&args.config)?;
    let answers = exit::block_on(async {
        query_status(settings.cluster, &settings.replicas, args.timeout)
            .await
            .map_err(|error| Failure::setup(format_args!("cannot open a socket: {error}")))
    })?;
    let can_serve = normal_in_one_view(&answers) >= settings.quorum();
    let rows = settings.replicas.iter().zip(answers).enumerate();
    let report = Report {
        replicas: rows
            .map(|(id, (&at, answer))| Row::of(id, at, answer))
            .collect(),
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::write(report.table().as_bytes())?;
    }
    Ok(if can_serve {
        Exit::Success
    } else {
        Exit::Unreachable
    })
}

/// The most replicas that are normal in the same view.
fn normal_in_one_view(answers: &[Option<Status>]) -> usize {
    let mut views = BTreeMap::<u64, usize>::new();
    for status in answers
        .iter()
        .flatten()
        .filter(|status| status.status == "normal")
    {
        *views.entry(status.view).or_default() += 1;
    }
    views.into_values().max().unwrap_or(0)
}

#[derive(Debug, Serialize)]
struct Report {
    replicas: Vec<Row>,
}

/// One replica. What it alone could tell is null if it did not answer.
#[derive(Debug, Serialize)]
struct Row {
    id: usize,
    address: SocketAddr,
    reachable: bool,
    status: Option<String>,
    view: Option<u64>,
    primary: Option<u8>,
    op: Option<u64>,
    commit: Option<u64>,
    waiting: Option<String>,
    dropped: BTreeMap<String, u64>,
}

impl Row {
    fn of(id: usize, address: SocketAddr, answer: Option<Status>) -> Self {
        let reachable = answer.is_some();
        let (mut waiting, mut dropped) = (None, BTreeMap::new());
        if let Some(status) = &answer {
            waiting.clone_from(&status.waiting);
            for (reason, count) in &status.dropped {
                *dropped.entry(reason.clone()).or_default() += count;
            }
        }
        Self {
            id,
            address,
            reachable,
            status: answer.as_ref().map(|status| status.status.clone()),
            view: answer.as_ref().map(|status| status.view),
            primary: answer.as_ref().map(|status| status.primary),
            op: answer.as_ref().map(|status| status.op),
            commit: answer.as_ref().map(|status| status.commit),
            waiting,
            dropped,
        }
    }
}

impl Report {
    fn table(&self) -> String {
        let head = [
            "id", "address", "status", "view", "primary", "op", "commit", "dropped", "",
        ];
        let mut rows = vec![head.map(String::from)];
        let or_dash = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
        for row in &self.replicas {
            rows.push([
                row.id.to_string(),
                row.address.to_string(),
                row.status.clone().unwrap_or_else(|| "unreachable".into()),
                or_dash(row.view),
                or_dash(row.primary.map(u64::from)),
                or_dash(row.op),
                or_dash(row.commit),
                or_dash(row.reachable.then(|| row.dropped.values().sum())),
                row.waiting
                    .as_ref()
                    .map_or(String::new(), |reason| format!("waiting: {reason}")),
            ]);
        }
        output::align(&rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: &str, view: u64) -> Option<Status> {
        Some(Status {
            status: status.into(),
            view,
            ..Status::default()
        })
    }

    #[test]
    fn a_quorum_is_normal_in_one_view() {
        let recovering = answer("recovering", 1);
        assert_eq!(
            normal_in_one_view(&[answer("normal", 1), answer("normal", 1), recovering]),
            2
        );
        assert_eq!(
            normal_in_one_view(&[answer("normal", 1), answer("normal", 2), None]),
            1
        );
        assert_eq!(normal_in_one_view(&[None, None, None]), 0);
    }

    #[test]
    fn a_replica_that_does_not_answer_is_shown() {
        let addr = ([127, 0, 0, 1], 7000).into();
        let report = Report {
            replicas: vec![
                Row::of(0, addr, answer("normal", 3)),
                Row::of(1, addr, None),
            ],
        };
        assert_eq!(
            report.table(),
            "id  address         status       view  primary  op  commit  dropped\n\
             0   127.0.0.1:7000  normal       3     0        0   0       0\n\
             1   127.0.0.1:7000  unreachable  -     -        -   -       -\n"
        );
    }
}
