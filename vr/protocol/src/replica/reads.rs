//! Reads that cost no write (VRR §6.3, and the read-index of Raft §6.4).
//!
//! A primary that answers from its own state must know two things: that it had executed everything
//! that was acknowledged before the read was asked, and that nobody else leads by then.
//!
//! *What it must have executed* is the read's *index*: the commit-number when the read came, and no
//! less than what its view began with. A new primary holds everything that was committed in earlier
//! views, but may not know yet that it was.
//!
//! *That it leads still* a *round* tells: a number that was never used, in any view or life, sent
//! to the backups after the read came. Once f of them have said, normal in this view, that they
//! heard it, a quorum of the group had not left the view when the read was asked; so no later view
//! had begun. Answers are cumulative, as acknowledgements are. One round is under way at a time,
//! and serves all reads that came before it; with a Prepare, in whose datagram it costs little, the
//! next one goes at once. Lost rounds are not repeated: a fresh one is begun.
//!
//! A round is sent to f backups only, those that were the first to answer before: more answers
//! confirm nothing more, and each costs two datagrams and a replica's sleep. If they keep silent,
//! or take long, the periodic timeout asks everybody. With leases all are asked, since all promises
//! count.
//!
//! A reader may ask f backups itself ([`Confirming`](crate::Confirming)). Its read waits for no
//! round of ours, but for what it must have executed; the answer is [`Unconfirmed`], and that of
//! our view as its primary: once we have left the view it is not given any more.
//!
//! A *lease* is a round whose answers promise something: to take part in no other view for a while.
//! The core knows no clock. The caller notes when a round begins ([`Replica::round`]), learns what
//! was promised in answer to it ([`Replica::promises`]), and tells with each read whether the
//! promises of f backups hold at that moment. On the other side, a backup that has promised
//! ([`Progress::PROMISED`]) is *bound*: it neither votes nor follows anyone into another view until
//! the caller says that the promise has expired ([`Replica::promise_expired`]). A later view
//! needs a quorum, which has one of the bound in it, or the primary itself, whose lease ends when
//! it joins.
//!
//! [`Unconfirmed`]: ReadOutcome::Unconfirmed

use super::{Replica, Role, Status};
use crate::bug::Bug;
use crate::configuration::Configuration;
use crate::counters::Ignored;
use crate::effects::{Effects, Progress};
use crate::ids::{Checksum, Incarnation, OpNumber, ReplicaId, RoundNumber, View};
use crate::log::{Entry, Kind};
use crate::message::{
    GetView, Message, NormalView, Read, ReadConsistency, ReadOutcome, ReadReply, Request, Round,
    RoundOk,
};
use crate::quorum::{Acks, ReplicaSet};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use xxhash_rust::xxh3::xxh3_64;

/// How many reads were answered, and at what cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounters {
    /// Through the log.
    pub log: u64,
    /// After a round, or left to a reader that makes its own.
    pub read_index: u64,
    /// Of these, those that were left to their readers to confirm.
    pub unconfirmed: u64,
    /// Under a lease.
    pub lease: u64,
    /// From what was there.
    pub local: u64,
    /// Refused because the replica did not lead any more when it should have answered.
    pub deposed: u64,
    /// Rounds that were begun.
    pub rounds: u64,
    /// Reads that a round confirmed which had left with a Prepare.
    pub rode: u64,
    /// Readers' questions for our view that were answered.
    pub views_told: u64,
}

impl ReadCounters {
    /// Each with its name, fit for a status page.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("log", self.log),
            ("read-index", self.read_index),
            ("of them left to their readers", self.unconfirmed),
            ("lease", self.lease),
            ("local", self.local),
            ("rounds", self.rounds),
            ("readers told the view", self.views_told),
        ]
        .into_iter()
    }
}

