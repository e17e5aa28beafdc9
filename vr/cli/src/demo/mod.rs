//! `viewring demo`: a group in one process, real sockets and rings, whose replicas are stopped
//! while clients write.

mod audit;
mod folder;
mod group;
mod judge;
mod numbers;
mod plan;
mod report;
mod resident;
mod turns;
mod workload;

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select, try_join_all};
use viewring::{CallError, Client, ClientConfig, Session, query_status};
use viewring_runtime::time::{Instant, timeout, timeout_at};
use viewring_runtime::{JoinHandle, signal, spawn};

use self::group::Group;
use self::judge::History;
use self::report::Report;
use self::resident::Resident;
use self::turns::{Crashes, Turns};
use self::workload::{Forsaken, Shared, Worker};
use crate::config::group_size;
use crate::duration::{parse, parse_positive};
use crate::exit::{self, Exit, Failure};
use crate::meter::{Meter, Summary};
use crate::output::{Live, counted};

/// Run a group in this process, stop its primary under load, and check every write.
///
/// Each replica is a thread with a ring and a socket of its own, on loopback. In the end every
/// write that was acknowledged is read back, and no operation may have been executed twice: not by
/// any replica, although some are asked for twice on purpose. All replicas must have executed the
/// same, and no client may be forgotten.
///
/// With --crash-every one replica after the other is stopped, whether it is the primary or not, and
/// comes back at once with an empty memory: it fetches from the others what it has lost. All it
/// keeps is the number of its view, in a folder for temporary files that is gone in the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  viewring demo
  viewring demo --replicas 5 --clients 64 --duration 20s
  viewring demo --crash-every 2s --duration 60s
  viewring demo --duration 5s --no-kill --json

Exit code 5: an acknowledged write was lost, an operation was executed twice, replicas differ, or a
client lost its session or had no answer. 3: nothing was acknowledged, no replica was stopped that
should have been, or one has not come back.")]
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
    /// Instead of stopping the primary for good, stop the next replica this often, and have it come
    /// back empty. At least 500ms; it needs three replicas. While one is not back, none is stopped.
    #[arg(long, value_name = "TIME", value_parser = parse_positive,
          conflicts_with_all = ["kill_primary_after", "no_kill"])]
    crash_every: Option<Duration>,
    /// Print the result as JSON, and how things are meanwhile to stderr.
    #[arg(long)]
    json: bool,
}

/// A call without an answer for so long is unknown, and asked for again.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long the group may take to form.
const FORMATION: Duration = Duration::from_secs(10);
/// How long operations that are in flight at the end may take, and a replica to come back.
const AFTERMATH: Duration = Duration::from_secs(10);
/// How long replicas may take to tell which is the primary.
const STATUS_PATIENCE: Duration = Duration::from_millis(300);

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    args.check()?;
    exit::block_on(Demo::run(args))
}

impl Args {
    fn check(&self) -> Result<(), Failure> {
        let Some(every) = self.crash_every else {
            return Ok(());
        };
        let fault = if self.replicas < 3 {
            "who comes back needs others to remember: --crash-every needs 3, 5 or 7 replicas"
        } else if every < turns::SHORTEST {
            "--crash-every is shorter than a replica takes to come back: at least 500ms"
        } else if every >= self.duration {
            "--crash-every is not shorter than --duration: no replica would be stopped"
        } else {
            return Ok(());
        };
        Err(Failure::usage(fault))
    }

    /// When the first replica is stopped, if one is.
    fn first_stop(&self, began: Instant) -> Option<Instant> {
        let after = self.crash_every.unwrap_or(self.kill_primary_after);
        let is_wanted = !self.no_kill && self.replicas > 1 && after < self.duration;
        is_wanted.then(|| began + after)
    }
}

