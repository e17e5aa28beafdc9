//! What a plot works with: a calm group, and what can be done to it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use viewring_protocol::{ReplicaId, Role};
use viewring_runtime::sim::{NodeId, Packet, Random, RuleGuard, Verdict};

use crate::cluster::sent::frames;
use crate::cluster::stage::{Held, Stage};
use crate::cluster::{Checker, Cluster, Faults, Mark};

/// A group in which nothing goes wrong but what a plot does.
pub(in crate::cluster) struct Scene<'a> {
    pub(super) stage: &'a mut Stage,
    pub(super) random: Random,
    pub(super) faults: &'a Faults,
    /// Clients that only read.
    readers: &'a [NodeId],
}

/// Which datagrams a rule is about: those of a kind, and of a link. None: all.
#[derive(Clone, Debug, Default)]
pub(super) struct About {
    kind: Option<u8>,
    from: Option<NodeId>,
    to: Option<NodeId>,
}

impl About {
    pub(super) fn kind(kind: u8) -> Self {
        Self {
            kind: Some(kind),
            ..Self::default()
        }
    }

    pub(super) fn anything() -> Self {
        Self::default()
    }

    pub(super) fn from(self, from: NodeId) -> Self {
        Self {
            from: Some(from),
            ..self
        }
    }

    pub(super) fn to(self, to: NodeId) -> Self {
        Self {
            to: Some(to),
            ..self
        }
    }

    fn has(&self, packet: &Packet) -> bool {
        let is_of = |kind| frames(packet.payload()).any(|(has, _)| has == kind);
        self.from.is_none_or(|from| packet.from_node() == from)
            && self.to.is_none_or(|to| packet.to_node() == Some(to))
            && self.kind.is_none_or(is_of)
    }
}

impl<'a> Scene<'a> {
    pub(in crate::cluster) fn new(
        stage: &'a mut Stage,
        random: Random,
        faults: &'a Faults,
        readers: &'a [NodeId],
    ) -> Self {
        Self {
            stage,
            random,
            faults,
            readers,
        }
    }

    pub(super) fn cluster(&mut self) -> &mut Cluster {
        &mut self.stage.cluster
    }

    pub(super) fn node(&self, id: ReplicaId) -> NodeId {
        self.stage.cluster.node(id)
    }

    /// The nodes of clients.
    pub(super) fn clients(&self) -> Vec<NodeId> {
        let replicas = usize::from(self.stage.cluster.replicas());
        self.stage.cluster.world.nodes().skip(replicas).collect()
    }