/// What a replica keeps of reads and rounds.
#[derive(Debug)]
pub(super) struct Reads {
    /// The latest round that was begun, in this life.
    round: RoundNumber,
    /// The latest round that left with a Prepare.
    ride: RoundNumber,
    /// The latest round of earlier views, or before the first.
    earlier: RoundNumber,
    /// Up to which round each replica has answered in this view, as distances from `earlier`.
    answered: Acks,
    /// What each backup promised with its latest answer.
    promised_us: [u32; Configuration::MAX_REPLICAS as usize],
    /// The last entry with which our view began.
    inherited: OpNumber,
    /// Reads that wait for a round, in the order of their rounds.
    waiting: VecDeque<(RoundNumber, Ready)>,
    /// Reads that wait for an entry of their own.
    logged: VecDeque<Ready>,
    /// Reads that wait for nothing but execution.
    ready: VecDeque<Ready>,
    /// Reads that we have no right to answer any more.
    refused: Vec<Read>,
    /// A fresh round is wanted although no read waits for one: for a lease, or since the last one
    /// may be lost.
    round_due: bool,
    /// Backup: the latest round that the primary is to be told we have heard.
    heard: Option<RoundNumber>,
    /// A promise holds: no part in another view.
    bound: bool,
    counters: ReadCounters,
}

/// A read that may be answered once `index` is executed.
#[derive(Debug)]
struct Ready {
    index: OpNumber,
    read: Read,
    is_leased: bool,
}

impl Reads {
    /// Rounds of a life begin at a number that is its own; a life is too short to reach the end.
    /// Nobody knows what the life before has promised: who grants leases begins bound.
    pub(super) fn new(incarnation: Incarnation, bound: bool) -> Self {
        let first = RoundNumber(xxh3_64(&incarnation.0.to_le_bytes()) >> 1);
        Self {
            round: first,
            ride: first,
            earlier: first,
            answered: Acks::default(),
            promised_us: Default::default(),
            inherited: OpNumber::ZERO,
            waiting: VecDeque::new(),
            logged: VecDeque::new(),
            ready: VecDeque::new(),
            refused: Vec::new(),
            round_due: false,
            heard: None,
            bound,
            counters: ReadCounters::default(),
        }
    }

    /// Our view has ended: who waits is refused, and what was answered or promised in it is void.
    /// Reads that wait for nothing any more are answered: not those, unless they are to be wrong,
    /// whose answers would be of this view.
    pub(super) fn leave_view(&mut self, applied: OpNumber, all: bool) {
        self.earlier = self.round;
        self.answered = Acks::default();
        self.promised_us = Default::default();
        self.heard = None;
        self.round_due = false;
        self.refused
            .extend(self.waiting.drain(..).map(|(_, ready)| ready.read));
        self.refused
            .extend(self.logged.drain(..).map(|ready| ready.read));
        for ready in core::mem::take(&mut self.ready) {
            if ready.index <= applied && (all || !ready.read.is_left_to_reader()) {
                self.ready.push_back(ready);
            } else {
                self.refused.push(ready.read);
            }
        }
    }

    /// A view begins for us, with this as the last entry.
    pub(super) fn begin_view(&mut self, inherited: OpNumber) {
        self.inherited = inherited;
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.logged.len() + self.ready.len()
    }

    /// Up to which round so many replicas, ourselves among them, have answered.
    fn confirmed(&self, quorum: u8) -> RoundNumber {
        RoundNumber(self.earlier.0 + self.answered.committed(quorum).0)
    }

    /// The others that have answered the latest round.
    fn who_answered(&self, own: ReplicaId) -> ReplicaSet {
        let latest = OpNumber(self.round.0 - self.earlier.0);
        let ids = (0..Configuration::MAX_REPLICAS).map(ReplicaId);
        ids.filter(|&id| id != own && self.answered.of(id) == latest)
            .collect()
    }

    /// Counts an answer; whether the replica had not answered a later round before.
    fn answer(&mut self, id: ReplicaId, round: RoundNumber) -> bool {
        let distance = OpNumber(round.0 - self.earlier.0);
        let is_latest = distance >= self.answered.of(id);
        self.answered.acknowledge(id, distance);
        is_latest
    }

    /// What must hold between any two calls.
    pub(super) fn invariants(&self, is_primary: bool) {
        assert!(self.earlier <= self.round, "rounds only rise");
        let waits = !self.waiting.is_empty() || !self.logged.is_empty();
        assert!(is_primary || !waits, "only a primary has reads wait");
    }
}

