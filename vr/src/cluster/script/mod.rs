//! Faults as text: a scenario that outlives the seed that found it.
//!
//! ```text
//! # A comment.
//! replicas 3            # before anything else; 3 if missing
//! clients 2             # 2 if missing
//! walk-ins 1            # clients that never register, besides; 0 if missing. With these,
//! clients 0             # there need be no others
//! seed 7                # for what is left to chance; 1 if missing
//! window 4              # how much may be uncommitted; 1024 if missing
//! max-clients 2         # how many may be registered; 65,536 if missing
//! value-bytes 4000      # how long values are; 8 if missing
//! checkpoints 10        # one after so many operations, and nothing kept behind it
//! page-bytes 300        # in pages and pieces of this size
//! transfer-bytes 600    # and so much of them at most between two upkeeps
//! idle                  # clients call only when told to
//! reads lease           # all of one kind: log, read-index, lease, local; operations if missing
//! readers 1             # so many clients more, before the others, that only read; 0 if missing
//! lease 300ms 200000    # for how long, and how much drift it bears, in ppm; off if missing
//! hopeless              # in the end nothing is demanded: the group is lost
//! at 100ms cut 1 -> 2   # one direction; `<->` for both
//! at 150ms hold start-view-change 2 -> 1
//! at 200ms crash primary
//! at 200ms expect view >= 1 within 1s
//! at 1s heal            # all cuts, the deaf and the mute
//! at 1s release         # what was held; and no rule is in force any more
//! ```
//!
//! Times count from when the group has formed; a line whose time has passed, since one before it
//! waited, is performed at once. After the last line everything is healed, every call must be
//! answered, all replicas that live agree, and the view must rest.
//!
//! # Who
//!
//! A replica is a number or `primary`, that of the latest view that has begun. `client` is the
//! first client; a client that never registers is one if there are no others. In rules, `any` is
//! everybody; they are about our own messages, not about those of clients that never register.
//!
//! # What happens
//!
//! | line | |
//! |---|---|
//! | `cut A -> B`, `cut A <-> B` | nothing comes through |
//! | `heal`, `heal A <-> B` | everything, or this, is well again |
//! | `isolate X`, `deaf X`, `mute X` | from everybody; hears nothing; is not heard |
//! | `pause X 300ms`, `slow X 50` | stands still; takes so many times as long |
//! | `drift X 200000` | its clock is fast by so many ppm; slow, if negative |
//! | `crash X`, `restart X` | stops; comes back with its view file and nothing else |
//! | `wipe X` | who has stopped has an empty disk now |
//! | `disk X 20ms` | a write takes so long to be durable |
//! | `begin-again` | all stop, with all that was acknowledged; another group forms |
//! | `loss 0.2`, `distance 80ms` | of all links |
//! | `call 3` | so many calls are made, if clients are `idle` |
//! | `visit 7 2` | another client registers as 7, makes two calls, and is gone |
//! | `visit 7 2 for 20ms` | the same, and it is gone after so long, in the middle of a call |
//! | `hold KIND A -> B` | waits for `release` |
//! | `drop KIND A -> B` | is lost |
//! | `delay KIND A -> B 2s` | comes so much later |
//! | `duplicate KIND A -> B 2s` | comes twice, the second time so much later |
//! | `… only 3` | the same for the third of them only |
//! | `… first 3` | the same for the first three |
//! | `release` | rules end, and what was held goes on |
//! | `stop` | rules end, and what was held stays where it is |
//!
//! A KIND is that of a message: `request`, `reply`, `prepare`, `prepare-ok`, `commit`,
//! `start-view-change`, `do-view-change`, `start-view`, `get-state`, `new-state`, `hello`,
//! `recovery`, `recovery-response`, `get-checkpoint`, `checkpoint-chunk`, `read`, `read-reply`,
//! `round`, `round-ok`, `get-view`, `normal-view`, `all`, or `fragment`, a piece of one that does
//! not fit a datagram. A rule is about datagrams: what is in the same one shares its fate. The
//! first rule that has something to say about one decides.
//!
//! # What is expected
//!
//! Each may be followed by `within 2s`: then it need not hold at once.
//!
//! | line | |
//! |---|---|
//! | `expect view = 1`, `expect view >= 1` | the latest view that has begun |
//! | `expect commits = 4`, `expect commits >= 4` | operations committed, registrations too |
//! | `expect answers = 4`, `expect answers >= 4` | calls answered, but for those of visits |
//! | `expect op X = 4`, `expect op X >= 4` | the last entry in a log |
//! | `expect restored X` | it has caught up by a checkpoint |
//! | `expect normal X`, `expect changing X`, `expect outside X` | what a replica does |
//! | `expect recovering X` | it has lost its memory and asks for it |
//! | `expect lost X` | it says that too many have lost theirs |
//! | `expect primary X` | X leads the latest view |
//! | `expect agree` | all that live are normal in one view and have executed everything |
//! | `expect serves 500ms` | something is committed within that time |
//! | `expect stalls 500ms` | nothing is committed within that time |
//! | `expect rests 5s` | no view begins within that time |

