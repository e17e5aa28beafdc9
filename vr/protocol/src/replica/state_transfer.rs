//! State transfer (VRR §5.2): fetching entries of the own view, and the log of a newer one.
//!
//! A replica that is behind within its view appends what it gets. A replica that enters a view
//! collects that view's log *beside* its own, from the last entry that both have, and installs
//! it at once when it is complete: until then its old log is all that it has to bring into a
//! further view change, and it may hold the only other copy of a committed entry.
//!
//! What is asked for may be cut off. Then a checkpoint is fetched first (`fetching.rs`), and what
//! follows it. It is not used before everything is here, for the same reason.

use super::{Replica, Role, Status};
use crate::bug::Bug;
use crate::checkpoint::{Checkpoint, Restore};
use crate::counters::Ignored;
use crate::effects::{Effects, Progress};
use crate::ids::{Checksum, Incarnation, Nonce, OpNumber, ReplicaId};
use crate::log::{Entry, Tail, is_chained};
use crate::message::{GetState, Message, NewState};
use alloc::rc::Rc;
use alloc::vec::Vec;
use xxhash_rust::xxh3::xxh3_64;

/// Nonces that no earlier life of this replica has used.
#[derive(Debug)]
pub(super) struct Nonces {
    incarnation: Incarnation,
    count: u64,
}

impl Nonces {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            count: 0,
        }
    }

    pub(super) fn fresh(&mut self) -> Nonce {
        self.count = self.count.wrapping_add(1);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.count.to_le_bytes());
        Nonce(xxh3_64(&bytes))
    }
}

/// Entries that are being fetched.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) source: ReplicaId,
    pub(super) nonce: Nonce,
    pub(super) purpose: Purpose,
    pub(super) stage: Stage,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A page of entries.
    Entries,
    /// A piece of a checkpoint, from this replica.
    Piece(ReplicaId),
    /// The state machine, to read the checkpoint.
    Restoring,
}

#[derive(Debug)]
pub(super) enum Purpose {
    /// Normal: what is missing of the own view's log, to be appended.
    Gap,
    /// Between views: the log that the view starts or has started with.
    Log {
        /// The last entry of our log that is of it.
        common: OpNumber,
        /// A checkpoint to begin with instead.
        behind: Option<Rc<Checkpoint>>,
        /// What follows in it, as far as it is here.
        suffix: Vec<Entry>,
        /// What it must end like.
        tail: Tail,
        /// What is known to be committed of it.
        commit: OpNumber,
    },
}

impl Transfer {
    /// Whether it fills a gap of the own view's log.
    pub(super) fn is_gap(&self) -> bool {
        matches!(self.purpose, Purpose::Gap)
    }

    /// Whether it waits for the state machine only.
    pub(super) fn is_restoring(&self) -> bool {
        self.stage == Stage::Restoring
    }

    /// Whether this order is its last one.
    pub(super) fn waits_for(&self, restore: &Restore) -> bool {
        self.stage == Stage::Restoring && self.nonce == restore.nonce
    }

    /// Of a view's log: the last entry that we had of it, what has come behind that, and what of
    /// it is committed.
    pub(super) fn into_fetched(self) -> Option<(OpNumber, Vec<Entry>, OpNumber)> {
        match self.purpose {
            Purpose::Log {
                common,
                behind: None,
                suffix,
                commit,
                ..
            } => Some((common, suffix, commit)),
            // A checkpoint that has come is kept in any case.
            Purpose::Gap | Purpose::Log { .. } => None,
        }
    }
}

/// How a log begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Front {
    /// As ours does, up to this entry.
    Common(OpNumber),
    /// With the checkpoint that was fetched.
    Checkpoint,
}

/// Asking.
impl Replica {
    /// Makes the log that ends in `tail` the log of our view. Installs it at once if we have
    /// all of it; else fetches the rest from `source`.
    pub(super) fn adopt(
        &mut self,
        source: ReplicaId,
        tail: Tail,
        commit: OpNumber,
        effects: &mut Effects,
    ) -> Progress {
        let common = self.common_prefix(&tail).filter(|_| commit <= tail.op());
        let Some(common) = common else {
            return self.ignore(Ignored::Inconsistent);
        };
        if common == tail.op() {
            return self.enter_with(Front::Common(common), Vec::new(), commit, effects);
        }
        let purpose = Purpose::Log {
            common,
            behind: None,
            suffix: Vec::new(),
            tail,
            commit,
        };
        self.transfer = Some(Transfer {
            source,
            nonce: self.nonces.fresh(),
            purpose,
            stage: Stage::Entries,
        });
        self.emit_get_state(effects);
        Progress::ROLE_CHANGED
    }

