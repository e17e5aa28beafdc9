//! Checkpoints (VRR §5.1): when one is taken, and what of the log goes with it.
//!
//! One is due after so many operations, or bytes of them, counted along the log: at the same
//! operations everywhere. It is not taken while the last one is being written, nor before the log
//! has grown by as much as the last one was long: a large state is not written again for a few
//! operations. When it is complete, and only then, the log in front of it is cut off, a few
//! entries at a time: but not what a replica is fetching, nor what is not durable.
//!
//! *What memory it takes.* The log: what comes between two checkpoints, `checkpoint_keep`, and a
//! window; up to four times as many bytes (`LOG_FACTOR`) while others catch up. Checkpoints: the
//! newest, one that is being written, one that is being fetched from us, one that we fetch.

use super::Replica;
use super::preparing::Prepared;
use super::state_transfer::Transfer;
use crate::bug::Bug;
use crate::checkpoint::{Checkpoint, Draft, Restore};
use crate::client_table::ClientTable;
use crate::effects::{Effects, Progress};
use crate::ids::OpNumber;
use crate::log::Entry;
use alloc::rc::Rc;

/// The replica's own checkpoints.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    stage: Stage,
    newest: Option<Rc<Checkpoint>>,
    /// Operations, and bytes of them, since one was last due.
    operations: u64,
    bytes: u64,
    /// Bytes of operations since the last one was ordered.
    grown: u64,
    counts: CheckpointCounts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    /// Nothing is executed until it is begun.
    Ordered(OpNumber),
    Writing(OpNumber),
    /// The state machine has none.
    Never,
}

/// What became of checkpoints at one replica, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointCounts {
    /// Taken.
    pub taken: u64,
    /// Fetched and restored.
    pub restored: u64,
    /// Fetched in part, and gone on with from another replica or in another view.
    pub resumed: u64,
    /// Fetched, and not what was promised.
    pub bad: u64,
}

impl Checkpoints {
    /// Whether one must be begun before anything is executed.
    pub(super) fn is_ordered(&self) -> bool {
        matches!(self.stage, Stage::Ordered(_))
    }

    pub(super) fn newest(&self) -> Option<&Rc<Checkpoint>> {
        self.newest.as_ref()
    }

    pub(super) fn counts(&self) -> CheckpointCounts {
        self.counts
    }

    pub(super) fn count(&mut self) -> &mut CheckpointCounts {
        &mut self.counts
    }

    fn newest_len(&self) -> u64 {
        self.newest
            .as_ref()
            .map_or(0, |newest| newest.summary().len)
    }
}

/// Taking them.
impl Replica {
    /// An entry was executed.
    pub(super) fn order_checkpoint_if_due(&mut self, entry: &Entry, effects: &mut Effects) {
        let (interval, bytes) = (
            self.options.checkpoint_interval,
            self.options.checkpoint_bytes,
        );
        let kept = &mut self.checkpoints;
        kept.operations += 1;
        kept.bytes = kept.bytes.saturating_add(entry.weight());
        kept.grown = kept.grown.saturating_add(entry.weight());
        if interval == 0 || (kept.operations < interval && kept.bytes < bytes) {
            return;
        }
        (kept.operations, kept.bytes) = (0, 0);
        if kept.stage != Stage::Idle || kept.grown < kept.newest_len() {
            return;
        }
        kept.grown = 0;
        kept.stage = Stage::Ordered(entry.op());
        let owner = (self.id, self.incarnation);
        effects.checkpoint(Draft::new(
            owner,
            entry.op(),
            entry.header(),
            self.table.freeze(),
        ));
    }

    /// The state machine is frozen as the order demands: operations go on.
    ///
    /// # Panics
    ///
    /// Panics if this is not the last order.
    pub fn checkpoint_begun(&mut self, draft: &Draft, effects: &mut Effects) {
        self.invariants();
        assert_eq!(self.checkpoints.stage, Stage::Ordered(draft.op()));
        assert_eq!(self.applied, draft.op(), "nothing was executed meanwhile");
        self.checkpoints.stage = Stage::Writing(draft.op());
        self.apply_own(effects);
        self.invariants();
    }

    /// The state machine cannot be frozen, now or ever: operations go on, and the log is never
    /// cut.
    pub fn checkpoint_refused(&mut self, draft: Draft, effects: &mut Effects) {
        self.checkpoint_begun(&draft, effects);
        drop(draft);
        self.checkpoints.stage = Stage::Never;
    }

    /// A checkpoint that was begun will not be written: the state that was frozen is gone.
    ///
    /// # Panics
    ///
    /// Panics if it was not begun.
    pub fn checkpoint_abandoned(&mut self, draft: Draft) {
        self.invariants();
        assert_eq!(self.checkpoints.stage, Stage::Writing(draft.op()));
        self.checkpoints.stage = Stage::Idle;
    }

