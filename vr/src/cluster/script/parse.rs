//! The language, as words: strict, one command a line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use viewring_protocol::ReadConsistency;
use viewring_protocol::wire::kind;
use viewring_runtime::sim::Verdict;

use super::super::workload::Reads;
use super::ScriptError;
use crate::node::LeaseConfig;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Replica(u8),
    Primary,
    Client,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    Cut {
        from: Who,
        to: Who,
        both: bool,
    },
    Heal(Option<(Who, Who)>),
    Isolate(Who),
    Deaf(Who),
    Mute(Who),
    Pause(Who, Duration),
    Slow(Who, u32),
    Drift(Who, i32),
    Crash(Who),
    Restart(Who),
    Wipe(Who),
    Disk(Who, Duration),
    BeginAgain,
    Loss(f64),
    Distance(Duration),
    Call(u32),
    /// Under this id, so many calls, and away after so much time.
    Visit(u64, u32, Duration),
    Intercept(Rule),
    Release,
    Stop,
    /// Within so much time; at once if that is zero.
    Expect(Condition, Duration),
}

/// What happens to messages of a kind between two.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) kinds: Kinds,
    /// None: anybody.
    pub(super) from: Option<Who>,
    pub(super) to: Option<Who>,
    pub(super) verdict: Verdict,
    pub(super) count: Count,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kinds {
    All,
    One(u8),
}

/// Which of those that a rule is about, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    All,
    Only(u64),
    First(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    View(Compare, u64),
    Commits(Compare, u64),
    Answers(Compare, u64),
    Op(Who, Compare, u64),
    Restored(Who),
    Normal(Who),
    Changing(Who),
    Outside(Who),
    Recovering(Who),
    Lost(Who),
    Primary(u8),
    Agree,
    Serves,
    Stalls,
    Rests,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Is,
    AtLeast,
}

impl Compare {
    pub(super) fn holds(self, left: u64, right: u64) -> bool {
        match self {
            Self::Is => left == right,
            Self::AtLeast => left >= right,
        }
    }
}

#[derive(Debug)]
pub(super) struct Script {
    pub(super) replicas: u8,
    pub(super) clients: u8,
    pub(super) walk_ins: u8,
    pub(super) seed: u64,
    pub(super) window: u64,
    pub(super) max_clients: u32,
    pub(super) value_bytes: usize,
    /// A checkpoint after so many operations.
    pub(super) checkpoints: Option<u64>,
    /// Pages and pieces of so many bytes.
    pub(super) page_bytes: Option<usize>,
    pub(super) transfer_bytes: Option<usize>,
    pub(super) idle: bool,
    pub(super) readers: u8,
    pub(super) reads: Reads,
    pub(super) lease: Option<LeaseConfig>,
    pub(super) is_hopeless: bool,
    pub(super) steps: Vec<(usize, Duration, Command)>,
}

impl Script {
    pub(super) fn parse(text: &str) -> Result<Self, ScriptError> {
        let mut script = Self {
            replicas: 3,
            clients: 2,
            walk_ins: 0,
            seed: 1,
            window: 1024,
            max_clients: 65_536,
            value_bytes: 8,
            checkpoints: None,
            page_bytes: None,
            transfer_bytes: None,
            idle: false,
            readers: 0,
            reads: Reads::Operations,
            lease: None,
            is_hopeless: false,
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
            [] => return Ok(()),
            ["at", time, ref command @ ..] => {
                let time = parse_duration(time)?;
                if self.steps.last().is_some_and(|(_, last, _)| *last > time) {
                    return Err(String::from("time goes back"));
                }
                let command = Command::parse(command)?;
                command.check(self.replicas)?;
                self.steps.push((number, time, command));
                return Ok(());
            }
            _ if Command::parse(words).is_ok() => {
                let event = words.join(" ");
                let cure = "events begin with `at TIME`, counted from when the group has formed";
                return Err(format!("when? {cure}: at 1s {event}"));
            }
            _ if !self.steps.is_empty() => {
                return Err(String::from("what the group is like is said first"));
            }
            ["replicas", count] => self.replicas = parse(count)?,
            ["clients", count] => self.clients = parse(count)?,
            ["walk-ins", count] => self.walk_ins = parse(count)?,
            ["seed", seed] => self.seed = parse(seed)?,
            ["window", window] => self.window = parse(window)?,
            ["max-clients", clients] => self.max_clients = positive(clients)?,
            ["value-bytes", bytes] => self.value_bytes = parse(bytes)?,
            ["checkpoints", interval] => self.checkpoints = Some(parse(interval)?),
            ["page-bytes", bytes] => self.page_bytes = Some(parse(bytes)?),
            ["transfer-bytes", bytes] => self.transfer_bytes = Some(parse(bytes)?),
            ["idle"] => self.idle = true,
            ["readers", count] => self.readers = parse(count)?,
            ["reads", consistency] => self.reads = Reads::All(parse_consistency(consistency)?),
            ["lease", duration, ppm] => {
                self.lease = Some(LeaseConfig {
                    duration: parse_duration(duration)?,
                    max_clock_drift_ppm: parse(ppm)?,
                });
            }
            ["hopeless"] => self.is_hopeless = true,
            _ => return Err(not_understood(words)),
        }
        if ![1, 3, 5, 7].contains(&self.replicas) {
            return Err(String::from("a group has 1, 3, 5 or 7 replicas"));
        }
        if (self.clients == 0 && self.walk_ins == 0) || self.window == 0 {
            return Err(String::from("there is at least one"));
        }
        Ok(())
    }
}

