//! The network, the nodes with their timeouts, the clients.

use super::Chance;
use super::checker::Checker;
use super::faults::{Faults, is_of_view_change};
use super::lives::{Barrier, first_record, is_greeting};
use super::reached::Reached;
use super::timeouts::{TIMEOUTS, Timeout, applies, expire, restarts};
use std::collections::{BTreeMap, VecDeque};
use viewring_protocol::wire;
use viewring_protocol::{
    Answer, Bug, ClientId, Configuration, Draft, Durable, Effect, Effects, Incarnation, Kind,
    Message, OpNumber, Options, Outcome, Progress, Record, Replica, ReplicaId, Reply, Request,
    RequestNumber, Restore, Role, Session, Status, Target, View,
};

const CHAOS_TICKS: u64 = 1200;
const HEAL_TICKS: u64 = 6000;
/// For each unit of patience. More than twice what was ever needed.
const LED_TICKS: u64 = 800;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) replica: Replica,
    pub(crate) up: bool,
    /// Was restarted without its record.
    pub(crate) outside: bool,
    /// When it will come back, with its record.
    pub(crate) back_at: Option<u64>,
    /// What is durable of it.
    pub(crate) record: Option<Record>,
    pub(crate) barrier: Option<Barrier>,
    /// Entries of the present view that have come, and may not be in the log yet.
    pub(crate) arrived: BTreeMap<OpNumber, View>,
    deadlines: [u64; TIMEOUTS.len()],
    pub(crate) journal: VecDeque<(u64, Durable)>,
    /// A checkpoint that is being written, with the state that it is of, and until when.
    pub(crate) draft: Option<(u64, Draft, u64)>,
    /// A checkpoint that is being read, and until when.
    pub(crate) restore: Option<(u64, Restore)>,
    pub(crate) state: u64,
}

impl Node {
    /// Runs, and has forgotten nothing.
    pub(crate) fn is_well(&self) -> bool {
        self.up && !self.outside && self.replica.role() != Role::Recovering
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) session: Session,
    /// It never registers: its session is one without a registration.
    pub(crate) walks_in: bool,
    pub(crate) left: u64,
    pub(crate) retry_at: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Packet {
    ToReplica(ReplicaId, ReplicaId, Message),
    Request(ReplicaId, Request),
    Reply(Reply),
}

impl Client {
    /// Every third client walks in.
    pub(crate) fn new(id: u64, group: Configuration, left: u64) -> Self {
        let walks_in = id % 3 == 2;
        let id = ClientId(id);
        let session = if walks_in {
            Session::resume(id, group, OpNumber::ZERO, RequestNumber(1), View(0))
        } else {
            Session::new(id, group)
        };
        Self {
            session,
            walks_in,
            left,
            retry_at: 0,
        }
    }
}

impl Packet {
    pub(crate) fn is_greeting(&self) -> bool {
        matches!(self, Self::ToReplica(.., Message::Hello(_)))
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) bug: Option<Bug>,
    pub(crate) chance: Chance,
    pub(crate) now: u64,
    sequence: u64,
    pub(crate) group: Configuration,
    pub(crate) faults: Faults,
    pub(crate) nodes: Vec<Node>,
    /// Lives that have ended, with what they held.
    pub(crate) dead: Vec<Replica>,
    pub(crate) clients: Vec<Client>,
    pub(crate) network: BTreeMap<(u64, u64), Packet>,
    /// Links that carry nothing until some time.
    pub(crate) cut: BTreeMap<(u8, u8), u64>,
    /// In a duel, the last view that began, and when its primary is cut off.
    pub(crate) duelist: Option<(View, u64)>,
    /// Who was the last to lose its memory.
    pub(crate) forgetful: Option<usize>,
    healed: bool,
    pub(crate) checker: Checker,
    pub(crate) reached: Reached,
}

impl World {
    /// A run without faults of ours, or with one bug in every replica.
    pub(crate) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut chance = Chance::new(seed);
        let count = chance.pick(&[3, 3, 3, 5, 5, 7]);
        let group = Configuration::new(count).expect("odd");
        let options = Options {
            window: chance.pick(&[2, 8, 1024]),
            prepare_budget_bytes: chance.pick(&[0, 200, 32 * 1024]),
            page_budget_bytes: chance.pick(&[0, 300, 48 * 1024]),
            checkpoint_interval: chance.pick(&[0, 1, 3, 10, 30]),
            checkpoint_bytes: chance.pick(&[1_000, 1 << 20]),
            checkpoint_keep: chance.pick(&[0, 2, 20]),
            transfer_budget_bytes: chance.pick(&[1, 200, 1 << 20]),
            thrifty: seed.is_multiple_of(2),
            ..Options::default()
        };
        let faults = Faults::draw(seed, &mut chance);
        let founding = chance.hit(700);
        let nodes = group.replicas().map(|id| {
            let mut replica = if founding {
                Replica::founding_member(id, group, options)
            } else {
                Replica::new(id, group, options, Incarnation(1000 + u64::from(id.0)))
            };
            bug.into_iter().for_each(|bug| replica.plant(bug));
            let record = founding.then(|| first_record(&mut replica));
            Node {
                replica,
                up: true,
                outside: false,
                back_at: None,
                record,
                barrier: None,
                arrived: BTreeMap::new(),
                deadlines: [0; TIMEOUTS.len()],
                journal: VecDeque::new(),
                draft: None,
                restore: None,
                state: 0,
            }
        });
        let nodes = nodes.collect();
        let clients = (0..chance.range(1, 4)).map(|id| Client::new(id, group, 40));
        let clients = clients.collect();
        let mut world = Self {
            bug,
            dead: Vec::new(),
            chance,
            now: 0,
            sequence: 0,
            group,
            faults,
            nodes,
            clients,
            network: BTreeMap::new(),
            duelist: None,
            forgetful: None,
            cut: BTreeMap::new(),
            healed: false,
            checker: Checker::default(),
            reached: Reached::default(),
        };
        for which in 0..world.nodes.len() {
            world.restart_timeouts(which, Progress::ROLE_CHANGED);
        }
        world
    }

