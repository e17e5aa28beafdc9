//! Scenarios as text: commands and what comes of them, in `tests/scripts/*.txt`.
//!
//! A block is a few commands, a line `----`, and the recorded transcript. After a change in
//! behaviour, `SCRIPTS_RECORD=1 cargo test -p viewring-protocol --test scripts` records anew;
//! read the difference.
//!
//! | command | meaning |
//! |---|---|
//! | `group N [KNOB=VALUE …]` | N founding members of view 0; see `Stage::group` for the knobs |
//! | `register C R` / `request C NUMBER BODY R` | client C asks replica R |
//! | `read C NUMBER CONSISTENCY R` | client C reads at R; `unconfirmed`: it asks backups itself |
//! | `view C NUMBER R` | client C asks R in which view it is |
//! | `lease R on`, `lease R off` | whether the promises to R hold by its clock |
//! | `expire R` | the promise of R, or what its earlier life may have promised, has expired |
//! | `deliver [KIND] [A->B] [first]` | delivers what matches of what is on its way; `*` is any |
//! | `drop …` / `duplicate …` | the same choice, lost or doubled |
//! | `stabilize [except R]` | delivers all, and what comes of it; nothing to or from R |
//! | `quiet …` | any command, its transcript left out |
//! | `timeout R NAME` | a timeout expires |
//! | `disk R hold` / `disk R write` | the journal of R stalls / completes |
//! | `crash R` | R stops for ever |
//! | `restart R` | R has stopped, and comes back with its record and nothing else |
//! | `state` | all replicas |

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::path::Path;
use viewring_protocol::{
    Answerable, Checksum, ClientId, Configuration, Draft, Durable, Effect, Effects, Entry, GetView,
    Incarnation, Kind, Message, NormalView, OpNumber, Options, Outcome, Progress, Read,
    ReadConsistency, ReadReply, Record, Replica, ReplicaId, Reply, Request, RequestNumber, Restore,
    RoundNumber,
};

/// What no timeout of this test waits for.
fn skip(_: Progress) {}

struct Node {
    replica: Replica,
    up: bool,
    disk_holds: bool,
    disk: VecDeque<Durable>,
    restore: Option<Restore>,
    record: Option<Record>,
    executed: Vec<String>,
    lease_holds: bool,
}

#[derive(Clone)]
struct Packet {
    from: ReplicaId,
    to: ReplicaId,
    message: Message,
}

#[derive(Default)]
struct Stage {
    nodes: Vec<Node>,
    network: VecDeque<Packet>,
    sessions: BTreeMap<ClientId, OpNumber>,
    committed: BTreeMap<OpNumber, Checksum>,
    lives: u64,
    out: String,
}

fn ops(entries: &[Entry]) -> String {
    match entries {
        [] => "nothing".into(),
        [first, .., last] => format!("{}..{}", first.op(), last.op()),
        [one] => one.op().to_string(),
    }
}

fn describe(message: &Message) -> String {
    let text = match message {
        Message::Prepare(m) => format!("v{} n{} k{}", m.view, ops(&m.entries), m.commit),
        Message::PrepareOk(m) => format!("v{} n{}", m.view, m.op),
        Message::Commit(m) => format!("v{} k{}", m.view, m.commit),
        Message::StartViewChange(m) => {
            format!("v{} {}", m.view, if m.joined { "joined" } else { "vote" })
        }
        Message::DoViewChange(m) => {
            let (n, k) = (m.tail.op(), m.tail.commit());
            format!("v{} last-normal v{} n{n} k{k}", m.view, m.log_view)
        }
        Message::StartView(m) => format!("v{} n{} k{}", m.view, m.tail.op(), m.tail.commit()),
        Message::GetState(m) => format!("v{} after n{}", m.view, m.after),
        Message::NewState(m) => format!("v{} n{} k{}", m.view, ops(&m.entries), m.commit),
        Message::GetCheckpoint(m) => format!("v{} c{} from {}", m.view, m.summary.op, m.offset),
        Message::CheckpointChunk(m) => match m.bytes.len() {
            0 => format!("v{} c{} offered", m.view, m.summary.op),
            len => format!(
                "v{} c{} {}..{}",
                m.view,
                m.summary.op,
                m.offset,
                m.offset + u64::try_from(len).expect("small")
            ),
        },
        Message::Round(m) => format!("v{}", m.view),
        Message::RoundOk(m) if m.promise_us > 0 => format!("v{} promises", m.view),
        Message::RoundOk(m) => format!("v{}", m.view),
        Message::Recovery(m) => format!("v{}", m.view),
        Message::RecoveryResponse(m) => match &m.tail {
            Some(tail) => format!("v{} n{} k{}", m.view, tail.op(), tail.commit()),
            None => format!("v{}", m.view),
        },
        Message::Request(_) | Message::Reply(_) | Message::Hello(_) => String::new(),
        Message::Read(_) | Message::ReadReply(_) => String::new(),
        Message::GetView(_) | Message::NormalView(_) => String::new(),
    };
    format!("{} {text}", message.name())
}

