//! Faults as text: a scenario that outlives the seed that found it.
//!
//! ```text
//! # A comment.
//! replicas 3            # before anything else; 3 if missing
//! clients 2             # 2 if missing
//! seed 7                # for what is left to chance; 1 if missing
//! at 100ms cut 1 -> 2   # one direction; `<->` for both
//! at 150ms hold start-view-change 2 -> 1
//! at 200ms crash primary
//! at 900ms expect view >= 1
//! at 900ms expect serves 500ms
//! at 1s heal            # all cuts, the deaf and the mute
//! at 1s release         # what was held
//! ```
//!
//! A replica is a number, `primary`, or `client` (the first one). Also: `isolate X`, `deaf X`,
//! `mute X`, `pause X 300ms`, `slow X 50`, `restart X`, `loss 0.2`, `drop KIND A -> B`. Times count
//! from when the group has formed. After the last line everything is healed, and every call must be
//! answered.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;
use viewring_protocol::{ReplicaId, wire::kind};
use viewring_runtime::sim::{Link, NodeId, Random, RuleGuard, Verdict};

use super::run::{Failure, Report, caught, finish, report};
use super::workload::{Book, Caller, Workload};
use super::{Cluster, ClusterConfig, first_kind};
use crate::kv::Kv;

/// A script that makes no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {fault}")]
pub struct ScriptError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Replica(u8),
    Primary,
    Client,
}

#[derive(Clone, Debug, PartialEq)]
enum Command {
    Cut {
        from: Who,
        to: Who,
        both: bool,
    },
    Heal,
    Isolate(Who),
    Deaf(Who),
    Mute(Who),
    Pause(Who, Duration),
    Slow(Who, u32),
    Crash(Who),
    Restart(Who),
    Loss(f64),
    /// Holds or drops messages of a kind between two.
    Intercept {
        kind: u8,
        from: Who,
        to: Who,
        verdict: Verdict,
    },
    Release,
    ExpectView(u64),
    ExpectServes(Duration),
}

#[derive(Debug)]
struct Script {
    replicas: u8,
    clients: u8,
    seed: u64,
    steps: Vec<(usize, Duration, Command)>,
}

/// Runs a script.
///
/// # Errors
/// [`ScriptError`] when it makes no sense; inside it [`Failure`] when something did not hold.
pub fn run_script(text: &str) -> Result<Result<Report, Failure>, ScriptError> {
    let script = Script::parse(text)?;
    Ok(caught(script.seed, || Stage::new(&script).play(&script)))
}

struct Stage {
    cluster: Cluster,
    book: Rc<RefCell<Book>>,
    first_client: NodeId,
    rules: Vec<RuleGuard>,
    stopped: Vec<ReplicaId>,
}

impl Stage {
    fn new(script: &Script) -> Self {
        let config = ClusterConfig::new(script.replicas);
        let mut cluster = Cluster::new(script.seed, config, Kv::default);
        cluster.form();
        let book: Rc<RefCell<Book>> = Rc::default();
        let workload = Workload {
            keys: 3,
            calls: u32::MAX,
            last_calls: 5,
            pause: Duration::from_millis(5),
            value_bytes: 8,
        };
        let mut first_client = None;
        for client in 0..script.clients {
            let caller = {
                let (book, checker) = (Rc::clone(&book), Rc::clone(cluster.checker()));
                let random = Random::new(script.seed).fork(u64::from(client));
                let workload = workload.clone();
                move |client| {
                    Caller {
                        client,
                        workload,
                        random,
                        book,
                        checker,
                    }
                    .run()
                }
            };
            let node = cluster.start_client(caller);
            first_client.get_or_insert(node);
        }
        let first_client = first_client.expect("a script has clients");
        Self {
            cluster,
            book,
            first_client,
            rules: Vec::new(),
            stopped: Vec::new(),
        }
    }

