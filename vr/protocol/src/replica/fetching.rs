//! Fetching a checkpoint, as part of a state transfer (`state_transfer.rs`).
//!
//! Who asks for entries that are cut off is offered a checkpoint, and pulls it a piece at a time:
//! asking for the next piece acknowledges the last one. What is here of it outlives the loss of
//! messages, the source, and the view: whoever has a checkpoint of that digest can go on giving
//! it. Nothing of it is used before all of it is here and has that digest, and in a view change
//! not before the log behind it is here, too (V15): the old log may hold the only other copy of
//! what was acknowledged above the checkpoint.
//!
//! A new primary that must fetch a checkpoint is far behind: others could lead sooner. It votes
//! for the next view, and fetches on: if nobody else can be primary, it will be.

use super::preparing::Prepared;
use super::state_transfer::{Front, Purpose, Stage, Transfer};
use super::{Replica, Role};
use crate::bug::Bug;
use crate::checkpoint::{Checkpoint, Incoming, Restore, Summary};
use crate::client_table::ClientTable;
use crate::counters::Ignored;
use crate::effects::{Effects, Progress};
use crate::ids::{OpNumber, ReplicaId, View};
use crate::message::{CheckpointChunk, GetCheckpoint, Message};
use crate::quorum::Acks;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// The checkpoint that is fetched, or was. There is one at most.
#[derive(Debug, Default)]
pub(super) enum Fetching {
    #[default]
    Nothing,
    Part(Incoming),
    /// All of it, and it is what was promised.
    Whole(Rc<Checkpoint>, ClientTable),
}

impl Fetching {
    fn summary(&self) -> Option<Summary> {
        match self {
            Self::Nothing => None,
            Self::Part(incoming) => Some(incoming.summary()),
            Self::Whole(checkpoint, _) => Some(checkpoint.summary()),
        }
    }
}

/// No log ever gets as far: who says so is a liar, and counting on from there would fail.
const OP_MAX: OpNumber = OpNumber(u64::MAX / 2);

/// Asking.
impl Replica {
    fn emit_get_checkpoint(&self, effects: &mut Effects) {
        let (Some(transfer), Fetching::Part(incoming)) = (&self.transfer, &self.fetching) else {
            return;
        };
        let Stage::Piece(from) = transfer.stage else {
            return;
        };
        let get = GetCheckpoint {
            view: self.view,
            nonce: transfer.nonce,
            summary: incoming.summary(),
            offset: incoming.len(),
            pages: self.paging.pages(from),
        };
        effects.send(from, Message::GetCheckpoint(get));
    }

    /// No piece has come from this replica: the next one may have it, too.
    pub(super) fn ask_another_for_piece(&mut self, silent: ReplicaId, effects: &mut Effects) {
        self.paging.asked_in_vain();
        let others = || self.group.replicas().filter(|&id| id != self.id);
        let next = others().find(|&id| id > silent).or(others().next());
        let transfer = self.transfer.as_mut().expect("a piece was asked for");
        transfer.stage = Stage::Piece(next.unwrap_or(silent));
        if let Fetching::Part(incoming) = &mut self.fetching {
            incoming.asked_in_vain();
        }
        self.emit_get_checkpoint(effects);
    }
}

/// Using the answer.
impl Replica {
    /// An offer, or a piece. Only the answer to our last question is used.
    pub(super) fn on_checkpoint_chunk(
        &mut self,
        from: ReplicaId,
        chunk: CheckpointChunk,
        effects: &mut Effects,
    ) -> Progress {
        let asked = self
            .transfer
            .as_ref()
            .filter(|transfer| transfer.stage != Stage::Restoring && transfer.nonce == chunk.nonce);
        let Some(stage) = asked.map(|transfer| transfer.stage) else {
            return self.ignore(Ignored::StaleNonce);
        };
        if chunk.bytes.is_empty() {
            return self.on_offer(from, chunk.view, chunk.summary, effects);
        }
        let Fetching::Part(incoming) = &mut self.fetching else {
            return self.ignore(Ignored::Inconsistent);
        };
        let is_it = matches!(stage, Stage::Piece(_)) && incoming.summary() == chunk.summary;
        if !is_it || !incoming.push(chunk.offset, &chunk.bytes) {
            return self.ignore(Ignored::Inconsistent);
        }
        self.checkpoints.count().resumed += u64::from(incoming.is_of_another(from));
        let is_whole = incoming.is_whole();
        self.paging.answered(from);
        self.next_stage(Stage::Piece(from));
        if self.role() == Role::CatchingUp && self.primary() != self.id {
            // The source is alive: there is no reason to go on.
            self.votes.withdraw(self.id);
        }
        if is_whole {
            return Progress::TRANSFERRED | self.verify(effects);
        }
        self.emit_get_checkpoint(effects);
        Progress::TRANSFERRED
    }

