//! A backup: one timeout, the primary's silence (VRR §4.1, §4.2 step 1).

use std::io;

use viewring_protocol::{Progress, Replica, Role};
use viewring_runtime::time::timeout;

use super::Node;
use crate::state_machine::StateMachine;

impl<S: StateMachine> Node<S> {
    /// Follows, until it is not a backup of its view any more.
    pub(super) async fn follow(&mut self) -> io::Result<()> {
        let view = self.core.view();
        let silence = Self::jittered(self.timeouts.silence);
        while self.is_still(Role::Backup, view) {
            // Restarts whenever the primary is heard.
            match timeout(silence, self.hear_primary()).await {
                Ok(heard) => heard?,
                Err(_elapsed) => {
                    let _changed = self.act(Replica::suspect_primary);
                }
            }
        }
        Ok(())
    }

    /// Until the primary is heard, or the role ends.
    async fn hear_primary(&mut self) -> io::Result<()> {
        let awaited = Progress::HEARD_PRIMARY | Progress::ROLE_CHANGED;
        self.turn_until(awaited).await.map(drop)
    }

    /// Turns until something of `awaited` has happened.
    pub(super) async fn turn_until(&mut self, awaited: Progress) -> io::Result<Progress> {
        loop {
            let progress = self.turn().await?;
            if progress.intersects(awaited) {
                return Ok(progress);
            }
        }
    }
}