/// As the primary.
impl Replica {
    /// A read has arrived. `lease_holds` says whether the promises of f backups hold now, for the
    /// rounds of this view. Whatever the read says, this does not panic.
    ///
    /// It is answered through [`next_read`](Self::next_read), or refused with an effect.
    pub fn on_read(&mut self, read: Read, lease_holds: bool, effects: &mut Effects) -> Progress {
        let progress = self.take_read(read, lease_holds, effects);
        self.invariants();
        progress
    }

    fn take_read(&mut self, read: Read, lease_holds: bool, effects: &mut Effects) -> Progress {
        let is_local = read.consistency == ReadConsistency::Local;
        let refusal = match self.role() {
            Role::Recovering => return self.ignore(Ignored::Recovering),
            Role::Outside => return self.ignore(Ignored::NotMember),
            _ if read.body.len() > self.options.max_body_bytes => Some(ReadOutcome::TooLarge),
            _ if self.reads.len() >= self.options.max_reads => Some(ReadOutcome::Busy),
            _ if is_local => None,
            // Silent, so that clients look for another primary, too.
            Role::Primary if self.abdicating => return self.ignore(Ignored::Abdicating),
            Role::Primary => None,
            Role::Backup | Role::ViewChange | Role::CatchingUp => {
                self.counters.count(Ignored::NotPrimary);
                Some(ReadOutcome::NotPrimary)
            }
        };
        match refusal {
            Some(outcome) => self.refuse_read(&read, outcome, effects),
            // Ahead of those that wait for execution: it waits for nothing.
            None if is_local => self.reads.ready.push_front(Ready {
                index: OpNumber::ZERO,
                read,
                is_leased: false,
            }),
            None => self.on_read_as_primary(read, lease_holds, effects),
        }
        Progress::NONE
    }

    fn on_read_as_primary(&mut self, read: Read, lease_holds: bool, effects: &mut Effects) {
        if read.consistency == ReadConsistency::Log {
            return self.log_read(read, effects);
        }
        let is_leased = lease_holds && read.consistency == ReadConsistency::Lease;
        let ready = Ready {
            index: self.read_index(),
            read,
            is_leased,
        };
        if is_leased || ready.read.is_left_to_reader() {
            return self.reads.ready.push_back(ready);
        }
        // The next round to begin is the first that was begun after it came.
        let round = RoundNumber(self.reads.round.0 + 1);
        self.reads.waiting.push_back((round, ready));
    }

    /// What must be executed before a read that comes now is answered.
    fn read_index(&self) -> OpNumber {
        if self.has(Bug::ReadBeforeInherited) {
            return self.commit;
        }
        self.commit.max(self.reads.inherited)
    }

    /// Gives the read an entry of its own, which nobody executes: it is answered when that is
    /// committed.
    fn log_read(&mut self, read: Read, effects: &mut Effects) {
        if !self.takes_requests() {
            return self.refuse_read(&read, ReadOutcome::Busy, effects);
        }
        let place = Request {
            client: read.client,
            session: OpNumber::ZERO,
            number: read.number,
            kind: Kind::Query,
            body: [].into(),
        };
        let entry = Entry::new(self.log.op().next(), self.view, self.log.head(), &place);
        let index = entry.op();
        self.append(entry);
        self.reads.logged.push_back(Ready {
            index,
            read,
            is_leased: false,
        });
    }

    fn refuse_read(&self, read: &Read, outcome: ReadOutcome, effects: &mut Effects) {
        effects.read_reply(ReadReply {
            view: self.view,
            client: read.client,
            number: read.number,
            outcome,
        });
    }

    /// Refuses, in every role, the reads of a view that has ended.
    pub(super) fn flush_refused_reads(&mut self, effects: &mut Effects) {
        for read in core::mem::take(&mut self.reads.refused) {
            self.reads.counters.deposed += 1;
            self.refuse_read(&read, ReadOutcome::NotPrimary, effects);
        }
    }

