//! What can go wrong, as methods of the world. All of it can be changed while the world runs.

use std::time::Duration;

use super::NodeId;
use super::core::Core;
use super::disk::Disk;
use super::link::Link;
use super::node::Parked;
use super::ring::RingFaults;
use super::rule::{Packet, RuleGuard, Verdict};
use super::trace::{Event, EventKind};
use super::world::World;

impl World {
    /// The knobs of the direction from `from` to `to`.
    pub fn link(&self, from: NodeId, to: NodeId) -> Link {
        self.core.borrow().network.link(from, to).knobs.clone()
    }

    /// Turns knobs of the direction from `from` to `to`.
    pub fn update_link(&mut self, from: NodeId, to: NodeId, update: impl FnOnce(&mut Link)) {
        let mut core = self.core.borrow_mut();
        update(&mut core.network.link_mut(from, to).knobs);
        core.record(Event::of(from, EventKind::Network));
    }

    /// Turns knobs of every direction between two nodes, also of nodes that are still to come.
    pub fn update_links(&mut self, update: impl FnMut(&mut Link)) {
        let mut core = self.core.borrow_mut();
        core.network.update_links(update);
        core.record(Event::world(EventKind::Network));
    }

    /// Lets nothing through from `from` to `to`: what is sent and what would arrive meanwhile is
    /// lost. The other direction is left alone.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.set_cut(from, to, true);
    }

    /// [`cut`](Self::cut) in both directions.
    pub fn cut_both(&mut self, one: NodeId, other: NodeId) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Ends a [`cut`](Self::cut).
    pub fn heal(&mut self, from: NodeId, to: NodeId) {
        self.set_cut(from, to, false);
    }

    /// Ends a [`cut_both`](Self::cut_both).
    pub fn heal_both(&mut self, one: NodeId, other: NodeId) {
        self.heal(one, other);
        self.heal(other, one);
    }

    /// Ends all cuts, deafness and muteness. The knobs stay as they are.
    pub fn heal_all(&mut self) {
        let mut core = self.core.borrow_mut();
        core.network.heal_all();
        core.record(Event::world(EventKind::Network).number(1));
    }

    fn set_cut(&mut self, from: NodeId, to: NodeId, cut: bool) {
        if from == to {
            return; // nobody is cut off from himself
        }
        let mut core = self.core.borrow_mut();
        core.network.link_mut(from, to).cut = cut;
        let event = Event::of(from, EventKind::Network);
        core.record(event.number((to.index() as u64) << 1 | u64::from(cut)));
    }

    /// Cuts every link between nodes of different groups. Nodes in no group keep their links.
    pub fn partition(&mut self, groups: &[&[NodeId]]) {
        for (place, group) in groups.iter().enumerate() {
            for other in &groups[place + 1..] {
                for (&one, &other) in group
                    .iter()
                    .flat_map(|one| other.iter().map(move |other| (one, other)))
                {
                    self.cut_both(one, other);
                }
            }
        }
    }

    /// Leaves only `over` between the two sides: it reaches both, they do not reach each other.
    pub fn bridge(&mut self, one: &[NodeId], over: NodeId, other: &[NodeId]) {
        self.partition(&[one, other]);
        for &side in one.iter().chain(other) {
            self.heal(side, over);
            self.heal(over, side);
        }
    }

    /// Cuts every link of `node`, in both directions.
    pub fn isolate(&mut self, node: NodeId) {
        for other in self.nodes() {
            self.cut_both(node, other);
        }
    }

    /// Whether `node` hears nothing from other nodes.
    pub fn set_deaf(&mut self, node: NodeId, deaf: bool) {
        let mut core = self.core.borrow_mut();
        core.network.set_deaf(node, deaf);
        core.record(Event::of(node, EventKind::Network).number(deaf.into()));
    }

    /// Whether nothing that `node` sends reaches other nodes.
    pub fn set_mute(&mut self, node: NodeId, mute: bool) {
        let mut core = self.core.borrow_mut();
        core.network.set_mute(node, mute);
        core.record(Event::of(node, EventKind::Network).number(mute.into()));
    }

    /// Has `judge` decide about every packet that is sent from now on, until the guard is dropped.
    ///
    /// `judge` has to be a function of the packets that it saw (and of a
    /// [`Random`](super::Random) of its own), or the world is no longer that of its seed. It must
    /// not call the world or a runtime.
    pub fn rule(&mut self, judge: impl FnMut(&Packet) -> Verdict + 'static) -> RuleGuard {
        self.core.borrow_mut().network.rules.add(Box::new(judge))
    }

    /// The packets that rules hold back, in the order in which they were sent.
    pub fn held(&self) -> Vec<Packet> {
        self.core.borrow().network.held().to_vec()
    }

    /// Lets held packets go on that `which` picks, as if they were sent now. Says how many.
    pub fn release(&mut self, which: impl FnMut(&Packet) -> bool) -> usize {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        core.network.release(&mut core.timeline, which)
    }

    /// Turns knobs of the ring of `node`.
    pub fn update_ring(&mut self, node: NodeId, update: impl FnOnce(&mut RingFaults)) {
        let mut core = self.core.borrow_mut();
        update(&mut core.node(node).ring.knobs);
        core.record(Event::of(node, EventKind::Network));
    }

    /// Has the clock of `node` run fast by so many millionths, slow if negative; at -1,000,000 it
    /// stands still.
    ///
    /// # Panics
    /// When the clock would run backwards.
    pub fn set_drift(&mut self, node: NodeId, ppm: i32) {
        let mut core = self.core.borrow_mut();
        let now = core.timeline.now();
        core.node(node).clock.set_drift(now, ppm);
        clock_changed(&mut core, node, ppm.unsigned_abs().into());
    }

    /// Sets the clock of `node` ahead: its skew. Clocks of runtimes never go back, so a clock that
    /// is to be behind is one that the others are ahead of.
    pub fn advance_clock(&mut self, node: NodeId, by: Duration) {
        let mut core = self.core.borrow_mut();
        core.node(node).clock.advance(by);
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        clock_changed(&mut core, node, ns);
    }

    /// Does something with the disk of `node`: turns its knobs, looks into its files, has it do
    /// something. What it [completes](Disk::complete) in there of the node's own is lost to that.
    pub fn with_disk<R>(&mut self, node: NodeId, f: impl FnOnce(&mut Disk) -> R) -> R {
        f(&mut self.core.borrow_mut().node(node).disk)
    }

    /// Puts an empty disk into `node`, with the knobs of the old one.
    ///
    /// # Panics
    /// When a process runs there: [`crash`](Self::crash) it first.
    pub fn replace_disk(&mut self, node: NodeId) {
        assert!(!self.is_up(node), "{node} uses its disk");
        let mut core = self.core.borrow_mut();
        let node_state = core.node(node);
        node_state.disk = node_state.disk.replacement();
        core.record(Event::of(node, EventKind::DiskReplaced));
    }
}

fn clock_changed(core: &mut Core, node: NodeId, number: u64) {
    // It may be later there than the node's loop has thought when it went to sleep.
    core.node(node).parked = Parked::No;
    core.record(Event::of(node, EventKind::Clock).number(number));
}