impl Command {
    fn parse(words: &[&str]) -> Result<Self, String> {
        Ok(match *words {
            ["cut", from, arrow @ ("->" | "<->"), to] => Self::Cut {
                from: who(from)?,
                to: who(to)?,
                both: arrow == "<->",
            },
            ["heal"] => Self::Heal(None),
            ["heal", one, "<->", other] => Self::Heal(Some((who(one)?, who(other)?))),
            ["isolate", x] => Self::Isolate(who(x)?),
            ["deaf", x] => Self::Deaf(who(x)?),
            ["mute", x] => Self::Mute(who(x)?),
            ["pause", x, time] => Self::Pause(who(x)?, parse_duration(time)?),
            ["slow", x, factor] => Self::Slow(who(x)?, positive(factor)?),
            ["drift", x, ppm] => Self::Drift(replica(x)?, parse_drift(ppm)?),
            ["crash", x] => Self::Crash(replica(x)?),
            ["restart", x] => Self::Restart(replica(x)?),
            ["wipe", x] => Self::Wipe(replica(x)?),
            ["disk", x, time] => Self::Disk(replica(x)?, parse_duration(time)?),
            ["begin-again"] => Self::BeginAgain,
            ["loss", share] => Self::Loss(share_of(share)?),
            ["distance", time] => Self::Distance(parse_duration(time)?),
            ["call", count] => Self::Call(positive(count)?),
            ["visit", id, calls] => Self::Visit(parse(id)?, positive(calls)?, STAY),
            ["visit", id, calls, "for", time] => {
                Self::Visit(parse(id)?, positive(calls)?, parse_duration(time)?)
            }
            ["release"] => Self::Release,
            ["stop"] => Self::Stop,
            ["hold" | "drop" | "delay" | "duplicate", ..] => Self::Intercept(Rule::parse(words)?),
            ["expect", ref what @ ..] => Self::expectation(what)?,
            _ => return Err(not_understood(words)),
        })
    }

    fn expectation(words: &[&str]) -> Result<Self, String> {
        let (what, within) = match *words {
            ["serves", time] => return Ok(Self::Expect(Condition::Serves, parse_duration(time)?)),
            ["stalls", time] => return Ok(Self::Expect(Condition::Stalls, parse_duration(time)?)),
            ["rests", time] => return Ok(Self::Expect(Condition::Rests, parse_duration(time)?)),
            [ref what @ .., "within", time] => (what, parse_duration(time)?),
            _ => (words, Duration::ZERO),
        };
        let condition = match *what {
            ["view", compare, view] => Condition::View(parse_compare(compare)?, parse(view)?),
            ["commits", compare, commits] => {
                Condition::Commits(parse_compare(compare)?, parse(commits)?)
            }
            ["answers", compare, answers] => {
                Condition::Answers(parse_compare(compare)?, parse(answers)?)
            }
            ["op", x, compare, op] => {
                Condition::Op(replica(x)?, parse_compare(compare)?, parse(op)?)
            }
            ["restored", x] => Condition::Restored(replica(x)?),
            ["normal", x] => Condition::Normal(replica(x)?),
            ["changing", x] => Condition::Changing(replica(x)?),
            ["outside", x] => Condition::Outside(replica(x)?),
            ["recovering", x] => Condition::Recovering(replica(x)?),
            ["lost", x] => Condition::Lost(replica(x)?),
            ["primary", id] => Condition::Primary(parse(id)?),
            ["agree"] => Condition::Agree,
            _ => return Err(not_understood(words)),
        };
        Ok(Self::Expect(condition, within))
    }