    /// The last entry that our log certainly has in common with the log that ends in `tail`:
    /// the highest with equal checksums, and in any case what is committed here.
    fn common_prefix(&self, tail: &Tail) -> Option<OpNumber> {
        let lowest = self.commit.max(tail.commit()).0;
        let highest = self.log.op().min(tail.op()).0;
        let equal = (lowest..=highest).rev().map(OpNumber).find(|&op| {
            let theirs = tail.checksum(op);
            theirs.is_some() && self.log.checksum(op) == theirs
        });
        equal.or((self.commit < tail.commit()).then_some(self.commit))
    }

    pub(super) fn enter_with(
        &mut self,
        front: Front,
        suffix: Vec<Entry>,
        commit: OpNumber,
        effects: &mut Effects,
    ) -> Progress {
        if self.primary() == self.id {
            self.start_view(front, suffix, commit, effects)
        } else {
            self.follow_view(front, suffix, commit, effects)
        }
    }

    /// Normal backup: asks the primary for what is missing, once; the timeout asks again.
    pub(super) fn fill_gap(&mut self, effects: &mut Effects) -> Progress {
        assert_eq!(self.role(), Role::Backup, "a primary has its view's log");
        if self.commit_heard <= self.log.op() && self.early.is_empty() {
            self.transfer = None;
        } else if self.transfer.is_none() {
            let (source, nonce) = (self.primary(), self.nonces.fresh());
            self.transfer = Some(Transfer {
                source,
                nonce,
                purpose: Purpose::Gap,
                stage: Stage::Entries,
            });
            self.emit_get_state(effects);
        }
        Progress::NONE
    }

    /// The last entry that need not be sent to us.
    pub(super) fn transferred(&self, transfer: &Transfer) -> (OpNumber, Checksum) {
        let (common, behind, suffix) = match &transfer.purpose {
            Purpose::Gap => (self.log.op(), None, &[][..]),
            Purpose::Log {
                common,
                behind,
                suffix,
                ..
            } => (*common, behind.as_ref(), &suffix[..]),
        };
        if let Some(last) = suffix.last() {
            return (last.op(), last.checksum());
        }
        if let Some(checkpoint) = behind {
            return (checkpoint.op(), checkpoint.summary().header.checksum);
        }
        let checksum = self.log.checksum(common);
        (common, checksum.expect("common entries are in the log"))
    }

    pub(super) fn emit_get_state(&self, effects: &mut Effects) {
        let Some(transfer) = &self.transfer else {
            return;
        };
        let (after, checksum) = self.transferred(transfer);
        let get = GetState {
            view: self.view,
            after,
            checksum,
            nonce: transfer.nonce,
            pages: self.paging.pages(transfer.source),
        };
        effects.send(transfer.source, Message::GetState(get));
    }

    /// From whom something is fetched, if it is.
    pub fn source(&self) -> Option<ReplicaId> {
        let transfer = self.transfer.as_ref()?;
        Some(match transfer.stage {
            Stage::Piece(from) => from,
            Stage::Entries | Stage::Restoring => transfer.source,
        })
    }

    /// A timeout: nothing that was asked for has arrived. Asks again, for less; a new primary asks
    /// whoever else brought the same log.
    pub fn resend_get_state(&mut self, effects: &mut Effects) -> Progress {
        self.invariants();
        match self.role() {
            Role::Backup if self.transfer.is_none() => {
                let progress = self.fill_gap(effects);
                self.invariants();
                return progress;
            }
            Role::Backup | Role::CatchingUp | Role::Recovering => {}
            Role::Primary | Role::ViewChange | Role::Outside => {
                return self.ignore(Ignored::WrongRole);
            }
        }
        match self.transfer.as_ref().map(|transfer| transfer.stage) {
            Some(Stage::Entries) => {
                self.paging.asked_in_vain();
                self.change_source();
                self.emit_get_state(effects);
            }
            Some(Stage::Piece(from)) => self.ask_another_for_piece(from, effects),
            Some(Stage::Restoring) => self.ask_again_if_overtaken(effects),
            None => {}
        }
        self.invariants();
        Progress::NONE
    }

