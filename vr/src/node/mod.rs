//! A replica as async tasks: what waits, what restarts it, and what is done about it.
//!
//! The decisions are the protocol's ([`Replica`]); here is time and I/O. A role is an async
//! function, and a timeout of a role is a scope in it:
//! [`timeout`](viewring_runtime::time::timeout)`(d, x())`, where `x` returns when what restarts the
//! timeout has happened. Leaving the scope drops the timer. There is no timer table.
//!
//! Everything waits in one place, [`Node::turn`]. It takes every message that has arrived, lets
//! the protocol decide, performs the effects, and only then returns what happened. **No await
//! stands between taking a message and having performed its effects**, so a timeout may drop a
//! role's future at any await.

mod addresses;
mod backup;
mod binding;
mod bug;
mod checkpoints;
mod config;
mod events;
mod lease;
mod memory;
mod primary;
mod recovering;
mod role;
mod round_trips;
mod strangers;
mod timeouts;
mod view_change;
mod walk_ins;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use viewring_protocol::{
    Answerable, Checkpoint, ClientId, Durable, Effect, Effects, Entry, Kind, Message, OpNumber,
    Progress, Read, ReadConsistency, Record, Replica, ReplicaId, Reply, Role, View, wire,
};
use viewring_runtime::random;
use viewring_runtime::time::{Instant, timeout_at};
use viewring_transport::specpaxos::Frame;
use viewring_transport::{Endpoint, Message as Datum, Sender};

use self::addresses::Addresses;
use self::binding::bind;
use self::checkpoints::Background;
use self::events::Happenings;
use self::lease::Lease;
use self::memory::Memory;
use self::round_trips::{PING_KIND, PONG_KIND, RoundTrips};
use self::strangers::Strangers;
use self::walk_ins::Door;
use crate::journal;
use crate::state_machine::StateMachine;
use crate::status::{self, Status};

pub use self::bug::{Planted, WaitBug};
pub(crate) use self::config::group_of;
pub use self::config::{Checkpoints, ConfigError, NodeConfig, WalkInConfig};
pub use self::events::{Event, Events, Happening, Missed};
pub use self::lease::LeaseConfig;
pub use self::timeouts::Timeouts;

/// One replica of a group, with its state machine.
///
/// [`run`](Self::run) is the replica's life. Dropping its future stops the replica where it stands:
/// to the others it has crashed.
pub struct Node<S> {
    core: Replica,
    state_machine: S,
    journal: journal::Memory,
    memory: Memory,
    endpoint: Endpoint,
    /// As they were configured.
    configured: Timeouts,
    /// As they are, with the round trips that were measured.
    timeouts: Timeouts,
    round_trips: RoundTrips,
    replicas: Vec<SocketAddr>,
    strangers: Strangers,
    clients: Addresses,
    /// For clients of another format, if they are served.
    door: Option<Door>,
    /// When upkeep is due: it depends on no role, so no scope of a role holds it.
    upkeep_at: Instant,
    /// When suspicions are forgotten that were not repeated.
    votes_expire_at: Instant,
    /// No vote counts before: we stood still, and what came meanwhile may be a suspicion of long
    /// ago.
    votes_count_from: Instant,
    /// Whether entries that we asked for have come since the last upkeep.
    transferred: bool,
    /// When they last had, or were last asked for again.
    fetched_at: Instant,
    /// View changes that have failed in a row.
    failures: u32,
    /// When the present role began.
    role_since: Instant,
    /// When, as a primary, a quorum was last heard, or as a backup the primary.
    heard_at: Instant,
    /// Primary: when a quorum was last heard, or the role began.
    quorum_heard_at: Instant,
    /// Primary: no quorum was heard for so long that the log says so.
    is_alone: bool,
    /// Primary: when something was last committed or sent again, or the first of what is not
    /// committed was sent, or the role began.
    committed_at: Instant,
    /// Primary: everything was committed when the last turn ended.
    is_idle: bool,
    /// Primary: the first entry that is kept back from some, and when they will have waited for
    /// long enough.
    kept_back: Option<(OpNumber, Instant)>,
    /// None: leases are off.
    lease: Option<Lease>,
    observer: Option<Box<dyn Observer>>,
    happenings: Happenings,
    /// Always none, but in tests of tests.
    bug: Option<WaitBug>,
    drops: status::Drops,
    effects: Effects,
    durable: Vec<Durable>,
    background: Background,
    encoded: Vec<u8>,
    result: Vec<u8>,
}

