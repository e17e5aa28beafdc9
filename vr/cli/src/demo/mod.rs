//! `viewring demo`: a group in one process, real sockets and rings, whose primary is stopped while
//! clients write.

mod audit;
mod group;
mod judge;
mod workload;

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use futures::future::try_join_all;
use serde::Serialize;
use viewring::{Client, ClientConfig, query_status};
use viewring_runtime::time::{Instant, timeout, timeout_at};
use viewring_runtime::{JoinHandle, signal, spawn};

use self::group::Group;
use self::judge::Verdict;
use self::workload::{Shared, Worker};
use crate::config::group_size;
use crate::duration::{parse, parse_positive};
use crate::exit::{self, Exit, Failure};
use crate::meter::{Meter, Summary};
use crate::output::{self, Live, counted, thousands};

/// Run a group in this process, stop its primary under load, and check every write.
///
/// Each replica is a thread with a ring and a socket of its own, on loopback. In the end every
/// write that was acknowledged is read back, and no operation may have been executed twice: not by
/// any replica, although some are asked for twice on purpose.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  viewring demo
  viewring demo --replicas 5 --clients 64 --duration 20s
  viewring demo --duration 5s --no-kill --json

Exit code 5: an acknowledged write was lost, or an operation was executed twice.")]
pub(crate) struct Args {
    /// How many replicas there are: 1, 3, 5 or 7.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = group_size)]
    replicas: u8,
    /// How many clients there are, with one operation in flight each.
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    clients: u32,
    /// How long the clients work.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_positive)]
    duration: Duration,
    /// When the primary is stopped. Not at all if there is but one replica, or not before the end.
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = parse)]
    kill_primary_after: Duration,
    /// Do not stop the primary.
    #[arg(long)]
    no_kill: bool,
    /// Print the result as JSON, and how things are meanwhile to stderr.
    #[arg(long)]
    json: bool,
}

/// A call without an answer for so long is unknown, and asked for again.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long the group may take to form.
const FORMATION: Duration = Duration::from_secs(10);
/// How long operations that are in flight at the end may take.
const AFTERMATH: Duration = Duration::from_secs(10);
/// How long replicas may take to tell which is the primary.
const STATUS_PATIENCE: Duration = Duration::from_millis(300);

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    exit::block_on(Demo::run(args))
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    view_changes: u64,
    /// The longest time without any acknowledgement.
    unavailable_ms: u64,
    #[serde(flatten)]
    verdict: Verdict,
}

struct Demo<'a> {
    args: &'a Args,
    group: Group,
    client: Client,
    shared: Rc<Shared>,
    live: Live,
}

impl<'a> Demo<'a> {
    async fn run(args: &'a Args) -> Result<Exit, Failure> {
        let mut asked = pin!(signal::shutdown());
        let live = if args.json {
            Live::Stderr
        } else {
            Live::Stdout
        };
        let group = Group::start(args.replicas, args.clients).await?;
        let config = ClientConfig::new(group.cluster(), group.replicas().to_vec());
        let client = Client::new(ClientConfig {
            deadline: DEADLINE,
            ..config
        })?;
        let sessions = try_join_all((0..args.clients).map(|_| client.session()));
        let sessions = match timeout(FORMATION, sessions).await {
            Ok(sessions) => sessions?,
            Err(_elapsed) => return Err(Failure::unreachable("the group has not formed in time")),
        };
        live.line(format_args!(
            "{} at {}, {}",
            counted(args.replicas.into(), "replica"),
            group.addresses(),
            counted(args.clients, "client")
        ))?;
        let shared = Rc::new(Shared::new(Meter::new()));
        let workers: Vec<_> = (0..)
            .zip(sessions)
            .map(|(tag, session)| Worker::new(tag, session, Rc::clone(&shared)))
            .collect();
        let histories: Vec<_> = workers.iter().map(Worker::history).collect();
        let mut demo = Self {
            args,
            group,
            client,
            shared,
            live,
        };
        let first_view = demo.client.view();
        let tasks = workers
            .into_iter()
            .map(|worker| spawn(worker.run()))
            .collect();
        demo.watch(asked.as_mut()).await?;
        let (summary, unavailable) = demo.finish(tasks).await;

        let held = workload::read_back(&demo.client).await?;
        let view_changes = demo.client.view() - first_view;
        let ledgers = demo.group.stop().await?;
        let histories: Vec<_> = histories
            .iter()
            .map(|history| history.borrow().clone())
            .collect();
        let verdict = judge::judge(&histories, &held, &ledgers);
        let unavailable_ms = u64::try_from(unavailable.as_millis()).unwrap_or(u64::MAX);
        let report = Report {
            summary,
            view_changes,
            unavailable_ms,
            verdict,
        };
        demo.tell(&report)
    }

