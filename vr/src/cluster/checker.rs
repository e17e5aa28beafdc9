//! What must hold of a group, watched from outside the replicas.
//!
//! The checker sees each replica after each of its turns, and every execution, and remembers: what
//! was ever held, committed, executed. It also reads what the replicas send (`sent.rs`). It
//! compares with that memory, never with a replica: a replica may be wrong. A violation panics,
//! which the world reports with its seed.
//!
//! | what must hold | where |
//! |---|---|
//! | executed <= commit <= op, log view <= view, normal: equal | `check_monotone` |
//! | view, log view, commit, executed never fall in a life | `check_monotone` |
//! | nobody acknowledges what is not of its view's log | `sent.rs`: `prepare_ok` |
//! | who is no member says nothing but Hello, and stays outside | `sent`, `turned` |
//! | who has lost its memory asks for it and says nothing else | `sent.rs`: `said` |
//! | nobody speaks of a view that it may forget | `sent.rs`: `is_remembered` |
//! | a durable view never falls, in any life | `remembered`, `check_memory` |
//! | nobody has lost what it acknowledged, in any life | `check_memory` |
//! | entries are chained, the window bounds what is uncommitted | `check_log`, `check_window` |
//! | received bytes do no harm | garbled frames in every run; `tests/hostile.rs` |
//! | one primary a view, one log a view | `check_primary`, `check_log`, `sent.rs`: `start_view` |
//! | one entry is committed at an op-number, for ever | `check_commits` |
//! | what is committed a quorum has held, and acknowledged | `check_commits`, `check_backed` |
//! | a view starts with all that was committed before | `check_primary` |
//! | a DoViewChange covers what its sender acknowledged | `sent.rs`: `do_view_change` |
//! | equal state machines after equally many operations | `stage.rs`: `Copies` |
//! | equal checkpoints after equally many operations | `checkpointed` |
//! | what was cut off is committed, and a checkpoint stands for it | `check_base` |
//! | a request is executed once, all its replies are the same | `answers.rs`, `sent.rs`: `reply` |
//! | all execute an entry, or none does | `check_alike` |
//! | who is told that a session has ended, or never was, is told the truth | `sent.rs`: `reply` |
//! | clients and their kept results stay within their bounds | `check_table` |
//! | no reply for what is not committed, nor for what was not asked | `answers.rs` |
//! | a read shows what was committed, and, unless it is local, all acknowledged | `reads.rs` |
//! | what clients were told is linearizable | `history.rs`, `linearizability.rs` |
//! | a healed group answers, agrees, and keeps its view | `stage.rs`: `finish` |
//! | no view ends in vain, none takes too long, no entry is missed in vain | `plots/` |
//!
//! What is committed, held and acknowledged is remembered over restarts: it binds later lives.
//!
//! Not here: what needs a durable log or other members.

use std::collections::btree_map;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use viewring_protocol::{
    Checkpoint, Checksum, ClientId, Digest, Entry, Kind, OpNumber, Record, Replica, ReplicaId,
    ReplicaSet, RequestNumber, Role, View, WaitingReason,
};

use super::reads::Versions;
use super::sometimes::{Mark, Marks};

mod answers;
mod noticed;