/// Watches a replica from outside: for tests, checkers and metrics.
pub trait Observer {
    /// A turn has ended.
    fn turned(&mut self, replica: &Replica, endpoint: &Endpoint) {
        let _ = (replica, endpoint);
    }

    /// An operation was executed, with this result.
    fn applied(&mut self, replica: &Replica, entry: &Entry, result: &[u8]) {
        let _ = (replica, entry, result);
    }

    /// A read was answered with this.
    fn answered(&mut self, replica: &Replica, read: &Answerable, result: &[u8]) {
        let _ = (replica, read, result);
    }

    /// A checkpoint was taken.
    fn checkpointed(&mut self, replica: &Replica, checkpoint: &Checkpoint) {
        let _ = (replica, checkpoint);
    }

    /// A checkpoint was fetched and restored.
    fn restored(&mut self, replica: &Replica) {
        let _ = replica;
    }

    /// This is durable now, or was when the replica started.
    fn remembered(&mut self, replica: &Replica, record: &Record) {
        let _ = (replica, record);
    }
}

/// What has come, and at which door.
enum Arrival {
    Message(Datum),
    WalkIn(Frame),
}

/// At most so many messages are taken in one turn, at each door.
const MESSAGES_PER_TURN: usize = 1024;

impl<S: StateMachine> Node<S> {
    /// Opens the replica's socket, and its view file. A port that is taken is tried again for a
    /// second. `state_machine` must be new: a replica that has been restarted executes everything
    /// again.
    ///
    /// # Cancel safety
    /// Dropping it closes the socket.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration makes no sense, the address cannot be had, or the
    /// data directory cannot be used.
    ///
    /// # Panics
    /// Outside a runtime.
    pub async fn bind(config: NodeConfig, state_machine: S) -> Result<Self, ConfigError> {
        let group = config.group()?;
        let own = config.replicas[config.id.index()];
        // First: the second life at one place is told so, and not that its files are in use.
        let endpoint = bind(own, |addr| Endpoint::bind(addr, config.endpoint())).await?;
        let door = match &config.walk_ins {
            Some(walk_ins) => Some(Door::open(walk_ins, config.door_endpoint(walk_ins)).await?),
            None => None,
        };
        let memory = Memory::open(config.data.as_deref(), &config, group).await?;
        let core = memory.replica(&config, group, config.options());
        let (now, life) = (Instant::now(), core.incarnation());
        Ok(Self {
            core,
            state_machine,
            journal: journal::Memory,
            memory,
            endpoint,
            configured: config.timeouts,
            timeouts: config.timeouts,
            round_trips: RoundTrips::new(config.replicas.len(), now),
            replicas: config.replicas,
            strangers: Strangers::default(),
            clients: Addresses::new(life),
            door,
            upkeep_at: now + config.timeouts.upkeep,
            votes_expire_at: now + config.timeouts.silence * 2,
            votes_count_from: now,
            transferred: false,
            fetched_at: now,
            failures: 0,
            role_since: now,
            heard_at: now,
            quorum_heard_at: now,
            is_alone: false,
            committed_at: now,
            is_idle: true,
            kept_back: None,
            lease: config.lease.map(Lease::new),
            observer: None,
            happenings: Happenings::new(),
            bug: None,
            drops: status::Drops::default(),
            effects: Effects::new(),
            durable: Vec::new(),
            background: Background::default(),
            encoded: Vec::new(),
            result: Vec::new(),
        })
    }

