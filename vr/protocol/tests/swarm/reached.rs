//! Whether a batch of seeds has seen enough.

use std::collections::BTreeMap;
use viewring_protocol::CheckpointCounts;

/// How often interesting things occurred.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) views: u64,
    pub(crate) installs: u64,
    pub(crate) truncations: u64,
    pub(crate) transfers: u64,
    pub(crate) abdications: u64,
    pub(crate) crashes: u64,
    pub(crate) restarts: u64,
    pub(crate) amnesias: u64,
    pub(crate) recoveries: u64,
    pub(crate) rebirths: u64,
    pub(crate) deaf: u64,
    pub(crate) heirs: u64,
    pub(crate) cuts: u64,
    pub(crate) replies: u64,
    pub(crate) retries: u64,
    pub(crate) checkpoints: u64,
    pub(crate) restored: u64,
    pub(crate) resumed: u64,
    pub(crate) rotten: u64,
    pub(crate) longest_without_view: u64,
    pub(crate) ignored: BTreeMap<&'static str, u64>,
}

impl Reached {
    pub(crate) fn add(&mut self, other: &Self) {
        self.views += other.views;
        self.installs += other.installs;
        self.truncations += other.truncations;
        self.transfers += other.transfers;
        self.abdications += other.abdications;
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.amnesias += other.amnesias;
        self.recoveries += other.recoveries;
        self.rebirths += other.rebirths;
        self.deaf += other.deaf;
        self.heirs += other.heirs;
        self.longest_without_view = self.longest_without_view.max(other.longest_without_view);
        self.cuts += other.cuts;
        self.replies += other.replies;
        self.retries += other.retries;
        self.checkpoints += other.checkpoints;
        self.restored += other.restored;
        self.resumed += other.resumed;
        self.rotten += other.rotten;
        for (name, count) in &other.ignored {
            *self.ignored.entry(name).or_default() += count;
        }
    }

    pub(crate) fn add_checkpoints(&mut self, counts: CheckpointCounts) {
        self.checkpoints += counts.taken;
        self.restored += counts.restored;
        self.resumed += counts.resumed;
        self.rotten += counts.bad;
    }

    pub(crate) fn assert_all(&self) {
        let all = [
            self.views,
            self.installs,
            self.truncations,
            self.transfers,
            self.abdications,
            self.crashes,
            self.restarts,
            self.amnesias,
            self.recoveries,
            self.rebirths,
            self.deaf,
            self.heirs,
            self.cuts,
            self.replies,
            self.retries,
            self.checkpoints,
            self.restored,
            self.resumed,
            self.rotten,
        ];
        assert!(!all.contains(&0), "something was never reached: {self:?}");
    }
}