    /// What was asked for is cut off, or so is the checkpoint that was asked for; but there is
    /// this one. Its sender is in our view: what it covers is of the view's log.
    fn on_offer(
        &mut self,
        from: ReplicaId,
        view: View,
        summary: Summary,
        effects: &mut Effects,
    ) -> Progress {
        if view != self.view {
            return self.ignore(Ignored::OldView);
        }
        if !self.is_of_use(summary) {
            return self.ignore(Ignored::UselessCheckpoint);
        }
        if let Some(progress) = self.skip_what_we_have(summary, effects) {
            return progress;
        }
        let is_known = self.fetching.summary() == Some(summary);
        // An answer to a question for entries is the only way on: those are cut off.
        let transfer = self.transfer.as_ref().expect("it was asked for");
        let asks_for_piece = matches!(transfer.stage, Stage::Piece(_));
        let others = u32::from(self.group.failures()) * 2;
        match &self.fetching {
            Fetching::Whole(..) if is_known => return self.use_whole(effects),
            Fetching::Part(incoming) if is_known => {
                self.checkpoints.count().resumed += u64::from(incoming.len() > 0);
            }
            Fetching::Part(incoming)
                if asks_for_piece && incoming.is_preferred_to_that_of(from, others) =>
            {
                return self.ignore(Ignored::UselessCheckpoint);
            }
            Fetching::Nothing | Fetching::Part(_) | Fetching::Whole(..) => {
                self.fetching = Fetching::Part(Incoming::new(summary));
            }
        }
        self.next_stage(Stage::Piece(from));
        self.emit_get_checkpoint(effects);
        let is_late = self.role() == Role::CatchingUp && self.primary() == self.id;
        if is_late {
            return self.vote(effects);
        }
        Progress::NONE
    }

    /// Whether a checkpoint takes us further, on the log that we want.
    fn is_of_use(&self, summary: Summary) -> bool {
        let transfer = self.transfer.as_ref().expect("it was asked for");
        let (last, _) = self.transferred(transfer);
        let is_number = summary.op < OP_MAX && summary.len > 0;
        let is_ahead = is_number && summary.op > last && summary.op > self.applied;
        let is_of_log = match &transfer.purpose {
            Purpose::Gap => true,
            Purpose::Log { tail, .. } => {
                let fits = tail
                    .checksum(summary.op)
                    .is_none_or(|checksum| checksum == summary.header.checksum);
                // A view begins with what was brought; a primary that runs may be ahead of it.
                fits && (summary.op <= tail.op() || self.primary() != self.id)
            }
        };
        is_ahead && is_of_log
    }

    /// If our own log has the entry where the checkpoint ends, all up to there is the same.
    fn skip_what_we_have(&mut self, summary: Summary, effects: &mut Effects) -> Option<Progress> {
        if self.has(Bug::CheckpointDropsTail) {
            return None;
        }
        let transfer = self.transfer.as_mut()?;
        let Purpose::Log {
            common,
            behind: None,
            suffix,
            tail,
            commit,
        } = &mut transfer.purpose
        else {
            return None;
        };
        if self.log.header(summary.op) != Some(summary.header) {
            return None;
        }
        *common = summary.op;
        suffix.clear();
        if tail.op() <= summary.op {
            let (front, commit) = (Front::Common(summary.op), *commit);
            return Some(self.enter_with(front, Vec::new(), commit, effects));
        }
        self.next_stage(Stage::Entries);
        self.emit_get_state(effects);
        Some(Progress::TRANSFERRED)
    }

    fn next_stage(&mut self, stage: Stage) {
        let nonce = self.nonces.fresh();
        let transfer = self.transfer.as_mut().expect("there is a transfer");
        (transfer.stage, transfer.nonce) = (stage, nonce);
    }

    /// All is here. If it is not what was promised, the timeout begins again.
    fn verify(&mut self, effects: &mut Effects) -> Progress {
        let Fetching::Part(incoming) = core::mem::take(&mut self.fetching) else {
            unreachable!("a part became the whole");
        };
        let trusting = self.has(Bug::DigestIgnored);
        match incoming.finish(&self.group, self.incarnation, trusting) {
            Ok((checkpoint, table)) => {
                self.fetching = Fetching::Whole(Rc::new(checkpoint), table);
                self.use_whole(effects)
            }
            Err(_) => {
                self.checkpoints.count().bad += 1;
                self.forget_incoming();
                self.ignore(Ignored::BadCheckpoint)
            }
        }
    }