    /// Begins a round, if reads wait for one and none is under way, or if it `rides` for nothing.
    pub(super) fn flush_round(&mut self, rides: bool, effects: &mut Effects) -> Progress {
        let reads = &self.reads;
        let awaited = reads
            .waiting
            .back()
            .is_some_and(|(round, _)| *round > reads.round);
        let is_under_way = reads.confirmed(self.group.quorum()) < reads.round;
        let is_due = reads.round_due || (awaited && (rides || !is_under_way));
        if self.abdicating || !is_due {
            return Progress::NONE;
        }
        // Whoever is asked has work. The others are asked when these are silent, when their
        // promises are wanted, too, and when a datagram goes to them anyway.
        let prepared_to_all = rides && !self.options.thrifty;
        let all = prepared_to_all || self.reads.round_due || self.options.lease_us > 0;
        let to = if all {
            self.others()
        } else {
            self.asked_first()
        };
        self.begin_round();
        if rides {
            self.reads.ride = self.reads.round;
        }
        let (view, root, number) = (self.view, self.root(), self.reads.round);
        let round = Round { view, root, number };
        self.emit(to, &Message::Round(round), effects);
        self.confirm_reads();
        Progress::NONE
    }

    fn begin_round(&mut self) {
        self.reads.round_due = false;
        self.reads.counters.rounds += 1;
        if self.has(Bug::RoundReused) && self.reads.round > self.reads.earlier {
            // The same number again, and what was answered so far forgotten.
            self.reads.answered = Acks::default();
            for (round, _) in &mut self.reads.waiting {
                *round = self.reads.round;
            }
        } else {
            self.reads.round.0 += 1;
        }
        let (id, round) = (self.id, self.reads.round);
        let _own = self.reads.answer(id, round);
    }

    /// Reads whose round f backups have answered need only wait for execution.
    fn confirm_reads(&mut self) {
        let confirmed = self.reads.confirmed(self.group.quorum());
        while let Some((round, ready)) = self
            .reads
            .waiting
            .pop_front_if(|(round, _)| *round <= confirmed)
        {
            self.reads.counters.rode += u64::from(round == self.reads.ride);
            self.reads.ready.push_back(ready);
        }
    }

    /// A backup has heard a round, and is normal in our view.
    pub(super) fn on_round_ok(
        &mut self,
        from: ReplicaId,
        ok: RoundOk,
        effects: &mut Effects,
    ) -> Progress {
        let RoundOk {
            view,
            number,
            promise_us,
        } = ok;
        if view < self.view {
            return self.ignore(Ignored::OldView);
        }
        if view > self.view || self.role() != Role::Primary {
            return self.ignore(Ignored::NotPrimary);
        }
        if number <= self.reads.earlier || number > self.reads.round {
            return self.ignore(Ignored::UnknownRound);
        }
        let quorum = self.group.quorum();
        let was_confirmed = self.reads.confirmed(quorum) == self.reads.round;
        if self.reads.answer(from, number) {
            self.reads.promised_us[from.index()] = promise_us;
        }
        if !was_confirmed && self.reads.confirmed(quorum) == self.reads.round {
            self.prefer(self.reads.who_answered(self.id), effects);
        }
        self.confirm_reads();
        self.hear_backup(from)
    }

    /// A periodic timeout: begins a fresh round if reads wait for one that may be lost, or if
    /// promises are to be renewed.
    pub fn renew_round(&mut self) -> Progress {
        if self.role() == Role::Primary {
            self.reads.round_due = self.options.lease_us > 0 || !self.reads.waiting.is_empty();
        } else {
            self.counters.count(Ignored::WrongRole);
        }
        self.invariants();
        Progress::NONE
    }

    /// The next read that may be answered: from the state as it is now, which has executed
    /// everything that the read must see. To be asked for at the end of a turn, in every role.
    pub fn next_read(&mut self) -> Option<Answerable> {
        let anything = self.has(Bug::ReadBeforeExecuted);
        let applied = self.applied;
        let is_due = |ready: &mut Ready| ready.index <= applied || anything;
        let logged = self
            .reads
            .logged
            .pop_front_if(|ready| ready.index <= applied);
        let next = logged.or_else(|| self.reads.ready.pop_front_if(is_due));
        let Ready {
            read, is_leased, ..
        } = next?;
        let is_unconfirmed = read.is_left_to_reader();
        let counters = &mut self.reads.counters;
        let count = match read.consistency {
            ReadConsistency::Log => &mut counters.log,
            ReadConsistency::Local => &mut counters.local,
            ReadConsistency::Lease if is_leased => &mut counters.lease,
            ReadConsistency::Lease | ReadConsistency::ReadIndex => &mut counters.read_index,
        };
        *count += 1;
        counters.unconfirmed += u64::from(is_unconfirmed);
        let is_stale = read.consistency == ReadConsistency::Local;
        Some(Answerable {
            read,
            view: self.view,
            as_of: self.applied,
            is_stale,
            unconfirmed: is_unconfirmed.then(|| self.root()),
        })
    }

