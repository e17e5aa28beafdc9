//! What goes wrong in a run, and when: drawn from its seed. Each run switches kinds of fault on and
//! off (swarm testing), so that one kind does not hide another.

use std::time::Duration;

use viewring_protocol::{ReplicaId, wire::kind};
use viewring_runtime::sim::{Link, Packet, Random, RingFaults, RuleGuard, Verdict};

use super::Cluster;

/// The kinds of fault that one run has.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Links that lose, delay, duplicate, garble.
    pub bad_links: bool,
    /// Links that are cut for a while, one way or both.
    pub cuts: bool,
    /// Replicas that hear nothing, or are not heard.
    pub deaf_or_mute: bool,
    /// Replicas that stand still, or are slow.
    pub pauses: bool,
    /// Replicas that stop for ever: no more than the group survives.
    pub crashes: bool,
    /// Stopped replicas that come back without their memory.
    pub restarts: bool,
    /// Clocks that run at different speeds.
    pub drift: bool,
    /// The ring's own bad days.
    pub bad_rings: bool,
    /// Messages of view changes that are held back, and let go much later.
    pub holds: bool,
    /// The primary is the victim more often than chance would have it.
    pub hunts_primary: bool,
    /// The mean time between two faults.
    pub every: Duration,
}

/// Faults, as they happen.
pub(super) struct Adversary {
    faults: Faults,
    random: Random,
    crashed: Vec<ReplicaId>,
    restarted: Vec<ReplicaId>,
    hold: Option<RuleGuard>,
}

impl Faults {
    /// None at all.
    pub fn none() -> Self {
        Self {
            bad_links: false,
            cuts: false,
            deaf_or_mute: false,
            pauses: false,
            crashes: false,
            restarts: false,
            drift: false,
            bad_rings: false,
            holds: false,
            hunts_primary: false,
            every: Duration::from_millis(100),
        }
    }

    /// As `random` decides.
    pub fn draw(random: &mut Random) -> Self {
        let every = Duration::from_millis(20) + random.any_magnitude(Duration::from_secs(1));
        let mut on = || random.chance(0.5);
        Self {
            bad_links: on(),
            cuts: on(),
            deaf_or_mute: on(),
            pauses: on(),
            crashes: on(),
            restarts: on(),
            drift: on(),
            bad_rings: on(),
            holds: on(),
            hunts_primary: on(),
            every,
        }
    }
}

type Act = fn(&mut Adversary, &mut Cluster);

impl Adversary {
    pub(super) fn new(faults: Faults, random: Random) -> Self {
        Self {
            faults,
            random,
            crashed: Vec::new(),
            restarted: Vec::new(),
            hold: None,
        }
    }

    /// Conditions that last for the whole run.
    pub(super) fn begin(&mut self, cluster: &mut Cluster) {
        if self.faults.bad_links {
            self.worsen_links(cluster);
        }
        for id in cluster.replica_ids() {
            let node = cluster.node(id);
            if self.faults.drift {
                let ppm = self.random.between(0..=100_000) as i32 - 50_000;
                cluster.world.set_drift(node, ppm);
                let skew = self.random.any_magnitude(Duration::from_secs(10));
                cluster.world.advance_clock(node, skew);
            }
            if self.faults.bad_rings {
                let ring = RingFaults::draw(&mut self.random);
                cluster.world.update_ring(node, |knobs| *knobs = ring);
            }
        }
    }

    /// How long until the next fault.
    pub(super) fn pause(&mut self) -> Duration {
        self.random.exponential(self.faults.every)
    }

