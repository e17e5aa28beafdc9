//! The primary: three timeouts, one inside the other (VRR §4.1).
//!
//! The heartbeat restarts by leaving its scope and entering it again, whenever a Prepare goes out.
//! What restarts the other two, a commit and a quorum that is heard, happens all the time, and must
//! put off no heartbeat: these move a deadline, and look at it when their timeout expires. So it
//! does not matter which of the three is the longest.

use std::io;
use std::time::Duration;

use viewring_protocol::{Progress, Replica, Role};
use viewring_runtime::time::{Instant, timeout, timeout_at};

use super::Node;
use crate::state_machine::StateMachine;

/// For so long a Prepare is kept back from those who are not asked first. Short against every
/// timeout, long against a round trip within a building: where replicas are farther apart, all are
/// asked nearly at once.
const KEEP_BACK_FOR: Duration = Duration::from_millis(1);

impl<S: StateMachine> Node<S> {
    /// Leads, until it is not the primary of its view any more.
    pub(super) async fn lead(&mut self) -> io::Result<()> {
        let view = self.core.view();
        self.quorum_heard_at = Instant::now();
        self.committed_at = self.quorum_heard_at;
        while self.is_still(Role::Primary, view) {
            let alone_at = self.quorum_heard_at + self.timeouts.abdicate;
            match timeout_at(alone_at, self.stay_in_touch()).await {
                Ok(ended) => ended?,
                // A quorum was heard meanwhile.
                Err(_elapsed) if self.quorum_heard_at + self.timeouts.abdicate > alone_at => {}
                Err(_elapsed) => {
                    self.say_alone();
                    let _changed = self.act(Replica::abdicate);
                    self.quorum_heard_at = Instant::now();
                }
            }
        }
        self.say_in_touch();
        Ok(())
    }

    /// Says once that no quorum is heard: nothing is committed until one is.
    fn say_alone(&mut self) {
        if self.replicas.len() > 1 && !std::mem::replace(&mut self.is_alone, true) {
            let (replica, view) = (self.core.id().0, self.core.view().0);
            let needed = self.replicas.len() / 2;
            tracing::warn!(
                replica,
                view,
                "no quorum is heard, and nothing can be committed: {needed} of the others must be \
                 up, and what is sent must get to them"
            );
        }
    }

    /// Says so if a quorum is heard again, be it one that moves on to another view.
    fn say_in_touch(&mut self) {
        if std::mem::take(&mut self.is_alone) {
            let (replica, view) = (self.core.id().0, self.core.view().0);
            tracing::info!(replica, view, "a quorum is heard again");
        }
    }

    /// Until the role ends.
    async fn stay_in_touch(&mut self) -> io::Result<()> {
        loop {
            // Restarts whenever a Prepare goes out.
            let progress = match timeout(self.timeouts.heartbeat, self.prepare_some()).await {
                Ok(progress) => progress?,
                Err(_elapsed) => self.act(Replica::heartbeat),
            };
            if progress.contains(Progress::ROLE_CHANGED) {
                return Ok(());
            }
        }
    }

    /// Until a Prepare goes out, or the role ends.
    async fn prepare_some(&mut self) -> io::Result<Progress> {
        let awaited = Progress::PREPARED | Progress::ROLE_CHANGED;
        loop {
            let stalled_at = self.committed_at + self.timeouts.prepare;
            match timeout_at(stalled_at, self.turn_until(awaited)).await {
                Ok(progress) => return progress,
                // Something was committed meanwhile.
                Err(_elapsed) if self.committed_at + self.timeouts.prepare > stalled_at => {}
                Err(_elapsed) if self.core.commit() == self.core.op() => {
                    self.committed_at = Instant::now();
                }
                Err(_elapsed) => {
                    let progress = self.act(Replica::resend_prepares);
                    self.committed_at = Instant::now();
                    if progress.intersects(awaited) {
                        return Ok(progress);
                    }
                }
            }
        }
    }

    /// Moves a primary's deadlines, if what they wait for has happened.
    pub(super) fn move_deadlines(&mut self, progress: Progress) {
        let begins = self.is_idle && progress.contains(Progress::PREPARED);
        self.is_idle = self.core.commit() == self.core.op();
        let moves = Progress::HEARD_QUORUM | Progress::COMMITTED;
        if !begins && !progress.intersects(moves) {
            return;
        }
        let now = Instant::now();
        if progress.contains(Progress::HEARD_QUORUM) {
            self.quorum_heard_at = now;
            self.say_in_touch();
        }
        if begins || progress.contains(Progress::COMMITTED) {
            self.committed_at = now;
        }
    }

    /// When something begins to be kept back from some of the backups, they begin to wait.
    pub(super) fn look_at_kept_back(&mut self) {
        let first = self.core.first_kept_back();
        if first != self.kept_back.map(|(first, _)| first) {
            let wait = KEEP_BACK_FOR.min(self.timeouts.heartbeat / 2);
            self.kept_back = first.map(|first| (first, Instant::now() + wait));
        }
    }

    /// Tells them, once they have waited for long enough.
    pub(super) fn tell_others(&mut self, now: Instant) -> Progress {
        match self.kept_back {
            // It may have been told in this very turn.
            Some((first, until)) if now >= until && self.core.first_kept_back() == Some(first) => {
                self.core.tell_others(&mut self.effects)
            }
            _ => Progress::NONE,
        }
    }
}