    fn play(mut self, script: &Script) -> Report {
        let begin = self.cluster.world.now();
        for (line, at, command) in &script.steps {
            let now = self.cluster.world.now() - begin;
            self.cluster.world.run_for(at.saturating_sub(now));
            self.perform(*line, command);
        }
        self.rules.clear();
        self.cluster.world.release(|_| true);
        self.cluster.world.heal_all();
        self.cluster
            .world
            .update_links(|link| *link = Link::default());
        for id in self.cluster.replica_ids() {
            let node = self.cluster.node(id);
            self.cluster.world.slow_down(node, 1);
        }
        let clients = usize::from(script.clients);
        finish(
            &mut self.cluster,
            &self.book,
            clients,
            &self.stopped,
            Duration::from_secs(60),
        );
        self.book.borrow().history.check();
        report(&self.cluster, &self.book, false)
    }

    fn perform(&mut self, line: usize, command: &Command) {
        match *command {
            Command::Cut { from, to, both } => {
                let (from, to) = (self.node(from), self.node(to));
                self.cluster.world.cut(from, to);
                if both {
                    self.cluster.world.cut(to, from);
                }
            }
            Command::Heal => self.cluster.world.heal_all(),
            Command::Isolate(who) => self.cluster.world.isolate(self.node(who)),
            Command::Deaf(who) => self.cluster.world.set_deaf(self.node(who), true),
            Command::Mute(who) => self.cluster.world.set_mute(self.node(who), true),
            Command::Pause(who, duration) => self.cluster.world.pause(self.node(who), duration),
            Command::Slow(who, factor) => self.cluster.world.slow_down(self.node(who), factor),
            Command::Crash(who) => {
                let id = self.replica(who);
                self.stopped.push(id);
                self.cluster.crash(id);
            }
            Command::Restart(who) => self.cluster.restart(self.replica(who)),
            Command::Loss(loss) => self.cluster.world.update_links(|link| link.loss = loss),
            Command::Intercept {
                kind,
                from,
                to,
                ref verdict,
            } => {
                let (from, to, verdict) = (self.node(from), self.node(to), verdict.clone());
                self.rules.push(self.cluster.world.rule(move |packet| {
                    let is_it = packet.is_between(from, to);
                    if is_it && first_kind(packet.payload()) == Some(kind) {
                        verdict.clone()
                    } else {
                        Verdict::Deliver
                    }
                }));
            }
            Command::Release => {
                self.rules.clear();
                self.cluster.world.release(|_| true);
            }
            Command::ExpectView(view) => {
                let now = self.cluster.checker().borrow().view();
                assert!(
                    now >= view,
                    "line {line}: the view is {now}, not yet {view}"
                );
            }
            Command::ExpectServes(within) => self.expect_serves(line, within),
        }
    }

    /// Something is committed within so much time.
    fn expect_serves(&mut self, line: usize, within: Duration) {
        let checker = Rc::clone(self.cluster.checker());
        let before = checker.borrow().commits();
        let served = self
            .cluster
            .world
            .run_until(|_| checker.borrow().commits() > before, within);
        assert!(
            served.is_ok(),
            "line {line}: nothing was committed within {within:?}:\n{}",
            checker.borrow().table()
        );
    }

    fn node(&self, who: Who) -> NodeId {
        match who {
            Who::Client => self.first_client,
            Who::Replica(_) | Who::Primary => self.cluster.node(self.replica(who)),
        }
    }

    fn replica(&self, who: Who) -> ReplicaId {
        match who {
            Who::Replica(id) => ReplicaId(id),
            Who::Primary => self.cluster.primary().expect("the group has formed"),
            Who::Client => panic!("a client is no replica"),
        }
    }
}

impl Script {
    fn parse(text: &str) -> Result<Self, ScriptError> {
        let mut script = Self {
            replicas: 3,
            clients: 2,
            seed: 1,
            steps: Vec::new(),
        };
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            script
                .line(index + 1, &words)
                .map_err(|fault| ScriptError {
                    line: index + 1,
                    fault,
                })?;
        }
        Ok(script)
    }

    fn line(&mut self, number: usize, words: &[&str]) -> Result<(), String> {
        match *words {
            [] => {}
            ["replicas", count] => self.replicas = parse(count)?,
            ["clients", count] => self.clients = parse(count)?,
            ["seed", seed] => self.seed = parse(seed)?,
            ["at", time, ref command @ ..] => {
                let time = parse_duration(time)?;
                if self.steps.last().is_some_and(|(_, last, _)| *last > time) {
                    return Err(String::from("time goes back"));
                }
                self.steps.push((number, time, Command::parse(command)?));
            }
            _ => return Err(format!("not understood: {}", words.join(" "))),
        }
        if self.clients == 0 || ![1, 3, 5, 7].contains(&self.replicas) {
            return Err(String::from(
                "replicas are 1, 3, 5 or 7, and there is a client",
            ));
        }
        Ok(())
    }
}

