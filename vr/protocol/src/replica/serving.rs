//! Giving others what they lack: pages of the log (VRR §5.2), and pieces of a checkpoint.
//!
//! Both are bounded in time: there is a budget of bytes, which [`Replica::refill`] renews. While
//! any is left, one answer may be longer than that; one of several pages is paid off by as many
//! refills. Who asks meanwhile is remembered, with the last question only, and answered then. What
//! one is fetching is kept for as long as it goes on asking: the checkpoint that was offered, one
//! for all, and the log behind it.

use super::paging::{PAGES_MAX, Paging};
use super::{Replica, Role};
use crate::checkpoint::{Checkpoint, Summary};
use crate::counters::Ignored;
use crate::effects::{Effects, Progress};
use crate::ids::{Nonce, OpNumber, ReplicaId, View};
use crate::log::Entry;
use crate::message::{CheckpointChunk, GetCheckpoint, GetState, Message, NewState};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;

/// What is given to others, and how much of it at once.
#[derive(Debug)]
pub(super) struct Serving {
    /// How many bytes may be sent before the next refill.
    left: usize,
    /// How many were sent beyond that, and are to be paid off.
    owed: usize,
    /// What was asked when nothing was left.
    waiting: BTreeMap<ReplicaId, Question>,
    /// Who was answered last of those who had to wait.
    last: ReplicaId,
    /// How far those are who fetch from us.
    readers: BTreeMap<ReplicaId, Reader>,
    /// How far each has asked.
    asked: BTreeMap<ReplicaId, Asked>,
    /// The checkpoint that is being fetched, and refills since it was last asked for.
    offered: Option<(Rc<Checkpoint>, u32)>,
}

#[derive(Clone, Copy, Debug)]
enum Question {
    Entries(GetState),
    Piece(GetCheckpoint),
}

/// What somebody who fetches from us has asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// In which view, behind which entry, and how far in the checkpoint that ends there; the
    /// furthest.
    at: (View, OpNumber, u64),
    /// How often it has asked for the same since, or has begun again.
    in_vain: u8,
}

/// Who asks for the same so often again does not get on. Once may be the network's doing, which
/// has sent the question twice, or has lost the answer to it; and who has the last answer then may
/// read it for long.
const IN_VAIN_MAX: u8 = 4;

/// What follows a checkpoint is further than any piece of it.
const BEHIND: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
struct Reader {
    has: OpNumber,
    /// Refills since it last asked.
    idle: u32,
}

/// Less would be less than what goes with it.
const PIECE_BYTES_MIN: usize = 64;
/// Who has not asked during so many refills does not fetch any more. From far away one question
/// comes in a round trip, and takes up to four times as many.
const IDLE_REFILLS_MAX: u32 = 12;
const IDLE_FACTOR_MAX: u8 = 4;
/// An answer of several pages has no more bytes, so that it fits a message.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

impl Serving {
    pub(super) fn new(budget_bytes: usize) -> Self {
        Self {
            left: budget_bytes,
            owed: 0,
            waiting: BTreeMap::new(),
            last: ReplicaId(0),
            readers: BTreeMap::new(),
            asked: BTreeMap::new(),
            offered: None,
        }
    }

    /// What follows this entry may be asked for still.
    pub(super) fn needed(&self) -> OpNumber {
        let readers = self.readers.values().map(|reader| reader.has);
        let offered = self.offered.iter().map(|(checkpoint, _)| checkpoint.op());
        readers.chain(offered).min().unwrap_or(OpNumber(u64::MAX))
    }

    /// Those who fetch are too slow: they must begin again.
    pub(super) fn leave_behind(&mut self) {
        self.readers.clear();
        self.offered = None;
    }

    /// An answer is sent that is as long as so many pages. One page more than is left is for free:
    /// an entry of any length takes one refill, so that whoever fetches such entries gets on.
    fn spend(&mut self, bytes: usize, pages: u8, budget_bytes: usize) {
        let most = budget_bytes.saturating_mul(usize::from(pages.clamp(1, PAGES_MAX) - 1));
        self.owed += bytes.saturating_sub(self.left).min(most);
        self.left = self.left.saturating_sub(bytes);
    }

    /// So many bytes may be sent again, less what is owed.
    fn refill(&mut self, bytes: usize) {
        let paid = self.owed.min(bytes);
        self.owed -= paid;
        self.left = bytes - paid;
    }

