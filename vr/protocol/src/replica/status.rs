//! What can be read of a replica.

use super::{CheckpointCounts, Replica};
use crate::checkpoint::Checkpoint;
use crate::configuration::{Configuration, Options};
use crate::counters::Counters;
use crate::ids::{Checksum, ClientId, Incarnation, OpNumber, ReplicaId, View};
use crate::log::Entry;
use alloc::rc::Rc;

/// VRR §4: what a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Serving its view.
    Normal,
    /// Between views.
    ViewChange,
    /// Not a member (yet), or without the memory of one: takes part in nothing.
    Recovering,
}

/// Status and place in the view: which timeouts apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Normal, and primary: `resend_prepares`, `heartbeat`, `abdicate`, `expire_votes`.
    Primary,
    /// Normal, and not primary: `suspect_primary`, `resend_get_state`, `expire_votes`.
    Backup,
    /// Waiting for DoViewChanges or a StartView: `resend_view_change`, `give_up_view`,
    /// `expire_votes`.
    ViewChange,
    /// Knows the log of its view and fetches what it lacks of it: `resend_get_state`,
    /// `give_up_view`, `expire_votes`.
    CatchingUp,
    /// A member that has lost its memory: `begin_recovery`, `announce`, `resend_get_state`.
    Recovering,
    /// Not a member (yet): `announce`.
    Outside,
}

/// What can be read.
impl Replica {
    /// Its index in the configuration.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// The group.
    pub fn configuration(&self) -> &Configuration {
        &self.group
    }

    /// Its knobs.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// This life of the replica.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What it is doing.
    pub fn status(&self) -> Status {
        self.status
    }

    /// What it is doing, and as what.
    pub fn role(&self) -> Role {
        match self.status {
            Status::Normal if self.primary() == self.id => Role::Primary,
            Status::Normal => Role::Backup,
            Status::ViewChange if self.transfer.is_some() => Role::CatchingUp,
            Status::ViewChange => Role::ViewChange,
            Status::Recovering if self.recovery.is_some() => Role::Recovering,
            Status::Recovering => Role::Outside,
        }
    }

    /// Whether it is the primary of its view, and normal.
    pub fn is_primary(&self) -> bool {
        self.role() == Role::Primary
    }

    /// The primary of its view.
    pub fn primary(&self) -> ReplicaId {
        self.primary
    }

    /// The highest view it has joined.
    pub fn view(&self) -> View {
        self.view
    }

    /// The view whose log it has (VRR: v', last normal view).
    pub fn log_view(&self) -> View {
        self.log_view
    }

    /// The op-number of its last entry.
    pub fn op(&self) -> OpNumber {
        self.log.op()
    }

    /// Its commit-number.
    pub fn commit(&self) -> OpNumber {
        self.commit
    }

    /// How far it has executed.
    pub fn executed(&self) -> OpNumber {
        self.applied
    }

    /// The last entry that its log does not hold any more: a checkpoint stands for it, and for all
    /// before it.
    pub fn base(&self) -> OpNumber {
        self.log.base()
    }

    /// The checksum of the entry at `op`, if the log holds it, or if it is the [base](Self::base).
    pub fn checksum(&self, op: OpNumber) -> Option<Checksum> {
        self.log.checksum(op)
    }

    /// About how many bytes the log takes in memory.
    pub fn log_bytes(&self) -> u64 {
        self.log.weight()
    }

    /// Its newest complete checkpoint, taken or fetched.
    pub fn checkpoint(&self) -> Option<&Rc<Checkpoint>> {
        self.checkpoints.newest()
    }

    /// What became of its checkpoints.
    pub fn checkpoint_counts(&self) -> CheckpointCounts {
        self.checkpoints.counts()
    }

    /// The entry at `op`: what a journal is to write.
    pub fn entry(&self, op: OpNumber) -> Option<&Entry> {
        self.log.get(op)
    }

    /// Whether it has stopped leading because no quorum answers.
    pub fn is_abdicating(&self) -> bool {
        self.abdicating
    }

    /// How many clients are registered.
    pub fn clients(&self) -> usize {
        self.table.len()
    }

    /// How many bytes the results take that are kept for them.
    pub fn kept_reply_bytes(&self) -> usize {
        self.table.kept_bytes()
    }

    /// How many clients were forgotten to make room for others, in this life of the replica.
    pub fn evictions(&self) -> u64 {
        self.table.forgotten()
    }

    /// Where the client's registration said that its replies go; empty if it did not say.
    pub fn return_address(&self, client: ClientId) -> Option<&[u8]> {
        self.table.return_address(client)
    }

    /// What was ignored, and why.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
