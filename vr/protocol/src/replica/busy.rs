//! How long clients are told to wait whom a primary refuses. Not in the paper.
//!
//! A refusal costs the primary about as much as a request that it takes. If all who are refused
//! came back at once, a crowd would keep it busy with refusing; if all stayed away for long, the
//! window would run empty. So the pause follows what happens: it doubles while more than half as
//! many requests are refused as are committed, and halves while few are. Nobody needs to know how
//! many clients there are.

use super::{Replica, Role};
use crate::message::Outcome;

/// The pause, and what has happened since it was last looked at.
#[derive(Debug)]
pub(super) struct Busy {
    pause_ms: u32,
    refused: u64,
    committed: u64,
}

/// A window's worth of operations takes about so long where replicas are near each other.
const PAUSE_MIN_MS: u32 = 2;
/// No client is told to wait longer, however many wait.
const PAUSE_MAX_MS: u32 = 1_024;

impl Default for Busy {
    fn default() -> Self {
        Self {
            pause_ms: PAUSE_MIN_MS,
            refused: 0,
            committed: 0,
        }
    }
}

impl Busy {
    /// A request is refused.
    pub(super) fn refuse(&mut self) -> Outcome {
        self.refused += 1;
        Outcome::Busy {
            retry_after_ms: self.pause_ms,
        }
    }

    /// So many operations were committed.
    pub(super) fn committed(&mut self, operations: u64) {
        self.committed += operations;
    }

    fn ease(&mut self) {
        let (refused, committed) = (self.refused, self.committed);
        if refused > committed / 2 {
            self.pause_ms = (self.pause_ms * 2).min(PAUSE_MAX_MS);
        } else if refused < committed / 8 {
            self.pause_ms = (self.pause_ms / 2).max(PAUSE_MIN_MS);
        }
        (self.refused, self.committed) = (0, 0);
    }
}

impl Replica {
    /// A periodic timeout: makes the pause longer or shorter that busy clients are told.
    pub fn ease(&mut self) {
        if self.role() == Role::Primary {
            self.busy.ease();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(busy: &mut Busy, refused: u64, committed: u64) -> u32 {
        for _ in 0..refused {
            let _told = busy.refuse();
        }
        busy.committed(committed);
        busy.ease();
        busy.pause_ms
    }

    #[test]
    fn the_pause_grows_with_the_crowd_and_shrinks_with_it() {
        let mut busy = Busy::default();
        assert_eq!(pause(&mut busy, 51, 100), 4);
        assert_eq!(pause(&mut busy, 500, 100), 8);
        assert_eq!(pause(&mut busy, 30, 100), 8, "refusing costs little enough");
        assert_eq!(pause(&mut busy, 11, 100), 4);
        assert_eq!(pause(&mut busy, 0, 100), 2);
        assert_eq!(pause(&mut busy, 0, 100), 2, "it never ends");
    }

    #[test]
    fn a_primary_that_commits_nothing_is_left_alone() {
        let mut busy = Busy::default();
        let pauses: std::vec::Vec<_> = (0..12).map(|_| pause(&mut busy, 1, 0)).collect();
        assert_eq!(pauses[8..], [1_024; 4]);
        assert_eq!(pause(&mut busy, 0, 0), 1_024, "nobody came, since all wait");
        assert_eq!(pause(&mut busy, 0, 8), 512);
    }
}
