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
    /// A checkpoint that was fetched and is being read.
    reading: Option<Reading>,
    /// Checkpoints in a row that the state machine could not read.
    unreadable: u32,
    /// Before that none is read, nor fetched instead.
    read_from: Option<Instant>,
    /// When the next piece is due.
    due_at: Option<Instant>,
    /// The last piece.
    piece: Vec<u8>,
}

/// A checkpoint that the state machine reads.
struct Reading {
    restore: Restore,
    /// The next byte.
    at: u64,
    /// It could not read it. Nothing is fetched instead as long as this is here.
    failed: bool,
}

/// Between two pieces: so that writing takes a part of the core, and never all of it.
const PIECE_EVERY: Duration = Duration::from_millis(1);
/// A state is read in pieces of this many of those in which it is written: who reads serves nobody.
const READ_FACTOR: usize = 4;
/// After a checkpoint that the state machine could not read so long passes before one is fetched
/// again, or read, and twice as long after each further one. The others give the same bytes until
/// they take another, so asking at once would cost them all that they can send, for nothing.
const FETCH_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// It doubles at most so often, to about a minute.
const MAX_DOUBLINGS: u32 = 8;

impl<S: StateMachine> Node<S> {
    /// Until when the replica may wait for messages.
    pub(super) fn busy_at(&self) -> Instant {
        let tell_at = self.kept_back.map(|(_, until)| until);
        let others = [self.background.due_at, tell_at];
        others
            .into_iter()
            .flatten()
            .fold(self.upkeep_at, Instant::min)
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

    /// Reads a checkpoint from now on, or, after one that could not be read, from a while on. What
    /// was being read is not wanted any more.
    pub(super) fn begin_restore(&mut self, restore: Restore) {
        self.background.reading = Some(Reading {
            restore,
            at: 0,
            failed: false,
        });
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
        let progress = self.read_piece(now);
        self.background.due_at = self.background.next_due(now);
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

    fn read_piece(&mut self, now: Instant) -> Progress {
        let most = self.core.options().page_budget_bytes * READ_FACTOR;
        let Some(reading) = &mut self.background.reading else {
            return Progress::NONE;
        };
        if !self.core.is_wanted(&reading.restore) {
            self.background.reading = None;
            return Progress::NONE;
        }
        if self.background.read_from.is_some_and(|from| now < from) {
            return Progress::NONE;
        }
        if reading.failed {
            // Upkeep asks for another.
            self.core.restore_failed(&reading.restore);
            self.background.reading = None;
            return Progress::NONE;
        }
        let checkpoint = reading.restore.checkpoint();
        let bytes = checkpoint.state(reading.at, most);
        let next = reading.at + bytes.len() as u64;
        let piece = Piece {
            bytes,
            is_first: reading.at == 0,
            is_last: next == checkpoint.state_len(),
        };
        if let Err(error) = self.state_machine.restore(piece) {
            let op = checkpoint.op().0;
            reading.failed = true;
            let again_after = self.background.back_off(now);
            tracing::warn!(
                replica = self.core.id().0,
                op,
                ?again_after,
                "a checkpoint was fetched for nothing: {error}"
            );
            return Progress::NONE;
        }
        if !piece.is_last {
            reading.at = next;
            return Progress::TRANSFERRED;
        }
        if let Some(draft) = self.background.writing.take() {
            self.core.checkpoint_abandoned(draft);
        }
        let progress = self.core.restored(&reading.restore, &mut self.effects);
        if let Some(observer) = &mut self.observer {
            observer.restored(&self.core);
        }
        self.background.reading = None;
        (self.background.unreadable, self.background.read_from) = (0, None);
        progress
    }
}

impl Background {
    /// The state machine could not read a checkpoint: how long nothing is done about that.
    fn back_off(&mut self, now: Instant) -> Duration {
        let patience = FETCH_AGAIN_AFTER * 2u32.pow(self.unreadable.min(MAX_DOUBLINGS));
        self.unreadable += 1;
        self.read_from = Some(now + patience);
        patience
    }

    /// When the next piece is due, if there is anything to do.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        let soon = now + PIECE_EVERY;
        let write_at = self.writing.as_ref().map(|_| soon);
        let read_at = self
            .reading
            .as_ref()
            .map(|_| self.read_from.map_or(soon, |from| from.max(soon)));
        write_at.into_iter().chain(read_at).min()
    }
}