/// The memory.
#[derive(Debug)]
pub struct Checker {
    pub(super) quorum: usize,
    /// What was first seen to be committed, from op-number 1, and in the log of which view.
    pub(super) committed: Vec<(Checksum, View)>,
    /// A hash of the result of each operation, by op-number.
    pub(super) results: BTreeMap<OpNumber, u64>,
    /// A hash of what each operation was to do.
    bodies: BTreeMap<OpNumber, u64>,
    /// The digest of each checkpoint.
    checkpoints: BTreeMap<OpNumber, Digest>,
    /// At which op-number a request was executed.
    pub(super) executed: BTreeMap<(ClientId, OpNumber, RequestNumber), OpNumber>,
    /// The committed registrations, by op-number.
    pub(super) sessions: BTreeMap<OpNumber, ClientId>,
    /// Whether an entry was executed, or passed over: its session had ended, or it was a duplicate.
    was_executed: BTreeMap<OpNumber, bool>,
    /// What each replica has executed in its present turn.
    executing: Vec<BTreeSet<OpNumber>>,
    /// Which replicas have ever held an entry, as bits.
    held: BTreeMap<(OpNumber, Checksum), u8>,
    /// The log of each view, as far as anyone has had it.
    pub(super) logs: BTreeMap<View, BTreeMap<OpNumber, Checksum>>,
    primaries: BTreeMap<View, ReplicaId>,
    replicas: Vec<Seen>,
    /// How far each replica has acknowledged the log of each view.
    pub(super) acknowledged: Vec<BTreeMap<View, OpNumber>>,
    /// Who is a member durably.
    members: ReplicaSet,
    /// Who has lost its memory, and has not got it back since.
    pub(super) forgetful: ReplicaSet,
    /// The view that each replica has durably.
    pub(super) durable_views: Vec<View>,
    /// Replicas that lost their view files while the group ran, and are not of it.
    pub(super) outside: ReplicaSet,
    /// A group has died before this one: clients may come with sessions of that one.
    pub(super) is_of_second_group: bool,
    /// What reads are compared with.
    pub(super) versions: Versions,
    /// The first thing that a replica said and that is not so.
    pub(super) lie: Option<String>,
    /// What has occurred that ought to occur now and then.
    pub marks: Marks,
}

/// A replica as it was after its last turn.
#[derive(Clone, Copy, Debug)]
struct Seen {
    role: Role,
    view: View,
    log_view: View,
    op: OpNumber,
    commit: OpNumber,
    executed: OpNumber,
    /// How often it has caught up by a checkpoint.
    restored: u64,
    /// Why it is no member.
    waiting: Option<WaitingReason>,
}

impl Seen {
    const NOTHING: Self = Self {
        role: Role::Outside,
        view: View::ZERO,
        log_view: View::ZERO,
        op: OpNumber::ZERO,
        commit: OpNumber::ZERO,
        executed: OpNumber::ZERO,
        restored: 0,
        waiting: None,
    };

    fn of(replica: &Replica) -> Self {
        Self {
            role: replica.role(),
            view: replica.view(),
            log_view: replica.log_view(),
            op: replica.op(),
            commit: replica.commit(),
            executed: replica.executed(),
            restored: replica.checkpoint_counts().restored,
            waiting: replica.waiting_reason(),
        }
    }
}

impl Checker {
    /// Knows nothing yet of a group of so many replicas.
    pub fn new(replicas: u8) -> Self {
        Self {
            quorum: usize::from(replicas / 2 + 1),
            committed: Vec::new(),
            results: BTreeMap::new(),
            bodies: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            executed: BTreeMap::new(),
            sessions: BTreeMap::new(),
            was_executed: BTreeMap::new(),
            executing: vec![BTreeSet::new(); usize::from(replicas)],
            held: BTreeMap::new(),
            logs: BTreeMap::new(),
            primaries: BTreeMap::new(),
            replicas: vec![Seen::NOTHING; usize::from(replicas)],
            acknowledged: vec![BTreeMap::new(); usize::from(replicas)],
            members: ReplicaSet::EMPTY,
            forgetful: ReplicaSet::EMPTY,
            durable_views: vec![View::ZERO; usize::from(replicas)],
            outside: ReplicaSet::EMPTY,
            is_of_second_group: false,
            versions: Versions::default(),
            lie: None,
            marks: Marks::default(),
        }
    }

    /// The group has died whole: what it knew binds nobody.
    pub fn forget(&mut self) {
        let marks = std::mem::take(&mut self.marks);
        let replicas = u8::try_from(self.replicas.len()).expect("a group is small");
        *self = Self::new(replicas);
        self.marks = marks;
        self.is_of_second_group = true;
    }

    /// A new life of a replica begins, with what is in its view file.
    pub fn restarted(&mut self, id: ReplicaId) {
        let before = std::mem::replace(&mut self.replicas[usize::from(id.0)], Seen::NOTHING);
        if self.members.contains(id) {
            self.forgetful.insert(id);
        }
        if before.role == Role::Primary {
            self.marks.hit(Mark::PrimaryRestarted);
        }
        if before.role == Role::Recovering {
            self.marks.hit(Mark::RestartedWhileRecovering);
        }
    }

