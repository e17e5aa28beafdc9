//! What a replica must not forget.

use crate::configuration::Configuration;
use crate::ids::{Incarnation, ReplicaId, View};
use alloc::vec::Vec;

/// The few numbers that have to outlive a replica's memory: which group it has promised to be of,
/// and how far it has gone with it.
///
/// The replica orders it to be kept with [`Effect::Remember`](crate::Effect::Remember); a later
/// life begins with it, in [`Replica::returning`](crate::Replica::returning).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Stands for the record itself: the life in which it was begun. A replica forms a group
    /// under this name, however often it is restarted before one has formed.
    pub incarnation: Incarnation,
    /// The lives, one a replica in order, with which it has promised to form a group, for ever.
    pub founders: Option<Vec<Incarnation>>,
    /// Whether it may have taken part in that group.
    pub member: bool,
    /// The highest view that it has joined.
    pub view: View,
}

impl Record {
    /// Whether replica `id` of such a group can have written it.
    pub fn is_of(&self, id: ReplicaId, group: &Configuration) -> bool {
        let Some(founders) = &self.founders else {
            return group.contains(id) && !self.member && self.view == View::ZERO;
        };
        founders.len() == usize::from(group.replica_count())
            && founders.get(id.index()) == Some(&self.incarnation)
            && (self.member || self.view == View::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_fits_the_replica_that_wrote_it() {
        let group = Configuration::new(3).expect("odd");
        let record = |founders: Option<&[u64]>, member, view| Record {
            incarnation: Incarnation(11),
            founders: founders.map(|lives| lives.iter().copied().map(Incarnation).collect()),
            member,
            view: View(view),
        };
        let fits = |record: Record| record.is_of(ReplicaId(1), &group);
        assert!(fits(record(None, false, 0)));
        assert!(fits(record(Some(&[10, 11, 12]), false, 0)));
        assert!(fits(record(Some(&[10, 11, 12]), true, 7)));
        assert!(!fits(record(None, true, 0)), "a member of what?");
        assert!(!fits(record(None, false, 7)), "a view of what?");
        assert!(!fits(record(Some(&[10, 11, 12]), false, 7)));
        assert!(!fits(record(Some(&[11, 10, 12]), true, 7)), "of another");
        assert!(!fits(record(Some(&[10, 11]), true, 7)), "of another size");
    }
}