/// So many sessions, when the group has formed.
async fn sessions(group: &mut Group, client: &Client, count: u32) -> Result<Vec<Session>, Failure> {
    let sessions = try_join_all((0..count).map(|_| client.session()));
    let failed = pin!(failure(group));
    match timeout(FORMATION, select(sessions, failed)).await {
        Ok(Either::Left((sessions, _))) => Ok(sessions?),
        Ok(Either::Right((failure, _))) => Err(failure),
        Err(_elapsed) => Err(Failure::unreachable("the group has not formed in time")),
    }
}

/// Waits until a replica has ended by itself, while the group forms.
async fn failure(group: &mut Group) -> Failure {
    loop {
        if let Err(failure) = group.joined().await {
            return failure;
        }
    }
}

/// A signal has come, if it can be waited for.
fn heard(asked: io::Result<()>) -> Result<(), Failure> {
    asked.map_err(|error| Failure::setup(format_args!("cannot wait for signals: {error}")))
}

/// A worker at work.
type Task = JoinHandle<Result<(), CallError>>;

struct Demo<'a> {
    args: &'a Args,
    group: Group,
    client: Client,
    shared: Rc<Shared>,
    histories: Vec<Rc<RefCell<History>>>,
    turns: Turns,
    crashes: Crashes,
    resident: Resident,
    live: Live,
}

impl<'a> Demo<'a> {
    async fn run(args: &'a Args) -> Result<Exit, Failure> {
        let mut asked = pin!(signal::shutdown());
        let formed = match select(asked.as_mut(), pin!(Self::form(args))).await {
            // Nothing has happened that could be told.
            Either::Left((asked, _)) => return heard(asked).map(|()| Exit::Success),
            Either::Right((formed, _)) => formed?,
        };
        let (mut demo, sessions) = formed;
        demo.live.line(format_args!(
            "{} at {}, {}",
            counted(args.replicas.into(), "replica"),
            demo.group.addresses(),
            counted(args.clients, "client")
        ))?;
        let first_view = demo.client.view();
        let tasks = demo.put_to_work(sessions);
        let was_asked = demo.watch(asked.as_mut()).await?;
        let (summary, unavailable, forsaken) = demo.finish(tasks).await;
        demo.wait_for_who_is_absent().await?;

        let held = workload::read_back(&demo.client).await?;
        let view_changes = demo.client.view() - first_view;
        let absent = demo.group.absent();
        let ledgers = demo.group.stop().await?;
        let histories = demo.histories.iter();
        let histories: Vec<_> = histories.map(|history| history.borrow().clone()).collect();
        let verdict = judge::judge(&histories, &held, &ledgers);
        let unavailable_ms = u64::try_from(unavailable.as_millis()).unwrap_or(u64::MAX);
        let report = Report {
            summary,
            view_changes,
            unavailable_ms,
            crashes: demo.crashes,
            resident: demo.resident,
            verdict,
            forsaken,
            absent,
            spared: demo.has_spared_all(was_asked),
        };
        report.tell(args.json)
    }

    /// A group that serves, and a session of it for each worker.
    async fn form(args: &'a Args) -> Result<(Self, Vec<Session>), Failure> {
        let come_back = args.crash_every.is_some();
        let mut group = Group::start(args.replicas, args.clients, come_back).await?;
        let config = ClientConfig::new(group.cluster(), group.replicas().to_vec());
        let client = Client::new(ClientConfig {
            deadline: DEADLINE,
            ..config
        })?;
        let sessions = sessions(&mut group, &client, args.clients).await?;
        let live = if args.json {
            Live::Stderr
        } else {
            Live::Stdout
        };
        let demo = Self {
            args,
            group,
            client,
            shared: Rc::new(Shared::new(Meter::new())),
            histories: Vec::new(),
            turns: Turns::new(args.replicas),
            crashes: Crashes::default(),
            resident: Resident::new(Instant::now(), args.duration),
            live,
        };
        Ok((demo, sessions))
    }