    /// The view file of a replica is gone.
    pub fn wiped(&mut self, id: ReplicaId) {
        self.durable_views[usize::from(id.0)] = View::ZERO;
        self.members.remove(id);
        if !self.primaries.is_empty() {
            self.outside.insert(id);
        }
    }

    /// A record is durable, or a life begins with it.
    ///
    /// # Panics
    /// When it takes back what was remembered.
    pub fn remembered(&mut self, id: ReplicaId, record: &Record) {
        let durable = &mut self.durable_views[usize::from(id.0)];
        let view = record.view;
        assert!(
            view >= *durable,
            "{id:?} remembers {view:?}: it has been in {durable:?}"
        );
        *durable = view;
        if record.member {
            self.members.insert(id);
        }
    }

    /// A replica's turn has ended.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn turned(&mut self, replica: &Replica) {
        self.check_truth();
        let before = self.replicas[usize::from(replica.id().0)];
        let now = Seen::of(replica);
        if now.role == Role::Recovering {
            self.forgetful.insert(replica.id());
        } else {
            // It may have been a backup, and spoken as one, before it joined the view that it
            // may forget still.
            self.forgetful.remove(replica.id());
        }
        if now.role != Role::Outside && !self.may_speak(replica) {
            // What it has become it may forget: it counts once it can be told.
            return;
        }
        assert!(
            now.role == Role::Outside || !self.outside.contains(replica.id()),
            "{:?} has lost its memory and takes part",
            replica.id()
        );
        self.check_monotone(replica.id(), before, now);
        self.check_base(replica, before);
        if now.role != Role::Recovering {
            // What who recovers has is committed, and no part of the log of a view of its.
            self.check_log(replica, before, now);
        }
        self.check_memory(replica.id(), now);
        self.check_commits(replica, before, now);
        self.check_alike(replica, before, now);
        check_table(replica);
        if now.role == Role::Primary {
            self.check_primary(replica, before);
            self.check_window(replica, now);
        }
        self.mark(replica, before, now);
        self.replicas[usize::from(replica.id().0)] = now;
    }

    /// All that was sent so far is true.
    ///
    /// # Panics
    /// When it is not.
    pub(super) fn check_truth(&self) {
        if let Some(lie) = &self.lie {
            panic!("{lie}");
        }
    }

    /// What only rises, rises.
    fn check_monotone(&self, id: ReplicaId, before: Seen, now: Seen) {
        assert!(
            now.view >= before.view,
            "{id:?}: the view fell: {before:?}, {now:?}"
        );
        assert!(
            now.log_view >= before.log_view,
            "{id:?}: the log view fell: {before:?}, {now:?}"
        );
        assert!(
            now.commit >= before.commit,
            "{id:?}: the commit-number fell: {before:?}, {now:?}"
        );
        assert!(
            now.executed >= before.executed,
            "{id:?}: execution went back: {before:?}, {now:?}"
        );
        assert!(
            now.executed <= now.commit && now.commit <= now.op,
            "{id:?}: {now:?}"
        );
        let normal = matches!(now.role, Role::Primary | Role::Backup);
        assert!(now.log_view <= now.view, "{id:?}: {now:?}");
        assert!(!normal || now.log_view == now.view, "{id:?}: {now:?}");
    }

    /// Whether it remembers that it is a member, and in the view that it is in.
    fn may_speak(&self, replica: &Replica) -> bool {
        let durable = self.durable_views[usize::from(replica.id().0)];
        self.members.contains(replica.id()) && replica.view() <= durable
    }

    /// No life forgets the view that an earlier one was in, nor, once it takes part, what that
    /// acknowledged.
    fn check_memory(&self, id: ReplicaId, now: Seen) {
        let durable = self.durable_views[usize::from(id.0)];
        assert!(
            now.view >= durable || now.role == Role::Outside,
            "{id:?} has forgotten {durable:?}: {now:?}"
        );
        if matches!(now.role, Role::Outside | Role::Recovering) {
            return;
        }
        let acknowledged = self.acknowledged[usize::from(id.0)].last_key_value();
        if let Some((&view, &up_to)) = acknowledged {
            assert!(
                (now.log_view, now.op) >= (view, up_to),
                "{id:?} acknowledged {up_to:?} in {view:?} and has lost it: {now:?}"
            );
        }
    }

    /// What was cut off is committed, and there is a checkpoint of it. Who has that has it all.
    fn check_base(&mut self, replica: &Replica, before: Seen) {
        let base = replica.base();
        let newest = replica.checkpoint().map(|checkpoint| checkpoint.op());
        assert!(
            base == OpNumber::ZERO || newest >= Some(base),
            "{:?} has cut its log off at {base:?}, and its checkpoint is of {newest:?}",
            replica.id()
        );
        for number in before.op.0 + 1..=base.0 {
            let op = OpNumber(number);
            let (checksum, _) = *self
                .committed
                .get(number as usize - 1)
                .unwrap_or_else(|| panic!("{:?} has cut off {op:?}", replica.id()));
            *self.held.entry((op, checksum)).or_default() |= 1 << replica.id().0;
        }
        if let Some(&(checksum, _)) = (base.0 as usize)
            .checked_sub(1)
            .and_then(|index| self.committed.get(index))
        {
            assert_eq!(
                replica.checksum(base),
                Some(checksum),
                "{:?} has a checkpoint of another log",
                replica.id()
            );
        }
    }

    /// Any two fragments of the log of one view agree.
    fn check_log(&mut self, replica: &Replica, before: Seen, now: Seen) {
        // Within a view a log only grows; a log of a new view may differ from the old one above
        // what was committed.
        let has_recovered = before.role == Role::Recovering;
        let same_log = now.log_view == before.log_view && !has_recovered;
        assert!(
            !same_log || now.op >= before.op,
            "{:?}: a log shrank in its view",
            replica.id()
        );
        let first = if same_log { before.op } else { before.commit };
        let first = first.max(replica.base());
        let log = self.logs.entry(now.log_view).or_default();
        for number in first.0 + 1..=now.op.0 {
            let op = OpNumber(number);
            let checksum = checksum_at(replica, op);
            if number > 1 {
                let parent = replica.entry(op).map(Entry::parent);
                let chained = parent == Some(checksum_at(replica, OpNumber(number - 1)));
                assert!(chained, "{:?}: {op:?} does not follow", replica.id());
            }
            let known = *log.entry(op).or_insert(checksum);
            assert_eq!(
                known,
                checksum,
                "two logs of view {:?} differ at {op:?}; here: {:?}",
                now.log_view,
                replica.id()
            );
            *self.held.entry((op, checksum)).or_default() |= 1 << replica.id().0;
        }
    }

    /// What is committed is committed everywhere, for ever, and a quorum has had it.
    fn check_commits(&mut self, replica: &Replica, before: Seen, now: Seen) {
        for number in before.commit.0 + 1..=now.commit.0 {
            let op = OpNumber(number);
            if op < replica.base() {
                continue; // seen by `check_base`
            }
            let checksum = checksum_at(replica, op);
            if let Some(&(known, _)) = self.committed.get(number as usize - 1) {
                assert_eq!(
                    known,
                    checksum,
                    "{:?} committed another entry at {op:?}",
                    replica.id()
                );
                continue;
            }
            let holders = self
                .held
                .get(&(op, checksum))
                .copied()
                .unwrap_or(0)
                .count_ones();
            assert!(
                holders as usize >= self.quorum,
                "{:?} committed {op:?}, which only {holders} replicas have ever had",
                replica.id()
            );
            self.check_backed(replica.id(), op, before.log_view..=now.log_view);
            self.committed.push((checksum, now.log_view));
            let registration = replica
                .entry(op)
                .filter(|entry| entry.kind() == Kind::Register);
            self.sessions
                .extend(registration.map(|entry| (op, entry.client())));
        }
    }

    /// Whether a committed entry is executed follows from the log: all agree.
    fn check_alike(&mut self, replica: &Replica, before: Seen, now: Seen) {
        let executing = std::mem::take(&mut self.executing[usize::from(replica.id().0)]);
        for op in (before.executed.0 + 1..=now.executed.0).map(OpNumber) {
            let Some(entry) = replica.entry(op) else {
                continue;
            };
            let is_executed = executing.contains(&op);
            let known = *self.was_executed.entry(op).or_insert(is_executed);
            assert_eq!(
                known,
                is_executed,
                "{:?} does otherwise than others with {op:?}, of {:?}",
                replica.id(),
                entry.client()
            );
            if entry.kind() == Kind::Close {
                self.marks.hit(Mark::SessionClosed);
            }
        }
        if replica.evictions() > 0 {
            self.marks.hit(Mark::ClientEvicted);
        }
    }

    /// Whoever knows first that an entry is committed has counted acknowledgements.
    /// A turn may be of several views.
    fn check_backed(&self, id: ReplicaId, op: OpNumber, views: RangeInclusive<View>) {
        let others = self.acknowledged.iter().enumerate();
        let others = others.filter(|(other, _)| *other != usize::from(id.0));
        let backers = others
            .filter(|(_, acknowledged)| {
                let mut range = acknowledged.range(views.clone());
                range.any(|(_, &up_to)| up_to >= op)
            })
            .count();
        assert!(
            backers + 1 >= self.quorum,
            "{id:?} committed {op:?} in {views:?}, which {backers} others have acknowledged"
        );
    }

    /// A primary takes no more than may be uncommitted.
    fn check_window(&self, replica: &Replica, now: Seen) {
        let uncommitted = now.op.0 - now.commit.0;
        assert!(
            uncommitted <= replica.options().window,
            "{:?} has {uncommitted} uncommitted operations",
            replica.id()
        );
    }

    /// One primary a view, and its log holds everything that was committed in earlier ones.
    fn check_primary(&mut self, replica: &Replica, before: Seen) {
        let view = replica.view();
        match self.primaries.entry(view) {
            btree_map::Entry::Occupied(known) => {
                assert_eq!(*known.get(), replica.id(), "two primaries in {view:?}");
            }
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(replica.id());
                // A primary may be late, and its view overtaken: what was committed in later views
                // need not be there. Entries are chained: if one is there, so are those before it.
                let earlier = |&(_, in_view): &(Checksum, View)| in_view < view;
                if let Some(index) = self.committed.iter().rposition(earlier) {
                    let (checksum, last) = (self.committed[index].0, OpNumber(index as u64 + 1));
                    let held = replica.checksum(last);
                    assert!(
                        held == Some(checksum) || last < replica.base(),
                        "{view:?} began without committed {last:?}"
                    );
                }
                self.mark_new_view(replica, before);
            }
        }
    }

    /// A checkpoint was taken.
    ///
    /// # Panics
    /// When another one of the same operations is not the same.
    pub fn checkpointed(&mut self, replica: &Replica, checkpoint: &Checkpoint) {
        let (op, digest) = (checkpoint.op(), checkpoint.summary().digest);
        let known = *self.checkpoints.entry(op).or_insert(digest);
        assert_eq!(
            known,
            digest,
            "{:?} has taken another checkpoint of {op:?}",
            replica.id()
        );
        self.marks.hit(Mark::CheckpointTaken);
        if checkpoint.summary().header.view < replica.view() {
            self.marks.hit(Mark::CheckpointAcrossViews);
        }
    }

    /// A checkpoint was fetched and restored.
    pub fn restored(&mut self, replica: &Replica) {
        self.marks.hit(Mark::CaughtUpByCheckpoint);
        let before = self.replicas[usize::from(replica.id().0)];
        if before.view < replica.view() || before.role != replica.role() {
            self.marks.hit(Mark::CheckpointOfNewerView);
        }
        if replica.role() == Role::Primary {
            self.marks.hit(Mark::NewPrimaryRestored);
        }
        if replica.checkpoint_counts().resumed > 0 {
            self.marks.hit(Mark::CheckpointResumed);
        }
    }

    /// How many operations are committed.
    pub fn commits(&self) -> u64 {
        self.committed.len() as u64
    }

    /// The highest view that had a primary.
    pub fn view(&self) -> u64 {
        self.primaries
            .last_key_value()
            .map_or(0, |(view, _)| view.0)
    }

    /// How many view changes there were.
    pub fn view_changes(&self) -> u64 {
        self.primaries.len().saturating_sub(1) as u64
    }

    /// The primary of the latest view, as far as it has begun.
    pub fn primary(&self) -> Option<ReplicaId> {
        self.primaries.last_key_value().map(|(_, id)| *id)
    }

    /// The highest view that a replica has joined durably.
    pub fn joined(&self, id: ReplicaId) -> u64 {
        self.durable_views[usize::from(id.0)].0
    }

    /// What a replica does, as last seen.
    pub fn role(&self, id: ReplicaId) -> Role {
        self.replicas[usize::from(id.0)].role
    }

    /// Whether a replica says that too many have lost their memory.
    pub fn has_lost_memory(&self, id: ReplicaId) -> bool {
        let waiting = self.replicas[usize::from(id.0)].waiting;
        matches!(waiting, Some(WaitingReason::MemoryLost { .. }))
    }

    /// The last entry of a replica's log, as last seen.
    pub fn op(&self, id: ReplicaId) -> OpNumber {
        self.replicas[usize::from(id.0)].op
    }

    /// How far a replica has executed, as last seen.
    pub fn executed(&self, id: ReplicaId) -> OpNumber {
        self.replicas[usize::from(id.0)].executed
    }

    /// Whether a replica has caught up by a checkpoint, as last seen.
    pub fn has_restored(&self, id: ReplicaId) -> bool {
        self.replicas[usize::from(id.0)].restored > 0
    }

    /// Whether these replicas are normal in one view and have executed everything committed.
    pub fn have_converged(&self, replicas: impl Iterator<Item = ReplicaId>) -> bool {
        let commits = OpNumber(self.commits());
        let mut view = None;
        replicas
            .map(|id| self.replicas[usize::from(id.0)])
            .all(|seen| {
                let normal = matches!(seen.role, Role::Primary | Role::Backup);
                normal && seen.executed == commits && *view.get_or_insert(seen.view) == seen.view
            })
    }

    /// Whether these replicas are members of the group.
    pub fn are_members(&self, mut replicas: impl Iterator<Item = ReplicaId>) -> bool {
        replicas.all(|id| self.replicas[usize::from(id.0)].role != Role::Outside)
    }

    /// Each replica's state in a line, for a report.
    pub fn table(&self) -> String {
        let line = |(id, seen): (usize, &Seen)| {
            let waiting = seen.waiting.map(|reason| format!("  {reason}"));
            format!(
                "replica {id}  {:<10}  view {:>3}  log view {:>3}  op {:>5}  commit {:>5}{}\n",
                format!("{:?}", seen.role),
                seen.view.0,
                seen.log_view.0,
                seen.op.0,
                seen.commit.0,
                waiting.unwrap_or_default()
            )
        };
        self.replicas.iter().enumerate().map(line).collect()
    }

    /// What the log of a view has at an op-number, as far as anyone has had it.
    pub(super) fn entry_of(&self, view: View, op: OpNumber) -> Option<Checksum> {
        let in_log = self.logs.get(&view).and_then(|log| log.get(&op)).copied();
        let index = usize::try_from(op.0).ok()?.checked_sub(1)?;
        in_log.or_else(|| self.committed.get(index).map(|&(checksum, _)| checksum))
    }
}

/// The client table is as large as the group allows and no larger.
fn check_table(replica: &Replica) {
    let (id, group) = (replica.id(), replica.configuration());
    let (clients, bytes) = (replica.clients(), replica.kept_reply_bytes());
    assert!(
        clients <= group.max_clients(),
        "{id:?} has {clients} clients"
    );
    assert!(
        bytes <= group.max_kept_bytes(),
        "{id:?} keeps {bytes} bytes of results"
    );
}

fn checksum_at(replica: &Replica, op: OpNumber) -> Checksum {
    let checksum = replica.checksum(op);
    checksum.unwrap_or_else(|| panic!("{:?} lacks its own {op:?}", replica.id()))
}

/// FNV-1a: results are compared by it, among friends.
pub(super) fn hash_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
