//! The primary: three timeouts, one inside the other (VRR §4.1).

use std::io;

use viewring_protocol::{Progress, Replica, Role};
use viewring_runtime::time::timeout;

use super::Node;
use crate::state_machine::StateMachine;

impl<S: StateMachine> Node<S> {
    /// Leads, until it is not the primary of its view any more.
    pub(super) async fn lead(&mut self) -> io::Result<()> {
        let view = self.core.view();
        while self.is_still(Role::Primary, view) {
            // Restarts whenever a quorum is heard.
            match timeout(self.timeouts.abdicate, self.be_heard()).await {
                Ok(heard) => heard?,
                Err(_elapsed) => {
                    let _changed = self.act(Replica::abdicate);
                }
            }
        }
        Ok(())
    }

    /// Until a quorum is heard, or the role ends.
    async fn be_heard(&mut self) -> io::Result<()> {
        loop {
            // Restarts whenever a Prepare goes out.
            match timeout(self.timeouts.heartbeat, self.prepare_some()).await {
                Ok(progress) => {
                    if progress?.intersects(Progress::HEARD_QUORUM | Progress::ROLE_CHANGED) {
                        return Ok(());
                    }
                }
                Err(_elapsed) => {
                    if self
                        .act(Replica::heartbeat)
                        .contains(Progress::ROLE_CHANGED)
                    {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Until a Prepare goes out, a quorum is heard, or the role ends.
    async fn prepare_some(&mut self) -> io::Result<Progress> {
        let leave = Progress::PREPARED | Progress::HEARD_QUORUM | Progress::ROLE_CHANGED;
        loop {
            // Restarts whenever something is committed.
            let progress = match timeout(self.timeouts.prepare, self.commit_some(leave)).await {
                Ok(progress) => progress?,
                Err(_elapsed) => self.act(Replica::resend_prepares),
            };
            if progress.intersects(leave) {
                return Ok(progress);
            }
        }
    }

    /// Until something is committed, or something of `leave` happens.
    async fn commit_some(&mut self, leave: Progress) -> io::Result<Progress> {
        loop {
            let progress = self.turn().await?;
            if progress.intersects(leave | Progress::COMMITTED) {
                return Ok(progress);
            }
        }
    }
}
