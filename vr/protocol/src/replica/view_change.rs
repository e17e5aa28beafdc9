//! View changes (VRR §4.2).
//!
//! A replica leaves its view only when a quorum has voted to: a replica that hears nobody cannot
//! disturb those that hear each other. Until then it serves its view. Once a quorum has voted,
//! one member of it joining is enough to take everyone along.

use super::preparing::Prepared;
use super::state_transfer::Front;
use super::{Replica, Role, Status};
use crate::bug::Bug;
use crate::counters::Ignored;
use crate::effects::{Effects, Progress};
use crate::ids::{OpNumber, ReplicaId, View};
use crate::log::Tail;
use crate::message::{DoViewChange, Message, StartView, StartViewChange};
use crate::quorum::{ReplicaSet, Votes};

/// What one replica brings into a view.
#[derive(Clone, Debug)]
pub(super) struct Brought {
    pub(super) log_view: View,
    pub(super) tail: Tail,
}

/// Leaving a view.
impl Replica {
    /// A timeout: the primary was silent. Votes to leave the view; the view is served on.
    pub fn suspect_primary(&mut self, effects: &mut Effects) -> Progress {
        self.invariants();
        if self.role() != Role::Backup {
            return self.ignore(Ignored::WrongRole);
        }
        self.vote(effects)
    }

    /// A timeout: the view has not started for a long while. Votes for a later one.
    pub fn give_up_view(&mut self, effects: &mut Effects) -> Progress {
        self.invariants();
        if self.status != Status::ViewChange {
            return self.ignore(Ignored::WrongRole);
        }
        self.vote(effects)
    }

    /// A timeout: the primary has not heard a quorum for a long while. It falls silent, so that
    /// those who hear it look for another, until it hears a quorum again.
    pub fn abdicate(&mut self, effects: &mut Effects) -> Progress {
        self.invariants();
        if self.role() != Role::Primary || self.group.failures() == 0 {
            return self.ignore(Ignored::WrongRole);
        }
        self.abdicating = true;
        self.heard = ReplicaSet::EMPTY;
        let progress = self.vote(effects);
        self.invariants();
        progress
    }

    /// A periodic timeout: forgets votes that were not renewed since the last time.
    pub fn expire_votes(&mut self) {
        self.invariants();
        self.votes.expire();
        self.invariants();
    }

    pub(super) fn vote(&mut self, effects: &mut Effects) -> Progress {
        if self.must_stay() {
            return self.ignore(Ignored::Promised);
        }
        let Some(next) = self.view.next() else {
            return self.ignore(Ignored::ViewExhausted);
        };
        let target = self
            .votes
            .highest()
            .map_or(next, |highest| highest.max(next));
        self.cast(target, effects);
        let progress = self.leave_if_agreed(effects);
        self.invariants();
        progress
    }

    fn cast(&mut self, view: View, effects: &mut Effects) {
        self.votes.cast(self.id, view);
        effects.broadcast(self.wish(view, false));
    }

    /// Between views, who has voted says so until the view starts: the others may have waited
    /// longer before they voted, and votes are forgotten that are not renewed.
    pub fn renew_vote(&mut self, effects: &mut Effects) {
        if let Some(view) = self.votes.of(self.id)
            && self.status == Status::ViewChange
            && !self.has(Bug::VoteNotRenewed)
        {
            self.cast(view, effects);
        }
    }

    fn wish(&self, view: View, joined: bool) -> Message {
        let root = self.root();
        Message::StartViewChange(StartViewChange { view, root, joined })
    }

    fn leave_if_agreed(&mut self, effects: &mut Effects) -> Progress {
        if self.must_stay() {
            return self.ignore(Ignored::Promised);
        }
        let agreed = if self.has(Bug::JoinOnOneVote) {
            self.votes.highest()
        } else {
            self.votes.agreed(&self.group)
        };
        match agreed {
            Some(view) if view > self.view => self.join(view, effects),
            Some(_) | None => Progress::NONE,
        }
    }

    /// VRR §4.2, step 1.
    pub(super) fn on_start_view_change(
        &mut self,
        from: ReplicaId,
        wish: StartViewChange,
        effects: &mut Effects,
    ) -> Progress {
        let StartViewChange { view, joined, .. } = wish;
        if view < self.view {
            return self.ignore(Ignored::OldView);
        }
        if view == self.view {
            return self.note_late_comer(from);
        }
        if joined {
            return self.join(view, effects);
        }
        self.votes.cast(from, view);
        // Who has voted follows the highest vote, so that votes meet.
        let follows = self.votes.of(self.id).is_some_and(|own| own < view);
        if follows && !self.must_stay() {
            self.cast(view, effects);
        }
        self.leave_if_agreed(effects)
    }

