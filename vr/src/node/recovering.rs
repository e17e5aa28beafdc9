//! Not a member: waiting for a group to form, or for a way back into one.

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
        while self.core.role() == Role::Recovering {
            let again = self.timeouts.announce;
            match timeout(again, self.turn_until(Progress::ROLE_CHANGED)).await {
                Ok(changed) => drop(changed?),
                Err(_elapsed) => {
                    let _changed = self.act(Replica::announce);
                }
            }
            if Instant::now() >= complain_at {
                self.complain();
                complain_at = Instant::now() + COMPLAIN_EVERY;
            }
        }
        Ok(())
    }

    fn complain(&self) {
        let replica = self.core.id().0;
        match self.core.waiting_reason() {
            Some(reason @ WaitingReason::GroupRunsWithoutMe { .. }) => {
                tracing::warn!(replica, "not a member, and takes part in nothing: {reason}");
            }
            Some(reason) => tracing::info!(replica, "not a member yet: {reason}"),
            None => {}
        }
    }
}