    fn change_source(&mut self) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let Purpose::Log { tail, .. } = &transfer.purpose else {
            return;
        };
        let head = tail.headers().last();
        let same = self.brought.iter().filter(|(id, brought)| {
            **id != self.id
                && brought.tail.op() == tail.op()
                && brought.tail.headers().last() == head
        });
        let mut others = same.map(|(&id, _)| id);
        let first = others.clone().next();
        let next = others.find(|&id| id > transfer.source).or(first);
        transfer.source = next.unwrap_or(transfer.source);
    }
}

/// Using the answer.
impl Replica {
    /// VRR §5.2: a page arrives. Only the answer to our last question is used.
    pub(super) fn on_new_state(
        &mut self,
        from: ReplicaId,
        new: NewState,
        effects: &mut Effects,
    ) -> Progress {
        let any = self.has(Bug::NonceIgnored);
        if new.view < self.view && !any {
            return self.ignore(Ignored::OldView);
        }
        let answers = |asked: &Transfer| {
            let is_asked = asked.stage == Stage::Entries && new.nonce == asked.nonce;
            new.view == self.view && is_asked
        };
        let asked = self.transfer.take_if(|asked| any || answers(asked));
        let Some(transfer) = asked else {
            return self.ignore(Ignored::StaleNonce);
        };
        let (last, checksum) = self.transferred(&transfer);
        let fits = is_chained(&new.entries)
            && match transfer.purpose {
                Purpose::Gap => from == self.primary(),
                Purpose::Log { .. } => new
                    .entries
                    .first()
                    .is_some_and(|first| first.op() == last.next() && first.parent() == checksum),
            };
        if !fits {
            self.transfer = Some(transfer);
            return self.ignore(Ignored::Inconsistent);
        }
        self.paging.answered(from);
        match transfer.purpose {
            Purpose::Gap => self.append_page(new, effects),
            Purpose::Log { .. } => self.collect_page(transfer, new.entries, effects),
        }
    }

    fn append_page(&mut self, new: NewState, effects: &mut Effects) -> Progress {
        assert_eq!(self.status, Status::Normal);
        let before = self.log.op();
        self.take(new.entries);
        self.take_early();
        let progress = self.raise_commit(new.commit, effects);
        if self.log.op() == before {
            // What it brings has come in another way meanwhile: the timeout asks for more.
            return progress;
        }
        self.ack_due = true;
        progress | Progress::TRANSFERRED | self.fill_gap(effects)
    }

    /// Puts a page beside our log; installs when the last entry is there.
    fn collect_page(
        &mut self,
        mut transfer: Transfer,
        entries: Vec<Entry>,
        effects: &mut Effects,
    ) -> Progress {
        let Purpose::Log {
            common,
            behind,
            suffix,
            tail,
            commit,
        } = &mut transfer.purpose
        else {
            unreachable!("pages are collected for a log");
        };
        for entry in entries
            .into_iter()
            .take_while(|entry| entry.op() <= tail.op())
        {
            if tail
                .checksum(entry.op())
                .is_some_and(|checksum| checksum != entry.checksum())
            {
                // What is here does not lead to the log that we were promised: begin again.
                suffix.clear();
                self.transfer = Some(transfer);
                return self.ignore(Ignored::Diverged);
            }
            suffix.push(entry);
        }
        if suffix.last().is_some_and(|last| last.op() == tail.op()) {
            if behind.is_some() {
                self.transfer = Some(transfer);
                return Progress::TRANSFERRED | self.order_restore(effects);
            }
            let (front, commit, suffix) =
                (Front::Common(*common), *commit, core::mem::take(suffix));
            return Progress::TRANSFERRED | self.enter_with(front, suffix, commit, effects);
        }
        transfer.nonce = self.nonces.fresh();
        self.transfer = Some(transfer);
        // The source is alive: there is no reason to go on.
        self.votes.withdraw(self.id);
        self.emit_get_state(effects);
        Progress::TRANSFERRED
    }
}