fn describe_reply(reply: &Reply) -> String {
    let outcome = match &reply.outcome {
        Outcome::Registered { session } => format!("registered, session {session}"),
        Outcome::Result(result) => String::from_utf8_lossy(result).into_owned(),
        Outcome::NotPrimary => "not primary".into(),
        Outcome::Busy { retry_after_ms } => format!("busy for {retry_after_ms} ms"),
        Outcome::Evicted => "session ended".into(),
        Outcome::ResultTooLarge => "result too large".into(),
        Outcome::NoSession => "no session".into(),
        Outcome::TooLarge => "too large".into(),
    };
    format!(
        "client {} #{} v{}: {outcome}",
        reply.client, reply.number, reply.view
    )
}

struct Choice<'a> {
    kind: Option<&'a str>,
    from: Option<u8>,
    to: Option<u8>,
    first: bool,
}

impl<'a> Choice<'a> {
    fn parse(words: &[&'a str]) -> Self {
        let mut choice = Self {
            kind: None,
            from: None,
            to: None,
            first: false,
        };
        for word in words {
            if let Some((from, to)) = word.split_once("->") {
                choice.from = from.parse().ok();
                choice.to = to.parse().ok();
            } else if *word == "first" {
                choice.first = true;
            } else {
                choice.kind = Some(word);
            }
        }
        choice
    }

    fn fits(&self, packet: &Packet) -> bool {
        self.kind.is_none_or(|kind| packet.message.name() == kind)
            && self.from.is_none_or(|from| packet.from.0 == from)
            && self.to.is_none_or(|to| packet.to.0 == to)
    }
}

impl Stage {
    fn say(&mut self, line: &str) {
        writeln!(self.out, "{}", line.trim_end()).expect("a string");
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["quiet", rest @ ..] => {
                let before = self.out.len();
                self.run(&rest.join(" "));
                self.out.truncate(before);
            }
            ["group", count, knobs @ ..] => self.group(count, knobs),
            ["register", client, to] => self.request(client, "0", "", to),
            ["request", client, number, body, to] => self.request(client, number, body, to),
            ["deliver", rest @ ..] => {
                for packet in self.take(rest) {
                    self.deliver(packet);
                }
            }
            ["drop", rest @ ..] => {
                for packet in self.take(rest) {
                    self.say(&format!("lost {}", name(&packet)));
                }
            }
            ["duplicate", rest @ ..] => {
                for packet in self.take(rest) {
                    self.network.push_back(packet.clone());
                    self.network.push_back(packet);
                }
            }
            ["stabilize"] => self.stabilize(None),
            ["stabilize", "except", one] => self.stabilize(Some(one.parse().expect("an id"))),
            ["timeout", one, name] => self.timeout(index(one), name),
            ["disk", one, "hold"] => self.nodes[index(one)].disk_holds = true,
            ["disk", one, "write"] => {
                self.nodes[index(one)].disk_holds = false;
                self.turn(index(one), Effects::new());
            }
            ["read", client, number, consistency, to] => {
                self.read(client, number, consistency, to);
            }
            ["view", client, number, to] => self.ask_view(client, number, to),
            ["lease", one, holds] => self.nodes[index(one)].lease_holds = *holds == "on",
            ["expire", one] => self.nodes[index(one)].replica.promise_expired(),
            ["crash", one] => self.nodes[index(one)].up = false,
            ["restart", one] => self.restart(index(one)),
            ["state"] => self.state(),
            unknown => panic!("no command {unknown:?}"),
        }
    }