    pub(crate) fn run(mut self) -> Reached {
        while self.now < CHAOS_TICKS {
            self.make_faults();
            self.tick();
        }
        self.healed = true;
        self.cut.clear();
        self.bring_back(true);
        for client in &mut self.clients {
            client.left += 2;
        }
        self.finish();
        if self.faults.deaf {
            self.endure_a_deaf_one();
            self.cut.clear();
            self.finish();
        }
        if self.faults.heirs {
            self.lose_the_heir_too();
            self.finish();
        }
        let live: Vec<_> = self.live().collect();
        self.checker.converged(&live);
        for node in &self.nodes {
            self.reached
                .add_checkpoints(node.replica.checkpoint_counts());
            self.reached.views += node.replica.view().0;
            for (name, count) in node.replica.counters().iter() {
                *self.reached.ignored.entry(name).or_default() += count;
            }
        }
        self.reached
    }

    /// All is well from now on: a view must begin soon, and everything that was asked end.
    fn finish(&mut self) {
        let healed_at = self.now;
        while !self.is_led() {
            let is_late = self.now >= healed_at + LED_TICKS * self.faults.patience;
            assert!(!is_late, "nobody leads: {}", self.describe());
            self.tick();
        }
        self.reached.longest_without_view = self
            .reached
            .longest_without_view
            .max((self.now - healed_at) / self.faults.patience);
        while !self.is_done() {
            let is_late = self.now >= healed_at + HEAL_TICKS;
            assert!(!is_late, "not live: {}", self.describe());
            self.tick();
        }
    }