    /// Whether the replicas exist that it names.
    fn check(&self, replicas: u8) -> Result<(), String> {
        let named = match self {
            Self::Cut { from, to, .. } => vec![*from, *to],
            Self::Heal(Some((one, other))) => vec![*one, *other],
            Self::Isolate(x) | Self::Deaf(x) | Self::Mute(x) | Self::Crash(x) => vec![*x],
            Self::Restart(x) | Self::Pause(x, _) | Self::Slow(x, _) => vec![*x],
            Self::Drift(x, _) => vec![*x],
            Self::Wipe(x) | Self::Disk(x, _) => vec![*x],
            Self::Intercept(rule) => rule.from.into_iter().chain(rule.to).collect(),
            Self::Expect(condition, _) => condition.named().into_iter().collect(),
            Self::Heal(None) | Self::BeginAgain | Self::Loss(_) | Self::Distance(_) => vec![],
            Self::Call(_) | Self::Visit(..) | Self::Release | Self::Stop => vec![],
        };
        for who in named {
            if let Who::Replica(id) = who
                && id >= replicas
            {
                return Err(format!("there is no replica {id}"));
            }
        }
        Ok(())
    }
}

impl Condition {
    fn named(self) -> Option<Who> {
        match self {
            Self::Op(x, ..) | Self::Normal(x) | Self::Changing(x) | Self::Outside(x) => Some(x),
            Self::Restored(x) | Self::Recovering(x) | Self::Lost(x) => Some(x),
            Self::Primary(id) => Some(Who::Replica(id)),
            Self::View(..) | Self::Commits(..) | Self::Answers(..) | Self::Agree => None,
            Self::Serves | Self::Stalls | Self::Rests => None,
        }
    }
}

impl Rule {
    /// `VERB KIND A -> B [TIME] [only N | first N]`
    fn parse(words: &[&str]) -> Result<Self, String> {
        let (rule, count) = match *words {
            [ref rule @ .., "only", n] => (rule, Count::Only(positive(n)?)),
            [ref rule @ .., "first", n] => (rule, Count::First(positive(n)?)),
            _ => (words, Count::All),
        };
        let (verdict, kind, from, to) = match *rule {
            ["hold", kind, from, "->", to] => (Verdict::Hold, kind, from, to),
            ["drop", kind, from, "->", to] => (Verdict::Drop, kind, from, to),
            ["delay", kind, from, "->", to, time] => {
                (Verdict::Delay(parse_duration(time)?), kind, from, to)
            }
            ["duplicate", kind, from, "->", to, time] => {
                (Verdict::Duplicate(parse_duration(time)?), kind, from, to)
            }
            _ => return Err(not_understood(words)),
        };
        Ok(Self {
            kinds: parse_kind(kind)?,
            from: anybody(from)?,
            to: anybody(to)?,
            verdict,
            count,
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::View(compare, view) => write!(f, "view {compare} {view}"),
            Self::Commits(compare, commits) => write!(f, "commits {compare} {commits}"),
            Self::Answers(compare, answers) => write!(f, "answers {compare} {answers}"),
            Self::Op(who, compare, op) => write!(f, "op {who} {compare} {op}"),
            Self::Restored(who) => write!(f, "restored {who}"),
            Self::Normal(who) => write!(f, "normal {who}"),
            Self::Changing(who) => write!(f, "changing {who}"),
            Self::Outside(who) => write!(f, "outside {who}"),
            Self::Recovering(who) => write!(f, "recovering {who}"),
            Self::Lost(who) => write!(f, "lost {who}"),
            Self::Primary(id) => write!(f, "primary {id}"),
            Self::Agree => write!(f, "agree"),
            Self::Serves => write!(f, "serves"),
            Self::Stalls => write!(f, "stalls"),
            Self::Rests => write!(f, "rests"),
        }
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Is => "=",
            Self::AtLeast => ">=",
        })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(id) => write!(f, "{id}"),
            Self::Primary => f.write_str("primary"),
            Self::Client => f.write_str("client"),
        }
    }
}

/// How long who visits waits for an answer.
const STAY: Duration = Duration::from_secs(60);

fn not_understood(words: &[&str]) -> String {
    format!("not understood: {}", words.join(" "))
}

fn parse<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn positive<T: FromStr + Default + PartialEq>(text: &str) -> Result<T, String> {
    let number = parse::<T>(text)?;
    if number == T::default() {
        return Err(format!("not at least one: {text}"));
    }
    Ok(number)
}

fn share_of(text: &str) -> Result<f64, String> {
    let share: f64 = parse(text)?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(format!("not from 0 to 1: {text}"))
    }
}

fn parse_compare(text: &str) -> Result<Compare, String> {
    match text {
        "=" => Ok(Compare::Is),
        ">=" => Ok(Compare::AtLeast),
        _ => Err(format!("not a comparison: {text}; use = or >=")),
    }
}