    fn group(&mut self, count: &str, knobs: &[&str]) {
        let mut options = Options::default();
        for knob in knobs {
            match knob.split_once('=').expect("name=value") {
                ("thrifty", value) => options.thrifty = value.parse().expect("true or false"),
                ("window", value) => options.window = value.parse().expect("a number"),
                ("lease", value) => options.lease_us = value.parse().expect("a number"),
                ("page", value) => options.page_budget_bytes = value.parse().expect("a number"),
                ("interval", value) => {
                    options.checkpoint_interval = value.parse().expect("a number");
                    options.checkpoint_keep = 0;
                }
                unknown => panic!("no knob {unknown:?}"),
            }
        }
        let group = Configuration::new(count.parse().expect("a number")).expect("odd");
        for id in group.replicas() {
            let replica = Replica::founding_member(id, group, options);
            let (disk, executed) = (VecDeque::new(), Vec::new());
            self.nodes.push(Node {
                replica,
                up: true,
                disk_holds: false,
                disk,
                restore: None,
                record: None,
                executed,
                lease_holds: false,
            });
        }
        // Members greet: of no interest here.
        for which in 0..self.nodes.len() {
            self.turn(which, Effects::new());
        }
        self.network.clear();
        self.out.clear();
    }

    fn restart(&mut self, which: usize) {
        self.lives += 1;
        let node = &mut self.nodes[which];
        let (old, life) = (&node.replica, Incarnation(1000 + self.lives));
        let record = node.record.clone().expect("it was told what to remember");
        let (id, group, options) = (old.id(), *old.configuration(), *old.options());
        node.replica = Replica::returning(id, group, options, life, record);
        (node.up, node.disk_holds) = (true, false);
        node.disk.clear();
        node.executed.clear();
        self.timeout(which, "begin_recovery");
    }

    /// A client whose name begins with `w` is a walk-in: it never registers.
    fn request(&mut self, client: &str, number: &str, body: &str, to: &str) {
        let walk_in = client.strip_prefix('w');
        let client = ClientId(walk_in.unwrap_or(client).parse().expect("a number"));
        let number = RequestNumber(number.parse().expect("a number"));
        let register = number == RequestNumber::ZERO;
        let kind = match walk_in {
            Some(_) => Kind::WalkIn,
            None if register => Kind::Register,
            None => Kind::Operation,
        };
        let session = if register || walk_in.is_some() {
            OpNumber::ZERO
        } else {
            self.sessions[&client]
        };
        let request = Request {
            client,
            session,
            number,
            kind,
            body: body.as_bytes().into(),
        };
        let mut effects = Effects::new();
        let which = index(to);
        let progress = self.nodes[which].replica.on_request(request, &mut effects);
        assert!(progress.is_empty());
        self.turn(which, effects);
    }

    fn read(&mut self, client: &str, number: &str, consistency: &str, to: &str) {
        let consistency = match consistency {
            "log" => Some(ReadConsistency::Log),
            "read-index" => Some(ReadConsistency::ReadIndex),
            "unconfirmed" => None,
            "lease" => Some(ReadConsistency::Lease),
            "local" => Some(ReadConsistency::Local),
            unknown => panic!("no consistency {unknown:?}"),
        };
        let read = Read {
            client: ClientId(client.parse().expect("a number")),
            number: RequestNumber(number.parse().expect("a number")),
            consistency: consistency.unwrap_or_default(),
            confirms: consistency.is_none(),
            body: [].into(),
        };
        let mut effects = Effects::new();
        let which = index(to);
        let node = &mut self.nodes[which];
        skip(node.replica.on_read(read, node.lease_holds, &mut effects));
        self.turn(which, effects);
    }

    fn ask_view(&mut self, client: &str, number: &str, to: &str) {
        let get = GetView {
            client: ClientId(client.parse().expect("a number")),
            number: RoundNumber(number.parse().expect("a number")),
        };
        let mut effects = Effects::new();
        let which = index(to);
        skip(self.nodes[which].replica.on_get_view(get, &mut effects));
        if effects.is_empty() {
            self.say("  no answer");
        }
        self.turn(which, effects);
    }

    fn take(&mut self, words: &[&str]) -> Vec<Packet> {
        let choice = Choice::parse(words);
        let mut taken = Vec::new();
        let mut left = VecDeque::new();
        for packet in self.network.drain(..) {
            if choice.fits(&packet) && (!choice.first || taken.is_empty()) {
                taken.push(packet);
            } else {
                left.push_back(packet);
            }
        }
        self.network = left;
        assert!(
            words.is_empty() || !taken.is_empty(),
            "nothing fits {words:?}"
        );
        taken
    }

    fn stabilize(&mut self, except: Option<u8>) {
        for _ in 0..2000 {
            let touches = |packet: &Packet| {
                except.is_some_and(|one| packet.from.0 == one || packet.to.0 == one)
            };
            let Some(place) = self.network.iter().position(|packet| !touches(packet)) else {
                return;
            };
            let packet = self.network.remove(place).expect("there");
            self.deliver(packet);
        }
        panic!("never stable");
    }

