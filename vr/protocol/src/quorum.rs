//! Counting replicas, each of them once.

use crate::configuration::Configuration;
use crate::ids::{OpNumber, ReplicaId, View};

const MAX: usize = Configuration::MAX_REPLICAS as usize;

/// A set of replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSet(u8);

impl ReplicaSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    /// Adds a replica; whether it is new.
    pub fn insert(&mut self, id: ReplicaId) -> bool {
        let before = self.0;
        self.0 |= 1_u8.checked_shl(u32::from(id.0)).unwrap_or(0);
        self.0 != before
    }

    /// Takes a replica out; whether it was in.
    pub fn remove(&mut self, id: ReplicaId) -> bool {
        let before = self.0;
        self.0 &= !1_u8.checked_shl(u32::from(id.0)).unwrap_or(0);
        self.0 != before
    }

    /// Whether the replica is in the set.
    pub fn contains(self, id: ReplicaId) -> bool {
        self.0 & 1_u8.checked_shl(u32::from(id.0)).unwrap_or(0) != 0
    }

    /// The first `count` replicas; at least one, at most eight.
    pub(crate) fn first(count: u8) -> Self {
        Self(u8::MAX >> (8 - count))
    }

    /// Those who are not in `other`.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// How many there are.
    pub fn len(self) -> u8 {
        u8::try_from(self.0.count_ones()).expect("at most eight")
    }

    /// Whether there is nobody.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The replicas, in order.
    pub fn iter(self) -> impl Iterator<Item = ReplicaId> {
        (0..8).map(ReplicaId).filter(move |&id| self.contains(id))
    }
}

impl FromIterator<ReplicaId> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = ReplicaId>>(ids: I) -> Self {
        let mut set = Self::EMPTY;
        for id in ids {
            set.insert(id);
        }
        set
    }
}

/// Up to where each replica has acknowledged the log of the present view.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acks([OpNumber; MAX]);

impl Acks {
    /// Replica `id` holds everything up to `op`.
    pub(crate) fn acknowledge(&mut self, id: ReplicaId, op: OpNumber) {
        self.0[id.index()] = self.0[id.index()].max(op);
    }

    /// How far a replica has acknowledged.
    pub(crate) fn of(&self, id: ReplicaId) -> OpNumber {
        self.0[id.index()]
    }

    /// The highest op-number that `quorum` replicas hold: the quorum-th largest watermark (VRR
    /// §4.1, step 5, made cumulative).
    pub(crate) fn committed(&self, quorum: u8) -> OpNumber {
        let mut sorted = self.0;
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        sorted[usize::from(quorum) - 1]
    }
}

/// For each replica, the highest view it would leave for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Votes([Option<Vote>; MAX]);

#[derive(Clone, Copy, Debug)]
struct Vote {
    view: View,
    renewed: bool,
}

impl Votes {
    /// Counts or renews a vote. A replica's vote never falls.
    pub(crate) fn cast(&mut self, id: ReplicaId, view: View) {
        let before = self.of(id).unwrap_or(View::ZERO);
        self.0[id.index()] = Some(Vote {
            view: before.max(view),
            renewed: true,
        });
    }

    /// Takes a vote back.
    pub(crate) fn withdraw(&mut self, id: ReplicaId) {
        self.0[id.index()] = None;
    }

    /// What a replica voted for.
    pub(crate) fn of(&self, id: ReplicaId) -> Option<View> {
        self.0[id.index()].map(|vote| vote.view)
    }

    /// The highest view anyone voted for.
    pub(crate) fn highest(&self) -> Option<View> {
        self.0.iter().flatten().map(|vote| vote.view).max()
    }

    /// The highest view for which, or for a higher one, a quorum has votes.
    pub(crate) fn agreed(&self, group: &Configuration) -> Option<View> {
        let mut sorted = self.0.map(|vote| vote.map(|vote| vote.view));
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        sorted[usize::from(group.quorum()) - 1]
    }

    /// Forgets votes that became meaningless because `view` was entered.
    pub(crate) fn forget_up_to(&mut self, view: View) {
        for slot in &mut self.0 {
            *slot = slot.filter(|vote| vote.view > view);
        }
    }

    /// Forgets votes that were not renewed since the last call.
    pub(crate) fn expire(&mut self) {
        for slot in &mut self.0 {
            *slot = slot.filter(|vote| vote.renewed);
            if let Some(vote) = slot {
                vote.renewed = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: u8) -> Configuration {
        Configuration::new(n).expect("odd")
    }

    #[test]
    fn a_set_counts_each_replica_once() {
        let mut set = ReplicaSet::EMPTY;
        assert!(set.insert(ReplicaId(2)) && !set.insert(ReplicaId(2)));
        assert!(!set.insert(ReplicaId(200)));
        assert_eq!(
            ReplicaSet::first(3).minus(set),
            [0, 1].map(ReplicaId).into_iter().collect()
        );
        assert_eq!((set.len(), set.contains(ReplicaId(2))), (1, true));
    }

    #[test]
    fn s11_commit_is_the_quorum_th_largest_watermark() {
        let mut acks = Acks::default();
        acks.acknowledge(ReplicaId(0), OpNumber(12));
        acks.acknowledge(ReplicaId(1), OpNumber(10));
        assert_eq!(acks.committed(3), OpNumber(0));
        acks.acknowledge(ReplicaId(2), OpNumber(12));
        assert_eq!(acks.committed(3), OpNumber(10));
        acks.acknowledge(ReplicaId(2), OpNumber(3));
        assert_eq!(
            acks.committed(3),
            OpNumber(10),
            "a late acknowledgement lowers nothing"
        );
    }

    #[test]
    fn a_group_of_one_commits_alone() {
        let mut acks = Acks::default();
        acks.acknowledge(ReplicaId(0), OpNumber(4));
        assert_eq!(acks.committed(1), OpNumber(4));
    }

    #[test]
    fn a_view_is_agreed_by_a_quorum_of_distinct_replicas() {
        let mut votes = Votes::default();
        votes.cast(ReplicaId(1), View(3));
        votes.cast(ReplicaId(1), View(3));
        assert_eq!(votes.agreed(&group(3)), None);
        votes.cast(ReplicaId(2), View(5));
        assert_eq!(votes.agreed(&group(3)), Some(View(3)));
        votes.cast(ReplicaId(1), View(u64::MAX));
        assert_eq!(votes.agreed(&group(3)), Some(View(5)));
    }

    #[test]
    fn a_vote_lasts_until_it_is_not_renewed() {
        let mut votes = Votes::default();
        votes.cast(ReplicaId(1), View(3));
        votes.expire();
        assert_eq!(votes.of(ReplicaId(1)), Some(View(3)));
        votes.expire();
        assert_eq!(votes.of(ReplicaId(1)), None);
    }
}