    /// What happens to the replica from now on: views, commits, checkpoints. For as many readers
    /// as ask.
    pub fn events(&self) -> Events {
        self.happenings.reader()
    }

    /// Has `observer` watch.
    pub fn observe(&mut self, mut observer: impl Observer + 'static) {
        if let Some(record) = self.memory.loaded() {
            observer.remembered(&self.core, record);
        }
        self.observer = Some(Box::new(observer));
    }

    /// Lives as a replica, until the future is dropped.
    ///
    /// Each period of a role is a `tracing` span `role`, at the level DEBUG, with the fields
    /// `replica`, `role` and `view`.
    ///
    /// # Cancel safety
    /// Dropping it stops the replica between two turns; calling it again goes on from there.
    ///
    /// # Errors
    /// Only when the socket cannot be used any more, or the view file cannot be written. The
    /// replica must be dropped then.
    pub async fn run(&mut self) -> io::Result<Never> {
        loop {
            self.live_one_role().await?;
        }
    }

    /// The state of the protocol.
    pub fn replica(&self) -> &Replica {
        &self.core
    }

    /// The state machine.
    pub fn state_machine(&self) -> &S {
        &self.state_machine
    }

    /// What `viewring status` shows.
    pub fn status(&self) -> Status {
        let door = self.door.as_ref().map(|door| door.endpoint.stats());
        let strangers = self.strangers.complaints(Instant::now());
        Status {
            strangers: strangers.collect(),
            ..Status::of(&self.core, &self.endpoint, door, &self.drops)
        }
    }

    /// Waits until something arrives, takes all of it, and does what is to be done about it. When
    /// upkeep is due it does that. Before anything else, what must be remembered is.
    async fn turn(&mut self) -> io::Result<Progress> {
        if self.memory.is_writing() {
            return self.finish_remembering().await;
        }
        let arrival = match timeout_at(self.busy_at(), self.arrival()).await {
            Ok(arrival) => Some(arrival?),
            Err(_elapsed) => None,
        };
        // From here on nothing is awaited.
        self.release_promise();
        // Before any message: one may have a checkpoint ordered, which is begun when the turn ends,
        // and until then the state must not become another.
        let mut progress = self.work();
        if let Some(first) = arrival {
            let walk_in = match first {
                Arrival::Message(first) => {
                    progress |= self.take(first);
                    None
                }
                Arrival::WalkIn(first) => Some(first),
            };
            for _ in 1..MESSAGES_PER_TURN {
                let Some(message) = self.endpoint.try_recv() else {
                    break;
                };
                progress |= self.take(message);
            }
            progress |= self.take_walk_ins(walk_in);
        }
        // Asked of the clock: while messages never cease, no timeout of the wait expires.
        let now = Instant::now();
        if now >= self.upkeep_at {
            progress |= self.keep_up();
        }
        progress |= self.tell_others(now);
        progress |= self.finish_turn();
        if progress.intersects(Progress::HEARD_PRIMARY | Progress::HEARD_QUORUM) {
            self.heard_at = now;
        }
        self.transferred |= progress.contains(Progress::TRANSFERRED);
        if self.core.role() == Role::Primary {
            self.move_deadlines(progress);
        }
        Ok(progress)
    }

    /// Waits until something has come, at either door.
    async fn arrival(&self) -> io::Result<Arrival> {
        let mut message = pin!(self.endpoint.recv());
        let mut walk_in = pin!(self.next_walk_in());
        poll_fn(|cx| match message.as_mut().poll(cx) {
            Poll::Ready(message) => Poll::Ready(message.map(Arrival::Message)),
            Poll::Pending => {
                let walk_in = walk_in.as_mut().poll(cx);
                walk_in.map(|frame| frame.map(Arrival::WalkIn))
            }
        })
        .await
    }

