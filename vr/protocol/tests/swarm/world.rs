//! The network, the nodes with their timeouts, the clients.

use super::Chance;
use super::checker::Checker;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use viewring_protocol::wire;
use viewring_protocol::{
    Answer, ClientId, Configuration, Durable, Effect, Effects, Incarnation, Message, Options,
    Progress, Replica, ReplicaId, Reply, Request, Role, Session, Status, Target, View,
};

const CHAOS_TICKS: u64 = 1200;
const HEAL_TICKS: u64 = 6000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timeout {
    ResendPrepares,
    Heartbeat,
    Abdicate,
    SuspectPrimary,
    ResendViewChange,
    GiveUpView,
    ResendGetState,
    ExpireVotes,
    Announce,
}

const TIMEOUTS: [(Timeout, u64); 9] = [
    (Timeout::ResendPrepares, 12),
    (Timeout::Heartbeat, 8),
    (Timeout::Abdicate, 60),
    (Timeout::SuspectPrimary, 40),
    (Timeout::ResendViewChange, 15),
    (Timeout::GiveUpView, 100),
    (Timeout::ResendGetState, 12),
    (Timeout::ExpireVotes, 120),
    (Timeout::Announce, 10),
];

fn applies(timeout: Timeout, role: Role) -> bool {
    match timeout {
        Timeout::ResendPrepares | Timeout::Heartbeat | Timeout::Abdicate => role == Role::Primary,
        Timeout::SuspectPrimary => role == Role::Backup,
        Timeout::ResendViewChange => role == Role::ViewChange,
        Timeout::GiveUpView => matches!(role, Role::ViewChange | Role::CatchingUp),
        Timeout::ResendGetState => matches!(role, Role::Backup | Role::CatchingUp),
        Timeout::ExpireVotes => role != Role::Recovering,
        Timeout::Announce => role == Role::Recovering,
    }
}

/// What restarts a timeout.
fn restarts(timeout: Timeout) -> Progress {
    Progress::ROLE_CHANGED
        | match timeout {
            Timeout::ResendPrepares => Progress::COMMITTED,
            Timeout::Heartbeat => Progress::PREPARED,
            Timeout::Abdicate => Progress::HEARD_QUORUM,
            Timeout::SuspectPrimary => Progress::HEARD_PRIMARY,
            Timeout::GiveUpView => Progress::TRANSFERRED,
            Timeout::ResendGetState => Progress::TRANSFERRED,
            Timeout::ResendViewChange | Timeout::ExpireVotes | Timeout::Announce => Progress::NONE,
        }
}

fn expire(replica: &mut Replica, timeout: Timeout, effects: &mut Effects) -> Progress {
    match timeout {
        Timeout::ResendPrepares => replica.resend_prepares(effects),
        Timeout::Heartbeat => replica.heartbeat(effects),
        Timeout::Abdicate => replica.abdicate(effects),
        Timeout::SuspectPrimary => replica.suspect_primary(effects),
        Timeout::ResendViewChange => replica.resend_view_change(effects),
        Timeout::GiveUpView => replica.give_up_view(effects),
        Timeout::ResendGetState => replica.resend_get_state(effects),
        Timeout::ExpireVotes => {
            replica.expire_votes();
            Progress::NONE
        }
        Timeout::Announce => replica.announce(effects),
    }
}

#[derive(Debug)]
struct Node {
    replica: Replica,
    up: bool,
    deadlines: [u64; TIMEOUTS.len()],
    journal: VecDeque<(u64, Durable)>,
    state: u64,
}

#[derive(Debug)]
struct Client {
    session: Session,
    left: u64,
    retry_at: u64,
}

#[derive(Clone, Debug)]
enum Packet {
    ToReplica(ReplicaId, ReplicaId, Message),
    Request(ReplicaId, Request),
    Reply(Reply),
}

