//! Prepares: to whom, and when (VRR §4.1, step 3).
//!
//! An entry is committed once f backups hold it. What the others are told before makes nothing
//! commit sooner, and costs two datagrams and a replica's sleep. So a thrifty primary
//! ([`Options::thrifty`](crate::Options)) sends a Prepare at once to f backups, those that were the
//! first to answer the last one, and keeps it back from the others until a datagram is full of
//! what they were not told, or until the caller, who knows the time, finds that they have waited
//! long enough ([`Replica::tell_others`]). A Prepare of many entries goes to all at once. (Moraru,
//! Andersen and Kaminsky, "There Is More Consensus in Egalitarian Parliaments", SOSP 2013, call it
//! thrifty to ask a quorum only.)
//!
//! Nothing rests on it: entries are committed by acknowledgements, as ever, and whoever lacks one
//! fetches it. If the first of what was kept back is not committed by then, those who were asked
//! are slow, or gone, or a Prepare was lost: everybody is asked at once, until a quorum has
//! answered again.

use super::{Replica, Role};
use crate::bug::Bug;
use crate::counters::Ignored;
use crate::effects::{Effects, Progress};
use crate::ids::OpNumber;
use crate::log::Entry;
use crate::message::{Message, Prepare};
use crate::quorum::ReplicaSet;

/// That part of a full Prepare is much: it is not worth being kept back and encoded again.
const MUCH: usize = 4;

/// What a primary has said of its log, and to whom.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// Up to where Prepares were emitted, to the nearest at least.
    pub(super) up_to: OpNumber,
    /// Up to where to all others, too.
    told: OpNumber,
    /// The entries between the two take so many bytes.
    kept_back_bytes: usize,
    /// The f backups that were the first to answer, the last time that a quorum did; nobody: any
    /// may be silent.
    nearest: ReplicaSet,
}

impl Prepared {
    /// A view begins, or ends, or the log is another: nothing is kept back from anyone.
    pub(super) fn begin(op: OpNumber) -> Self {
        Self {
            up_to: op,
            told: op,
            ..Self::default()
        }
    }

    /// What must hold between any two calls.
    pub(super) fn invariants(&self, op: OpNumber) {
        assert!(self.told <= self.up_to && self.up_to <= op);
        assert!(self.told == self.up_to || !self.nearest.is_empty());
    }
}

impl Replica {
    /// Who is asked first: f backups, or all of them while it is not known who answers.
    pub(super) fn asked_first(&self) -> ReplicaSet {
        let nearest = self.prepared.nearest;
        if nearest.len() == self.group.failures() {
            nearest
        } else {
            self.others()
        }
    }

    /// All replicas but us.
    pub(super) fn others(&self) -> ReplicaSet {
        let mut others = ReplicaSet::first(self.group.replica_count());
        others.remove(self.id);
        others
    }

    /// These have answered before others did, and are a quorum with us.
    pub(super) fn prefer(&mut self, nearest: ReplicaSet, effects: &mut Effects) {
        let is_quorum = nearest.len() == self.group.failures();
        if nearest == self.prepared.nearest || !is_quorum || self.abdicating {
            return;
        }
        // They may be among those from whom something was kept back.
        self.tell(effects);
        self.prepared.nearest = nearest;
    }

    /// A quorum has not answered in time: who is near is not known any more.
    fn ask_everybody(&mut self, effects: &mut Effects) {
        self.tell(effects);
        self.prepared.nearest = ReplicaSet::EMPTY;
    }

    /// One Prepare for all entries since the last flush, within the budget.
    pub(super) fn flush_prepares(&mut self, effects: &mut Effects) -> Progress {
        let (after, op) = (self.prepared.up_to, self.log.op());
        if self.abdicating || after == op {
            return Progress::NONE;
        }
        self.prepared.up_to = op;
        let bytes = self.log.bytes(after, op);
        let is_much = bytes >= self.options.prepare_budget_bytes / MUCH;
        if !self.options.thrifty || (is_much && self.prepared.told == after) {
            // Together with what comes next it would not fill many fewer datagrams.
            self.prepared.told = op;
            self.emit_prepares(self.others(), after, op, effects);
            return Progress::PREPARED;
        }
        let first = self.asked_first();
        self.emit_prepares(first, after, op, effects);
        if first == self.others() {
            self.prepared.told = op;
            return Progress::PREPARED;
        }
        self.prepared.kept_back_bytes += bytes;
        if self.prepared.kept_back_bytes >= self.options.prepare_budget_bytes {
            self.tell(effects);
        }
        Progress::PREPARED
    }

