//! Normal operation (VRR §4.1).

use super::preparing::Prepared;
use super::{Replica, Role, Status};
use crate::bug::Bug;
use crate::client_table::{RETURN_ADDRESS_BYTES_MAX, Seen};
use crate::counters::Ignored;
use crate::effects::{Effects, Progress};
use crate::ids::{ReplicaId, View};
use crate::log::{Entry, Kind, is_chained};
use crate::message::{Commit, Message, Outcome, Prepare, PrepareOk, Request};
use crate::quorum::ReplicaSet;

/// As the primary.
impl Replica {
    /// VRR §4.1, steps 2 and 3: append the request. The Prepare leaves with the flush.
    pub(super) fn on_request_as_primary(&mut self, request: Request, effects: &mut Effects) {
        if self.abdicating {
            // Silent, so that clients look for another primary, too.
            return self.counters.count(Ignored::Abdicating);
        }
        if request.kind == Kind::Query {
            // Reads come as reads.
            return self.counters.count(Ignored::Inconsistent);
        }
        let answer = match self.table.look(&request, &self.in_flight, self.applied) {
            Seen::Old => return self.counters.count(Ignored::OldRequest),
            Seen::InFlight => return self.counters.count(Ignored::InFlight),
            Seen::Repeated(outcome) => Some(outcome),
            Seen::Ended if self.has(Bug::EvictedExecuted) => self.refusal(&request),
            Seen::Ended => Some(self.refuse(Ignored::SessionEnded, Outcome::Evicted)),
            Seen::NoSession => Some(self.refuse(Ignored::NoSession, Outcome::NoSession)),
            Seen::New => self.refusal(&request),
        };
        if let Some(outcome) = answer {
            return self.reply(request.id(), outcome, effects);
        }
        let entry = Entry::new(self.log.op().next(), self.view, self.log.head(), &request);
        self.append(entry);
    }

    /// Why a new request is not taken, if so.
    fn refusal(&mut self, request: &Request) -> Option<Outcome> {
        let max_bytes = match request.kind {
            Kind::Register => RETURN_ADDRESS_BYTES_MAX,
            Kind::Operation | Kind::Close | Kind::WalkIn | Kind::Query => {
                self.options.max_body_bytes
            }
        };
        if request.body.len() > max_bytes {
            return Some(self.refuse(Ignored::TooLarge, Outcome::TooLarge));
        }
        let uncommitted = self.log.op().distance_from(self.commit);
        if uncommitted >= self.options.window {
            let busy = self.busy.refuse();
            return Some(self.refuse(Ignored::Busy, busy));
        }
        None
    }

    fn refuse(&mut self, reason: Ignored, outcome: Outcome) -> Outcome {
        self.counters.count(reason);
        outcome
    }

    pub(super) fn append(&mut self, entry: Entry) {
        self.in_flight.add(&entry);
        self.log.append(entry);
    }

    /// VRR §4.1, step 5: count the backups that hold an entry; each of them once.
    pub(super) fn on_prepare_ok(
        &mut self,
        from: ReplicaId,
        ok: PrepareOk,
        effects: &mut Effects,
    ) -> Progress {
        if ok.view < self.view {
            return self.ignore(Ignored::OldView);
        }
        if ok.view > self.view || self.role() != Role::Primary {
            return self.ignore(Ignored::NotPrimary);
        }
        if ok.op > self.log.op() {
            return self.ignore(Ignored::BeyondLog);
        }
        let is_ours = self.log.checksum(ok.op) == Some(ok.checksum);
        let is_cut_off = ok.op < self.log.base();
        if !is_ours && !is_cut_off && !self.has(Bug::AckWithoutChecksum) {
            return self.ignore(Ignored::Diverged);
        }
        let holder = if self.has(Bug::AckCountedWithoutId) {
            self.any_backup()
        } else {
            from
        };
        let before = self.acks.of(holder);
        if !is_cut_off {
            self.acks.acknowledge(holder, ok.op);
        }
        // What is cut off is committed, and cannot be compared: who acknowledges no more than that
        // is far behind, and no Prepare would help it; but it hears us. It must read a checkpoint,
        // and is on the way as long as it does not ask for the same again and again.
        let is_nearer = self.acks.of(holder) > before || (is_cut_off && self.gets_on(from));
        let heard = if is_nearer {
            self.hear_follower(from)
        } else {
            self.hear_backup(from)
        };
        let progress = heard | self.advance_commit(effects);
        if progress.contains(Progress::COMMITTED) {
            return progress | self.hear_quorum();
        }
        progress
    }