    /// A timeout has expired: lets the protocol act on it.
    fn act(&mut self, action: impl FnOnce(&mut Replica, &mut Effects) -> Progress) -> Progress {
        self.release_promise();
        let progress = action(&mut self.core, &mut self.effects);
        progress | self.finish_turn()
    }

    /// What has no timeout of its own because it does not depend on a role.
    fn keep_up(&mut self) -> Progress {
        let now = Instant::now();
        if self.has_stood_still(now) {
            // Perhaps nothing of what waited was taken yet.
            self.votes_count_from = now + self.timeouts.silence;
        }
        self.upkeep_at = now + self.timeouts.upkeep;
        self.core.ease();
        self.forget_old_votes(now);
        self.measure(now);
        self.look_for_foreign();
        self.core.refill(&mut self.effects);
        // A view counts as stable only after it has outlived the votes against it, which were cast
        // while it took long to start, and the patience of a primary whose backups are late: else
        // these would end it, and the next one would be given no more time, for ever. One that
        // nobody is heard in does not last.
        let lasted = self.heard_at - self.role_since
            >= self.timeouts.abdicate + self.timeouts.silence
            || self.bug == Some(WaitBug::BackOffForgottenAtOnce);
        let stable = matches!(self.core.role(), Role::Primary | Role::Backup) && lasted;
        if stable || self.bug == Some(WaitBug::NoBackOff) {
            self.failures = 0;
        }
        if self.core.is_primary() {
            return self.core.renew_round();
        }
        let may_fetch = matches!(
            self.core.role(),
            Role::Backup | Role::CatchingUp | Role::Recovering
        );
        if std::mem::take(&mut self.transferred) || !may_fetch {
            self.fetched_at = now;
            return Progress::NONE;
        }
        self.core.renew_vote(&mut self.effects);
        // While nothing is fetched there is nothing to wait for: the patience with the next answer
        // begins with its question, or one upkeep before.
        let source = self.core.source();
        let is_early = source.is_some_and(|id| now < self.fetched_at + self.patience_with(id));
        if is_early || self.bug == Some(WaitBug::TransferNotRepeated) {
            return Progress::NONE;
        }
        self.fetched_at = now;
        self.core.resend_get_state(&mut self.effects)
    }

    /// Whether upkeep is overdue for as long as a silence that is suspicious.
    fn has_stood_still(&self, now: Instant) -> bool {
        now > self.upkeep_at + self.timeouts.silence
    }

    /// Forgets suspicions that were not repeated for two to four times the silence. A replica that
    /// stood still has not had the time to: what it heard before counts no more.
    fn forget_old_votes(&mut self, now: Instant) {
        let period = self.timeouts.silence * 2;
        for _ in 0..2 {
            if now >= self.votes_expire_at {
                self.votes_expire_at = self.votes_expire_at + period;
                self.core.expire_votes();
            }
        }
        if now >= self.votes_expire_at {
            self.votes_expire_at = now + period;
        }
    }

    /// Hands one message to the protocol. What is malformed is counted and dropped.
    fn take(&mut self, datum: Datum) -> Progress {
        match datum.kind {
            status::REQUEST_KIND => return self.tell_status(datum.from),
            PING_KIND | PONG_KIND => return self.echo(&datum),
            _ => {}
        }
        let Ok(message) = wire::decode(datum.kind, &datum.body) else {
            self.drops.malformed += 1;
            return Progress::NONE;
        };
        drop(datum.body); // the buffer is free again
        if let Message::StartViewChange(wish) = &message {
            let now = Instant::now();
            // What waited for as long as we stood still may be a suspicion of long ago. If it is
            // meant still it is said again.
            let may_be_old = self.has_stood_still(now) || now < self.votes_count_from;
            if may_be_old && !wish.joined && self.bug != Some(WaitBug::OldVotesCount) {
                self.drops.old_vote += 1;
                return Progress::NONE;
            }
            self.forget_old_votes(now);
        }
        if let Message::Request(mut request) = message {
            // Who speaks our format registers.
            if request.kind == Kind::WalkIn {
                self.drops.malformed += 1;
                return Progress::NONE;
            }
            self.clients.learn(request.client, datum.from);
            if request.kind == Kind::Register {
                request.body = addresses::to_bytes(datum.from);
            }
            return self.core.on_request(request, &mut self.effects);
        }
        if let Message::Read(read) = message {
            self.clients.learn(read.client, datum.from);
            let holds = self.lease_holds(&read);
            return self.core.on_read(read, holds, &mut self.effects);
        }
        if let Message::GetView(get) = message {
            self.clients.learn(get.client, datum.from);
            return self.core.on_get_view(get, &mut self.effects);
        }
        match self.replica_at(datum.sender, datum.from) {
            Some(from) => self.hear(from, message),
            None => self.drop_impostor(datum.sender, datum.from),
        }
    }

