//! Between views: waiting for one to start, and fetching what is missing of its log (VRR §4.2).

use std::io;
use std::time::Duration;

use viewring_protocol::{Progress, Replica, Role};
use viewring_runtime::time::timeout;

use super::Node;
use crate::state_machine::StateMachine;

/// A view is waited for at most `2^3` times as long as the first.
const MAX_DOUBLINGS: u32 = 3;

impl<S: StateMachine> Node<S> {
    /// Works for the start of the view it has joined. If that takes too long it votes for the next
    /// one, and goes on working for this one until a quorum agrees.
    pub(super) async fn change_view(&mut self) -> io::Result<()> {
        let view = self.core.view();
        let patience = self.patience();
        while self.is_still(Role::ViewChange, view) {
            match timeout(patience, self.start_view()).await {
                Ok(started) => started?,
                Err(_elapsed) => {
                    let _changed = self.act(Replica::give_up_view);
                }
            }
        }
        Ok(())
    }

    /// Until the role ends, says again what it has said.
    async fn start_view(&mut self) -> io::Result<()> {
        loop {
            match timeout(self.timeouts.view_change_resend, self.end_role()).await {
                Ok(ended) => return ended,
                Err(_elapsed) => {
                    if self
                        .act(Replica::resend_view_change)
                        .contains(Progress::ROLE_CHANGED)
                    {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Fetches the log of the view that it has joined. Upkeep asks again for what does not come.
    pub(super) async fn catch_up(&mut self) -> io::Result<()> {
        let view = self.core.view();
        let patience = self.patience();
        while self.is_still(Role::CatchingUp, view) {
            // Restarts with every page: a long log takes its time.
            let awaited = Progress::TRANSFERRED | Progress::ROLE_CHANGED;
            match timeout(patience, self.turn_until(awaited)).await {
                Ok(moved) => drop(moved?),
                Err(_elapsed) => {
                    let _changed = self.act(Replica::give_up_view);
                }
            }
        }
        Ok(())
    }

    async fn end_role(&mut self) -> io::Result<()> {
        self.turn_until(Progress::ROLE_CHANGED).await.map(drop)
    }

    /// How long this view may take to start.
    pub(super) fn patience(&mut self) -> Duration {
        let doublings = self.failures.min(MAX_DOUBLINGS);
        self.failures += 1;
        Self::jittered(self.timeouts.view_change * 2u32.pow(doublings))
    }
}