    /// Someone is still on its way into the view that we are in. However often it has said so,
    /// it is answered once a turn.
    fn note_late_comer(&mut self, from: ReplicaId) -> Progress {
        if self.role() != Role::Primary {
            return self.ignore(Ignored::Duplicate);
        }
        self.late.insert(from);
        Progress::NONE
    }

    pub(super) fn flush_start_views(&mut self, effects: &mut Effects) {
        for to in core::mem::take(&mut self.late).iter() {
            effects.send(to, self.present_view());
        }
    }

    /// The view that we lead, for who is not in it yet.
    fn present_view(&self) -> Message {
        let (view, root) = (self.view, self.root());
        let tail = self.log.tail(self.commit);
        Message::StartView(StartView { view, root, tail })
    }

    /// Enters a view that a quorum voted for, and says so.
    pub(super) fn join(&mut self, view: View, effects: &mut Effects) -> Progress {
        let progress = self.enter_view(view, effects);
        effects.broadcast(self.wish(view, true));
        self.emit_do_view_change(effects);
        progress | self.start_if_quorum(effects)
    }

    /// Adopts the number of a higher view, and has it remembered before anything is said in it.
    /// The log stays what it is: that of `log_view`.
    pub(super) fn enter_view(&mut self, view: View, effects: &mut Effects) -> Progress {
        assert!(view > self.view, "views only rise");
        assert!(!self.must_stay(), "a promise is kept");
        if self.has(Bug::LogViewRaisedOnAdopt) {
            self.log_view = self.view;
        }
        self.set_view(view);
        self.status = Status::ViewChange;
        self.votes.forget_up_to(view);
        self.votes.withdraw(self.id);
        self.brought.clear();
        self.primary_recovers = false;
        self.start_view_asked = false;
        self.transfer = None;
        self.early.clear();
        self.commit_early = OpNumber::ZERO;
        self.ack_due = false;
        self.abdicating = false;
        self.late = ReplicaSet::EMPTY;
        self.prepared = Prepared::begin(self.prepared.up_to);
        let all = self.has(Bug::UnconfirmedOutlivesView);
        self.reads.leave_view(self.applied, all);
        self.asked_by.clear();
        self.remember_due = !self.has(Bug::ViewNotRemembered);
        self.remember(effects);
        Progress::ROLE_CHANGED
    }

    /// VRR §4.2, step 2: brings the own log into the view.
    fn emit_do_view_change(&mut self, effects: &mut Effects) {
        let (view, mut log_view) = (self.view, self.log_view);
        let tail = self.log.tail(self.commit);
        if self.has(Bug::LogViewIsLastEntrysView) {
            log_view = tail.headers().last().expect("a tail is not empty").view;
        }
        if self.primary() == self.id {
            self.brought.insert(self.id, Brought { log_view, tail });
            return;
        }
        let root = self.root();
        let brought = DoViewChange {
            view,
            root,
            log_view,
            tail,
        };
        effects.send(self.primary(), Message::DoViewChange(brought));
    }

    /// A timeout: the view has not started. Says again that we are in it, what we bring, and,
    /// if we have given it up, where we would rather go.
    pub fn resend_view_change(&mut self, effects: &mut Effects) -> Progress {
        self.invariants();
        if self.status != Status::ViewChange {
            return self.ignore(Ignored::WrongRole);
        }
        effects.broadcast(self.wish(self.view, true));
        if self.primary() != self.id && !self.must_stay() {
            self.emit_do_view_change(effects);
        }
        self.renew_vote(effects);
        self.invariants();
        Progress::NONE
    }

    /// The view has started without us: asks its primary for the StartView, once; the timeout
    /// of the view change asks again.
    pub(super) fn ask_start_view(&mut self, effects: &mut Effects) {
        if self.start_view_asked {
            return;
        }
        self.start_view_asked = true;
        effects.send(self.primary(), self.wish(self.view, true));
    }
}

/// Starting a view.
impl Replica {
    /// VRR §4.2, step 3. Only what is brought into exactly this view is counted.
    pub(super) fn on_do_view_change(
        &mut self,
        from: ReplicaId,
        message: DoViewChange,
        effects: &mut Effects,
    ) -> Progress {
        let DoViewChange {
            view,
            log_view,
            tail,
            ..
        } = message;
        if view < self.view {
            return self.ignore(Ignored::OldView);
        }
        if log_view >= view {
            return self.ignore(Ignored::Inconsistent);
        }
        if self.group.primary(view) != self.id {
            return self.ignore(Ignored::NotPrimary);
        }
        let mut progress = Progress::NONE;
        if view > self.view {
            progress |= self.join(view, effects);
        }
        if self.status == Status::Normal {
            return progress | self.note_late_comer(from);
        }
        if self.brought.contains_key(&from) {
            return progress | self.ignore(Ignored::Duplicate);
        }
        self.brought.insert(from, Brought { log_view, tail });
        progress | self.start_if_quorum(effects)
    }