    fn put_to_work(&mut self, sessions: Vec<Session>) -> Vec<Task> {
        let mut tasks = Vec::new();
        for (tag, session) in (0..).zip(sessions) {
            let worker = Worker::new(tag, session, Rc::clone(&self.shared));
            self.histories.push(worker.history());
            tasks.push(spawn(worker.run()));
        }
        tasks
    }

    /// Tells how things are until the end, and stops replicas meanwhile. Whether we were asked to
    /// end.
    async fn watch(
        &mut self,
        mut asked: Pin<&mut impl Future<Output = io::Result<()>>>,
    ) -> Result<bool, Failure> {
        let began = Instant::now();
        let end = began + self.args.duration;
        let mut stop_at = self.args.first_stop(began);
        let mut next_lap = began + Duration::from_secs(1);
        loop {
            let also = [stop_at, self.resident.due()].into_iter().flatten();
            let due = also.fold(end.min(next_lap), Instant::min);
            let was_asked = self.wait(due, asked.as_mut()).await?;
            let now = Instant::now();
            let ended = was_asked || now >= end;
            self.resident.look(now);
            if let Some(at) = stop_at.filter(|at| *at <= now && !ended) {
                stop_at = self.stop_one(at).await?;
            }
            if next_lap <= now {
                next_lap = next_lap + Duration::from_secs(1);
                self.group.check().await?;
                self.tell_lap()?;
            }
            if ended {
                self.resident.end();
                return Ok(was_asked);
            }
        }
    }

    /// Waits until then, or until something happens: whether we were asked to end.
    async fn wait(
        &mut self,
        until: Instant,
        asked: Pin<&mut impl Future<Output = io::Result<()>>>,
    ) -> Result<bool, Failure> {
        let joined = {
            let joined = pin!(self.group.joined());
            match timeout_at(until, select(asked, joined)).await {
                Ok(Either::Left((asked, _))) => return heard(asked).map(|()| true),
                Ok(Either::Right((joined, _))) => joined?,
                Err(_elapsed) => return Ok(false),
            }
        };
        self.note_joined(joined)?;
        Ok(false)
    }

    /// Stops the replica whose turn it is, since it is time. When the next one is stopped.
    async fn stop_one(&mut self, at: Instant) -> Result<Option<Instant>, Failure> {
        let Some(every) = self.args.crash_every else {
            let primary = self.primary().await;
            self.say(format_args!("stopping replica {primary}, the primary"))?;
            self.crashes.crashes += 1;
            self.group.kill(primary).await?;
            return Ok(None);
        };
        if self.group.is_whole() {
            let primary = self.primary().await;
            let id = self.turns.next(primary);
            let role = if id == primary {
                "the primary"
            } else {
                "a backup"
            };
            self.say(format_args!("stopping replica {id}, {role}"))?;
            self.turns.stopped(id, Instant::now(), &mut self.crashes);
            self.group.kill(id).await?;
            self.group.start_again(id).await?;
        } else if let Some(down) = self.turns.down() {
            self.say(format_args!(
                "stopping nobody: replica {} is not back",
                down.id
            ))?;
        } else {
            self.say(format_args!(
                "stopping nobody: not all replicas are members"
            ))?;
        }
        Ok(Some((at + every).max(Instant::now())))
    }

    fn note_joined(&mut self, id: u8) -> Result<(), Failure> {
        let took = self.turns.joined(id, Instant::now(), &mut self.crashes);
        // When the group forms, that is nothing to tell.
        took.map_or(Ok(()), |took| {
            let ms = took.as_millis();
            self.say(format_args!(
                "replica {id} is a member again, after {ms} ms"
            ))
        })
    }

