//! What must be true of all replicas together. It sees their state and the replies; they never
//! see it.

use std::collections::{BTreeMap, BTreeSet};
use viewring_protocol::{
    Checkpoint, Checksum, ClientId, Digest, Entry, Kind, OpNumber, Outcome, PrepareOk, Record,
    Replica, ReplicaId, ReplicaSet, Reply, RequestNumber, Role, Status, View,
};

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    view: View,
    log_view: View,
    op: OpNumber,
    commit: OpNumber,
    executed: OpNumber,
    recovering: bool,
}

/// The history of one run.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    seen: BTreeMap<u8, Seen>,
    /// How far each has acknowledged a log, in any life: the last view in which it did.
    acknowledged: BTreeMap<u8, (View, OpNumber)>,
    /// The view that each has been told to remember, and has.
    remembered: BTreeMap<u8, View>,
    /// What was committed, and in which view that was first seen.
    committed: BTreeMap<OpNumber, (Checksum, View)>,
    logs: BTreeMap<(View, OpNumber), Checksum>,
    primaries: BTreeMap<View, u8>,
    executed: BTreeMap<(ClientId, RequestNumber), OpNumber>,
    executed_by: BTreeSet<(u8, ClientId, RequestNumber)>,
    results: BTreeMap<(ClientId, RequestNumber), Outcome>,
    states: BTreeMap<OpNumber, u64>,
    checkpoints: BTreeMap<OpNumber, Digest>,
}

impl Checker {
    /// A replica had its turn.
    pub(crate) fn observe(&mut self, all: &[&Replica], which: usize) {
        let replica = all[which];
        let before = self.seen.get(&replica.id().0).copied().unwrap_or_default();
        let now = Seen {
            view: replica.view(),
            log_view: replica.log_view(),
            op: replica.op(),
            commit: replica.commit(),
            executed: replica.executed(),
            recovering: replica.role() == Role::Recovering,
        };
        assert!(now.view >= before.view, "a view fell");
        assert!(now.log_view >= before.log_view, "a log view fell");
        assert!(now.commit >= before.commit, "a commit-number fell");
        assert!(now.executed >= before.executed, "an execution was undone");
        // What who recovers has is committed, and no part of the log of a view of its.
        if !now.recovering {
            self.one_log_per_view(replica, before, now);
            let acknowledged = self.acknowledged.get(&replica.id().0).copied();
            assert!(
                replica.group_checksum().is_none()
                    || acknowledged.unwrap_or_default() <= (now.log_view, now.op),
                "{} has lost what it acknowledged",
                replica.id()
            );
        }
        self.commit_agreement(all, replica, before, now);
        if replica.is_primary() {
            let first = *self.primaries.entry(now.view).or_insert(replica.id().0);
            assert_eq!(first, replica.id().0, "two primaries in view {}", now.view);
        }
        self.seen.insert(replica.id().0, now);
    }

    /// A record is durable.
    pub(crate) fn remembers(&mut self, id: ReplicaId, record: &Record) {
        let before = self.remembered.insert(id.0, record.view);
        assert!(before <= Some(record.view), "a durable view fell");
    }

    /// A life begins with its record: no view is forgotten.
    pub(crate) fn returned(&self, replica: &Replica) {
        let remembered = self.remembered.get(&replica.id().0).copied();
        assert!(
            replica.view() >= remembered.unwrap_or_default(),
            "forgotten"
        );
    }

    /// A replica acknowledges entries, once it could.
    pub(crate) fn acknowledges(&mut self, id: ReplicaId, ok: &PrepareOk) {
        let before = self.acknowledged.entry(id.0).or_default();
        *before = (*before).max((ok.view, ok.op));
    }

    /// A record is gone, too.
    pub(crate) fn wiped(&mut self, id: ReplicaId) {
        self.remembered.remove(&id.0);
    }

    /// A replica has lost its memory.
    pub(crate) fn forget(&mut self, id: ReplicaId) {
        self.seen.remove(&id.0);
        self.executed_by.retain(|(replica, ..)| *replica != id.0);
    }

    fn one_log_per_view(&mut self, replica: &Replica, before: Seen, now: Seen) {
        let same_log = before.log_view == now.log_view && !before.recovering;
        assert!(
            !same_log || now.op >= before.op,
            "a log was cut within its view"
        );
        let from = if same_log { before.op.0 } else { 0 };
        let from = from.max(replica.base().0);
        for op in (from..now.op.0).map(|op| OpNumber(op + 1)) {
            let checksum = checksum(replica, op);
            let first = *self.logs.entry((now.log_view, op)).or_insert(checksum);
            assert_eq!(
                first, checksum,
                "two logs of view {} differ at {op}",
                now.log_view
            );
        }
    }