    /// Begins again, when the timeout expires.
    pub(super) fn forget_incoming(&mut self) {
        self.fetching = Fetching::Nothing;
        self.next_stage(Stage::Entries);
        let transfer = self.transfer.as_mut().expect("there is a transfer");
        if let Purpose::Log { behind, suffix, .. } = &mut transfer.purpose {
            *behind = None;
            suffix.clear();
        }
    }

    /// The checkpoint is here: the state machine reads it, or what follows it is fetched first.
    fn use_whole(&mut self, effects: &mut Effects) -> Progress {
        let Fetching::Whole(checkpoint, _) = &self.fetching else {
            unreachable!("it is here");
        };
        let transfer = self.transfer.as_mut().expect("there is a transfer");
        let is_all = match &mut transfer.purpose {
            Purpose::Gap => true,
            Purpose::Log {
                behind,
                suffix,
                tail,
                ..
            } => {
                suffix.clear();
                *behind = Some(Rc::clone(checkpoint));
                tail.op() <= checkpoint.op()
            }
        };
        if is_all || self.has(Bug::CheckpointDropsTail) {
            return self.order_restore(effects);
        }
        self.next_stage(Stage::Entries);
        self.emit_get_state(effects);
        Progress::NONE
    }

    /// Everything is here but the state.
    pub(super) fn order_restore(&mut self, effects: &mut Effects) -> Progress {
        self.next_stage(Stage::Restoring);
        let transfer = self.transfer.as_ref().expect("there is a transfer");
        let Fetching::Whole(checkpoint, _) = &self.fetching else {
            unreachable!("it is here");
        };
        effects.restore(Restore {
            checkpoint: Rc::clone(checkpoint),
            nonce: transfer.nonce,
        });
        Progress::NONE
    }

    /// The state is there: now the log is.
    pub(super) fn use_checkpoint(&mut self, effects: &mut Effects) -> Progress {
        let transfer = self.transfer.take().expect("there is a transfer");
        match transfer.purpose {
            Purpose::Gap => self.go_on_behind_checkpoint(effects),
            Purpose::Log { .. } if self.has(Bug::CheckpointDropsTail) => {
                self.drop_tail(transfer, effects)
            }
            Purpose::Log { suffix, commit, .. } => {
                self.enter_with(Front::Checkpoint, suffix, commit, effects)
            }
        }
    }

    /// [`Bug::CheckpointDropsTail`]: the old log ends with the checkpoint.
    fn drop_tail(&mut self, mut transfer: Transfer, effects: &mut Effects) -> Progress {
        let op = self.begin_behind_fetched();
        self.log.replace_above(op, Vec::new());
        (self.persisted, self.prepared) = (op, Prepared::begin(op));
        self.durable = self.durable.min(op);
        self.acks = Acks::default();
        self.in_flight = self.flying();
        let Purpose::Log {
            common,
            behind,
            tail,
            commit,
            ..
        } = &mut transfer.purpose
        else {
            unreachable!("a log is fetched");
        };
        if tail.op() <= op {
            let commit = *commit;
            return self.enter_with(Front::Common(op), Vec::new(), commit, effects);
        }
        (*common, *behind) = (op, None);
        self.transfer = Some(transfer);
        self.next_stage(Stage::Entries);
        self.emit_get_state(effects);
        Progress::NONE
    }

    /// Begins the log behind the checkpoint that was fetched.
    pub(super) fn begin_behind_fetched(&mut self) -> OpNumber {
        let Fetching::Whole(checkpoint, table) = core::mem::take(&mut self.fetching) else {
            unreachable!("it is here");
        };
        self.begin_behind(&checkpoint, table);
        checkpoint.op()
    }

    /// In the same view: what was missing is not missed any more.
    fn go_on_behind_checkpoint(&mut self, effects: &mut Effects) -> Progress {
        let op = self.begin_behind_fetched();
        self.in_flight = self.flying();
        self.persisted = self.persisted.max(op);
        self.persist_due = true;
        self.ack_due = true;
        self.take_early();
        let heard = self.commit_heard;
        Progress::COMMITTED | self.raise_commit(heard, effects) | self.fill_gap(effects)
    }

    /// Whether a checkpoint that is here takes us further still. In the same view our log may have
    /// grown past it meanwhile, and what it says is not believed against that.
    pub(super) fn leads_on(&self, transfer: &Transfer, summary: Summary) -> bool {
        let ours = self.log.header(summary.op).filter(|_| transfer.is_gap());
        summary.op > self.applied && ours.is_none_or(|ours| ours == summary.header)
    }

    /// Nobody restores a checkpoint that we do not want any more: what is missing still is asked
    /// for as if it had never been offered.
    pub(super) fn ask_again_if_overtaken(&mut self, effects: &mut Effects) {
        let (Some(transfer), Some(summary)) = (&self.transfer, self.fetching.summary()) else {
            return;
        };
        if !self.leads_on(transfer, summary) {
            self.forget_incoming();
            self.emit_get_state(effects);
        }
    }