    /// Who waits for an answer is fetching still.
    fn wait(&mut self, from: ReplicaId, question: Question) {
        if let Some(reader) = self.readers.get_mut(&from) {
            reader.idle = 0;
        }
        if let (Question::Piece(get), Some((offered, idle))) = (question, &mut self.offered)
            && get.summary == offered.summary()
        {
            *idle = 0;
        }
        self.waiting.insert(from, question);
    }

    fn note_reader(&mut self, id: ReplicaId, has: OpNumber) {
        self.readers.insert(id, Reader { has, idle: 0 });
    }

    /// Forgets those who do not ask any more.
    fn grow_older(&mut self, paging: &Paging) {
        let most = |pages: u8| IDLE_REFILLS_MAX * u32::from(pages.min(IDLE_FACTOR_MAX));
        for reader in self.readers.values_mut() {
            reader.idle += 1;
        }
        self.readers
            .retain(|&id, reader| reader.idle < most(paging.most(id)));
        if let Some((_, idle)) = &mut self.offered {
            *idle += 1;
        }
        let farthest = most(paging.most_of_all());
        self.offered.take_if(|(_, idle)| *idle >= farthest);
    }
}

impl Replica {
    /// A periodic timeout: others may be given as much as the budget says again. Answers those who
    /// had to wait.
    pub fn refill(&mut self, effects: &mut Effects) {
        self.invariants();
        self.serving.refill(self.options.transfer_budget_bytes);
        self.serving.grow_older(&self.paging);
        while self.serving.left > 0 {
            let waiting = &mut self.serving.waiting;
            let after = waiting.keys().copied().find(|id| *id > self.serving.last);
            let next = after.or_else(|| waiting.keys().copied().next());
            let Some((from, question)) = next.and_then(|id| waiting.remove_entry(&id)) else {
                break;
            };
            self.serving.last = from;
            self.answer(from, question, effects);
        }
        self.invariants();
    }

    /// VRR §5.2: another replica lacks entries.
    pub(super) fn on_get_state(
        &mut self,
        from: ReplicaId,
        get: GetState,
        effects: &mut Effects,
    ) -> Progress {
        let progress = self.hear_reader(from, (get.view, get.after, BEHIND));
        self.answer_or_wait(from, Question::Entries(get), effects);
        progress
    }

    /// Another replica fetches a checkpoint.
    pub(super) fn on_get_checkpoint(
        &mut self,
        from: ReplicaId,
        get: GetCheckpoint,
        effects: &mut Effects,
    ) -> Progress {
        let progress = self.hear_reader(from, (get.view, get.summary.op, get.offset));
        self.answer_or_wait(from, Question::Piece(get), effects);
        progress
    }

    /// Who fetches the log of the view that we lead is about to follow it: there is no reason to
    /// stop leading, as there would be if nobody answered. A question is an answer if it is the
    /// first one of this view, of which its sender has heard then, or further than all before, so
    /// that these were answered. Whoever asks the same again may be one that hears nothing, and
    /// whoever begins again may do so for ever: they would have us lead although nobody follows.
    fn hear_reader(&mut self, from: ReplicaId, at: (View, OpNumber, u64)) -> Progress {
        if at.0 != self.view || self.role() != Role::Primary {
            return Progress::NONE;
        }
        let asked = &mut self.serving.asked;
        match asked.get_mut(&from).filter(|asked| asked.at >= at) {
            Some(asked) => {
                // A question for an earlier piece is late: whoever begins again asks for entries.
                let again = at == asked.at || at.2 == BEHIND;
                asked.in_vain = asked.in_vain.saturating_add(u8::from(again));
                Progress::NONE
            }
            None => {
                asked.insert(from, Asked { at, in_vain: 0 });
                self.hear_follower(from)
            }
        }
    }

    /// Whether somebody has what it asked us for, as far as we know: it may be reading it now, or
    /// have the rest from another. If it had not, it would ask again and again.
    pub(super) fn gets_on(&self, id: ReplicaId) -> bool {
        let asked = self.serving.asked.get(&id);
        asked.is_some_and(|asked| asked.at.0 == self.view && asked.in_vain < IN_VAIN_MAX)
    }

    fn answer_or_wait(&mut self, from: ReplicaId, question: Question, effects: &mut Effects) {
        if self.serving.left == 0 {
            self.serving.wait(from, question);
        } else {
            self.answer(from, question, effects);
        }
    }

    fn answer(&mut self, from: ReplicaId, question: Question, effects: &mut Effects) {
        let refused = match question {
            Question::Entries(get) => self.answer_get_state(from, get, effects),
            Question::Piece(get) => self.answer_get_checkpoint(from, get, effects),
        };
        if let Err(reason) = refused {
            self.counters.count(reason);
        }
    }