    /// Tells how things are until the end, and stops the primary meanwhile.
    async fn watch(
        &mut self,
        mut asked: Pin<&mut impl Future<Output = io::Result<()>>>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let end = began + self.args.duration;
        let kill = !self.args.no_kill
            && self.args.replicas > 1
            && self.args.kill_primary_after < self.args.duration;
        let mut kill_at = kill.then_some(began + self.args.kill_primary_after);
        let mut next_lap = began + Duration::from_secs(1);
        loop {
            let due = kill_at.unwrap_or(end).min(next_lap).min(end);
            let was_asked = timeout_at(due, asked.as_mut()).await.is_ok();
            let now = Instant::now();
            if kill_at.is_some_and(|at| at <= now) {
                kill_at = None;
                self.kill_primary().await?;
            }
            let ended = was_asked || now >= end;
            if next_lap <= now {
                next_lap = next_lap + Duration::from_secs(1);
                self.tell_lap()?;
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn kill_primary(&mut self) -> Result<(), Failure> {
        let primary = self.primary().await;
        let elapsed = self.shared.meter.borrow().elapsed().as_secs_f64();
        self.live.line(format_args!(
            "{elapsed:>5.1} s  stopping replica {primary}, the primary"
        ))?;
        self.group.kill(primary).await
    }

    /// The primary, by the word of the replicas or, if they are silent, of the clients.
    async fn primary(&self) -> u8 {
        let (cluster, replicas) = (self.group.cluster(), self.group.replicas());
        let answers = query_status(cluster, replicas, STATUS_PATIENCE)
            .await
            .unwrap_or_default();
        let normal = answers
            .into_iter()
            .flatten()
            .filter(|status| status.status == "normal");
        let latest = normal.max_by_key(|status| status.view);
        latest.map_or_else(|| self.presumed_primary(), |status| status.primary)
    }

    fn presumed_primary(&self) -> u8 {
        (self.client.view() % u64::from(self.args.replicas)) as u8
    }

    fn tell_lap(&self) -> Result<(), Failure> {
        let lap = self.shared.meter.borrow_mut().lap();
        let (view, primary) = (self.client.view(), self.presumed_primary());
        self.live
            .line(format_args!("{lap}  view {view}  primary {primary}"))
    }

    /// Has the clients finish what they began, as far as they get an answer. What was measured, and
    /// the longest time without an acknowledgement.
    async fn finish(&self, tasks: Vec<JoinHandle<()>>) -> (Summary, Duration) {
        let measured = self.shared.stop();
        let give_up_at = Instant::now() + AFTERMATH;
        for mut task in tasks {
            // One that had no answer until then has none: its operation is unknown.
            if timeout_at(give_up_at, &mut task).await.is_err() {
                task.abort();
            }
        }
        measured
    }

    fn tell(&self, report: &Report) -> Result<Exit, Failure> {
        let Report {
            summary,
            view_changes,
            unavailable_ms,
            verdict,
        } = report;
        if self.args.json {
            output::json(report)?;
        } else {
            output::line(format_args!(
                "\n{summary}\n\
                 view changes  {view_changes}, longest pause {unavailable_ms} ms\n\
                 writes        {} acknowledged, {} lost; {} operations executed twice",
                thousands(verdict.acknowledged),
                thousands(verdict.lost),
                thousands(verdict.duplicated),
            ))?;
        }
        if verdict.is_clean() {
            return Ok(Exit::Success);
        }
        Err(Failure::new(
            Exit::Broken,
            format_args!(
                "{} acknowledged writes were lost and {} operations executed twice",
                verdict.lost, verdict.duplicated
            ),
        ))
    }
}
