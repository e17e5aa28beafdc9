//! `viewring status`: ask every replica how it is.

mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, stdout};
use std::iter::once;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use serde::Serialize;
use viewring::{Status, query_status};
use viewring_runtime::signal;
use viewring_runtime::time::{Instant, sleep};

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
  viewring status --config cluster.toml --watch      until ctrl-c
  viewring status --config cluster.toml --all --wait 30s      before the next one is restarted

Exit code 0: a quorum answers and is normal, of one group, in one view and with its primary; with
--all, every replica is, and none names another that belongs elsewhere; or the watch was ended. Exit
code 3: that is not so, and without --all the group cannot serve; with --all, stderr says why.")]
pub(crate) struct Args {
    /// Describes the group.
    #[arg(long, value_name = "FILE", env = "VIEWRING_CONFIG")]
    config: PathBuf,
    /// How long to wait for the replicas.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_positive)]
    timeout: Duration,
    /// Demand more: that every replica is a normal member of one group, in one view, and has
    /// noticed none, within the last minute, that belongs elsewhere. Then one may be restarted.
    #[arg(long, conflicts_with = "watch")]
    all: bool,
    /// Ask again until that is so, but not once so much time has passed; show the last answers.
    #[arg(long, value_name = "TIME", value_parser = parse_positive, conflicts_with = "watch")]
    wait: Option<Duration>,
    /// Print JSON; with --watch, a line each time.
    #[arg(long)]
    json: bool,
    /// Go on asking, until ctrl-c.
    #[arg(long)]
    watch: bool,
    /// With --watch: how long to wait before asking again.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_positive,
          requires = "watch")]
    every: Duration,
}

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let settings = Settings::load(&args.config)?;
    if args.watch {
        return exit::block_on(watch(args, &settings));
    }
    let (report, verdict) = exit::block_on(wait(args, &settings))?;
    report.print(args.json, "")?;
    Ok(match verdict {
        Ok(()) => Exit::Success,
        Err(why) => Failure::unreachable(why.join("\n")).tell(),
    })
}

/// Whether it is so, and if not, what is to be said of it.
type Verdict = Result<(), Vec<String>>;

/// As [`ask`], again and again while there is time and it is not so.
async fn wait(args: &Args, settings: &Settings) -> Result<(Report, Verdict), Failure> {
    let give_up_at = Instant::now() + args.wait.unwrap_or_default();
    loop {
        let (report, verdict) = ask(args, settings).await?;
        if verdict.is_ok() || Instant::now() + PAUSE >= give_up_at {
            return Ok((report, verdict));
        }
        sleep(PAUSE).await;
    }
}

/// How long replicas that were not as they should be are left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// What the replicas say, and whether enough of them are normal.
async fn ask(args: &Args, settings: &Settings) -> Result<(Report, Verdict), Failure> {
    let answers = query_status(settings.cluster, &settings.replicas, args.timeout)
        .await
        .map_err(|error| Failure::setup(format_args!("cannot open a socket: {error}")))?;
    let verdict = if args.all {
        let why = whole::objections(&answers);
        if why.is_empty() { Ok(()) } else { Err(why) }
    } else if whole::normal_in_one_view(&answers) >= settings.quorum() {
        Ok(())
    } else {
        // The table shows it.
        Err(Vec::new())
    };
    let misfits = whole::misfits(&answers);
    let rows = settings.replicas.iter().zip(answers).enumerate();
    let replicas = rows.map(|(id, (&at, answer))| Row::of(id, at, answer));
    let replicas = replicas.collect();
    Ok((Report { replicas, misfits }, verdict))
}

/// Asks again and again, until a signal comes. A terminal shows the last answers in place; what is
/// no terminal is given all of them, one after the other.
async fn watch(args: &Args, settings: &Settings) -> Result<Exit, Failure> {
    let in_place = !args.json && stdout().is_terminal();
    let before = if in_place { HOME_AND_CLEAR } else { "" };
    let mut asked = pin!(signal::shutdown());
    loop {
        let round = async {
            let (report, _) = ask(args, settings).await?;
            report.print(args.json, before)?;
            sleep(args.every).await;
            Ok::<(), Failure>(())
        };
        match select(asked.as_mut(), pin!(round)).await {
            Either::Left((Ok(()), _)) => return Ok(Exit::Success),
            Either::Left((Err(error), _)) => {
                let reason = format_args!("cannot wait for signals: {error}");
                return Err(Failure::setup(reason));
            }
            Either::Right((done, _)) => done?,
        }
    }
}