    /// A checkpoint is written: it stands for the log in front of it.
    ///
    /// # Panics
    ///
    /// Panics if it was not begun, or is not whole.
    pub fn on_checkpoint(&mut self, draft: Draft) -> Rc<Checkpoint> {
        self.invariants();
        assert_eq!(draft.owner, (self.id, self.incarnation));
        assert_eq!(self.checkpoints.stage, Stage::Writing(draft.op()));
        self.checkpoints.stage = Stage::Idle;
        self.checkpoints.counts.taken += 1;
        let checkpoint = Rc::new(draft.finish());
        self.keep_checkpoint(&checkpoint);
        self.invariants();
        checkpoint
    }

    fn keep_checkpoint(&mut self, checkpoint: &Rc<Checkpoint>) {
        let newest = self.checkpoints.newest();
        if newest.is_none_or(|newest| newest.op() < checkpoint.op()) {
            self.checkpoints.newest = Some(Rc::clone(checkpoint));
        }
    }
}

/// Cutting the log.
impl Replica {
    /// Cuts off entries that a checkpoint stands for, some at a time.
    pub(super) fn trim(&mut self) {
        let covered = match (&self.checkpoints.newest, self.checkpoints.stage) {
            (_, Stage::Writing(op)) if self.has(Bug::CutBeforeCheckpoint) => op,
            (Some(newest), _) => newest.op(),
            (None, _) => return,
        };
        if self.log.base() >= covered {
            return;
        }
        let bytes = self.options.checkpoint_bytes;
        let most = bytes
            .max(self.checkpoints.newest_len())
            .saturating_mul(LOG_FACTOR);
        if self.log.weight() > most {
            self.serving.leave_behind();
        }
        let needed = self.serving.needed().min(self.durable).min(covered);
        let kept = OpNumber(covered.0.saturating_sub(self.options.checkpoint_keep));
        for _ in 0..TRIM_AT_ONCE {
            let base = self.log.base();
            if base >= needed || (base >= kept && self.log.weight() <= bytes) {
                return;
            }
            self.log.cut_first();
        }
    }
}

/// So many entries are cut off in one turn: some tenths of a millisecond.
const TRIM_AT_ONCE: usize = 2048;
/// So many times longer than usual may the log be for those who catch up.
const LOG_FACTOR: u64 = 4;

/// Restoring them.
impl Replica {
    /// Whether the order is in force still.
    pub fn is_wanted(&self, restore: &Restore) -> bool {
        let waits = |transfer: &Transfer| {
            transfer.waits_for(restore) && self.leads_on(transfer, restore.checkpoint.summary())
        };
        self.transfer.as_ref().is_some_and(waits)
    }

    /// The state machine is what the checkpoint has.
    ///
    /// # Panics
    ///
    /// Panics if that is [not wanted](Self::is_wanted), or a checkpoint is ordered and not begun.
    pub fn restored(&mut self, restore: &Restore, effects: &mut Effects) -> Progress {
        self.invariants();
        assert!(self.is_wanted(restore), "the order is in force");
        self.checkpoints.counts.restored += 1;
        let progress = Progress::TRANSFERRED | self.use_checkpoint(effects);
        self.invariants();
        progress
    }

    /// The state machine cannot read the checkpoint, and is what it was.
    pub fn restore_failed(&mut self, restore: &Restore) {
        self.invariants();
        if self.is_wanted(restore) {
            self.forget_incoming();
        }
        self.invariants();
    }

    /// The log begins behind the checkpoint; of what follows it, what we had is kept.
    pub(super) fn begin_behind(&mut self, checkpoint: &Rc<Checkpoint>, table: ClientTable) {
        let summary = checkpoint.summary();
        assert!(
            summary.op > self.applied,
            "what was executed is never undone"
        );
        self.log.begin_behind(summary.op, summary.header);
        self.table = table;
        if self.has(Bug::TableNotInCheckpoint) {
            self.table = ClientTable::new(&self.group, self.incarnation);
        }
        if let Some(bug) = self.bug {
            self.table.plant(bug, self.id);
        }
        self.applied = summary.op;
        self.commit = self.commit.max(summary.op);
        self.commit_heard = self.commit_heard.max(summary.op);
        self.prepared = Prepared::begin(self.prepared.up_to.max(summary.op).min(self.log.op()));
        self.durable = self.durable.min(self.log.op());
        let kept = &mut self.checkpoints;
        (kept.operations, kept.bytes, kept.grown) = (0, 0, 0);
        assert!(
            !kept.is_ordered(),
            "an order is begun in the turn that gives it"
        );
        self.keep_checkpoint(checkpoint);
    }
}