impl Command {
    fn parse(words: &[&str]) -> Result<Self, String> {
        Ok(match *words {
            ["cut", from, "->", to] => Self::Cut {
                from: who(from)?,
                to: who(to)?,
                both: false,
            },
            ["cut", from, "<->", to] => Self::Cut {
                from: who(from)?,
                to: who(to)?,
                both: true,
            },
            ["heal"] => Self::Heal,
            ["isolate", x] => Self::Isolate(who(x)?),
            ["deaf", x] => Self::Deaf(who(x)?),
            ["mute", x] => Self::Mute(who(x)?),
            ["pause", x, time] => Self::Pause(who(x)?, parse_duration(time)?),
            ["slow", x, factor] => Self::Slow(who(x)?, parse(factor)?),
            ["crash", x] => Self::Crash(who(x)?),
            ["restart", x] => Self::Restart(who(x)?),
            ["loss", share] => Self::Loss(parse(share)?),
            [what @ ("hold" | "drop"), kind, from, "->", to] => Self::Intercept {
                kind: parse_kind(kind)?,
                from: who(from)?,
                to: who(to)?,
                verdict: if what == "hold" {
                    Verdict::Hold
                } else {
                    Verdict::Drop
                },
            },
            ["release"] => Self::Release,
            ["expect", "view", ">=", view] => Self::ExpectView(parse(view)?),
            ["expect", "serves", within] => Self::ExpectServes(parse_duration(within)?),
            _ => return Err(format!("not understood: {}", words.join(" "))),
        })
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap_or(0));
    let number: u64 = number.parse().map_err(|_| format!("not a time: {text}"))?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(format!("not a time: {text}; use us, ms or s")),
    }
}

fn parse_kind(text: &str) -> Result<u8, String> {
    let kinds = [
        ("request", kind::REQUEST),
        ("reply", kind::REPLY),
        ("prepare", kind::PREPARE),
        ("prepare-ok", kind::PREPARE_OK),
        ("commit", kind::COMMIT),
        ("start-view-change", kind::START_VIEW_CHANGE),
        ("do-view-change", kind::DO_VIEW_CHANGE),
        ("start-view", kind::START_VIEW),
        ("get-state", kind::GET_STATE),
        ("new-state", kind::NEW_STATE),
    ];
    let known = kinds.iter().find(|(name, _)| *name == text);
    known
        .map(|(_, kind)| *kind)
        .ok_or_else(|| format!("no message is called {text}"))
}

fn who(text: &str) -> Result<Who, String> {
    match text {
        "primary" => Ok(Who::Primary),
        "client" => Ok(Who::Client),
        _ => parse(text).map(Who::Replica),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_without_a_line_is_a_quiet_group() {
        let report = run_script("").expect("it makes sense").expect("it holds");
        assert_eq!(report.view_changes, 0);
        assert!(report.calls > 0);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let fault = |text| run_script(text).expect_err("nonsense").to_string();
        assert_eq!(fault("\nat 1s dance"), "line 2: not understood: dance");
        assert_eq!(fault("at 1s heal\nat 1ms heal"), "line 2: time goes back");
        assert_eq!(fault("at soon heal"), "line 1: not a time: soon");
        assert_eq!(
            fault("at 1s hold love 1 -> 2"),
            "line 1: no message is called love"
        );
    }

    #[test]
    fn an_expectation_that_fails_is_told_with_its_line() {
        let failed = run_script("at 1s expect view >= 9").expect("it makes sense");
        assert!(
            failed
                .expect_err("view 0")
                .message
                .contains("line 1: the view is 0")
        );
    }
}