/// What this seed draws from.
#[derive(Debug)]
struct Faults {
    loss: u64,
    duplicate: u64,
    delay: u64,
    hold: u64,
    cuts: u64,
    crash: u64,
    expire: u64,
    restart: bool,
    disk: u64,
    bytes: bool,
}

/// How often interesting things occurred.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    views: u64,
    installs: u64,
    truncations: u64,
    transfers: u64,
    abdications: u64,
    crashes: u64,
    restarts: u64,
    cuts: u64,
    replies: u64,
    retries: u64,
    ignored: BTreeMap<&'static str, u64>,
}

impl Reached {
    pub(crate) fn add(&mut self, other: &Self) {
        self.views += other.views;
        self.installs += other.installs;
        self.truncations += other.truncations;
        self.transfers += other.transfers;
        self.abdications += other.abdications;
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.cuts += other.cuts;
        self.replies += other.replies;
        self.retries += other.retries;
        for (name, count) in &other.ignored {
            *self.ignored.entry(name).or_default() += count;
        }
    }

    pub(crate) fn assert_all(&self) {
        let all = [
            self.views,
            self.installs,
            self.truncations,
            self.transfers,
            self.abdications,
            self.crashes,
            self.restarts,
            self.cuts,
            self.replies,
            self.retries,
        ];
        assert!(!all.contains(&0), "something was never reached: {self:?}");
    }
}

#[derive(Debug)]
pub(crate) struct World {
    chance: Chance,
    now: u64,
    sequence: u64,
    group: Configuration,
    faults: Faults,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    network: BTreeMap<(u64, u64), Packet>,
    /// Links that carry nothing until some time.
    cut: BTreeMap<(u8, u8), u64>,
    healed: bool,
    checker: Checker,
    reached: Reached,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let count = chance.pick(&[3, 3, 3, 5, 5, 7]);
        let group = Configuration::new(count).expect("odd");
        let options = Options {
            window: chance.pick(&[2, 8, 1024]),
            prepare_budget_bytes: chance.pick(&[0, 200, 32 * 1024]),
            page_budget_bytes: chance.pick(&[0, 300, 48 * 1024]),
            ..Options::default()
        };
        let faults = Faults {
            loss: chance.pick(&[0, 10, 50, 150, 300]),
            duplicate: chance.pick(&[0, 20, 200]),
            delay: chance.pick(&[1, 3, 8, 25]),
            hold: chance.pick(&[0, 0, 5, 30]),
            cuts: chance.pick(&[0, 2, 8, 20]),
            crash: chance.pick(&[0, 0, 2]),
            expire: chance.pick(&[0, 0, 2, 15]),
            restart: chance.hit(300),
            disk: chance.pick(&[0, 0, 3, 30]),
            bytes: seed.is_multiple_of(4),
        };
        let founding = chance.hit(700);
        let nodes = group.replicas().map(|id| {
            let replica = if founding {
                Replica::founding_member(id, group, options)
            } else {
                Replica::new(id, group, options, Incarnation(1000 + u64::from(id.0)))
            };
            let journal = VecDeque::new();
            Node {
                replica,
                up: true,
                deadlines: [0; TIMEOUTS.len()],
                journal,
                state: 0,
            }
        });
        let nodes = nodes.collect();
        let clients = (0..chance.range(1, 4)).map(|id| Client {
            session: Session::new(ClientId(id), group),
            left: 40,
            retry_at: 0,
        });
        let clients = clients.collect();
        let mut world = Self {
            chance,
            now: 0,
            sequence: 0,
            group,
            faults,
            nodes,
            clients,
            network: BTreeMap::new(),
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
        for client in &mut self.clients {
            client.left += 2;
        }
        let end = self.now + HEAL_TICKS;
        while !self.is_done() {
            assert!(self.now < end, "not live: {}", self.describe());
            self.tick();
        }
        let live: Vec<_> = self.live().collect();
        self.checker.converged(&live);
        for node in &self.nodes {
            self.reached.views += node.replica.view().0;
            for (name, count) in node.replica.counters().iter() {
                *self.reached.ignored.entry(name).or_default() += count;
            }
        }
        self.reached
    }