    /// A backup answers: it is normal in our view. While it lacks what waits to be committed that
    /// is not enough to go on leading (V9): there are paths on which all gets through but a
    /// Prepare, such as one on which datagrams of that length are lost.
    pub(super) fn hear_backup(&mut self, from: ReplicaId) -> Progress {
        let has_all = self.acks.of(from) == self.log.op() || self.commit == self.log.op();
        if has_all || self.has(Bug::AnyAnswerIsEnough) {
            self.hear_follower(from)
        } else {
            Progress::NONE
        }
    }

    /// A backup has acknowledged what it had not, or fetches the log of our view.
    pub(super) fn hear_follower(&mut self, from: ReplicaId) -> Progress {
        self.heard.insert(from);
        if self.heard.len() >= self.group.failures() {
            self.hear_quorum()
        } else {
            Progress::NONE
        }
    }

    /// As many follow us as it takes.
    fn hear_quorum(&mut self) -> Progress {
        self.heard = ReplicaSet::EMPTY;
        self.abdicating = false;
        self.votes.withdraw(self.id);
        Progress::HEARD_QUORUM
    }

    /// [`Bug::AckCountedWithoutId`]: the backup that has acknowledged least.
    fn any_backup(&self) -> ReplicaId {
        let backups = self.group.replicas().filter(|&id| id != self.id);
        let least = backups.min_by_key(|&id| self.acks.of(id));
        least.expect("a backup has acknowledged")
    }

    pub(super) fn advance_commit(&mut self, effects: &mut Effects) -> Progress {
        let less = u8::from(self.has(Bug::QuorumOfOneLess) && self.group.failures() > 0);
        let committed = self.acks.committed(self.group.quorum() - less);
        assert!(
            committed <= self.log.op(),
            "acknowledgements beyond the log are not counted"
        );
        self.busy.committed(committed.distance_from(self.commit));
        let progress = self.raise_commit(committed, effects);
        if progress.contains(Progress::COMMITTED) {
            let answered = |&id: &ReplicaId| self.acks.of(id) >= committed;
            let nearest = self.others().iter().filter(answered).collect();
            self.prefer(nearest, effects);
        }
        progress
    }

    /// VRR §4.1, step 6. A timeout: nothing was prepared for a while.
    pub fn heartbeat(&mut self, effects: &mut Effects) -> Progress {
        self.invariants();
        if self.role() != Role::Primary || self.abdicating {
            return self.ignore(Ignored::WrongRole);
        }
        let commit = Commit {
            view: self.view,
            root: self.root(),
            commit: self.commit,
        };
        effects.broadcast(Message::Commit(commit));
        self.invariants();
        Progress::NONE
    }
}

/// As a backup.
impl Replica {
    /// VRR §4.1, step 4: append in order; what comes too early waits.
    pub(super) fn on_prepare(
        &mut self,
        from: ReplicaId,
        prepare: Prepare,
        effects: &mut Effects,
    ) -> Progress {
        let Prepare {
            view,
            entries,
            commit,
            ..
        } = prepare;
        if entries.is_empty() || !is_chained(&entries) {
            return self.ignore(Ignored::Inconsistent);
        }
        if entries.iter().any(|entry| entry.view() > view) {
            return self.ignore(Ignored::Inconsistent);
        }
        let Some(progress) = self.hear_primary(from, view, effects) else {
            return Progress::NONE;
        };
        if self.status != Status::Normal {
            self.commit_early = self.commit_early.max(commit);
            self.keep_early(entries);
            return progress;
        }
        self.ack_due = true;
        self.take(entries);
        self.take_early();
        let progress = progress | self.raise_commit(commit, effects);
        progress | self.fill_gap(effects)
    }