    pub(super) fn readers(&self) -> &'a [NodeId] {
        self.readers
    }

    pub(super) fn primary(&self) -> ReplicaId {
        self.stage.cluster.primary().expect("the group has formed")
    }

    /// All others, in an order that is drawn.
    pub(super) fn backups(&mut self) -> Vec<ReplicaId> {
        let primary = self.primary();
        let ids = self.stage.cluster.replica_ids();
        let mut backups: Vec<_> = ids.filter(|&id| id != primary).collect();
        self.random.shuffle(&mut backups);
        backups
    }

    /// How many the group survives.
    pub(super) fn failures(&self) -> usize {
        usize::from(self.stage.cluster.replicas() / 2)
    }

    /// A duration between so many milliseconds.
    pub(super) fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(self.random.between(least * 1_000..=most * 1_000))
    }

    pub(super) fn run(&mut self, duration: Duration) {
        self.stage.cluster.world.run_for(duration);
    }

    /// Runs for a duration between so many milliseconds.
    pub(super) fn wait(&mut self, least: u64, most: u64) {
        let duration = self.between(least, most);
        self.run(duration);
    }

    /// Runs until that is so. Whether it has come within `bound`.
    pub(super) fn until(&mut self, bound: Duration, is_so: impl Fn(&Checker) -> bool) -> bool {
        let checker = Rc::clone(self.stage.cluster.checker());
        let world = &mut self.stage.cluster.world;
        world.run_until(|_| is_so(&checker.borrow()), bound).is_ok()
    }

    /// Runs until a later view than this one has begun.
    pub(super) fn until_view_after(&mut self, view: u64, bound: Duration) -> bool {
        self.until(bound, |checker| checker.view() > view)
    }

    /// Runs until this one takes part.
    pub(super) fn until_normal(&mut self, id: ReplicaId, bound: Duration) -> bool {
        self.until(bound, |checker| {
            matches!(checker.role(id), Role::Primary | Role::Backup)
        })
    }

    /// Runs until all take part in one view and have executed everything.
    pub(super) fn until_agreed(&mut self, bound: Duration) -> bool {
        let ids: Vec<_> = self.stage.cluster.replica_ids().collect();
        self.until(bound, |checker| checker.have_converged(ids.iter().copied()))
    }

    /// What happens to such datagrams while the rule lives.
    pub(super) fn rule(&mut self, about: About, verdict: Verdict) -> RuleGuard {
        self.stage.cluster.world.rule(move |packet| {
            if about.has(packet) {
                verdict.clone()
            } else {
                Verdict::Deliver
            }
        })
    }

    /// What happens to the `nth` of such datagrams; and when it has happened.
    pub(super) fn nth(&mut self, about: About, nth: u64, verdict: Verdict) -> (RuleGuard, Seen) {
        let seen = Seen::default();
        let (has_seen, mut count) = (seen.clone(), 0);
        let rule = self.stage.cluster.world.rule(move |packet| {
            if !about.has(packet) {
                return Verdict::Deliver;
            }
            count += 1;
            if count != nth {
                return Verdict::Deliver;
            }
            has_seen.0.set(true);
            verdict.clone()
        });
        (rule, seen)
    }

    /// Nothing crosses between these nodes and all others while the rule lives. What is under way
    /// arrives.
    pub(super) fn split_off(&mut self, apart: Vec<NodeId>) -> RuleGuard {
        self.stage.cluster.world.rule(move |packet| {
            let to = packet.to_node().is_some_and(|to| apart.contains(&to));
            if apart.contains(&packet.from_node()) == to {
                Verdict::Deliver
            } else {
                Verdict::Drop
            }
        })
    }

    /// Lets go what rules have held back.
    pub(super) fn release(&mut self) {
        self.stage.cluster.world.release(|_| true);
    }

    /// Stops one, which comes back in the same moment.
    pub(super) fn restart(&mut self, id: ReplicaId) {
        self.stage.cluster.crash(id);
        self.stage.cluster.restart(id);
    }

    /// Clients call only when told to; None: as they like.
    pub(super) fn permit(&mut self, calls: Option<u32>) {
        self.stage.book.borrow_mut().permits = calls;
    }

    /// The primary is out of touch with the other replicas until another view begins, or stands
    /// still; then it is one of the others. Whether that came to pass.
    pub(super) fn depose(&mut self) -> bool {
        let (view, primary) = (self.stage.view(), self.primary());
        let node = self.node(primary);
        let has_begun = if self.random.chance(0.5) {
            let clients = self.clients();
            let apart = clients.into_iter().chain([node]).collect();
            let split = self.split_off(apart);
            let has_begun = self.until_view_after(view, PATIENCE);
            drop(split);
            has_begun
        } else {
            let pause = self.between(800, 1_500);
            self.stage.cluster.world.pause(node, pause);
            let has_begun = self.until_view_after(view, PATIENCE);
            self.run(pause);
            has_begun
        };
        has_begun && self.until_normal(primary, PATIENCE)
    }

    /// The plot has come to its point.
    pub(super) fn mark(&mut self, mark: Mark) {
        self.stage.cluster.checker().borrow_mut().marks.hit(mark);
    }

    /// Demands that a later view than this one begins before long; else says what is wrong.
    pub(super) fn passes(&mut self, view: u64, why: &str) -> Held {
        if self.until_view_after(view, PATIENCE) {
            return Ok(());
        }
        self.stage.failed(&format!("view {view} for ever: {why}"))
    }

    /// Demands that this view is the latest that has begun; else says what is wrong.
    pub(super) fn stays(&self, view: u64, why: &str) -> Held {
        if self.stage.view() == view {
            return Ok(());
        }
        self.stage
            .failed(&format!("another view than {view}: {why}"))
    }
}

/// Whether something has happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Rc<Cell<bool>>);

impl Seen {
    pub(super) fn yet(&self) -> bool {
        self.0.get()
    }
}

/// What comes at all has come within so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
