//! Replicas whose disks fail, and how they end.

use std::cell::RefCell;
use std::collections::BTreeMap;

use viewring_protocol::ReplicaId;
use viewring_runtime::sim::DiskFaults;

use super::{Checker, Cluster, Mark, Planted, Watch};
use crate::journal::ViewFileError;
use crate::node::{ConfigError, Node, NodeConfig};
use crate::state_machine::StateMachine;

/// Whose disks may fail, and whom that has ended.
#[derive(Debug, Default)]
pub(super) struct Disks {
    /// With the knobs as they were before.
    failing: BTreeMap<ReplicaId, DiskFaults>,
    ended: BTreeMap<ReplicaId, String>,
}

/// How a replica has ended by itself.
pub(super) struct End {
    why: String,
    had_started: bool,
}

/// A life of a replica, until it cannot use its disk any more.
///
/// # Panics
/// When there is another reason: a simulated port is free, and a view file is whole whatever
/// happens to the disk.
pub(super) async fn live<S: StateMachine>(
    config: NodeConfig,
    state_machine: S,
    watch: Watch,
    bug: Option<Planted>,
) -> End {
    let mut node = match Node::bind(config, state_machine).await {
        Ok(node) => node,
        Err(error @ ConfigError::ViewFile(ViewFileError::Io { .. })) => {
            return End {
                why: error.to_string(),
                had_started: false,
            };
        }
        Err(error) => panic!("a replica cannot start: {error}"),
    };
    node.observe(watch);
    bug.into_iter().for_each(|bug| node.plant(bug));
    let Err(error) = node.run().await;
    End {
        why: error.to_string(),
        had_started: true,
    }
}

impl Disks {
    /// A replica has ended by itself.
    ///
    /// # Panics
    /// When its disk was to be good.
    pub(super) fn has_ended(&mut self, id: ReplicaId, end: End, checker: &RefCell<Checker>) {
        let (why, is_excused) = (end.why, self.failing.contains_key(&id));
        assert!(is_excused, "{id:?} has failed: {why}");
        checker.borrow_mut().marks.hit(if end.had_started {
            Mark::EndedByDisk
        } else {
            Mark::NotStartedByDisk
        });
        self.ended.insert(id, why);
    }

    /// A new life of a replica begins.
    pub(super) fn begins(&mut self, id: ReplicaId) {
        self.ended.remove(&id);
    }
}

impl Cluster {
    /// The disk of a replica fails from now on, as often as its knobs say. If that ends the
    /// replica, [`why_ended`](Self::why_ended) tells. It can be [restarted](Self::restart), with
    /// what it finds in the cache of its kernel, or [crashed](Self::crash) before, without that. A
    /// replica that ends by itself although its disk is good is a panic of the world.
    pub fn fail_disk(&mut self, id: ReplicaId, fails: impl FnOnce(&mut DiskFaults)) {
        let node = self.node(id);
        let before = self.world.with_disk(node, |disk| {
            let before = disk.faults().clone();
            fails(disk.faults());
            before
        });
        self.disks.borrow_mut().failing.entry(id).or_insert(before);
    }

    /// The disk of a replica is again what it was before it failed. What it was asked last may have
    /// failed already: if the replica runs it is crashed. [Restart](Self::restart) it.
    pub fn repair_disk(&mut self, id: ReplicaId) {
        let node = self.node(id);
        if self.world.is_up(node) {
            self.crash(id);
        }
        let before = self.disks.borrow_mut().failing.remove(&id);
        if let Some(before) = before {
            self.world.with_disk(node, |disk| *disk.faults() = before);
        }
    }

    /// Why a replica has ended by itself, if it has, and was not restarted.
    pub fn why_ended(&self, id: ReplicaId) -> Option<String> {
        self.disks.borrow().ended.get(&id).cloned()
    }
}