mod parse;

use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;
use viewring_protocol::{ReplicaId, Role};
use viewring_runtime::sim::{Delay, Disk, Keep, Link, NodeId, Packet, Random, RuleGuard, Verdict};
use viewring_transport::specpaxos::Dialect;

pub(super) use self::parse::KINDS;
use self::parse::{Command, Condition, Count, Kinds, Rule, Script, Who};
use super::run::{Failure, Report, caught};
use super::sent::frames;
use super::stage::{Held, Stage};
use super::workload::Workload;
use super::{Checker, ClusterConfig};
use crate::node::{Checkpoints, Planted};

/// A script that makes no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {fault}")]
pub struct ScriptError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: String,
}

/// Runs a script; the [module's](self) page is its language.
///
/// # Errors
/// [`ScriptError`] when it makes no sense; inside it [`Failure`] when something did not hold.
pub fn run_script(text: &str) -> Result<Result<Report, Failure>, ScriptError> {
    run_script_with(text, None, Keep::Last(LAST))
}

/// As [`run_script`], with replicas that err, for tests of tests, and with as many events in the
/// report as are to be kept.
///
/// # Errors
/// As [`run_script`].
pub fn run_script_with(
    text: &str,
    bug: Option<Planted>,
    keep: Keep,
) -> Result<Result<Report, Failure>, ScriptError> {
    let script = Script::parse(text)?;
    Ok(caught(
        script.seed,
        || Play::new(&script, bug, keep),
        |play| play.act(&script),
    ))
}

struct Play {
    stage: Stage,
    first_client: NodeId,
    rules: Vec<RuleGuard>,
    stopped: Vec<ReplicaId>,
    /// Their disks are empty: they stay outside.
    wiped: Vec<ReplicaId>,
    is_hopeless: bool,
}

/// So many events are enough to see how a run ended.
const LAST: usize = 40;
/// Every call of the end must be answered within this.
const BOUND: Duration = Duration::from_secs(20);