    /// Says what has happened, and when.
    fn say(&self, what: impl std::fmt::Display) -> Result<(), Failure> {
        let elapsed = self.shared.meter.borrow().elapsed().as_secs_f64();
        self.live.line(format_args!("{elapsed:>5.1} s  {what}"))
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
    /// the longest time without an acknowledgement; and those who had none.
    async fn finish(&self, tasks: Vec<Task>) -> (Summary, Duration, Forsaken) {
        let (summary, unavailable) = self.shared.stop();
        let forsaken = workload::end(tasks, Instant::now() + AFTERMATH).await;
        (summary, unavailable, forsaken)
    }

    /// Whether a replica was to be stopped, and there was time to, and none was.
    fn has_spared_all(&self, was_asked: bool) -> bool {
        let is_wanted = self.args.first_stop(Instant::now()).is_some();
        is_wanted && !was_asked && self.crashes.crashes == 0
    }

    /// Gives the replica that was stopped last the time to come back, and all the time to become
    /// members.
    async fn wait_for_who_is_absent(&mut self) -> Result<(), Failure> {
        let give_up_at = Instant::now() + AFTERMATH;
        while self.group.absent().is_some()
            && let Ok(joined) = timeout_at(give_up_at, self.group.joined()).await
        {
            self.note_joined(joined?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use viewring_runtime::time::sleep;

    use super::*;

    fn args(more: &[&str]) -> Args {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            args: Args,
        }
        let words = [&["demo"], more].concat();
        let command: Command = clap::Parser::try_parse_from(words).expect("the words are right");
        command.args
    }

    #[test]
    fn clients_of_a_group_that_has_forgotten_them_are_told_of() {
        let args = args(&["--replicas", "1", "--clients", "3"]);
        let ended = exit::block_on(async {
            let (mut demo, sessions) = Demo::form(&args).await?;
            let tasks = demo.put_to_work(sessions);
            sleep(Duration::from_millis(50)).await;
            // It comes back without its table of clients, and leads.
            demo.group.kill(0).await?;
            demo.group.start_again(0).await?;
            let ended = workload::end(tasks, Instant::now() + AFTERMATH).await;
            Ok((ended, demo.shared.stop().0.ops))
        });
        let (forsaken, ops) = ended.expect("io_uring");
        let expected = Forsaken {
            sessions_lost: 3,
            wedged: 0,
        };
        assert_eq!(forsaken, expected);
        assert!(ops > 0, "they have worked before");
    }

    #[test]
    fn a_replica_that_cannot_come_back_is_absent_and_one_that_is_stopped_is_not() {
        let args = args(&["--crash-every", "1s", "--clients", "1"]);
        let absent = exit::block_on(async {
            let (mut demo, _sessions) = Demo::form(&args).await?;
            demo.wait_for_who_is_absent().await?;
            let mut absent = vec![demo.group.absent()];
            // Nobody is left who could give it back what it has lost.
            for id in 0..3 {
                demo.group.kill(id).await?;
            }
            absent.push(demo.group.absent());
            demo.group.start_again(1).await?;
            absent.push(demo.group.absent());
            Ok(absent)
        });
        assert_eq!(absent.expect("io_uring"), [None, None, Some(1)]);
    }

    #[test]
    fn a_demo_that_should_have_stopped_a_replica_and_did_not_knows_it() {
        let spared = |more: &[&str], crashes, was_asked| {
            let args = args(&[&["--duration", "3s", "--clients", "1"], more].concat());
            let spared = exit::block_on(async {
                let (mut demo, _sessions) = Demo::form(&args).await?;
                demo.crashes.crashes = crashes;
                Ok(demo.has_spared_all(was_asked))
            });
            spared.expect("io_uring")
        };
        let every = ["--crash-every", "1s"];
        assert!(spared(&every, 0, false));
        assert!(!spared(&every, 1, false));
        assert!(!spared(&every, 0, true), "there was no time");
        assert!(spared(&["--kill-primary-after", "1s"], 0, false));
        assert!(!spared(&["--kill-primary-after", "4s"], 0, false));
        assert!(!spared(&["--no-kill"], 0, false));
    }
}
