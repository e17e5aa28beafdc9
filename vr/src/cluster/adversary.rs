//! The one who makes things go wrong, when the seed says.

use std::rc::Rc;
use std::time::Duration;

use viewring_protocol::{ReplicaId, Role, wire::kind};
use viewring_runtime::sim::{
    Delay, DiskFaults, Link, NodeId, Packet, Random, RingFaults, RuleGuard, Verdict, World,
};

use super::sent::frames;
use super::sometimes::Mark;
use super::targeted::{Targeted, Wish};
use super::{Cluster, Faults};

/// Faults, as they happen.
pub(super) struct Adversary {
    faults: Faults,
    random: Random,
    crashed: Vec<ReplicaId>,
    /// Stopped, and to come back.
    away: Vec<ReplicaId>,
    /// Started again with an empty disk.
    wiped: Vec<ReplicaId>,
    /// Its disk fails.
    failing: Option<ReplicaId>,
    /// Broken until the very end.
    broken: Vec<ReplicaId>,
    rules: Vec<RuleGuard>,
    /// Faults with an aim, if there are any.
    targeted: Option<Targeted>,
}

type Act = fn(&mut Adversary, &mut Cluster);

impl Adversary {
    pub(super) fn new(faults: Faults, random: Random) -> Self {
        Self {
            faults,
            random,
            crashed: Vec::new(),
            away: Vec::new(),
            wiped: Vec::new(),
            failing: None,
            broken: Vec::new(),
            rules: Vec::new(),
            targeted: None,
        }
    }

    /// Conditions that last for the whole run.
    pub(super) fn begin(&mut self, cluster: &mut Cluster) {
        if self.faults.targeted {
            let (random, readers) = (self.random.fork(1), self.faults.readers > 0);
            self.targeted = Some(Targeted::new(random, cluster, readers));
        }
        if self.faults.bad_links {
            self.worsen_links(cluster);
        }
        for id in cluster.replica_ids() {
            let node = cluster.node(id);
            if self.faults.drift_ppm > 0 {
                let most = self.faults.drift_ppm;
                let ppm = self.random.between(0..=u64::from(2 * most)) as i32 - most as i32;
                cluster.world.set_drift(node, ppm);
                let skew = self.random.any_magnitude(Duration::from_secs(10));
                cluster.world.advance_clock(node, skew);
            }
            if self.faults.slow_disks {
                let disk = DiskFaults::draw(&mut self.random);
                cluster.world.with_disk(node, |own| {
                    *own.faults() = DiskFaults {
                        latency_mean: disk.latency_mean,
                        sync_latency: disk.sync_latency,
                        sector: disk.sector,
                        ..DiskFaults::default()
                    };
                });
            }
            if self.faults.bad_rings {
                let ring = RingFaults::draw(&mut self.random);
                cluster.world.update_ring(node, |knobs| *knobs = ring);
            }
        }
    }

    /// Lets the group run until the next fault.
    pub(super) fn wait(&mut self, cluster: &mut Cluster) {
        let pause = self.random.exponential(self.faults.every);
        let end = cluster.world.now() + pause;
        while let Some(targeted) = &mut self.targeted
            && targeted.due_at() < end
        {
            let wait = targeted.due_at() - cluster.world.now();
            cluster.world.run_for(wait);
            if let Some(wish) = targeted.act(cluster) {
                self.fulfil(cluster, wish);
            }
        }
        cluster.world.run_for(end - cluster.world.now());
    }