    fn commit_agreement(&mut self, all: &[&Replica], replica: &Replica, before: Seen, now: Seen) {
        let base = replica.base();
        if base > OpNumber::ZERO {
            let committed = self.committed.get(&base).map(|(checksum, _)| *checksum);
            assert_eq!(
                replica.checksum(base),
                committed,
                "a checkpoint of another log"
            );
            let newest = replica.checkpoint().map(|checkpoint| checkpoint.op());
            assert!(
                newest >= Some(base),
                "a log was cut before there was a checkpoint"
            );
        }
        for op in (before.commit.0.max(base.0)..now.commit.0).map(|op| OpNumber(op + 1)) {
            let checksum = checksum(replica, op);
            let known = self.committed.get(&op).map(|(checksum, _)| *checksum);
            assert!(
                known.is_none_or(|known| known == checksum),
                "two entries committed at {op}"
            );
            if known.is_none() {
                self.committed.insert(op, (checksum, now.view));
                Self::committed_on_quorum(all, op, checksum);
            }
        }
        // Committed immutable: what a later view starts with contains it. (A late replica may
        // still install the log of an earlier view.)
        let is_new = before.log_view < now.log_view || before.recovering;
        if replica.status() == Status::Normal && is_new {
            for (op, (known, view)) in &self.committed {
                let kept = *op < replica.base() || replica.checksum(*op) == Some(*known);
                assert!(
                    kept || *view >= now.log_view,
                    "a committed entry was lost at {op}"
                );
            }
        }
    }

    fn committed_on_quorum(all: &[&Replica], op: OpNumber, checksum: Checksum) {
        // Copies that died with their replica count: it did acknowledge them.
        let holders = all
            .iter()
            .filter(|replica| op < replica.base() || replica.checksum(op) == Some(checksum));
        let holders: ReplicaSet = holders.map(|replica| replica.id()).collect();
        assert!(
            holders.len() >= all[0].configuration().quorum(),
            "{op} committed with {} copies",
            holders.len()
        );
    }

    /// A replica executes an entry.
    pub(crate) fn execute(&mut self, replica: u8, entry: &Entry) {
        assert_ne!(entry.kind(), Kind::Register);
        let request = (entry.client(), entry.number());
        let first = *self.executed.entry(request).or_insert(entry.op());
        assert_eq!(first, entry.op(), "{request:?} is executed at two places");
        let fresh = self.executed_by.insert((replica, request.0, request.1));
        assert!(fresh, "{request:?} is executed twice by {replica}");
        let committed = self
            .committed
            .get(&entry.op())
            .map(|(checksum, _)| *checksum);
        assert_eq!(committed, Some(entry.checksum()), "not committed");
    }

    /// A replica has executed everything up to `op`, or has it by a checkpoint.
    pub(crate) fn state(&mut self, op: OpNumber, id: ReplicaId, state: u64) {
        let first = *self.states.entry(op).or_insert(state);
        assert_eq!(first, state, "{id} has another state at {op}");
    }

    /// A replica has taken a checkpoint.
    pub(crate) fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        let (op, digest) = (checkpoint.op(), checkpoint.summary().digest);
        let first = *self.checkpoints.entry(op).or_insert(digest);
        assert_eq!(first, digest, "two checkpoints differ at {op}");
    }

    /// A replica answers a client.
    pub(crate) fn reply(&mut self, reply: &Reply) {
        match &reply.outcome {
            Outcome::Result(_) | Outcome::Registered { .. } | Outcome::ResultTooLarge => {}
            Outcome::NotPrimary | Outcome::Busy { .. } | Outcome::NoSession => return,
            Outcome::TooLarge | Outcome::Evicted => return,
        }
        let request = (reply.client, reply.number);
        let first = self
            .results
            .entry(request)
            .or_insert_with(|| reply.outcome.clone());
        assert_eq!(*first, reply.outcome, "{request:?} has two results");
        if let Outcome::Result(_) = reply.outcome {
            assert!(
                self.executed.contains_key(&request),
                "a reply without execution"
            );
        }
    }

    /// At the end: all who live have everything that was ever committed.
    pub(crate) fn converged(&self, live: &[&Replica]) {
        for replica in live {
            let last = self
                .committed
                .keys()
                .next_back()
                .copied()
                .unwrap_or_default();
            assert!(
                replica.commit() >= last,
                "{} lacks committed entries",
                replica.id()
            );
            for (op, (known, _)) in self.committed.range(replica.base()..) {
                assert_eq!(checksum(replica, *op), *known, "{} lost {op}", replica.id());
            }
        }
    }
}

fn checksum(replica: &Replica, op: OpNumber) -> Checksum {
    replica.checksum(op).expect("the log holds what it counts")
}