    /// The latest round that was begun in this life.
    pub fn round(&self) -> RoundNumber {
        self.reads.round
    }

    /// Per backup, the latest round of this view that it has answered, and for how many
    /// microseconds, from that moment on, it has promised to take part in no other view.
    pub fn promises(&self) -> impl Iterator<Item = (RoundNumber, u32)> + '_ {
        let backups = self.group.replicas().filter(|&id| id != self.id);
        backups.map(|id| {
            let distance = self.reads.answered.of(id);
            let round = RoundNumber(self.reads.earlier.0 + distance.0);
            (round, self.reads.promised_us[id.index()])
        })
    }

    /// How reads were answered.
    pub fn read_counters(&self) -> &ReadCounters {
        &self.reads.counters
    }
}

/// A read that the state machine is to answer now: what its reply says besides.
#[derive(Debug)]
pub struct Answerable {
    /// The question.
    pub read: Read,
    /// The view of the replica that answers.
    pub view: View,
    /// The last operation that was executed.
    pub as_of: OpNumber,
    /// Whether later operations may have been acknowledged before the read was asked.
    pub is_stale: bool,
    /// The root of our log, if the reader asks f backups itself whether we lead the view.
    pub unconfirmed: Option<Checksum>,
}

/// As a backup.
impl Replica {
    /// The primary asks whether it leads still.
    pub(super) fn on_round(
        &mut self,
        from: ReplicaId,
        round: Round,
        effects: &mut Effects,
    ) -> Progress {
        let Some(progress) = self.hear_primary(from, round.view, effects) else {
            return Progress::NONE;
        };
        if self.status == Status::Normal {
            let latest = self.reads.heard.unwrap_or(round.number);
            self.reads.heard = Some(latest.max(round.number));
        }
        progress
    }

    /// A reader asks in which view we are. Whoever asks, this does not panic.
    ///
    /// Of a view that we lead we say nothing here: our answers to reads do.
    pub fn on_get_view(&mut self, get: GetView, effects: &mut Effects) -> Progress {
        match self.role() {
            Role::Backup => {
                self.reads.counters.views_told += 1;
                effects.normal_view(NormalView {
                    view: self.view,
                    root: self.root(),
                    client: get.client,
                    number: get.number,
                });
            }
            Role::Primary => {}
            Role::ViewChange | Role::CatchingUp | Role::Recovering | Role::Outside => {
                self.counters.count(Ignored::NotNormal);
            }
        }
        self.invariants();
        Progress::NONE
    }

    /// Tells the primary that it leads; and promises, if leases are on, to let it for a while. It
    /// waits for nothing: what is written meanwhile concerns no read.
    pub(super) fn flush_round_ok(&mut self, effects: &mut Effects) -> Progress {
        let Some(number) = self.reads.heard.take() else {
            return Progress::NONE;
        };
        let promise_us = self.options.lease_us;
        let ok = RoundOk {
            view: self.view,
            number,
            promise_us,
        };
        effects.send(self.primary(), Message::RoundOk(ok));
        if promise_us == 0 {
            return Progress::NONE;
        }
        self.reads.bound = true;
        Progress::PROMISED
    }

    /// The last promise, or what an earlier life may have promised, has expired by our own clock:
    /// we are free to vote, and to follow others.
    pub fn promise_expired(&mut self) {
        self.reads.bound = false;
    }

    /// Whether a promise of ours holds.
    pub fn is_bound(&self) -> bool {
        self.reads.bound
    }

    /// Whether a promise forbids to leave the view.
    pub(super) fn must_stay(&self) -> bool {
        self.reads.bound && !self.has(Bug::PromiseBroken)
    }
}
