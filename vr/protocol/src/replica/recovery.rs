//! Recovery of a member that has lost its memory (VRR §4.3), made safe by a durable view-number.
//!
//! A replica that is restarted has a [`Record`] and nothing else: of which group it is, and the
//! highest view that it has joined. It asks all others for the rest, under a nonce that no life
//! of it has used, and until it is normal again it votes for, acknowledges and answers nothing:
//!
//! 1. Normal replicas answer with their view; the primary of it adds the end of its log. Who is
//!    in an earlier view than the one that is told joins that: a quorum had voted for it.
//! 2. When f+1 others have answered, the highest view among them is not below our own, and its
//!    primary is among them, we adopt the number of that view, *and write it down*; then we
//!    fetch the log up to the end that the primary told, as anyone who enters a view does. With
//!    its last entry we are a backup of that view.
//! 3. If that takes too long, since the view has moved on or would be our own, we begin again,
//!    under another nonce. What was fetched and is committed we keep.
//!
//! *Why the paper's way is not enough.* It argues that nobody needs to remember its view, since
//! f others know it when a view changes. But a StartViewChange and a DoViewChange of a life that
//! has ended may be under way still, and promise what the next life has forgotten. Of three
//! replicas, 2 sends 1 what it brings into view 1, an empty log; the message is held up; 2 is
//! restarted, recovers in view 0, and acknowledges an operation there, which is committed and
//! answered. Now the old message reaches 1, which has missed the operation: two of three begin
//! view 1 without it (Michael et al., DISC 2017; trace V2 in the tests).
//!
//! *Why this is.* Two promises bind all lives of a replica together.
//! (a) *Who has brought its log into view v acknowledges nothing in an earlier view.* Before a
//! DoViewChange for v leaves, v is durable; a later life tells it, and comes back in a view that
//! is not below it. In the trace, 2 comes back in view 1 or later, or not yet.
//! (b) *What it brings into a view has all that it has acknowledged, or comes from a later view.*
//! Say it acknowledged entry n in view w, was restarted, and is normal again in view v. Since w
//! was durable, v >= w. If v = w, the primary of v had n when it was acknowledged, and it
//! answers a question that was asked later: n is in the log that we fetch. If v > w, (b) speaks
//! of the log of v, which is later.
//! From these two follows what a view change relies on, as if nobody had ever lost its memory: a
//! quorum that acknowledged n in w, in whatever lives, and a quorum that began v > w share a
//! replica; it acknowledged before it brought its log into v, by (a), so that log has n, or is of
//! a view between, which has n by the same argument; and the best log is no worse.
//!
//! A view is led by one life only: who recovers is never the primary of the view it recovers
//! into. Acknowledgements of a life that has ended may be counted still, since whoever gave them
//! comes back with what it acknowledged or not at all. A vote, on the other hand, promises
//! nothing: it may name a view above the durable one, and be forgotten.
//!
//! The f+1 answers are the paper's. With a durable view they are not needed for safety; they
//! keep a replica from recovering into a view that the others have left.
//!
//! *What it costs.* One write of a small file for each view that is joined, none in normal
//! operation. If more than f have lost their memory at once there are no f+1 normal replicas, and
//! nobody recovers, for ever: [`WaitingReason::MemoryLost`] says so (trace V3).

use super::state_transfer::Transfer;
use super::{Replica, Status, WaitingReason};
use crate::bug::Bug;
use crate::counters::Ignored;
use crate::effects::{Effects, Progress};
use crate::ids::{Nonce, ReplicaId, View};
use crate::log::Tail;
use crate::message::{Message, Recovery, RecoveryResponse};
use crate::quorum::ReplicaSet;
use alloc::collections::BTreeMap;

/// What a replica that has lost its memory has heard since it last began to ask.
#[derive(Debug)]
pub(super) struct Asking {
    nonce: Nonce,
    answers: BTreeMap<ReplicaId, Answer>,
    /// Others that have lost their memory too, or began with another: as last heard.
    lost: ReplicaSet,
}

#[derive(Clone, Debug)]
struct Answer {
    view: View,
    tail: Option<Tail>,
}

impl Asking {
    pub(super) fn new(nonce: Nonce) -> Self {
        Self {
            nonce,
            answers: BTreeMap::new(),
            lost: ReplicaSet::EMPTY,
        }
    }