impl Play {
    fn new(script: &Script, bug: Option<Planted>, keep: Keep) -> Self {
        let usual = Checkpoints::default();
        let checkpoints = Checkpoints {
            interval: script.checkpoints.unwrap_or(usual.interval),
            keep: script.checkpoints.map_or(usual.keep, |_| 0),
            page_bytes: script.page_bytes.unwrap_or(usual.page_bytes),
            transfer_bytes: script.transfer_bytes.unwrap_or(usual.transfer_bytes),
            ..usual
        };
        let config = ClusterConfig {
            window: script.window,
            max_clients: script.max_clients,
            walk_ins: (script.walk_ins > 0).then_some(Dialect::Specpaxos),
            lease: script.lease,
            checkpoints,
            bug,
            ..ClusterConfig::new(script.replicas)
        };
        let mut stage = Stage::new(script.seed, config, keep);
        stage.cluster.form();
        stage.book.borrow_mut().permits = script.idle.then_some(0);
        let workload = Workload {
            keys: 3,
            calls: u32::MAX,
            last_calls: 5,
            pause: Duration::from_millis(5),
            bursts: 0.0,
            value_bytes: script.value_bytes,
            reads: script.reads,
            only_reads: false,
        };
        let random = Random::new(script.seed);
        let readers = Workload {
            only_reads: true,
            ..workload.clone()
        };
        let callers = script.readers.saturating_add(script.clients);
        let all = 0..callers.saturating_add(script.walk_ins);
        let clients = all.map(|client| {
            let random = random.fork(u64::from(client));
            if client < script.readers {
                stage.start_caller(&readers, random)
            } else if client < callers {
                stage.start_caller(&workload, random)
            } else {
                stage.start_walk_in(&workload, random)
            }
        });
        let first_client = clients.min().expect("a script has clients");
        Self {
            stage,
            first_client,
            rules: Vec::new(),
            stopped: Vec::new(),
            wiped: Vec::new(),
            is_hopeless: script.is_hopeless,
        }
    }

    fn act(&mut self, script: &Script) -> Result<Report, String> {
        let begin = self.stage.cluster.world.now();
        for (line, at, command) in &script.steps {
            let world = &mut self.stage.cluster.world;
            let passed = world.now() - begin;
            world.run_for(at.saturating_sub(passed));
            self.perform(command)
                .map_err(|what| format!("line {line}: {what}"))?;
        }
        self.rules.clear();
        let world = &mut self.stage.cluster.world;
        world.release(|_| true);
        world.heal_all();
        world.update_links(|link| *link = Link::default());
        for id in self.stage.cluster.replica_ids() {
            let node = self.stage.cluster.node(id);
            self.stage.cluster.world.slow_down(node, 1);
        }
        if !self.is_hopeless {
            self.stage.finish(&self.stopped, BOUND, 0)?;
        }
        self.stage.check();
        Ok(self.stage.report(self.stage.cluster.world.trace()))
    }

    fn perform(&mut self, command: &Command) -> Held {
        if let Command::Expect(condition, within) = command {
            return self.expect(condition, *within);
        }
        let cluster = &mut self.stage.cluster;
        let node = |who| match who {
            Who::Client => self.first_client,
            Who::Replica(id) => cluster.node(ReplicaId(id)),
            Who::Primary => cluster.node(cluster.primary().expect("the group has formed")),
        };
        match *command {
            Command::Cut { from, to, both } => {
                let (from, to) = (node(from), node(to));
                cluster.world.cut(from, to);
                if both {
                    cluster.world.cut(to, from);
                }
            }
            Command::Heal(None) => cluster.world.heal_all(),
            Command::Heal(Some((one, other))) => {
                let (one, other) = (node(one), node(other));
                cluster.world.heal_both(one, other);
            }
            Command::Isolate(who) => cluster.world.isolate(node(who)),
            Command::Deaf(who) => cluster.world.set_deaf(node(who), true),
            Command::Mute(who) => cluster.world.set_mute(node(who), true),
            Command::Pause(who, duration) => cluster.world.pause(node(who), duration),
            Command::Slow(who, factor) => cluster.world.slow_down(node(who), factor),
            Command::Drift(who, ppm) => cluster.world.set_drift(node(who), ppm),
            Command::Crash(who) => self.crash(who),
            Command::Restart(who) => {
                let id = ReplicaId(node(who).index() as u8);
                self.restart(id);
            }
            Command::Wipe(who) => {
                let id = ReplicaId(node(who).index() as u8);
                self.wipe(id);
            }
            Command::Disk(who, time) => {
                let node = node(who);
                cluster.world.with_disk(node, |disk| takes(disk, time));
            }
            Command::BeginAgain => {
                self.stopped.clear();
                self.wiped.clear();
                self.stage.begin_again();
                self.stage.cluster.form();
            }
            Command::Loss(loss) => cluster.world.update_links(|link| link.loss = loss),
            Command::Distance(distance) => {
                let delay = Delay::fixed(distance);
                cluster
                    .world
                    .update_links(|link| link.delay = delay.clone());
            }
            Command::Call(calls) => {
                let permits = &mut self.stage.book.borrow_mut().permits;
                *permits = permits.map(|permits| permits + calls);
            }
            Command::Visit(id, calls, stay) => _ = self.stage.start_visit(id, calls, stay),
            Command::Intercept(ref rule) => self.intercept(rule),
            Command::Release => {
                self.rules.clear();
                cluster.world.release(|_| true);
            }
            Command::Stop => self.rules.clear(),
            Command::Expect(..) => unreachable!("it was dealt with"),
        }
        Ok(())
    }

