//! Requests of clients that never register: see `walk_ins.rs` in the crate's root.

use super::{Replica, Role};
use crate::bug::Bug;
use crate::counters::Ignored;
use crate::effects::Effects;
use crate::in_flight::InFlight;
use crate::log::Entry;
use crate::message::Request;
use crate::walk_ins::{Look, WalkIns};

impl Replica {
    /// Whether a new request would be appended now. Who cannot be told to come back, and to whom,
    /// is better kept waiting here.
    pub fn takes_requests(&self) -> bool {
        let uncommitted = self.log.op().distance_from(self.commit);
        self.role() == Role::Primary && !self.abdicating && uncommitted < self.options.window
    }

    /// VRR §4.1, steps 2 and 3, for a walk-in. It is told results and nothing else.
    pub(super) fn on_walk_in_as_primary(&mut self, request: &Request, effects: &mut Effects) {
        let InFlight { walk_ins, .. } = &self.in_flight;
        let reason = match self.table.walk_ins.look(request, walk_ins) {
            Look::Malformed => Ignored::Inconsistent,
            Look::Old => Ignored::OldRequest,
            Look::InFlight => Ignored::InFlight,
            Look::Repeated(reply) => return effects.reply_walk_in(reply),
            Look::New if request.body.len() > self.options.max_body_bytes => Ignored::TooLarge,
            Look::New if !self.takes_requests() => Ignored::Busy,
            Look::New => {
                let (op, parent) = (self.log.op().next(), self.log.head());
                return self.append(Entry::new(op, self.view, parent, request));
            }
        };
        self.counters.count(reason);
    }

    /// A walk-in's entry was executed, with this result.
    pub(super) fn walk_in_applied(&mut self, entry: &Entry, result: &[u8], effects: &mut Effects) {
        let reply = self.table.walk_ins.record(entry, result);
        if self.has(Bug::WalkInsForgotten) {
            self.table.walk_ins = WalkIns::new(self.group.max_clients());
        }
        if self.role() == Role::Primary {
            effects.reply_walk_in(reply);
        }
    }

    /// A walk-in's entry is committed and was executed before, or never will be.
    pub(super) fn walk_in_skipped(&mut self, entry: &Entry, effects: &mut Effects) {
        let reply = self.table.walk_ins.answer_unexecuted(entry);
        if let Some(reply) = reply
            && self.role() == Role::Primary
        {
            effects.reply_walk_in(reply);
        }
    }
}