    /// A replica has shown whether it has lost its memory.
    pub(super) fn note(&mut self, id: ReplicaId, lost: bool) {
        if lost {
            self.lost.insert(id);
        } else {
            self.lost.remove(id);
        }
    }

    /// The highest view that was told, if f+1 have answered.
    fn highest(&self, quorum: u8) -> Option<View> {
        let views = self.answers.values().map(|answer| answer.view);
        views
            .max()
            .filter(|_| self.answers.len() >= usize::from(quorum))
    }
}

/// As the one who has lost its memory.
impl Replica {
    /// A timeout: recovering, and nothing has come for a while. Begins to ask, or begins again:
    /// under a new nonce.
    pub fn begin_recovery(&mut self, effects: &mut Effects) -> Progress {
        self.invariants();
        if self.recovery.is_none() {
            return self.ignore(Ignored::WrongRole);
        }
        if self.transfer.as_ref().is_some_and(Transfer::is_restoring) {
            // All is here.
            return Progress::NONE;
        }
        self.keep_what_is_committed(effects);
        let nonce = self.nonces.fresh();
        let asking = self.recovery.as_mut().expect("it is recovering");
        asking.nonce = nonce;
        asking.answers.clear();
        self.ask_for_memory(effects);
        self.invariants();
        Progress::NONE
    }

    /// VRR §4.3, step 1. Asked again under the same nonce while nothing is fetched: an answer to
    /// the first is as good.
    pub(super) fn ask_for_memory(&self, effects: &mut Effects) {
        let Some(asking) = &self.recovery else {
            return;
        };
        if self.transfer.is_none() {
            let (view, root, nonce) = (self.view, self.root(), asking.nonce);
            effects.broadcast(Message::Recovery(Recovery { view, root, nonce }));
        }
    }

    /// Everything that comes while recovering. Most of it would be for a replica that can take
    /// part.
    pub(super) fn on_message_recovering(
        &mut self,
        from: ReplicaId,
        message: Message,
        effects: &mut Effects,
    ) -> Progress {
        let fetches = self.transfer.is_some();
        match message {
            Message::RecoveryResponse(response) => {
                self.on_recovery_response(from, response, effects)
            }
            Message::NewState(new) if fetches => self.on_new_state(from, new, effects),
            Message::CheckpointChunk(chunk) if fetches => {
                self.on_checkpoint_chunk(from, chunk, effects)
            }
            Message::Recovery(_) => {
                let asking = self.recovery.as_mut().expect("it is recovering");
                asking.note(from, true);
                self.ignore(Ignored::Recovering)
            }
            message @ (Message::StartViewChange(_)
            | Message::DoViewChange(_)
            | Message::StartView(_)
            | Message::Prepare(_)
            | Message::PrepareOk(_)
            | Message::Commit(_))
                if self.has(Bug::ForgetfulTakesPart) =>
            {
                self.on_member_message(from, message, effects)
            }
            Message::StartViewChange(_) | Message::DoViewChange(_) | Message::StartView(_) => {
                self.ignore(Ignored::Recovering)
            }
            Message::Prepare(_) | Message::PrepareOk(_) | Message::Commit(_) => {
                self.ignore(Ignored::Recovering)
            }
            Message::GetState(_) | Message::NewState(_) | Message::GetCheckpoint(_) => {
                self.ignore(Ignored::Recovering)
            }
            Message::CheckpointChunk(_) | Message::Round(_) | Message::RoundOk(_) => {
                self.ignore(Ignored::Recovering)
            }
            Message::Request(_) | Message::Reply(_) | Message::Hello(_) => {
                self.ignore(Ignored::NotForReplicas)
            }
            Message::Read(_) | Message::ReadReply(_) => self.ignore(Ignored::NotForReplicas),
            Message::GetView(_) | Message::NormalView(_) => self.ignore(Ignored::NotForReplicas),
        }
    }

    /// VRR §4.3, step 3.
    fn on_recovery_response(
        &mut self,
        from: ReplicaId,
        response: RecoveryResponse,
        effects: &mut Effects,
    ) -> Progress {
        let RecoveryResponse {
            view, nonce, tail, ..
        } = response;
        let any = self.has(Bug::RecoveryNonceIgnored);
        let asking = self.recovery.as_mut().expect("it is recovering");
        if asking.nonce != nonce && !any {
            return self.ignore(Ignored::StaleNonce);
        }
        asking.note(from, false);
        if tail.is_some() != (self.group.primary(view) == from) {
            return self.ignore(Ignored::Inconsistent);
        }
        if self.transfer.is_some() {
            return self.ignore(Ignored::Duplicate);
        }
        // The first answer is as good as the last, but for one of a later view.
        let known = asking.answers.get(&from).map(|answer| answer.view);
        if known.is_some_and(|known| known >= view) {
            return self.ignore(Ignored::Duplicate);
        }
        asking.answers.insert(from, Answer { view, tail });
        self.recover_if_told(effects)
    }