    /// One fault, or the end of some.
    pub(super) fn strike(&mut self, cluster: &mut Cluster) {
        let kinds: [(bool, Act); 8] = [
            (true, Self::relent),
            (self.faults.bad_links, Self::worsen_links),
            (self.faults.cuts, Self::cut),
            (self.faults.cuts, Self::isolate),
            (self.faults.deaf_or_mute, Self::deafen_or_mute),
            (self.faults.pauses, Self::pause_or_slow),
            (self.faults.crashes, Self::crash_or_restart),
            (self.faults.holds, Self::hold_or_release),
        ];
        let possible: Vec<Act> = kinds
            .into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, strike)| strike)
            .collect();
        let strike = possible[self.random.index(possible.len())];
        strike(self, cluster);
    }

    /// Everything is well again, but for those that have stopped.
    pub(super) fn end(&mut self, cluster: &mut Cluster) {
        self.hold = None;
        cluster.world.release(|_| true);
        cluster.world.heal_all();
        cluster.world.update_links(|link| *link = Link::default());
        for id in cluster.replica_ids() {
            let node = cluster.node(id);
            cluster
                .world
                .update_ring(node, |knobs| *knobs = RingFaults::default());
            cluster.world.slow_down(node, 1);
        }
    }

    pub(super) fn crashed(&self) -> &[ReplicaId] {
        &self.crashed
    }

    fn victim(&mut self, cluster: &Cluster) -> ReplicaId {
        if self.faults.hunts_primary
            && self.random.chance(0.5)
            && let Some(primary) = cluster.primary()
        {
            return primary;
        }
        let ids: Vec<ReplicaId> = cluster.replica_ids().collect();
        ids[self.random.index(ids.len())]
    }

    fn relent(&mut self, cluster: &mut Cluster) {
        cluster.world.heal_all();
    }

    fn worsen_links(&mut self, cluster: &mut Cluster) {
        let link = Link::draw(&mut self.random);
        cluster.world.update_links(|knobs| *knobs = link.clone());
    }

    fn cut(&mut self, cluster: &mut Cluster) {
        let one = cluster.node(self.victim(cluster));
        let nodes: Vec<_> = cluster.world.nodes().filter(|&node| node != one).collect();
        let other = nodes[self.random.index(nodes.len())];
        match self.random.below(3) {
            0 => cluster.world.cut(one, other),
            1 => cluster.world.cut(other, one),
            _ => cluster.world.cut_both(one, other),
        }
    }

    /// From the other replicas, or from the clients too.
    fn isolate(&mut self, cluster: &mut Cluster) {
        let victim = self.victim(cluster);
        let node = cluster.node(victim);
        if self.random.chance(0.5) {
            return cluster.world.isolate(node);
        }
        for other in cluster.replica_ids().filter(|&other| other != victim) {
            let other = cluster.node(other);
            cluster.world.cut_both(node, other);
        }
    }

    fn deafen_or_mute(&mut self, cluster: &mut Cluster) {
        let node = cluster.node(self.victim(cluster));
        if self.random.chance(0.5) {
            cluster.world.set_deaf(node, true);
        } else {
            cluster.world.set_mute(node, true);
        }
    }

    fn pause_or_slow(&mut self, cluster: &mut Cluster) {
        let node = cluster.node(self.victim(cluster));
        if self.random.chance(0.7) {
            let pause = self.random.any_magnitude(Duration::from_secs(3));
            cluster.world.pause(node, pause);
        } else {
            let factor = self.random.between(1..=200) as u32;
            cluster.world.slow_down(node, factor);
        }
    }

    fn crash_or_restart(&mut self, cluster: &mut Cluster) {
        let victim = self.victim(cluster);
        let survives = usize::from(cluster.replicas() / 2);
        if !self.crashed.contains(&victim) && self.crashed.len() < survives {
            self.crashed.push(victim);
            cluster.crash(victim);
        } else if self.faults.restarts
            && self.crashed.contains(&victim)
            && !self.restarted.contains(&victim)
        {
            self.restarted.push(victim);
            cluster.restart(victim);
        }
    }

    fn hold_or_release(&mut self, cluster: &mut Cluster) {
        if self.hold.take().is_some() {
            cluster.world.release(|_| true);
            return;
        }
        let mut random = Random::new(self.random.next_u64());
        let share = self.random.unit();
        self.hold = Some(cluster.world.rule(move |packet| {
            if is_of_view_change(packet) && random.chance(share) {
                Verdict::Hold
            } else {
                Verdict::Deliver
            }
        }));
    }
}

/// Whether a datagram begins with a message of a view change.
fn is_of_view_change(packet: &Packet) -> bool {
    let kinds = [
        kind::START_VIEW_CHANGE,
        kind::DO_VIEW_CHANGE,
        kind::START_VIEW,
        kind::NEW_STATE,
    ];
    super::first_kind(packet.payload()).is_some_and(|kind| kinds.contains(&kind))
}
