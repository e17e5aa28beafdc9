//! The primary: three timeouts, one inside the other (VRR §4.1).
//!
//! That a quorum is heard restarts the outermost only, and so it is no event that the others
//! return for: where replicas are far apart acknowledgements come all the time, and a heartbeat
//! that waited for a pause in them would be late.

use std::io;

use viewring_protocol::{Progress, Replica, Role};
use viewring_runtime::time::{Instant, timeout, timeout_at};

use super::Node;
use crate::state_machine::StateMachine;

impl<S: StateMachine> Node<S> {
    /// Leads, until it is not the primary of its view any more.
    pub(super) async fn lead(&mut self) -> io::Result<()> {
        let view = self.core.view();
        self.quorum_heard_at = Instant::now();
        while self.is_still(Role::Primary, view) {
            let alone_at = self.quorum_heard_at + self.timeouts.abdicate;
            match timeout_at(alone_at, self.stay_in_touch()).await {
                Ok(ended) => ended?,
                // A quorum was heard meanwhile.
                Err(_elapsed) if self.quorum_heard_at + self.timeouts.abdicate > alone_at => {}
                Err(_elapsed) => {
                    let _changed = self.act(Replica::abdicate);
                    self.quorum_heard_at = Instant::now();
                }
            }
        }
        Ok(())
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
        let leave = Progress::PREPARED | Progress::ROLE_CHANGED;
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