    /// With an empty disk it stays outside: nothing is expected of it.
    fn restart(&mut self, id: ReplicaId) {
        if !self.wiped.contains(&id) {
            self.stopped.retain(|&stopped| stopped != id);
        }
        self.stage.cluster.restart(id);
    }

    fn wipe(&mut self, id: ReplicaId) {
        self.wiped.push(id);
        self.stage.cluster.wipe(id);
    }

    fn crash(&mut self, who: Who) {
        let id = match who {
            Who::Replica(id) => ReplicaId(id),
            Who::Primary | Who::Client => self.stage.cluster.primary().expect("it has formed"),
        };
        self.stopped.push(id);
        self.stage.cluster.crash(id);
    }

    fn intercept(&mut self, rule: &Rule) {
        let cluster = &self.stage.cluster;
        let node = |who: Option<Who>| {
            who.map(|who| match who {
                Who::Client => self.first_client,
                Who::Replica(id) => cluster.node(ReplicaId(id)),
                Who::Primary => cluster.node(cluster.primary().expect("it has formed")),
            })
        };
        let (from, to) = (node(rule.from), node(rule.to));
        let (kinds, count, verdict) = (rule.kinds, rule.count, rule.verdict.clone());
        let mut seen = 0;
        let judge = move |packet: &Packet| {
            let is_it = from.is_none_or(|from| packet.from_node() == from)
                && to.is_none_or(|to| packet.to_node() == Some(to))
                && frames(packet.payload()).any(|(kind, _)| kinds.has(kind));
            seen += u64::from(is_it);
            let counts = match count {
                Count::All => true,
                Count::Only(n) => seen == n,
                Count::First(n) => seen <= n,
            };
            if is_it && counts {
                verdict.clone()
            } else {
                Verdict::Deliver
            }
        };
        self.rules.push(self.stage.cluster.world.rule(judge));
    }

    fn expect(&mut self, condition: &Condition, within: Duration) -> Held {
        let checker = Rc::clone(self.stage.cluster.checker());
        let before = (checker.borrow().commits(), checker.borrow().view());
        let book = Rc::clone(&self.stage.book);
        let ids = self.stage.cluster.replica_ids();
        let alive: Vec<_> = ids.filter(|id| !self.stopped.contains(id)).collect();
        let condition = *condition;
        let holds = {
            let checker = Rc::clone(&checker);
            move || {
                if let Condition::Answers(compare, answers) = condition {
                    return compare.holds(book.borrow().answers, answers);
                }
                holds(condition, &checker.borrow(), before, &alive)
            }
        };
        let world = &mut self.stage.cluster.world;
        let came = world.run_until(|_| holds(), within).is_ok();
        let is_met = came != matches!(condition, Condition::Stalls | Condition::Rests);
        if is_met {
            return Ok(());
        }
        let checker = checker.borrow();
        self.stage.failed(&format!(
            "not so: {condition}; the view is {}, and {} operations are committed",
            checker.view(),
            checker.commits()
        ))
    }
}