    /// With f+1 answers, of which one is from the primary of the highest view among them, and no
    /// earlier a view than we were in: that is where we go on.
    fn recover_if_told(&mut self, effects: &mut Effects) -> Progress {
        let asking = self.recovery.as_ref().expect("it is recovering");
        let highest = asking.highest(self.group.quorum());
        let Some(view) = highest.filter(|&view| view >= self.view) else {
            return Progress::NONE;
        };
        let primary = self.group.primary(view);
        if primary == self.id {
            // Nobody leads that view: the others will notice, and go on to the next.
            return Progress::NONE;
        }
        let tail = match asking.answers.get(&primary) {
            Some(Answer {
                view: told,
                tail: Some(tail),
            }) if *told == view => tail.clone(),
            _ if self.has(Bug::RecoveryWithoutPrimary) => self.log.tail(self.commit),
            _ => return Progress::NONE,
        };
        if view > self.view {
            self.set_view(view);
            self.remember_due = true;
            self.remember(effects);
        }
        let commit = tail.commit();
        self.adopt(primary, tail, commit, effects)
    }

    /// What was fetched in vain is kept as far as it is committed: so it is of every later view.
    fn keep_what_is_committed(&mut self, effects: &mut Effects) {
        let Some((common, suffix, commit)) = self.transfer.take().and_then(Transfer::into_fetched)
        else {
            return;
        };
        let committed = suffix.into_iter().take_while(|entry| entry.op() <= commit);
        self.log.replace_above(common, committed.collect());
        self.commit = self.commit.max(self.log.op());
        self.commit_heard = self.commit_heard.max(self.commit);
        self.in_flight = self.flying();
        self.apply_own(effects);
    }

    /// Why it has not recovered yet, if it is recovering.
    pub(super) fn reason_to_recover(&self) -> Option<WaitingReason> {
        let asking = self.recovery.as_ref()?;
        let mut lost = asking.lost;
        lost.insert(self.id);
        if lost.len() > self.group.failures() {
            return Some(WaitingReason::MemoryLost { lost });
        }
        let answered = asking.answers.keys().copied().collect();
        let needed = self.group.quorum();
        Some(WaitingReason::Recovering { answered, needed })
    }
}

/// As one who has not.
impl Replica {
    /// VRR §4.3, step 2. The answer leaves with the flush, once a turn.
    pub(super) fn on_recovery(
        &mut self,
        from: ReplicaId,
        recovery: Recovery,
        effects: &mut Effects,
    ) -> Progress {
        let Recovery { view, nonce, .. } = recovery;
        if view > self.view {
            // A quorum voted for a view that we have missed, as if its `joined` had come.
            return self.join(view, effects);
        }
        if self.status != Status::Normal && !self.has(Bug::RecoveryAnsweredBetweenViews) {
            let progress = self.look_past(from, effects);
            return progress | self.ignore(Ignored::NotNormal);
        }
        self.asked_by.insert(from, nonce);
        Progress::NONE
    }

    /// If the one that is to lead our view has lost its memory, the view cannot start: that is got
    /// from a view that runs. To wait would take as long as views are given, which is seconds after
    /// some have failed. Only who says it twice is believed: once it may be a late word of a life
    /// that has ended.
    fn look_past(&mut self, from: ReplicaId, effects: &mut Effects) -> Progress {
        if from != self.primary() || self.votes.of(self.id).is_some() {
            return Progress::NONE;
        }
        if !self.primary_recovers {
            self.primary_recovers = true;
            return Progress::NONE;
        }
        self.vote(effects)
    }

    pub(super) fn flush_recovery_responses(&mut self, effects: &mut Effects) {
        for (to, nonce) in core::mem::take(&mut self.asked_by) {
            let (view, root) = (self.view, self.root());
            let tail = (self.primary() == self.id).then(|| self.log.tail(self.commit));
            let response = RecoveryResponse {
                view,
                root,
                nonce,
                tail,
            };
            effects.send(to, Message::RecoveryResponse(response));
        }
    }
}