    /// VRR §4.1, step 7: learn the commit-number of an idle primary.
    pub(super) fn on_commit(
        &mut self,
        from: ReplicaId,
        commit: Commit,
        effects: &mut Effects,
    ) -> Progress {
        let Some(progress) = self.hear_primary(from, commit.view, effects) else {
            return Progress::NONE;
        };
        if self.status != Status::Normal {
            self.commit_early = self.commit_early.max(commit.commit);
            return progress;
        }
        self.ack_due = true;
        let progress = progress | self.raise_commit(commit.commit, effects);
        progress | self.fill_gap(effects)
    }

    /// What a Prepare and a Commit have in common: the primary of `view` is normal and speaks.
    /// None if it must be ignored.
    pub(super) fn hear_primary(
        &mut self,
        from: ReplicaId,
        view: View,
        effects: &mut Effects,
    ) -> Option<Progress> {
        if view < self.view {
            self.counters.count(Ignored::OldView);
            return None;
        }
        if self.group.primary(view) != from {
            self.counters.count(Ignored::NotFromPrimary);
            return None;
        }
        let mut progress = Progress::HEARD_PRIMARY;
        if view > self.view {
            progress |= self.enter_view(view, effects);
            if self.has(Bug::TruncateAtGetState) && self.durable == self.persisted {
                self.forget_uncommitted();
            }
        }
        self.votes.withdraw(self.id);
        if self.role() == Role::ViewChange {
            self.ask_start_view(effects);
        }
        Some(progress)
    }

    /// [`Bug::TruncateAtGetState`]: cuts the log down to the commit-number.
    fn forget_uncommitted(&mut self) {
        self.log.replace_above(self.commit, alloc::vec::Vec::new());
        self.durable = self.durable.min(self.commit);
        self.persisted = self.durable;
        self.prepared = Prepared::begin(self.prepared.up_to.min(self.commit));
        self.acks = crate::quorum::Acks::default();
        self.in_flight = self.flying();
    }

    /// Appends what follows our log. The rest we have, or must wait.
    pub(super) fn take(&mut self, entries: alloc::vec::Vec<Entry>) {
        for entry in entries {
            if entry.op() > self.log.op().next() {
                self.keep_one_early(entry);
            } else if entry.op() < self.log.base() {
                // A checkpoint has it.
            } else if entry.op() <= self.log.op() {
                if self.log.checksum(entry.op()) != Some(entry.checksum()) {
                    return self.counters.count(Ignored::Diverged);
                }
            } else if entry.parent() == self.log.head() {
                self.append(entry);
            } else {
                return self.counters.count(Ignored::Diverged);
            }
        }
    }

    /// Appends the entries that came early and now follow the log.
    pub(super) fn take_early(&mut self) {
        while let Some(first) = self.early.first_entry() {
            if *first.key() > self.log.op().next() {
                return;
            }
            let entry = first.remove();
            if entry.op() <= self.log.op() {
                continue;
            }
            if entry.parent() != self.log.head() {
                self.early.clear();
                return self.counters.count(Ignored::Diverged);
            }
            self.append(entry);
        }
    }

    fn keep_early(&mut self, entries: alloc::vec::Vec<Entry>) {
        for entry in entries {
            self.keep_one_early(entry);
        }
    }

    fn keep_one_early(&mut self, entry: Entry) {
        if self.has(Bug::EarlyPreparesForgotten) {
            return;
        }
        let room = usize::try_from(self.options.window).unwrap_or(usize::MAX);
        if self.early.len() < room || self.early.contains_key(&entry.op()) {
            self.early.insert(entry.op(), entry);
        } else {
            self.counters.count(Ignored::BufferFull);
        }
    }

    /// VRR §4.1, step 4: one cumulative PrepareOk for the turn, for what is durable only.
    pub(super) fn flush_prepare_ok(&mut self, effects: &mut Effects) -> Progress {
        if !self.ack_due {
            return Progress::NONE;
        }
        self.ack_due = false;
        let (view, op) = (self.view, self.durable);
        let Some(checksum) = self.log.checksum(op) else {
            // A log that begins with a checkpoint was installed, and nothing of it is durable.
            assert!(op < self.log.base(), "what is durable is in the log");
            return Progress::NONE;
        };
        effects.send(
            self.primary(),
            Message::PrepareOk(PrepareOk { view, op, checksum }),
        );
        Progress::NONE
    }
}