fn parse_consistency(text: &str) -> Result<ReadConsistency, String> {
    match text {
        "log" => Ok(ReadConsistency::Log),
        "read-index" => Ok(ReadConsistency::ReadIndex),
        "lease" => Ok(ReadConsistency::Lease),
        "local" => Ok(ReadConsistency::Local),
        _ => Err(format!("not a consistency: {text}")),
    }
}

/// A clock may stand still, and not go back.
fn parse_drift(text: &str) -> Result<i32, String> {
    let ppm: i32 = parse(text)?;
    if ppm < -1_000_000 {
        return Err(format!("a clock does not go back: {text}"));
    }
    Ok(ppm)
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

/// What messages are called.
pub(in crate::cluster) const KINDS: &[(&str, u8)] = &[
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
    ("hello", kind::HELLO),
    ("recovery", kind::RECOVERY),
    ("recovery-response", kind::RECOVERY_RESPONSE),
    ("get-checkpoint", kind::GET_CHECKPOINT),
    ("checkpoint-chunk", kind::CHECKPOINT_CHUNK),
    ("read", kind::READ),
    ("read-reply", kind::READ_REPLY),
    ("round", kind::ROUND),
    ("round-ok", kind::ROUND_OK),
    ("get-view", kind::GET_VIEW),
    ("normal-view", kind::NORMAL_VIEW),
    ("fragment", FRAGMENT),
];

fn parse_kind(text: &str) -> Result<Kinds, String> {
    if text == "all" {
        return Ok(Kinds::All);
    }
    let known = KINDS.iter().find(|(name, _)| *name == text);
    known
        .map(|(_, kind)| Kinds::One(*kind))
        .ok_or_else(|| format!("no message is called {text}"))
}

/// A piece of a message that is too long for a datagram: the transport's kind.
const FRAGMENT: u8 = 0xF0;

fn who(text: &str) -> Result<Who, String> {
    match text {
        "client" => Ok(Who::Client),
        _ => replica(text),
    }
}

fn replica(text: &str) -> Result<Who, String> {
    match text {
        "primary" => Ok(Who::Primary),
        "client" => Err(String::from("a client is no replica")),
        _ => parse(text).map(Who::Replica),
    }
}

fn anybody(text: &str) -> Result<Option<Who>, String> {
    match text {
        "any" => Ok(None),
        _ => who(text).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Script::parse(text).expect_err("nonsense").to_string()
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert_eq!(fault("\nat 1s dance"), "line 2: not understood: dance");
        assert_eq!(fault("at 1s heal\nat 1ms heal"), "line 2: time goes back");
        assert_eq!(fault("at soon heal"), "line 1: not a time: soon");
        for before in ["idle", "at 1s heal"] {
            assert_eq!(
                fault(&format!("{before}\ncall 3")),
                "line 2: when? events begin with `at TIME`, counted from when the group has \
                 formed: at 1s call 3"
            );
        }
        assert_eq!(
            fault("at 1s hold love 1 -> 2"),
            "line 1: no message is called love"
        );
        assert_eq!(fault("at 1s crash 3"), "line 1: there is no replica 3");
        assert_eq!(
            fault("at 1s crash client"),
            "line 1: a client is no replica"
        );
        assert_eq!(
            fault("at 1s heal\nreplicas 5"),
            "line 2: what the group is like is said first"
        );
        assert_eq!(fault("at 1s loss 2"), "line 1: not from 0 to 1: 2");
        assert_eq!(
            fault("replicas 4"),
            "line 1: a group has 1, 3, 5 or 7 replicas"
        );
        assert_eq!(
            fault("at 1s drop all 0 -> 1 only 0"),
            "line 1: not at least one: 0"
        );
        assert!(fault("at 1s delay all 0 -> 1").contains("not understood"));
        assert!(fault("at 1s expect view > 1").contains("not a comparison"));
    }

    #[test]
    fn a_rule_is_read_with_all_its_words() {
        let script = Script::parse("at 1s duplicate prepare-ok any -> primary 5s first 2");
        let script = script.expect("it makes sense");
        let rule = Rule {
            kinds: Kinds::One(kind::PREPARE_OK),
            from: None,
            to: Some(Who::Primary),
            verdict: Verdict::Duplicate(Duration::from_secs(5)),
            count: Count::First(2),
        };
        assert_eq!(script.steps[0].2, Command::Intercept(rule));
    }

    #[test]
    fn an_expectation_may_take_its_time() {
        let script = Script::parse("at 1s expect op 2 >= 7 within 3s").expect("it makes sense");
        let condition = Condition::Op(Who::Replica(2), Compare::AtLeast, 7);
        let expected = Command::Expect(condition, Duration::from_secs(3));
        assert_eq!(script.steps[0].2, expected);
        assert_eq!(condition.to_string(), "op 2 >= 7");
    }
}
