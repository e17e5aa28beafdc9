//! What has come must be used.

use super::world::Node;
use viewring_protocol::{Ignored, Message, OpNumber, Prepare, ReplicaId, Role, Status};

impl Node {
    /// Keeps in mind what a primary prepares, in the view that we are in.
    pub(crate) fn note_arrival(&mut self, from: ReplicaId, message: &Message) {
        let Message::Prepare(Prepare {
            view,
            root,
            entries,
            ..
        }) = message
        else {
            return;
        };
        let group = self.replica.group_checksum();
        let is_recovering = self.replica.role() == Role::Recovering;
        let is_ours = *view == self.replica.view() && group == Some(*root) && !is_recovering;
        if is_ours && self.replica.primary() == from {
            for entry in entries {
                self.arrived.insert(entry.op(), *view);
            }
        }
    }

    /// What has come and follows the log is in the log, unless there was no room to keep it.
    pub(crate) fn uses_what_arrived(&mut self) {
        let replica = &self.replica;
        let view = replica.view();
        self.arrived
            .retain(|&op, of| op > replica.op() && *of == view);
        let lacked_room = replica.counters().ignored(Ignored::BufferFull) > 0;
        if replica.status() != Status::Normal || lacked_room {
            return;
        }
        let next = OpNumber(replica.op().0 + 1);
        let is_here = self.arrived.contains_key(&next);
        assert!(
            !is_here,
            "{} has {next} in hand and not in its log",
            replica.id()
        );
    }
}