    /// Whether a primary leads a quorum, and nobody knows of a later view.
    pub(crate) fn is_led(&self) -> bool {
        let newest = self.live().map(|replica| replica.view()).max();
        let normal = |replica: &&Replica| {
            replica.status() == Status::Normal && Some(replica.view()) == newest
        };
        let is_led = self.live().filter(normal).any(Replica::is_primary);
        is_led && self.live().filter(normal).count() >= usize::from(self.group.quorum())
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Replica> {
        self.nodes
            .iter()
            .filter(|node| node.up && !node.outside)
            .map(|node| &node.replica)
    }

    fn is_done(&self) -> bool {
        let answered = self
            .clients
            .iter()
            .all(|client| client.left == 0 && client.session.pending().is_none());
        let first = self.live().next().expect("a quorum lives");
        answered
            && self.live().all(|replica| {
                replica.status() == Status::Normal
                    && replica.view() == first.view()
                    && replica.commit() == first.commit()
                    && replica.op() == first.op()
                    && replica.executed() == replica.commit()
            })
    }

    pub(crate) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.faults);
        for node in &self.nodes {
            let replica = &node.replica;
            text += &format!(
                "\n{} up={} {:?} view={} log_view={} op={} commit={} executed={}",
                replica.id(),
                node.up,
                replica.role(),
                replica.view(),
                replica.log_view(),
                replica.op(),
                replica.commit(),
                replica.executed(),
            );
        }
        for client in &self.clients {
            text += &format!("\nleft {} {:?}", client.left, client.session);
        }
        text
    }

    fn send(&mut self, link: Option<(u8, u8)>, packet: Packet) {
        let lost = !self.healed && self.chance.hit(self.faults.loss);
        let cut = link.is_some_and(|link| self.cut.get(&link).is_some_and(|&t| t > self.now));
        let twice = !self.healed && self.chance.hit(self.faults.duplicate);
        let of_life = matches!(&packet, Packet::ToReplica(.., Message::RecoveryResponse(_)));
        let replay = if of_life { self.faults.replay_lives } else { 0 };
        let copies = if of_life { 4 } else { 1 };
        for _ in 0..copies {
            if self.healed || !self.chance.hit(self.faults.replay.max(replay)) {
                continue;
            }
            self.sequence += 1;
            let soonest = if of_life { 10 } else { 100 };
            let at = self.now + self.chance.range(soonest, soonest * 10);
            self.network.insert((at, self.sequence), packet.clone());
        }
        for _ in 0..if lost || cut { 0 } else { 1 + u64::from(twice) } {
            let most = if self.healed { 2 } else { self.faults.delay };
            let mut delay = self.chance.range(1, most);
            let of_views = matches!(&packet, Packet::ToReplica(.., m) if is_of_view_change(m));
            let hold = if of_views { self.faults.hold_views } else { 0 };
            if !self.healed && self.chance.hit(self.faults.hold.max(hold)) {
                delay += self.chance.range(50, 600);
            }
            self.sequence += 1;
            self.network
                .insert((self.now + delay, self.sequence), packet.clone());
        }
    }

    pub(crate) fn tick(&mut self) {
        self.now += 1;
        let mut active = vec![false; self.nodes.len()];
        let mut later = Vec::new();
        for which in 0..self.nodes.len() {
            self.finish_record(which);
        }
        while let Some(entry) = self.network.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            match entry.remove() {
                packet @ (Packet::ToReplica(_, to, _) | Packet::Request(to, _))
                    if self.nodes[to.index()].barrier.is_some() =>
                {
                    // It takes nothing before its record is written.
                    self.sequence += 1;
                    later.push(((self.now + 1, self.sequence), packet));
                }
                Packet::ToReplica(from, to, message) => {
                    active[to.index()] = true;
                    self.deliver(from, to, message);
                }
                Packet::Request(to, request) => {
                    active[to.index()] = true;
                    self.deliver_request(to, request);
                }
                Packet::Reply(reply) => self.deliver_reply(&reply),
            }
        }
        self.network.extend(later);
        for (which, active) in active.into_iter().enumerate() {
            if self.nodes[which].up {
                self.turn(which, active);
            }
        }
        for which in 0..self.clients.len() {
            self.client_turn(which);
        }
    }

    fn deliver(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        let mut effects = Effects::new();
        let node = &mut self.nodes[to.index()];
        if node.up {
            let was = node.replica.log_view();
            let op = node.replica.op();
            node.note_arrival(from, &message);
            let recovering = node.replica.role() == Role::Recovering;
            let progress = node.replica.on_message(from, message, &mut effects);
            node.uses_what_arrived();
            let recovered = recovering && node.replica.status() == Status::Normal;
            self.reached.recoveries += u64::from(recovered);
            self.after(to.index(), was, op, progress);
            self.perform(to.index(), &mut effects);
        }
    }

    fn after(&mut self, which: usize, log_view: View, op: OpNumber, progress: Progress) {
        let replica = &self.nodes[which].replica;
        self.reached.installs += u64::from(replica.log_view() != log_view);
        self.reached.truncations += u64::from(replica.op() < op);
        self.reached.transfers += u64::from(progress.contains(Progress::TRANSFERRED));
        self.restart_timeouts(which, progress);
    }

    fn deliver_request(&mut self, to: ReplicaId, request: Request) {
        let mut effects = Effects::new();
        let node = &mut self.nodes[to.index()];
        if node.up {
            let progress = node.replica.on_request(request, &mut effects);
            assert!(progress.is_empty());
            self.perform(to.index(), &mut effects);
        }
    }

    pub(crate) fn restart_timeouts(&mut self, which: usize, progress: Progress) {
        for (place, (timeout, ticks)) in self.timeouts() {
            if progress.intersects(restarts(timeout)) {
                let jitter = self.chance.below(ticks.max(2) / 2);
                self.nodes[which].deadlines[place] = self.now + ticks + jitter;
            }
        }
    }

    fn timeouts(&self) -> impl Iterator<Item = (usize, (Timeout, u64))> + use<> {
        let patience = self.faults.patience;
        let scaled = TIMEOUTS.into_iter().map(move |(timeout, ticks)| {
            let waits = timeout == Timeout::GiveUpView;
            (timeout, if waits { ticks * patience } else { ticks })
        });
        scaled.enumerate()
    }

    fn turn(&mut self, which: usize, mut active: bool) {
        let mut effects = Effects::new();
        for (place, (timeout, ticks)) in self.timeouts() {
            let node = &mut self.nodes[which];
            if !applies(timeout, node.replica.role()) {
                continue;
            }
            let early = !self.healed && self.chance.hit(self.faults.expire);
            if early || node.deadlines[place] <= self.now {
                let jitter = self.chance.below(ticks.max(2) / 2);
                node.deadlines[place] = self.now + ticks + jitter;
                let view = node.replica.log_view();
                let op = node.replica.op();
                let progress = expire(&mut node.replica, timeout, &mut effects);
                self.after(which, view, op, progress);
                self.reached.abdications += u64::from(timeout == Timeout::Abdicate);
                active = true;
            }
        }
        let node = &mut self.nodes[which];
        let now = self.now;
        let due = node.journal.front().is_some_and(|(at, _)| *at <= now)
            || node.draft.as_ref().is_some_and(|(at, ..)| *at <= now)
            || node.restore.as_ref().is_some_and(|(at, _)| *at <= now);
        if !active && !due {
            return;
        }
        let progress = node.replica.flush(&mut effects);
        self.restart_timeouts(which, progress);
        self.perform(which, &mut effects);
        self.write_journal(which);
        self.write_checkpoint(which);
        self.read_checkpoint(which);
        self.execute(which);
        self.observe(which);
    }

    fn observe(&mut self, which: usize) {
        let living = self.nodes.iter().map(|node| &node.replica);
        let all: Vec<_> = living.chain(&self.dead).collect();
        self.checker.observe(&all, which);
    }

    fn write_journal(&mut self, which: usize) {
        let mut effects = Effects::new();
        loop {
            let now = self.now;
            let Some((_, durable)) = self.nodes[which].journal.pop_front_if(|(at, _)| *at <= now)
            else {
                break;
            };
            let progress = self.nodes[which].replica.on_durable(durable, &mut effects);
            self.restart_timeouts(which, progress);
        }
        self.perform(which, &mut effects);
    }

    fn execute(&mut self, which: usize) {
        let mut effects = Effects::new();
        // Observed first: what is executed must be known to be committed.
        self.observe(which);
        loop {
            let node = &mut self.nodes[which];
            while let Some(entry) = node.replica.next_to_apply() {
                self.checker.execute(node.replica.id().0, entry);
                node.state = (node.state ^ entry.op().0).wrapping_mul(0x0100_0000_01b3);
                for byte in entry.body().iter() {
                    node.state = (node.state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                }
                let result = node.state.to_le_bytes();
                node.replica.applied(&result, &mut effects);
            }
            self.checker
                .state(node.replica.executed(), node.replica.id(), node.state);
            if effects.is_empty() {
                return;
            }
            self.perform(which, &mut effects);
        }
    }

    /// Writes the checkpoint that was ordered, when its time has come.
    fn write_checkpoint(&mut self, which: usize) {
        let now = self.now;
        let node = &mut self.nodes[which];
        let Some((_, mut draft, state)) = node.draft.take_if(|(at, ..)| *at <= now) else {
            return;
        };
        while draft.write_clients(40) {}
        let state = state.to_le_bytes();
        draft.write_state(&state[..3]);
        draft.write_state(&state[3..]);
        let checkpoint = node.replica.on_checkpoint(draft);
        self.checker.checkpoint(&checkpoint);
    }

    /// Reads the checkpoint that was fetched, unless it is not wanted any more.
    fn read_checkpoint(&mut self, which: usize) {
        let now = self.now;
        let node = &mut self.nodes[which];
        let Some((_, restore)) = node.restore.take_if(|(at, _)| *at <= now) else {
            return;
        };
        if !node.replica.is_wanted(&restore) {
            return;
        }
        let checkpoint = restore.checkpoint();
        let mut state = Vec::new();
        while let piece @ [_, ..] = checkpoint.state(u64::try_from(state.len()).expect("small"), 3)
        {
            state.extend_from_slice(piece);
        }
        let Ok(state) = <[u8; 8]>::try_from(state) else {
            node.replica.restore_failed(&restore);
            return;
        };
        node.state = u64::from_le_bytes(state);
        let mut effects = Effects::new();
        let progress = node.replica.restored(&restore, &mut effects);
        self.restart_timeouts(which, progress);
        self.perform(which, &mut effects);
    }

    pub(crate) fn perform(&mut self, which: usize, effects: &mut Effects) {
        let effects: Vec<_> = effects.drain().collect();
        self.perform_all(which, effects.into_iter());
    }

    pub(crate) fn perform_all(&mut self, which: usize, effects: impl Iterator<Item = Effect>) {
        let from = self.nodes[which].replica.id();
        let outside = self.nodes[which].outside;
        for effect in effects {
            assert!(
                !outside || is_greeting(&effect),
                "outside, it says {effect:?}"
            );
            let Some(effect) = self.hold(which, effect) else {
                continue;
            };
            match effect {
                Effect::Remember(record) => self.write_record(which, record, Vec::new()),
                Effect::Send { to, message } => {
                    self.check_said(which, &message);
                    self.send_message(from, to, message);
                }
                Effect::Broadcast(message) => {
                    self.check_said(which, &message);
                    for to in self.group.replicas().filter(|&to| to != from) {
                        self.send_message(from, to, message.clone());
                    }
                }
                Effect::Reply(reply) => {
                    self.checker.reply(&reply);
                    self.send(None, Packet::Reply(reply));
                }
                Effect::ReplyWalkIn(reply) => {
                    let reply = Reply {
                        view: reply.view,
                        client: reply.client,
                        session: OpNumber::ZERO,
                        number: reply.number,
                        outcome: Outcome::Result(reply.result),
                    };
                    self.checker.reply(&reply);
                    self.send(None, Packet::Reply(reply));
                }
                Effect::Checkpoint(draft) => self.begin_checkpoint(which, draft),
                Effect::Restore(restore) => {
                    let at = self.now + self.chance.below(self.faults.writing + 1);
                    self.nodes[which].restore = Some((at, restore));
                }
                Effect::ReadReply(_) | Effect::NormalView(_) => panic!("nobody reads"),
                Effect::Persist(persist) => {
                    let at = self.now + self.chance.below(self.faults.disk + 1);
                    let last = self.nodes[which].journal.back().map_or(0, |(at, _)| *at);
                    self.nodes[which]
                        .journal
                        .push_back((at.max(last), persist.written()));
                }
            }
        }
    }

    /// Freezes the state.
    fn begin_checkpoint(&mut self, which: usize, draft: Draft) {
        let mut effects = Effects::new();
        let at = self.now + self.chance.below(self.faults.writing + 1);
        let node = &mut self.nodes[which];
        node.replica.checkpoint_begun(&draft, &mut effects);
        node.draft = Some((at, draft, node.state));
        self.perform(which, &mut effects);
    }

    fn send_message(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        let message = self.rot(message);
        if self.faults.bytes {
            let mut bytes = Vec::new();
            wire::encode(&message, &mut bytes);
            assert_eq!(wire::decode(message.kind(), &bytes).as_ref(), Ok(&message));
        }
        self.send(Some((from.0, to.0)), Packet::ToReplica(from, to, message));
    }

    /// Bytes of a checkpoint may rot, as in a bad memory.
    fn rot(&mut self, message: Message) -> Message {
        let Message::CheckpointChunk(mut chunk) = message else {
            return message;
        };
        let is_offer = chunk.bytes.is_empty();
        if !self.healed && !is_offer && self.chance.hit(self.faults.rot) {
            let mut bytes = chunk.bytes.to_vec();
            let at = self
                .chance
                .below(u64::try_from(bytes.len()).expect("small"));
            bytes[usize::try_from(at).expect("small")] ^= 1;
            chunk.bytes = bytes.into();
        }
        Message::CheckpointChunk(chunk)
    }

    fn client_turn(&mut self, which: usize) {
        let retry = 25 + self.chance.below(20);
        let client = &mut self.clients[which];
        if client.session.pending().is_none() {
            if client.left == 0 || (!self.healed && self.chance.hit(self.faults.idle)) {
                return;
            }
            if client.session.session().is_none() {
                client.session.register().expect("not registered");
            } else {
                client.left -= 1;
                let body = [
                    u8::try_from(which).expect("few"),
                    u8::try_from(client.left).expect("few"),
                ];
                client.session.call(body.into()).expect("registered");
            }
        } else if client.retry_at > self.now {
            return;
        } else {
            client.session.retry().expect("in flight");
            self.reached.retries += 1;
        }
        client.retry_at = self.now + retry;
        self.send_request(which);
    }

    fn send_request(&mut self, which: usize) {
        let Client {
            session, walks_in, ..
        } = &self.clients[which];
        let mut request = session.pending().expect("in flight").clone();
        let mut target = session.target();
        if *walks_in {
            (request.kind, target) = (Kind::WalkIn, Target::All);
        }
        match target {
            Target::Primary(to) => self.send(None, Packet::Request(to, request)),
            Target::All => {
                for to in self.group.replicas() {
                    self.send(None, Packet::Request(to, request.clone()));
                }
            }
        }
    }

    fn deliver_reply(&mut self, reply: &Reply) {
        // A reply of a group that died is for a client that is no more.
        let which = usize::try_from(reply.client.0 % 1000).expect("small");
        match self.clients[which].session.on_reply(reply) {
            Answer::Registered | Answer::Result(_) => self.reached.replies += 1,
            Answer::Redirected(_) => self.send_request(which),
            Answer::Busy { .. } | Answer::Ignored => {}
            Answer::SessionLost | Answer::Evicted | Answer::Closed => panic!("{reply:?}"),
            Answer::TooLarge | Answer::ResultTooLarge => panic!("{reply:?}"),
        }
    }
}