/// What a terminal understands: to the upper left, and nothing below.
const HOME_AND_CLEAR: &str = "\x1b[H\x1b[J";

#[derive(Debug, Default, Serialize)]
struct Report {
    replicas: Vec<Row>,
    /// Which of them belong elsewhere, by what they say of themselves.
    misfits: Vec<String>,
}

/// One replica. What it alone could tell is null if it did not answer.
#[derive(Debug, Serialize)]
struct Row {
    id: usize,
    address: SocketAddr,
    reachable: bool,
    status: Option<String>,
    /// In hexadecimal: more than the whole numbers of most readers of JSON.
    group: Option<String>,
    role: Option<String>,
    view: Option<u64>,
    primary: Option<u8>,
    op: Option<u64>,
    commit: Option<u64>,
    executed: Option<u64>,
    checkpoint: Option<u64>,
    clients: Option<u64>,
    kept_reply_bytes: Option<u64>,
    evictions: Option<u64>,
    /// Reads that it has answered, by how, and rounds that it has begun for them.
    reads: BTreeMap<String, u64>,
    log: Option<u64>,
    restored: Option<u64>,
    waiting: Option<String>,
    /// Who belongs to another group or cluster, as it has noticed.
    strangers: Vec<String>,
    dropped: BTreeMap<String, u64>,
}

impl Row {
    fn of(id: usize, address: SocketAddr, answer: Option<Status>) -> Self {
        let reachable = answer.is_some();
        let (mut waiting, mut dropped) = (None, BTreeMap::new());
        let (mut reads, mut strangers) = (BTreeMap::new(), Vec::new());
        if let Some(status) = &answer {
            waiting.clone_from(&status.waiting);
            strangers.clone_from(&status.strangers);
            reads.extend(status.reads.iter().cloned());
            for (reason, count) in &status.dropped {
                *dropped.entry(reason.clone()).or_default() += count;
            }
        }
        Self {
            id,
            address,
            reachable,
            status: answer.as_ref().map(|status| status.status.clone()),
            group: answer
                .as_ref()
                .and_then(|status| status.group)
                .map(|group| format!("{group:016x}")),
            role: answer.as_ref().map(|status| status.role.clone()),
            view: answer.as_ref().map(|status| status.view),
            primary: answer.as_ref().map(|status| status.primary),
            op: answer.as_ref().map(|status| status.op),
            commit: answer.as_ref().map(|status| status.commit),
            executed: answer.as_ref().map(|status| status.executed),
            checkpoint: answer.as_ref().map(|status| status.checkpoint),
            clients: answer.as_ref().map(|status| status.clients),
            kept_reply_bytes: answer.as_ref().map(|status| status.kept_reply_bytes),
            evictions: answer.as_ref().map(|status| status.evictions),
            reads,
            log: answer.as_ref().map(|status| status.log),
            restored: answer.as_ref().map(|status| status.restored),
            waiting,
            strangers,
            dropped,
        }
    }
}

impl Report {
    fn print(&self, json: bool, before: &str) -> Result<(), Failure> {
        if json {
            return output::json(self);
        }
        let (table, waits, reasons) = (self.table(), self.waits(), self.reasons());
        let strangers = self.strangers();
        output::write(format!("{before}{table}{waits}{strangers}{reasons}").as_bytes())
    }

    /// Who belongs elsewhere, by what it says itself, and as others say.
    fn strangers(&self) -> String {
        let said = |row: &Row| {
            let lines = row.strangers.iter();
            let lines = lines.map(|what| format!("\nreplica {} says: {what}\n", row.id));
            lines.collect::<String>()
        };
        let misfits = self.misfits.iter().map(|what| format!("\n{what}\n"));
        misfits.chain(self.replicas.iter().map(said)).collect()
    }