    fn deliver(&mut self, packet: Packet) {
        let which = packet.to.index();
        if !self.nodes[which].up {
            return;
        }
        self.say(&name(&packet));
        let mut effects = Effects::new();
        let replica = &mut self.nodes[which].replica;
        let before: Vec<_> = replica.counters().iter().collect();
        let progress = replica.on_message(packet.from, packet.message, &mut effects);
        let after: Vec<_> = replica.counters().iter().collect();
        for (new, old) in after.iter().zip(&before) {
            if new.1 > old.1 {
                self.say(&format!("  ignored: {}", new.0));
            }
        }
        skip(progress);
        self.turn(which, effects);
    }

    fn timeout(&mut self, which: usize, name: &str) {
        let mut effects = Effects::new();
        let replica = &mut self.nodes[which].replica;
        let progress = match name {
            "resend_prepares" => replica.resend_prepares(&mut effects),
            "heartbeat" => replica.heartbeat(&mut effects),
            "abdicate" => replica.abdicate(&mut effects),
            "suspect_primary" => replica.suspect_primary(&mut effects),
            "resend_view_change" => replica.resend_view_change(&mut effects),
            "give_up_view" => replica.give_up_view(&mut effects),
            "renew_round" => replica.renew_round(),
            "tell_others" => replica.tell_others(&mut effects),
            "renew_vote" => {
                replica.renew_vote(&mut effects);
                Progress::NONE
            }
            "resend_get_state" => replica.resend_get_state(&mut effects),
            "begin_recovery" => replica.begin_recovery(&mut effects),
            "announce" => replica.announce(&mut effects),
            "expire_votes" => {
                replica.expire_votes();
                return;
            }
            "refill" => {
                replica.refill(&mut effects);
                Progress::NONE
            }
            unknown => panic!("no timeout {unknown}"),
        };
        skip(progress);
        self.turn(which, effects);
    }

    /// The rest of a turn: flush, write, execute, send.
    fn turn(&mut self, which: usize, mut effects: Effects) {
        let node = &mut self.nodes[which];
        skip(node.replica.flush(&mut effects));
        self.perform(which, &mut effects);
        let node = &mut self.nodes[which];
        if !node.disk_holds {
            for durable in node.disk.drain(..) {
                skip(node.replica.on_durable(durable, &mut effects));
            }
        }
        if let Some(restore) = node.restore.take()
            && node.replica.is_wanted(&restore)
        {
            let state = restore.checkpoint().state(0, usize::MAX);
            let words = String::from_utf8_lossy(state).into_owned();
            node.executed = words.split_whitespace().map(String::from).collect();
            skip(node.replica.restored(&restore, &mut effects));
        }
        loop {
            let node = &mut self.nodes[which];
            while let Some(entry) = node.replica.next_to_apply() {
                let body = String::from_utf8_lossy(entry.body()).into_owned();
                node.executed.push(body);
                let result = node.executed.concat();
                node.replica.applied(result.as_bytes(), &mut effects);
            }
            if effects.is_empty() {
                break;
            }
            self.perform(which, &mut effects);
        }
        self.answer_reads(which);
        self.agree(which);
    }

    /// At once: the state is what was executed, in words.
    fn take_checkpoint(&mut self, which: usize, mut draft: Draft) {
        let node = &mut self.nodes[which];
        let mut effects = Effects::new();
        node.replica.checkpoint_begun(&draft, &mut effects);
        while draft.write_clients(100) {}
        draft.write_state(node.executed.join(" ").as_bytes());
        node.replica.on_checkpoint(draft);
        self.perform(which, &mut effects);
    }

    /// The answer to every read is all that was executed.
    fn answer_reads(&mut self, which: usize) {
        while let Some(answer) = self.nodes[which].replica.next_read() {
            let Answerable {
                read, view, as_of, ..
            } = &answer;
            let how = match (answer.is_stale, answer.unconfirmed) {
                (true, _) => " stale",
                (false, Some(_)) => " unconfirmed",
                (false, None) => "",
            };
            let state = self.nodes[which].executed.concat();
            let line = format!(
                "  client {} read #{} v{view} as of n{as_of}{how}: {state}",
                read.client, read.number
            );
            self.say(&line);
        }
    }

    fn agree(&mut self, which: usize) {
        let replica = &self.nodes[which].replica;
        for op in (replica.base().0 + 1..=replica.commit().0).map(OpNumber) {
            let checksum = replica.entry(op).expect("committed").checksum();
            let first = *self.committed.entry(op).or_insert(checksum);
            assert_eq!(first, checksum, "two entries are committed at {op}");
        }
    }