    /// Which replica has sent something: identity is the number in the frame, and the address that
    /// goes with it.
    fn replica_at(&self, sender: Sender, addr: SocketAddr) -> Option<ReplicaId> {
        let id = u8::try_from(sender.0).ok().map(ReplicaId)?;
        (self.replicas.get(id.index()) == Some(&addr)).then_some(id)
    }

    /// Executes what is committed, then performs all that the protocol wants done, in order.
    fn finish_turn(&mut self) -> Progress {
        let mut progress = Progress::NONE;
        loop {
            self.execute();
            progress |= self.take_kept();
            let flushed = self.core.flush(&mut self.effects);
            if let Some(lease) = &mut self.lease {
                lease.before_sending(&self.core);
                if flushed.contains(Progress::PROMISED) {
                    lease.promised();
                }
            }
            progress |= flushed;
            self.perform();
            self.answer_reads();
            for durable in self.durable.drain(..) {
                progress |= self.core.on_durable(durable, &mut self.effects);
            }
            if self.effects.is_empty() && self.core.next_to_apply().is_none() {
                break;
            }
        }
        self.endpoint.flush();
        self.look_at_kept_back();
        self.happenings.look_at(&self.core);
        if let Some(observer) = &mut self.observer {
            observer.turned(&self.core, &self.endpoint);
        }
        progress
    }

    fn execute(&mut self) {
        while let Some(entry) = self.core.next_to_apply() {
            self.result.clear();
            self.state_machine.apply(entry.body(), &mut self.result);
            if let Some(observer) = &mut self.observer {
                observer.applied(&self.core, entry, &self.result);
            }
            self.core.applied(&self.result, &mut self.effects);
        }
    }

    /// Whether we may answer a read alone. Asked when it comes: from then on whatever we answer
    /// holds everything that was acknowledged before, even if we stand still for a while now.
    fn lease_holds(&self, read: &Read) -> bool {
        read.consistency == ReadConsistency::Lease
            && self.core.is_primary()
            && self
                .lease
                .as_ref()
                .is_some_and(|lease| lease.holds(&self.core))
    }

    /// Forgets a promise that has ended.
    fn release_promise(&mut self) {
        if let Some(lease) = &self.lease {
            lease.release(&mut self.core);
        }
    }

    fn answer_reads(&mut self) {
        // An answer names the view, which may be forgotten still: it waits as all effects do.
        while !self.memory.is_writing()
            && let Some(answer) = self.core.next_read()
        {
            self.result.clear();
            self.state_machine
                .query(&answer.read.body, &mut self.result);
            if let Some(observer) = &mut self.observer {
                observer.answered(&self.core, &answer, &self.result);
            }
            self.encoded.clear();
            wire::encode_read_result(&answer, &self.result, &mut self.encoded);
            self.send_to_client(answer.read.client, wire::kind::READ_REPLY);
        }
    }

    /// Not async: nothing can come between a decision and its effects.
    fn perform(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain() {
            self.perform_one(effect);
        }
        self.effects = effects;
        self.begin_checkpoint();
    }