    /// What replicas wait for: a line for each reason, behind those that give it.
    fn waits(&self) -> String {
        let mut waits: Vec<(&str, Vec<String>)> = Vec::new();
        for row in &self.replicas {
            let Some(reason) = row.waiting.as_deref() else {
                continue;
            };
            match waits.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, ids)) => ids.push(row.id.to_string()),
                None => waits.push((reason, vec![row.id.to_string()])),
            }
        }
        let lines = waits
            .iter()
            .map(|(reason, ids)| format!("\nreplica {} waiting: {reason}\n", ids.join(", ")));
        lines.collect()
    }

    /// What was dropped or ignored, and why: a line for each reason, a number for each replica.
    fn reasons(&self) -> String {
        let all = self.replicas.iter().flat_map(|row| row.dropped.keys());
        let all: BTreeSet<&String> = all.collect();
        if all.is_empty() {
            return String::new();
        }
        let head = self.replicas.iter().map(|row| row.id.to_string());
        let mut rows = vec![
            once(String::from("dropped by replica"))
                .chain(head)
                .collect(),
        ];
        for reason in all {
            let counts = self
                .replicas
                .iter()
                .map(|row| match row.dropped.get(reason) {
                    Some(count) => count.to_string(),
                    None => String::from("-"),
                });
            rows.push(once(reason.clone()).chain(counts).collect::<Vec<_>>());
        }
        format!("\n{}", output::align(&rows))
    }

    fn table(&self) -> String {
        let head = [
            "id",
            "address",
            "role",
            "view",
            "primary",
            "op",
            "commit",
            "executed",
            "checkpoint",
            "log",
            "clients",
            "evicted",
            "dropped",
        ];
        let mut rows = vec![head.map(String::from)];
        let or_dash = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
        for row in &self.replicas {
            rows.push([
                row.id.to_string(),
                row.address.to_string(),
                row.role.clone().unwrap_or_else(|| "unreachable".into()),
                or_dash(row.view),
                or_dash(row.primary.map(u64::from)),
                or_dash(row.op),
                or_dash(row.commit),
                or_dash(row.executed),
                or_dash(row.checkpoint),
                or_dash(row.log),
                or_dash(row.clients),
                or_dash(row.evictions),
                or_dash(row.reachable.then(|| row.dropped.values().sum())),
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
            role: "backup".into(),
            view,
            ..Status::default()
        })
    }

    #[test]
    fn a_replica_that_does_not_answer_is_shown() {
        let addr = ([127, 0, 0, 1], 7000).into();
        let report = Report {
            replicas: vec![
                Row::of(0, addr, answer("normal", 3)),
                Row::of(1, addr, None),
            ],
            ..Report::default()
        };
        assert_eq!(
            report.table(),
            "id  address         role         view  primary  op  commit  executed  checkpoint  \
             log  clients  evicted  dropped\n\
             0   127.0.0.1:7000  backup       3     0        0   0       0         0           \
             0    0        0        0\n\
             1   127.0.0.1:7000  unreachable  -     -        -   -       -         -           \
             -    -        -        -\n"
        );
        assert_eq!((report.waits(), report.reasons()), Default::default());
    }

    #[test]
    fn who_waits_for_the_same_is_told_once() {
        let addr = ([127, 0, 0, 1], 7000).into();
        let waiting = |reason: &str| {
            let mut status = answer("recovering", 3).expect("an answer");
            status.waiting = Some(reason.into());
            Some(status)
        };
        let report = Report {
            replicas: vec![
                Row::of(0, addr, waiting("a long story")),
                Row::of(1, addr, waiting("a short one")),
                Row::of(2, addr, waiting("a long story")),
                Row::of(3, addr, answer("normal", 3)),
                Row::of(4, addr, None),
            ],
            ..Report::default()
        };
        assert_eq!(
            report.waits(),
            "\nreplica 0, 2 waiting: a long story\n\nreplica 1 waiting: a short one\n"
        );
    }

    #[test]
    fn who_belongs_elsewhere_is_named() {
        let mut says = answer("normal", 3).expect("an answer");
        says.strangers = vec!["replica 2 is of another group".into()];
        let addr = ([127, 0, 0, 1], 7000).into();
        let replicas = vec![Row::of(0, addr, Some(says)), Row::of(2, addr, None)];
        let misfits = vec!["replica 3 is at home elsewhere".into()];
        let said = "\nreplica 3 is at home elsewhere\n\nreplica 0 says: replica 2 is of another \
                    group\n";
        assert_eq!(Report { replicas, misfits }.strangers(), said);
    }

    #[test]
    fn what_was_dropped_is_shown_by_reason() {
        let addr = ([127, 0, 0, 1], 7000).into();
        let mut chatty = answer("normal", 3).expect("an answer");
        chatty.dropped = vec![("busy".into(), 7), ("old view".into(), 12)];
        let report = Report {
            replicas: vec![Row::of(0, addr, Some(chatty)), Row::of(1, addr, None)],
            ..Report::default()
        };
        assert_eq!(
            report.reasons(),
            "\ndropped by replica  0   1\nbusy                7   -\nold view            12  -\n"
        );
    }
}
