//! Checkpoints: written, and read, a piece at a time between turns, so that nobody waits for more
//! than a piece.

use std::time::Duration;

use viewring_protocol::{Draft, Progress, Restore};
use viewring_runtime::time::Instant;

use super::Node;
use crate::state_machine::{Piece, StateMachine};

/// What is done beside everything else.
#[derive(Default)]
pub(super) struct Background {
    /// A checkpoint that must be begun before anything else is executed.
    pub(super) ordered: Option<Draft>,
    /// A checkpoint that is being written.
    writing: Option<Draft>,
    /// A checkpoint that was fetched and is being read: the next byte.
    pub(super) reading: Option<(Restore, u64)>,
    /// When the next piece is due.
    due_at: Option<Instant>,
    /// The last piece.
    piece: Vec<u8>,
}

/// Between two pieces: so that writing takes a part of the core, and never all of it.
const PIECE_EVERY: Duration = Duration::from_millis(1);
/// A state is read in pieces of this many of those in which it is written: who reads serves nobody.
const READ_FACTOR: usize = 4;

impl<S: StateMachine> Node<S> {
    /// Until when the replica may wait for messages.
    pub(super) fn busy_at(&self) -> Instant {
        let due_at = self.background.due_at;
        due_at.map_or(self.upkeep_at, |due_at| due_at.min(self.upkeep_at))
    }

    /// Freezes the state, if it was ordered: before anything else is executed.
    pub(super) fn begin_checkpoint(&mut self) {
        let Some(draft) = self.background.ordered.take() else {
            return;
        };
        if self.state_machine.freeze() {
            self.core.checkpoint_begun(&draft, &mut self.effects);
            self.background.writing = Some(draft);
            self.background.due_at = Some(Instant::now());
        } else {
            self.core.checkpoint_refused(draft, &mut self.effects);
        }
    }

    /// Reads a checkpoint from now on. What was being read is not wanted any more.
    pub(super) fn begin_restore(&mut self, restore: Restore) {
        self.background.reading = Some((restore, 0));
        self.background.due_at = Some(Instant::now());
    }

    /// The next piece, if it is due.
    pub(super) fn work(&mut self) -> Progress {
        let Some(due_at) = self.background.due_at else {
            return Progress::NONE;
        };
        let now = Instant::now();
        if now < due_at {
            return Progress::NONE;
        }
        self.write_piece();
        let progress = self.read_piece();
        let is_busy = self.background.writing.is_some() || self.background.reading.is_some();
        self.background.due_at = is_busy.then_some(now + PIECE_EVERY);
        progress
    }

    fn write_piece(&mut self) {
        let budget_bytes = self.core.options().page_budget_bytes;
        let Some(draft) = &mut self.background.writing else {
            return;
        };
        if draft.write_clients(budget_bytes) {
            return;
        }
        let piece = &mut self.background.piece;
        piece.clear();
        let more = self.state_machine.write_frozen(budget_bytes, piece);
        draft.write_state(piece);
        if more {
            return;
        }
        if let Some(draft) = self.background.writing.take() {
            let checkpoint = self.core.on_checkpoint(draft);
            if let Some(observer) = &mut self.observer {
                observer.checkpointed(&self.core, &checkpoint);
            }
        }
    }

    fn read_piece(&mut self) -> Progress {
        let most = self.core.options().page_budget_bytes * READ_FACTOR;
        let Some((restore, at)) = &mut self.background.reading else {
            return Progress::NONE;
        };
        if !self.core.is_wanted(restore) {
            self.background.reading = None;
            return Progress::NONE;
        }
        let checkpoint = restore.checkpoint();
        let bytes = checkpoint.state(*at, most);
        let next = *at + bytes.len() as u64;
        let piece = Piece {
            bytes,
            is_first: *at == 0,
            is_last: next == checkpoint.state_len(),
        };
        if let Err(error) = self.state_machine.restore(piece) {
            tracing::warn!(replica = self.core.id().0, "{error}");
            self.core.restore_failed(restore);
            self.background.reading = None;
            return Progress::NONE;
        }
        if !piece.is_last {
            *at = next;
            return Progress::TRANSFERRED;
        }
        if let Some(draft) = self.background.writing.take() {
            self.core.checkpoint_abandoned(draft);
        }
        let progress = self.core.restored(restore, &mut self.effects);
        if let Some(observer) = &mut self.observer {
            observer.restored(&self.core);
        }
        self.background.reading = None;
        progress
    }
}