    fn live(&self) -> impl Iterator<Item = &Replica> {
        self.nodes
            .iter()
            .filter(|node| node.up)
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

    fn describe(&self) -> String {
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

    fn make_faults(&mut self) {
        if self.chance.hit(self.faults.cuts) {
            self.make_cut();
        }
        let down = self.nodes.iter().filter(|node| !node.up).count();
        let all_members = self
            .nodes
            .iter()
            .all(|node| node.replica.group_checksum().is_some());
        let crash = self.chance.hit(self.faults.crash);
        if crash && down < usize::from(self.group.failures()) && all_members {
            let which = self.any_node();
            if self.nodes[which].up {
                self.nodes[which].up = false;
                self.reached.crashes += 1;
            }
        }
    }

    fn any_node(&mut self) -> usize {
        let count = u64::from(self.group.replica_count());
        usize::try_from(self.chance.below(count)).expect("small")
    }

    fn make_cut(&mut self) {
        self.reached.cuts += 1;
        let until = self.now + self.chance.range(5, 300);
        let count = self.group.replica_count();
        let one = u8::try_from(self.any_node()).expect("small");
        let other = u8::try_from(self.any_node()).expect("small");
        let side: BTreeSet<u8> = (0..count).filter(|_| self.chance.hit(500)).collect();
        let kind = self.chance.below(6);
        for a in 0..count {
            for b in 0..count {
                let crosses = side.contains(&a) != side.contains(&b);
                let is_cut = match kind {
                    0 => (a, b) == (one, other),
                    1 => (a, b) == (one, other) || (b, a) == (one, other),
                    2 => a == one,
                    3 => b == one,
                    4 => a == one || b == one,
                    _ => crosses,
                };
                if is_cut {
                    self.cut.insert((a, b), until);
                }
            }
        }
    }

    fn send(&mut self, link: Option<(u8, u8)>, packet: Packet) {
        let lost = !self.healed && self.chance.hit(self.faults.loss);
        let cut = link.is_some_and(|link| self.cut.get(&link).is_some_and(|&t| t > self.now));
        let twice = !self.healed && self.chance.hit(self.faults.duplicate);
        for _ in 0..if lost || cut { 0 } else { 1 + u64::from(twice) } {
            let most = if self.healed { 2 } else { self.faults.delay };
            let mut delay = self.chance.range(1, most);
            if !self.healed && self.chance.hit(self.faults.hold) {
                delay += self.chance.range(50, 600);
            }
            self.sequence += 1;
            self.network
                .insert((self.now + delay, self.sequence), packet.clone());
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        let mut active = vec![false; self.nodes.len()];
        while let Some(entry) = self.network.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            match entry.remove() {
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
            let progress = node.replica.on_message(from, message, &mut effects);
            self.after(to.index(), was, op, progress);
            self.perform(to.index(), &mut effects);
        }
    }

    fn after(
        &mut self,
        which: usize,
        log_view: View,
        op: viewring_protocol::OpNumber,
        progress: Progress,
    ) {
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

    fn restart_timeouts(&mut self, which: usize, progress: Progress) {
        for (place, (timeout, ticks)) in TIMEOUTS.into_iter().enumerate() {
            if progress.intersects(restarts(timeout)) {
                let jitter = self.chance.below(ticks.max(2) / 2);
                self.nodes[which].deadlines[place] = self.now + ticks + jitter;
            }
        }
    }

    fn turn(&mut self, which: usize, mut active: bool) {
        let mut effects = Effects::new();
        for (place, (timeout, ticks)) in TIMEOUTS.into_iter().enumerate() {
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
        let due = node.journal.front().is_some_and(|(at, _)| *at <= self.now);
        if !active && !due {
            return;
        }
        let progress = node.replica.flush(&mut effects);
        self.restart_timeouts(which, progress);
        self.perform(which, &mut effects);
        self.write_journal(which);
        self.execute(which);
        let all: Vec<_> = self.nodes.iter().map(|node| &node.replica).collect();
        self.checker.observe(&all, which);
        self.maybe_restart(which);
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
        let all: Vec<_> = self.nodes.iter().map(|node| &node.replica).collect();
        self.checker.observe(&all, which);
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
        self.perform(which, &mut effects);
    }

    /// A crash from which the replica comes back with nothing: it must stay outside.
    fn maybe_restart(&mut self, which: usize) {
        if self.healed || !self.faults.restart || !self.chance.hit(2) {
            return;
        }
        let down = self.nodes.iter().filter(|node| !node.up).count();
        let all_members = self
            .nodes
            .iter()
            .all(|node| node.replica.group_checksum().is_some());
        if down >= usize::from(self.group.failures()) || !all_members {
            return;
        }
        self.reached.restarts += 1;
        self.nodes[which].up = false;
        let (old, now) = (&self.nodes[which].replica, self.now);
        let fresh = Incarnation(5000 + now);
        let mut reborn = Replica::new(old.id(), self.group, *old.options(), fresh);
        let mut effects = Effects::new();
        // What would come to it now is answered with nothing but a greeting.
        let progress = reborn.announce(&mut effects);
        assert!(progress.is_empty());
        let pending: Vec<_> = self.network.values().cloned().collect();
        for packet in pending {
            if let Packet::ToReplica(from, to, message) = packet
                && to == reborn.id()
            {
                let progress = reborn.on_message(from, message, &mut effects);
                assert!(progress.is_empty());
            }
        }
        for effect in effects.drain() {
            assert!(
                matches!(effect, Effect::Broadcast(Message::Hello(_))),
                "{effect:?}"
            );
        }
        assert_eq!(reborn.status(), Status::Recovering);
    }

    fn perform(&mut self, which: usize, effects: &mut Effects) {
        let from = self.nodes[which].replica.id();
        for effect in effects.drain() {
            match effect {
                Effect::Send { to, message } => self.send_message(from, to, message),
                Effect::Broadcast(message) => {
                    for to in self.group.replicas().filter(|&to| to != from) {
                        self.send_message(from, to, message.clone());
                    }
                }
                Effect::Reply(reply) => {
                    self.checker.reply(&reply);
                    self.send(None, Packet::Reply(reply));
                }
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

    fn send_message(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        if self.faults.bytes {
            let mut bytes = Vec::new();
            wire::encode(&message, &mut bytes);
            assert_eq!(wire::decode(message.kind(), &bytes).as_ref(), Ok(&message));
        }
        self.send(Some((from.0, to.0)), Packet::ToReplica(from, to, message));
    }

    fn client_turn(&mut self, which: usize) {
        let retry = 25 + self.chance.below(20);
        let client = &mut self.clients[which];
        if client.session.pending().is_none() {
            if client.left == 0 || (!self.healed && self.chance.hit(900)) {
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
        let session = &self.clients[which].session;
        let request = session.pending().expect("in flight").clone();
        match session.target() {
            Target::Primary(to) => self.send(None, Packet::Request(to, request)),
            Target::All => {
                for to in self.group.replicas() {
                    self.send(None, Packet::Request(to, request.clone()));
                }
            }
        }
    }

    fn deliver_reply(&mut self, reply: &Reply) {
        let which = usize::try_from(reply.client.0).expect("small");
        match self.clients[which].session.on_reply(reply) {
            Answer::Registered | Answer::Result(_) => self.reached.replies += 1,
            Answer::Redirected(_) => self.send_request(which),
            Answer::Busy | Answer::Ignored => {}
            Answer::SessionLost | Answer::TooLarge => panic!("{reply:?}"),
        }
    }
}