    /// At once, or when what it rests on is durable.
    fn perform_one(&mut self, effect: Effect) {
        let Some(effect) = self.hold(effect) else {
            return;
        };
        match effect {
            Effect::Send { to, message } => {
                let to = self.replicas[usize::from(to.0)];
                self.send([to], &message);
            }
            Effect::Broadcast(message) => {
                let own = usize::from(self.core.id().0);
                let others = |&(index, _): &(usize, &SocketAddr)| index != own;
                let replicas = std::mem::take(&mut self.replicas);
                let to = replicas
                    .iter()
                    .enumerate()
                    .filter(others)
                    .map(|(_, &to)| to);
                self.send(to, &message);
                self.replicas = replicas;
            }
            Effect::Reply(reply) => self.reply(&reply),
            Effect::ReplyWalkIn(reply) => {
                let sent = self.door.as_ref().map(|door| door.reply(&reply));
                if let Some(Err(_too_long)) = sent {
                    self.drops.too_long += 1;
                }
            }
            Effect::Checkpoint(draft) => self.background.ordered = Some(draft),
            Effect::Restore(restore) => self.begin_restore(restore),
            Effect::ReadReply(reply) => {
                self.encoded.clear();
                wire::encode_read_reply(&reply, &mut self.encoded);
                self.send_to_client(reply.client, wire::kind::READ_REPLY);
            }
            Effect::NormalView(told) => {
                self.encoded.clear();
                wire::encode_normal_view(&told, &mut self.encoded);
                self.send_to_client(told.client, wire::kind::NORMAL_VIEW);
            }
            Effect::Persist(order) => {
                let durable = self.journal.write(order);
                self.durable.push(durable);
            }
            Effect::Remember(record) => self.remember(record),
        }
    }

    fn send(&mut self, to: impl IntoIterator<Item = SocketAddr>, message: &Message) {
        self.encoded.clear();
        wire::encode(message, &mut self.encoded);
        if self
            .endpoint
            .send_to_many(to, message.kind(), &self.encoded)
            .is_err()
        {
            self.drops.too_long += 1;
        }
    }

    fn reply(&mut self, reply: &Reply) {
        self.encoded.clear();
        wire::encode_reply(reply, &mut self.encoded);
        self.send_to_client(reply.client, wire::kind::REPLY);
    }

    fn send_to_client(&mut self, client: ClientId, kind: u8) {
        // A client that was never heard here has registered with another primary, which wrote down
        // where it is. One that was forgotten meanwhile is unknown until it asks again: it does.
        let registered = || self.core.return_address(client);
        let heard = self.clients.of(client);
        let Some(to) = heard.or_else(|| addresses::from_bytes(registered()?)) else {
            return;
        };
        let encoded = std::mem::take(&mut self.encoded);
        self.send_bytes(to, kind, &encoded);
        self.encoded = encoded;
    }

    fn send_bytes(&mut self, to: SocketAddr, kind: u8, body: &[u8]) {
        if self.endpoint.send(to, kind, body).is_err() {
            self.drops.too_long += 1;
        }
    }

    fn tell_status(&mut self, to: SocketAddr) -> Progress {
        let text = self.status().encode();
        self.send_bytes(to, status::REPLY_KIND, text.as_bytes());
        Progress::NONE
    }

    /// Whether the role that an async function lives is still the replica's.
    fn is_still(&self, role: Role, view: View) -> bool {
        self.core.role() == role && self.core.view() == view
    }

    /// `duration`, and up to half as much again by chance, so that two do not act at once for ever.
    fn jittered(duration: Duration) -> Duration {
        let chance = (random() % 1024) as u32;
        duration + duration * chance / 2048
    }
}

/// What [`Node::run`] returns, which it never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

impl<S> fmt::Debug for Node<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("replica", &self.core)
            .finish_non_exhaustive()
    }
}