    fn perform(&mut self, which: usize, effects: &mut Effects) {
        let from = self.nodes[which].replica.id();
        for effect in effects.drain() {
            match effect {
                Effect::Send { to, message } => {
                    self.say(&format!("  {from}->{to} {}", describe(&message)));
                    self.network.push_back(Packet { from, to, message });
                }
                Effect::Broadcast(message) => {
                    self.say(&format!("  {from}->* {}", describe(&message)));
                    for to in (0..self.nodes.len()).map(|to| ReplicaId(u8::try_from(to).unwrap())) {
                        if to != from {
                            let message = message.clone();
                            self.network.push_back(Packet { from, to, message });
                        }
                    }
                }
                Effect::Reply(reply) => {
                    if let Outcome::Registered { session } = reply.outcome {
                        self.sessions.insert(reply.client, session);
                    }
                    self.say(&format!("  {}", describe_reply(&reply)));
                }
                Effect::ReplyWalkIn(reply) => {
                    let result = String::from_utf8_lossy(&reply.result).into_owned();
                    let (client, number) = (reply.client, reply.number);
                    self.say(&format!(
                        "  walk-in {client} #{number} n{}: {result}",
                        reply.op
                    ));
                }
                Effect::ReadReply(reply) => {
                    let ReadReply { client, number, .. } = reply;
                    let outcome = reply.outcome;
                    self.say(&format!("  client {client} read #{number}: {outcome:?}"));
                }
                Effect::NormalView(told) => {
                    let NormalView { client, view, .. } = told;
                    self.say(&format!(
                        "  client {client} asked #{}: v{view}",
                        told.number.0
                    ));
                }
                Effect::Persist(persist) => {
                    self.nodes[which].disk.push_back(persist.written());
                }
                Effect::Checkpoint(draft) => self.take_checkpoint(which, draft),
                Effect::Restore(restore) => self.nodes[which].restore = Some(restore),
                Effect::Remember(record) => self.nodes[which].record = Some(record),
            }
        }
    }

    fn state(&mut self) {
        let lines: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let replica = &node.replica;
                let base = replica.base();
                let log: Vec<_> = (base.0 + 1..=replica.op().0)
                    .map(|op| {
                        let entry = replica.entry(OpNumber(op)).expect("in the log");
                        match entry.kind() {
                            Kind::Register => format!("+{}", entry.client()),
                            Kind::Close => format!("-{}", entry.client()),
                            Kind::Query => format!("?{}", entry.client()),
                            Kind::Operation | Kind::WalkIn => {
                                String::from_utf8_lossy(entry.body()).into_owned()
                            }
                        }
                    })
                    .collect();
                let cut = match base {
                    OpNumber::ZERO => String::new(),
                    base => format!("..{base} "),
                };
                format!(
                    "{}{} {:?} v{} last-normal v{} k{} log [{cut}{}] executed [{}]",
                    replica.id(),
                    if node.up { "" } else { " (crashed)" },
                    replica.role(),
                    replica.view(),
                    replica.log_view(),
                    replica.commit(),
                    log.join(" "),
                    node.executed.join(" "),
                )
            })
            .collect();
        for line in lines {
            self.say(&line);
        }
    }
}

fn index(word: &str) -> usize {
    word.parse().expect("the id of a replica")
}

fn name(packet: &Packet) -> String {
    format!(
        "{}->{} {}",
        packet.from,
        packet.to,
        describe(&packet.message)
    )
}

/// Runs a script; what it should read like.
fn play(script: &str) -> String {
    let mut stage = Stage::default();
    let mut recorded = String::new();
    let mut in_transcript = false;
    for line in script.lines() {
        match line.trim_end() {
            "----" => {
                in_transcript = true;
                recorded += "----\n";
                recorded += &std::mem::take(&mut stage.out);
            }
            "" => {
                if !in_transcript {
                    stage.out.clear();
                }
                in_transcript = false;
                recorded += "\n";
            }
            _ if in_transcript => {}
            text => {
                if !text.starts_with('#') {
                    stage.run(text);
                }
                recorded += text;
                recorded += "\n";
            }
        }
    }
    recorded
}

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|file| file.expect("an entry").path())
        .collect();
    files.sort();
    assert!(files.len() >= 21, "the scripts are there");
    let record = std::env::var_os("SCRIPTS_RECORD").is_some();
    for file in files {
        println!("{}", file.display());
        let script = std::fs::read_to_string(&file).expect("a script");
        let played = play(&script);
        if record {
            std::fs::write(&file, played).expect("writable");
        } else {
            assert_eq!(played, script, "{} reads differently now", file.display());
        }
    }
}