    fn spend(&mut self, bytes: usize, pages: u8) {
        let budget_bytes = self.options.transfer_budget_bytes;
        self.serving.spend(bytes, pages, budget_bytes);
    }

    /// How long an answer of so many pages may be.
    fn answer_bytes(&self, pages: u8) -> usize {
        let page = self.options.page_budget_bytes;
        let all = page.saturating_mul(usize::from(pages.clamp(1, PAGES_MAX)));
        all.min(page.max(ANSWER_BYTES_MAX))
    }

    /// Only a replica of the same view answers. Between views the log is frozen, and who asks can
    /// verify it.
    fn answer_get_state(
        &mut self,
        from: ReplicaId,
        get: GetState,
        effects: &mut Effects,
    ) -> Result<(), Ignored> {
        let GetState {
            view,
            after,
            checksum,
            nonce,
            pages,
        } = get;
        if view < self.view {
            return Err(Ignored::OldView);
        }
        if view > self.view {
            return Err(Ignored::CannotServe);
        }
        if after < self.log.base() {
            return self.offer(from, nonce, after, effects);
        }
        if self.log.checksum(after) != Some(checksum) {
            return Err(Ignored::CannotServe);
        }
        self.serving.note_reader(from, after);
        let (op, commit) = (self.log.op(), self.commit);
        let entries = self.log.page(after, op, self.answer_bytes(pages));
        self.spend(entries.iter().map(Entry::size).sum(), pages);
        let page = NewState {
            view,
            nonce,
            entries,
            op,
            commit,
        };
        effects.send(from, Message::NewState(page));
        Ok(())
    }

    /// What is asked for is cut off: there is a checkpoint instead. One that somebody fetches
    /// already, if it helps.
    fn offer(
        &mut self,
        to: ReplicaId,
        nonce: Nonce,
        after: OpNumber,
        effects: &mut Effects,
    ) -> Result<(), Ignored> {
        let offered = self.serving.offered.take();
        let offered = offered.map(|(checkpoint, _)| checkpoint);
        let helps = |checkpoint: &Rc<Checkpoint>| checkpoint.op() > after;
        let offered = offered.filter(helps);
        let checkpoint = offered.or_else(|| self.checkpoints.newest().cloned().filter(helps));
        let checkpoint = checkpoint.ok_or(Ignored::CannotServe)?;
        let summary = checkpoint.summary();
        self.serving.note_reader(to, summary.op);
        self.serving.offered = Some((checkpoint, 0));
        self.send_piece(to, nonce, summary, 0, Rc::from([]), effects);
        Ok(())
    }

    /// A checkpoint of this digest is the same wherever it comes from, and in whatever view. If
    /// there is none, there may be another.
    fn answer_get_checkpoint(
        &mut self,
        from: ReplicaId,
        get: GetCheckpoint,
        effects: &mut Effects,
    ) -> Result<(), Ignored> {
        let GetCheckpoint {
            view,
            nonce,
            summary,
            offset,
            pages,
        } = get;
        let offered = self.serving.offered.iter().map(|(offered, _)| offered);
        let mut known = offered.chain(self.checkpoints.newest());
        let Some(checkpoint) = known.find(|known| known.summary() == summary).cloned() else {
            if view != self.view {
                return Err(Ignored::CannotServe);
            }
            // Whoever asks has nothing of what this one covers, or will not use it.
            return self.offer(from, nonce, OpNumber::ZERO, effects);
        };
        let piece_bytes = self.answer_bytes(pages).max(PIECE_BYTES_MIN);
        let bytes: Rc<[u8]> = checkpoint.bytes(offset, piece_bytes).into();
        if bytes.is_empty() {
            return Err(Ignored::Inconsistent);
        }
        self.serving.note_reader(from, summary.op);
        self.serving.offered = Some((checkpoint, 0));
        self.spend(bytes.len(), pages);
        self.send_piece(from, nonce, summary, offset, bytes, effects);
        Ok(())
    }

    fn send_piece(
        &self,
        to: ReplicaId,
        nonce: Nonce,
        summary: Summary,
        offset: u64,
        bytes: Rc<[u8]>,
        effects: &mut Effects,
    ) {
        let view = self.view;
        effects.send(
            to,
            Message::CheckpointChunk(CheckpointChunk {
                view,
                nonce,
                summary,
                offset,
                bytes,
            }),
        );
    }
}