    /// Forgets what was fetched and is not needed any more.
    pub(super) fn drop_useless(&mut self) {
        let useless = |summary: Summary| summary.op <= self.applied;
        if self.fetching.summary().is_some_and(useless) && self.transfer.is_none() {
            self.fetching = Fetching::Nothing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Draft;
    use crate::configuration::{Configuration, Options};
    use crate::effects::Effect;
    use crate::ids::{ClientId, Incarnation, RequestNumber};
    use crate::log::{Entry, Header, Kind};
    use crate::message::{Prepare, Request};

    fn backup() -> Replica {
        let group = Configuration::new(3).expect("odd");
        let mut replica = Replica::founding_member(ReplicaId(1), group, Options::default());
        let _progress = replica.flush(&mut Effects::new());
        replica
    }

    /// Entries 1 to 6 of view 0.
    fn entries(replica: &Replica) -> Vec<Entry> {
        let mut parent = replica.root();
        let entry = |op| {
            let request = Request {
                client: ClientId(7),
                session: OpNumber::ZERO,
                number: RequestNumber(op),
                kind: Kind::WalkIn,
                body: [].into(),
            };
            let entry = Entry::new(OpNumber(op), View::ZERO, parent, &request);
            parent = entry.checksum();
            entry
        };
        (1..=6).map(entry).collect()
    }

    fn prepare(replica: &mut Replica, entries: &[Entry], commit: u64) {
        let (view, root, mut effects) = (View::ZERO, replica.root(), Effects::new());
        let prepare = Prepare {
            view,
            root,
            entries: entries.to_vec(),
            commit: OpNumber(commit),
        };
        let _progress = replica.on_message(ReplicaId(0), Message::Prepare(prepare), &mut effects);
        while replica.next_to_apply().is_some() {
            replica.applied(&[], &mut effects);
        }
        let _progress = replica.flush(&mut effects);
    }

    /// Gives it a checkpoint that ends with entry 3, which is said to have this header.
    fn give_checkpoint(replica: &mut Replica, header: Header) -> Restore {
        let table = ClientTable::new(&replica.group, replica.incarnation).freeze();
        let owner = (ReplicaId(0), Incarnation(0));
        let mut draft = Draft::new(owner, OpNumber(3), header, table);
        while draft.write_clients(1024) {}
        draft.write_state(&[1]);
        let checkpoint = draft.finish();
        let mut effects = Effects::new();
        for bytes in [&[][..], checkpoint.bytes(0, 1 << 20)] {
            let chunk = CheckpointChunk {
                view: View::ZERO,
                nonce: replica.transfer.as_ref().expect("it asks").nonce,
                summary: checkpoint.summary(),
                offset: 0,
                bytes: bytes.into(),
            };
            let chunk = Message::CheckpointChunk(chunk);
            let _progress = replica.on_message(ReplicaId(0), chunk, &mut effects);
        }
        let last = effects.drain().last();
        let Some(Effect::Restore(restore)) = last else {
            panic!("all of it is here, and yet: {last:?}");
        };
        restore
    }

    /// It is missed no more, and nobody restores it: the transfer must not wait for that for ever.
    #[test]
    fn who_has_executed_past_a_checkpoint_while_it_was_read_asks_for_the_rest() {
        let mut replica = backup();
        let entries = entries(&replica);
        prepare(&mut replica, &entries[1..4], 6);
        let restore = give_checkpoint(&mut replica, entries[2].header());
        assert!(replica.is_wanted(&restore));
        prepare(&mut replica, &entries[..1], 6);
        assert_eq!(replica.applied, OpNumber(4));
        assert!(!replica.is_wanted(&restore));
        let mut effects = Effects::new();
        let _progress = replica.resend_get_state(&mut effects);
        let asks = |effect| {
            let Effect::Send { to, message } = effect else {
                return false;
            };
            let asks = matches!(message, Message::GetState(get) if get.after == OpNumber(4));
            asks && to == ReplicaId(0)
        };
        assert!(effects.drain().any(asks), "entries 5 and 6 are missing");
    }

    #[test]
    fn a_checkpoint_that_contradicts_what_has_come_meanwhile_is_not_wanted() {
        let mut replica = backup();
        let entries = entries(&replica);
        prepare(&mut replica, &entries[1..4], 2);
        prepare(&mut replica, &entries[5..], 2);
        let restore = give_checkpoint(&mut replica, entries[0].header());
        prepare(&mut replica, &entries[..1], 2);
        let known = (replica.applied, replica.log.op());
        assert_eq!(known, (OpNumber(2), OpNumber(4)));
        assert!(!replica.is_wanted(&restore));
    }
}
