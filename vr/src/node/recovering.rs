//! Not a member: waiting for a group to form, or for a way back into one. Or a member that has lost
//! its memory, and asks the others for it (VRR §4.3).

use std::io;
use std::time::Duration;

use viewring_protocol::{Progress, Replica, Role, WaitingReason};
use viewring_runtime::time::{Instant, timeout};

use super::Node;
use crate::state_machine::StateMachine;

/// Humans are told this often why the replica waits.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);
/// Nobody needs to be told about the first moments of a start.
const COMPLAIN_AFTER: Duration = Duration::from_millis(500);

impl<S: StateMachine> Node<S> {
    /// Introduces itself until it is a member. Until then it votes for, acknowledges and answers
    /// nothing.
    pub(super) async fn wait_for_group(&mut self) -> io::Result<()> {
        let mut complain_at = Instant::now() + COMPLAIN_AFTER;
        let _changed = self.act(Replica::announce);
        while self.core.role() == Role::Outside {
            let again = self.timeouts.announce;
            match timeout(again, self.turn_until(Progress::ROLE_CHANGED)).await {
                Ok(changed) => drop(changed?),
                Err(_elapsed) => {
                    let _changed = self.act(Replica::announce);
                }
            }
            self.complain(&mut complain_at);
        }
        Ok(())
    }

    /// Asks for its memory until it has it. Until then it votes for, acknowledges and answers
    /// nothing. What takes too long is begun again, with more patience.
    pub(super) async fn recover(&mut self) -> io::Result<()> {
        let mut complain_at = Instant::now() + COMPLAIN_AFTER;
        while self.core.role() == Role::Recovering {
            let patience = self.patience();
            let _changed = self.act(Replica::begin_recovery);
            // Restarts with every page: a long log takes its time.
            while let Ok(moved) = timeout(patience, self.fetch_memory()).await {
                let _moved = moved?;
                if self.core.role() != Role::Recovering {
                    return Ok(());
                }
            }
            self.complain(&mut complain_at);
        }
        Ok(())
    }

    /// Until something of it has come, asks again.
    async fn fetch_memory(&mut self) -> io::Result<Progress> {
        let awaited = Progress::TRANSFERRED | Progress::ROLE_CHANGED;
        loop {
            match timeout(self.timeouts.announce, self.turn_until(awaited)).await {
                Ok(moved) => return moved,
                Err(_elapsed) => {
                    let _changed = self.act(Replica::announce);
                }
            }
        }
    }

    fn complain(&self, at: &mut Instant) {
        if Instant::now() < *at {
            return;
        }
        *at = Instant::now() + COMPLAIN_EVERY;
        let replica = self.core.id().0;
        match self.core.waiting_reason() {
            Some(reason @ WaitingReason::GroupRunsWithoutMe { .. }) => {
                tracing::warn!(replica, "not a member, and takes part in nothing: {reason}");
            }
            Some(reason @ WaitingReason::MemoryLost { .. }) => tracing::error!(replica, "{reason}"),
            Some(reason @ WaitingReason::Recovering { .. }) => tracing::info!(replica, "{reason}"),
            Some(reason) => tracing::info!(replica, "not a member yet: {reason}"),
            None => {}
        }
    }
}