    /// The first entry that some backups were told and others were not. Once it has been the same
    /// for long enough, [`tell_others`](Self::tell_others) is due.
    pub fn first_kept_back(&self) -> Option<OpNumber> {
        let keeps_back = self.prepared.told < self.prepared.up_to;
        let speaks = self.role() == Role::Primary && !self.abdicating;
        (keeps_back && speaks).then(|| self.prepared.told.next())
    }

    /// A timeout: the others have waited long enough for what was kept back from them. Without it
    /// they would take the primary for dead.
    pub fn tell_others(&mut self, effects: &mut Effects) -> Progress {
        self.invariants();
        if self.first_kept_back().is_none() {
            return self.ignore(Ignored::WrongRole);
        }
        if self.commit <= self.prepared.told {
            self.ask_everybody(effects);
        } else {
            self.tell(effects);
        }
        self.invariants();
        Progress::NONE
    }

    /// Emits what was kept back, but what a checkpoint stands for by now.
    fn tell(&mut self, effects: &mut Effects) {
        let after = self.prepared.told.max(self.log.base());
        self.prepared.told = self.prepared.up_to;
        self.prepared.kept_back_bytes = 0;
        let kept_from = self.others().minus(self.prepared.nearest);
        self.emit_prepares(kept_from, after, self.prepared.up_to, effects);
    }

    /// Sends to some of the others.
    pub(super) fn emit(&self, to: ReplicaSet, message: &Message, effects: &mut Effects) {
        self.emit_own(to, message.clone(), effects);
    }

    /// As [`emit`](Self::emit), of a message that is long: nothing is copied for the last of them.
    fn emit_own(&self, to: ReplicaSet, message: Message, effects: &mut Effects) {
        if !to.is_empty() && to == self.others() {
            return effects.broadcast(message);
        }
        let mut rest = to;
        for id in to.iter() {
            rest.remove(id);
            if rest.is_empty() {
                return effects.send(id, message);
            }
            effects.send(id, message.clone());
        }
    }

    fn emit_prepares(
        &self,
        to: ReplicaSet,
        after: OpNumber,
        last: OpNumber,
        effects: &mut Effects,
    ) {
        let budget = self.options.prepare_budget_bytes;
        let (view, root, commit) = (self.view, self.root(), self.commit);
        let mut after = after;
        while after < last {
            let entries = self.log.page(after, last, budget);
            after = entries.last().expect("a page of a non-empty range").op();
            let prepare = Prepare {
                view,
                root,
                entries,
                commit,
            };
            self.emit_own(to, Message::Prepare(prepare), effects);
        }
    }

    /// A timeout: nothing was committed for a while. Prepares all that is uncommitted again;
    /// lost messages of the normal case are not re-sent in the paper.
    pub fn resend_prepares(&mut self, effects: &mut Effects) -> Progress {
        self.invariants();
        if self.role() != Role::Primary || self.abdicating {
            return self.ignore(Ignored::WrongRole);
        }
        if self.has(Bug::NoResendOfPrepares) {
            return Progress::NONE;
        }
        self.ask_everybody(effects);
        // A page of them, not all: once these are committed so is the time for the next. A full
        // window of long entries would drown the very backups that lag.
        let up_to = self.prepared.up_to;
        let after = self.commit.min(up_to);
        let page = self.log.page(after, up_to, self.options.page_budget_bytes);
        let last = page.last().map_or(after, Entry::op);
        self.emit_prepares(self.others(), after, last, effects);
        self.invariants();
        if after < last {
            Progress::PREPARED
        } else {
            Progress::NONE
        }
    }
}