    /// VRR §4.2, step 3: with a quorum, takes the log of the highest last normal view, and of
    /// these the longest; and the highest commit-number.
    fn start_if_quorum(&mut self, effects: &mut Effects) -> Progress {
        let enough = self.brought.len() >= usize::from(self.group.quorum());
        if self.primary() != self.id || !enough || self.transfer.is_some() {
            return Progress::NONE;
        }
        assert!(self.brought.contains_key(&self.id), "we are of the quorum");
        let best = self.best_brought();
        let commit = self
            .brought
            .values()
            .map(|brought| brought.tail.commit())
            .max();
        let commit = commit.expect("a quorum is not empty");
        let tail = self.brought[&best].tail.clone();
        if best == self.id {
            if tail.op() < commit {
                return self.ignore(Ignored::Inconsistent);
            }
            let front = Front::Common(tail.op());
            return self.start_view(front, alloc::vec::Vec::new(), commit, effects);
        }
        self.adopt(best, tail, commit, effects)
    }

    /// Whose log becomes the view's. Of equal ones our own, then that of the lowest id.
    fn best_brought(&self) -> ReplicaId {
        let ranked = self.brought.iter().map(|(&id, brought)| {
            let Brought { log_view, tail } = brought;
            let lowest_first = core::cmp::Reverse(id);
            (*log_view, tail.op(), id == self.id, lowest_first)
        });
        let best = if self.has(Bug::StalestLogChosen) {
            ranked.min()
        } else {
            ranked.max()
        };
        best.expect("a quorum is not empty").3.0
    }

    /// VRR §4.2, step 4: the view's log is complete; the view starts with it.
    pub(super) fn start_view(
        &mut self,
        front: Front,
        suffix: alloc::vec::Vec<crate::log::Entry>,
        commit: OpNumber,
        effects: &mut Effects,
    ) -> Progress {
        let before = self.commit;
        self.install(front, suffix, commit);
        self.early.clear();
        self.votes = Votes::default();
        self.apply_own(effects);
        effects.broadcast(self.present_view());
        self.began_normal(before)
    }

    /// The role is another now, and the commit-number perhaps above what it was.
    fn began_normal(&self, commit_before: OpNumber) -> Progress {
        if self.commit > commit_before {
            Progress::ROLE_CHANGED | Progress::COMMITTED
        } else {
            Progress::ROLE_CHANGED
        }
    }

    /// VRR §4.2, step 5. A replica that is normal in the view has this log already, and has
    /// acknowledged more of it.
    pub(super) fn on_start_view(
        &mut self,
        from: ReplicaId,
        start: StartView,
        effects: &mut Effects,
    ) -> Progress {
        let StartView { view, tail, .. } = start;
        if view < self.view {
            return self.ignore(Ignored::OldView);
        }
        if self.group.primary(view) != from {
            return self.ignore(Ignored::NotFromPrimary);
        }
        let is_normal = view == self.view && self.status == Status::Normal;
        if is_normal && !self.has(Bug::StartViewWhileNormal) {
            return self.ignore(Ignored::AlreadyNormal);
        }
        if view == self.view && self.transfer.is_some() {
            return self.ignore(Ignored::Duplicate);
        }
        let mut progress = Progress::HEARD_PRIMARY;
        if view > self.view {
            progress |= self.enter_view(view, effects);
        }
        self.votes.withdraw(self.id);
        let commit = tail.commit();
        progress | self.adopt(from, tail, commit, effects)
    }

    /// The view's log is complete: follow its primary.
    pub(super) fn follow_view(
        &mut self,
        front: Front,
        suffix: alloc::vec::Vec<crate::log::Entry>,
        commit: OpNumber,
        effects: &mut Effects,
    ) -> Progress {
        let before = self.commit;
        self.install(front, suffix, commit);
        self.ack_due = true;
        self.apply_own(effects);
        self.take_early();
        // Entries that came early were sent because of this: without it more may seem to be
        // uncommitted than the window allows, and go into a further view change.
        let heard = self.commit_heard.max(self.commit_early);
        let progress = self.raise_commit(heard, effects) | self.fill_gap(effects);
        self.began_normal(before) | progress
    }
}