impl AsRef<Stage> for Play {
    fn as_ref(&self) -> &Stage {
        &self.stage
    }
}

/// Every write takes so long to be durable.
fn takes(disk: &mut Disk, time: Duration) {
    let faults = disk.faults();
    (faults.latency_min, faults.latency_mean) = (time, Duration::ZERO);
    faults.sync_latency = Duration::ZERO;
}

fn holds(condition: Condition, checker: &Checker, before: (u64, u64), alive: &[ReplicaId]) -> bool {
    let role = |who: Who| who.replica(checker).map(|id| checker.role(id));
    match condition {
        Condition::View(compare, view) => compare.holds(checker.view(), view),
        Condition::Commits(compare, commits) => compare.holds(checker.commits(), commits),
        Condition::Op(who, compare, op) => who
            .replica(checker)
            .is_some_and(|id| compare.holds(checker.op(id).0, op)),
        Condition::Answers(..) => unreachable!("the clients know"),
        Condition::Restored(who) => who
            .replica(checker)
            .is_some_and(|id| checker.has_restored(id)),
        Condition::Normal(who) => matches!(role(who), Some(Role::Primary | Role::Backup)),
        Condition::Changing(who) => matches!(role(who), Some(Role::ViewChange | Role::CatchingUp)),
        Condition::Outside(who) => role(who) == Some(Role::Outside),
        Condition::Recovering(who) => role(who) == Some(Role::Recovering),
        Condition::Lost(who) => who
            .replica(checker)
            .is_some_and(|id| checker.has_lost_memory(id)),
        Condition::Primary(id) => checker.primary() == Some(ReplicaId(id)),
        Condition::Agree => checker.have_converged(alive.iter().copied()),
        Condition::Serves | Condition::Stalls => checker.commits() > before.0,
        Condition::Rests => checker.view() > before.1,
    }
}

impl Kinds {
    fn has(self, kind: u8) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == kind,
        }
    }
}

impl Who {
    fn replica(self, checker: &Checker) -> Option<ReplicaId> {
        match self {
            Self::Replica(id) => Some(ReplicaId(id)),
            Self::Primary => checker.primary(),
            Self::Client => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> String {
        let failed = run_script(text).expect("it makes sense");
        failed.expect_err("something does not hold").message
    }

    #[test]
    fn a_script_without_a_line_is_a_quiet_group() {
        let report = run_script("").expect("it makes sense").expect("it holds");
        assert_eq!(report.view_changes, 0);
        assert!(report.calls > 0);
    }

    #[test]
    fn an_expectation_that_fails_is_told_with_its_line() {
        let message = failure("at 1s expect view >= 9");
        assert!(
            message.starts_with("line 1: not so: view >= 9; the view is 0"),
            "{message}"
        );
        assert!(failure("at 1s isolate 0\nat 1s expect stalls 2s").starts_with("line 2"));
        assert!(failure("idle\nat 1s expect serves 1s").starts_with("line 2"));
    }

    #[test]
    fn idle_clients_call_when_told() {
        let script = "clients 1\nidle\nat 100ms expect commits = 1\nat 100ms call 2\n\
                      at 200ms expect commits = 3\nat 200ms expect op 1 >= 3\n\
                      at 200ms expect agree within 1s\nat 1s expect view = 0";
        let report = run_script(script).expect("it makes sense");
        assert_eq!(report.expect("it holds").view_changes, 0);
    }

    #[test]
    fn rules_count_what_they_judge() {
        let script = "clients 1\nidle\nat 50ms drop request client -> 0 only 1\nat 50ms call 1\n\
                      at 90ms expect commits = 1\nat 90ms expect serves 100ms\n\
                      at 200ms hold prepare 0 -> any first 200\nat 200ms call 1\n\
                      at 200ms expect stalls 100ms\nat 300ms release\nat 300ms expect serves 50ms";
        run_script(script)
            .expect("it makes sense")
            .expect("it holds");
    }
}