    /// One fault, or the end of some.
    pub(super) fn strike(&mut self, cluster: &mut Cluster) {
        let kinds: [(bool, Act); 11] = [
            (true, Self::relent),
            (self.faults.bad_links, Self::worsen_links),
            (self.faults.cuts, Self::cut),
            (self.faults.cuts, Self::isolate),
            (self.faults.flaps, Self::flap),
            (self.faults.deaf_or_mute, Self::deafen_or_mute),
            (self.faults.pauses, Self::pause_or_slow),
            (self.faults.crashes, Self::crash_for_good),
            (self.faults.amnesia, Self::crash_or_restart),
            (self.faults.meddling, Self::meddle_or_release),
            (self.faults.failing_disks, Self::fail_or_repair_disk),
        ];
        let possible: Vec<Act> = kinds
            .into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, strike)| strike)
            .collect();
        let strike = possible[self.random.index(possible.len())];
        strike(self, cluster);
    }

    /// Everything is well again, but for those that have stopped, and a minority.
    pub(super) fn end(&mut self, cluster: &mut Cluster) {
        self.rules.clear();
        self.targeted.iter_mut().for_each(Targeted::end);
        cluster.world.release(|_| true);
        cluster.world.heal_all();
        let link = self.faults.distance.map_or_else(Link::default, far);
        cluster.set_links(&link);
        if self.faults.distance.is_some() {
            cluster.checker().borrow_mut().marks.hit(Mark::FarApart);
        }
        for id in cluster.replica_ids() {
            let node = cluster.node(id);
            let ring = RingFaults::default();
            cluster.world.update_ring(node, |knobs| *knobs = ring);
            cluster.world.slow_down(node, 1);
        }
        if let Some(id) = self.failing.take() {
            cluster.repair_disk(id);
            cluster.restart(id);
        }
        self.bring_back(cluster);
        if self.faults.heirs {
            self.stop_heirs(cluster);
        }
        if self.faults.broken_minority {
            self.break_minority(cluster);
        }
    }

    /// The minority is well again, too.
    pub(super) fn mend(&mut self, cluster: &mut Cluster) {
        self.broken.clear();
        cluster.world.heal_all();
    }

    /// The replicas that have stopped.
    pub(super) fn crashed(&self) -> &[ReplicaId] {
        &self.crashed
    }

    /// The replicas of which nothing is expected: those that have stopped, and those that are
    /// broken still.
    pub(super) fn out_of_order(&self) -> Vec<ReplicaId> {
        self.crashed.iter().chain(&self.broken).copied().collect()
    }

    /// How many views may begin before one rests although everything is well.
    pub(super) fn late_views(&self) -> u32 {
        let delays_votes = self.targeted.as_ref().is_some_and(Targeted::delays_votes);
        self.faults.late_views().max(u32::from(delays_votes))
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
        cluster.set_links(&link);
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
        if self.random.chance(0.5) {
            cluster.world.isolate(cluster.node(victim));
        } else {
            cut_off(cluster, victim);
        }
    }

    /// Whoever leads loses touch, again and again.
    fn flap(&mut self, cluster: &mut Cluster) {
        for _ in 0..self.random.between(1..=4) {
            let Some(primary) = cluster.primary() else {
                return;
            };
            cut_off(cluster, primary);
            let away = self.random.between(100..=1_200);
            cluster.world.run_for(Duration::from_millis(away));
            cluster.world.heal_all();
            let back = self.random.any_magnitude(Duration::from_millis(400));
            cluster.world.run_for(back);
        }
    }

    fn deafen_or_mute(&mut self, cluster: &mut Cluster) {
        let victim = self.victim(cluster);
        self.deafen_or_mute_one(cluster, victim);
    }

    fn deafen_or_mute_one(&mut self, cluster: &mut Cluster, victim: ReplicaId) {
        let node = cluster.node(victim);
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

    /// How many more may stop. Who has not recovered yet is as good as stopped.
    fn spare(&self, cluster: &Cluster) -> usize {
        let checker = cluster.checker().borrow();
        let is_lost = |id: &ReplicaId| {
            let role = checker.role(*id);
            self.has_stopped(*id) || matches!(role, Role::Outside | Role::Recovering)
        };
        let lost = cluster.replica_ids().filter(is_lost).count();
        usize::from(cluster.replicas() / 2).saturating_sub(lost)
    }

    /// Or may do so any time: its disk fails.
    fn has_stopped(&self, id: ReplicaId) -> bool {
        self.crashed.contains(&id) || self.away.contains(&id) || self.failing == Some(id)
    }

    /// One stops for ever; or one that has comes back with an empty disk, and must wait.
    fn crash_for_good(&mut self, cluster: &mut Cluster) {
        let victim = self.victim(cluster);
        if !self.has_stopped(victim) && self.spare(cluster) > 0 {
            self.crashed.push(victim);
            cluster.crash(victim);
        } else if self.faults.restarts
            && self.crashed.contains(&victim)
            && !self.wiped.contains(&victim)
        {
            self.wiped.push(victim);
            cluster.wipe(victim);
            cluster.restart(victim);
        }
    }

    /// One stops, perhaps before it has recovered from the last time; or one comes back.
    fn crash_or_restart(&mut self, cluster: &mut Cluster) {
        if !self.away.is_empty() && self.random.chance(0.6) {
            let back = self.away.remove(self.random.index(self.away.len()));
            return cluster.restart(back);
        }
        let victim = self.victim(cluster);
        if !self.may_restart(cluster, victim) {
            return;
        }
        cluster.crash(victim);
        if self.random.chance(0.3) {
            // At once: what it was about to hear is under way still.
            cluster.restart(victim);
        } else {
            self.away.push(victim);
        }
    }

    /// The disk of one begins to fail; or what comes of that.
    fn fail_or_repair_disk(&mut self, cluster: &mut Cluster) {
        if let Some(id) = self.failing {
            return self.restart_or_repair(id, cluster);
        }
        let victim = self.victim(cluster);
        if self.has_stopped(victim) || self.wiped.contains(&victim) || self.spare(cluster) == 0 {
            return;
        }
        let mut pick = |of: [f64; 3]| of[self.random.index(3)];
        let (read, write) = (pick([0.0, 0.3, 1.0]), pick([0.0, 0.3, 1.0]));
        let sync = pick([0.3, 0.3, 1.0]);
        self.failing = Some(victim);
        cluster.fail_disk(victim, |disk| {
            (disk.read_error, disk.write_error, disk.sync_error) = (read, write, sync);
        });
        if self.random.chance(0.3) {
            // It reads, and writes, as soon as it starts.
            cluster.crash(victim);
            cluster.restart(victim);
        }
    }

    /// If it has ended it is started again, perhaps after a loss of power; or with a disk that is
    /// well, which it finds as the bad one has left it.
    fn restart_or_repair(&mut self, id: ReplicaId, cluster: &mut Cluster) {
        let has_ended = cluster.why_ended(id).is_some();
        if has_ended && self.random.chance(0.5) {
            cluster.crash(id);
        }
        let is_well = self.random.chance(0.5);
        if is_well {
            self.failing = None;
            cluster.repair_disk(id);
        }
        if is_well || has_ended {
            cluster.restart(id);
        }
    }

    /// Whether this one may stop and come back.
    fn may_restart(&self, cluster: &Cluster, id: ReplicaId) -> bool {
        if self.has_stopped(id) || self.wiped.contains(&id) {
            return false;
        }
        let again = cluster.checker().borrow().role(id) == Role::Recovering;
        again || self.spare(cluster) > 0
    }

    /// What a targeted fault asks for, if this run has such faults.
    fn fulfil(&mut self, cluster: &mut Cluster, wish: Wish) {
        match wish {
            Wish::Restart(id) => self.restart_at_once(cluster, id),
            Wish::RestartBackups => {
                let primary = cluster.primary();
                for id in cluster.replica_ids().filter(|&id| Some(id) != primary) {
                    self.restart_at_once(cluster, id);
                    let checker = Rc::clone(cluster.checker());
                    let recovered = |_: &World| checker.borrow().role(id) != Role::Recovering;
                    let _late = cluster.world.run_until(recovered, RECOVERS_WITHIN);
                }
            }
            Wish::StopMinority => {
                while self.faults.crashes && self.spare(cluster) > 0 {
                    let victim = self.victim(cluster);
                    if !self.has_stopped(victim) {
                        self.crashed.push(victim);
                        cluster.crash(victim);
                    }
                }
            }
        }
    }

    /// One stops and comes back in the same moment.
    fn restart_at_once(&mut self, cluster: &mut Cluster, id: ReplicaId) {
        if self.faults.amnesia && self.may_restart(cluster, id) {
            cluster.crash(id);
            cluster.restart(id);
        }
    }

    /// Those come back who are to.
    fn bring_back(&mut self, cluster: &mut Cluster) {
        for id in std::mem::take(&mut self.away) {
            cluster.restart(id);
        }
    }

    /// A primary stops, and the one that would follow it.
    fn stop_heirs(&mut self, cluster: &mut Cluster) {
        let Some(primary) = cluster.primary() else {
            return;
        };
        for next in 0..2 {
            let id = ReplicaId((primary.0 + next) % cluster.replicas());
            if !self.has_stopped(id) && self.spare(cluster) > 0 {
                self.crashed.push(id);
                cluster.crash(id);
            }
        }
    }

    /// As many as the group survives hear nothing, are not heard, or are cut off.
    fn break_minority(&mut self, cluster: &mut Cluster) {
        for _ in 0..self.spare(cluster) {
            let victim = self.victim(cluster);
            if self.out_of_order().contains(&victim) {
                continue;
            }
            self.broken.push(victim);
            cluster
                .checker()
                .borrow_mut()
                .marks
                .hit(Mark::MinorityStaysBroken);
            match self.random.below(3) {
                0 => cluster.world.isolate(cluster.node(victim)),
                1 => cut_off(cluster, victim),
                _ => self.deafen_or_mute_one(cluster, victim),
            }
        }
    }

    fn meddle_or_release(&mut self, cluster: &mut Cluster) {
        if self.rules.len() < 2 && self.random.chance(0.6) {
            return self.meddle(cluster);
        }
        if !self.rules.is_empty() {
            drop(self.rules.remove(0));
        }
        let (mut random, share) = (self.fork(), self.random.unit().sqrt());
        cluster.world.release(|_| random.chance(share));
    }

    /// Something happens to some messages of some kinds, of all replicas or of one.
    fn meddle(&mut self, cluster: &mut Cluster) {
        let (of_views, share) = (self.random.chance(0.6), self.random.unit());
        let of_view_changes = [
            kind::START_VIEW_CHANGE,
            kind::DO_VIEW_CHANGE,
            kind::START_VIEW,
            kind::GET_STATE,
            kind::NEW_STATE,
            kind::GET_CHECKPOINT,
            kind::CHECKPOINT_CHUNK,
            kind::RECOVERY,
            kind::RECOVERY_RESPONSE,
        ];
        let all = (kind::PREPARE..=kind::CHECKPOINT_CHUNK).chain(kind::READ..=kind::NORMAL_VIEW);
        let kinds: Vec<u8> = if self.random.chance(0.15) {
            vec![
                kind::ROUND,
                kind::ROUND_OK,
                kind::GET_VIEW,
                kind::NORMAL_VIEW,
            ]
        } else if of_views {
            of_view_changes.to_vec()
        } else {
            all.filter(|_| self.random.chance(0.4)).collect()
        };
        let one = self
            .random
            .chance(0.4)
            .then(|| cluster.node(self.victim(cluster)));
        let (mut random, what) = (self.fork(), self.random.below(5));
        self.rules.push(cluster.world.rule(move |packet| {
            if !is_of(packet, &kinds, one) || !random.chance(share) {
                return Verdict::Deliver;
            }
            match what {
                0 => Verdict::Drop,
                1 => Verdict::Delay(random.any_magnitude(Duration::from_secs(2))),
                2 => Verdict::Duplicate(random.any_magnitude(Duration::from_secs(120))),
                _ => Verdict::Hold,
            }
        }));
    }

    /// Random numbers for what outlives a call.
    fn fork(&mut self) -> Random {
        Random::new(self.random.next_u64())
    }
}

/// Who is restarted has its memory back within so long, where nothing else is wrong.
const RECOVERS_WITHIN: Duration = Duration::from_millis(300);

/// Cuts a replica off from the others; clients reach it still.
fn cut_off(cluster: &mut Cluster, id: ReplicaId) {
    let node = cluster.node(id);
    for other in cluster.replica_ids().filter(|&other| other != id) {
        let other = cluster.node(other);
        cluster.world.cut_both(node, other);
    }
}

/// A link between places that are far apart: slow, and otherwise good.
pub(super) fn far(distance: Duration) -> Link {
    Link {
        delay: Delay {
            min: distance,
            mean: distance / 20,
            ..Delay::default()
        },
        ..Link::default()
    }
}

/// Whether a datagram of a replica, of this one if one is given, has a message of these kinds.
fn is_of(packet: &Packet, kinds: &[u8], one: Option<NodeId>) -> bool {
    one.is_none_or(|one| packet.from_node() == one)
        && frames(packet.payload()).any(|(kind, _)| kinds.contains(&kind))
}
