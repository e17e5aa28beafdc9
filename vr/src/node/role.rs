//! A period of a role: from where it begins until it is another, or the view is.

use std::io;

use tracing::Instrument as _;
use viewring_protocol::{Role, View};
use viewring_runtime::time::Instant;

use super::Node;
use crate::state_machine::StateMachine;

impl<S: StateMachine> Node<S> {
    /// Lives as what it is now. All that is logged meanwhile is in a span that says so; the view is
    /// that of the beginning, which another may follow while a replica waits or recovers.
    pub(super) async fn live_one_role(&mut self) -> io::Result<()> {
        let (role, view) = (self.core.role(), self.core.view());
        self.role_since = Instant::now();
        // It is entered with every poll: at a level that nobody has on while it must be quick.
        let replica = self.core.id().0;
        let span = tracing::debug_span!("role", replica, view = view.0, ?role);
        self.live_as(role, view).instrument(span).await
    }

    async fn live_as(&mut self, role: Role, view: View) -> io::Result<()> {
        tracing::info!(replica = self.core.id().0, view = view.0, ?role, "new role");
        match role {
            Role::Primary => self.lead().await,
            Role::Backup => self.follow().await,
            Role::ViewChange => self.change_view().await,
            Role::CatchingUp => self.catch_up().await,
            Role::Recovering => self.recover().await,
            Role::Outside => self.wait_for_group().await,
        }
    }
}
