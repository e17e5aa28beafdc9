//! What goes wrong in a run, and how often: drawn from the seed.

use super::world::{Client, World};
use super::{Chance, timeouts};
use std::collections::BTreeSet;
use viewring_protocol::{Incarnation, Message, Progress, Replica, Role, View};

/// What this seed draws from. Chances are per mille, times are ticks.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) loss: u64,
    pub(crate) duplicate: u64,
    pub(crate) delay: u64,
    pub(crate) hold: u64,
    /// Like `hold`, for what moves logs and views only.
    pub(crate) hold_views: u64,
    /// Comes once more, much later.
    pub(crate) replay: u64,
    /// Like `replay`, for what who recovers is told.
    pub(crate) replay_lives: u64,
    cuts: u64,
    /// Whoever leads is cut off from the other replicas; clients reach it.
    duel: bool,
    crash: u64,
    pub(crate) expire: u64,
    restart: bool,
    /// Crashes from which a replica comes back with its record and nothing else.
    amnesia: u64,
    /// When all lose their memory, and a new group forms among messages of the old one.
    rebirth_at: Option<u64>,
    /// In the end one of them is deaf, and must not disturb.
    pub(crate) deaf: bool,
    /// In the end a primary dies together with the one that would follow it.
    pub(crate) heirs: bool,
    pub(crate) disk: u64,
    /// For so long a checkpoint is written, or read.
    pub(crate) writing: u64,
    /// So many pieces of checkpoints come garbled.
    pub(crate) rot: u64,
    /// Clients do nothing in so many ticks.
    pub(crate) idle: u64,
    /// So many times longer they wait for a view to start.
    pub(crate) patience: u64,
    pub(crate) bytes: bool,
}

impl Faults {
    pub(crate) fn draw(seed: u64, chance: &mut Chance) -> Self {
        let rebirth = chance.hit(200);
        let duel = !rebirth && chance.hit(300);
        let at = chance.range(100, 700);
        let heirs = chance.hit(150);
        let loss: &[u64] = match (rebirth, duel) {
            (true, _) => &[50, 150, 300],
            (_, true) => &[0, 10],
            (false, false) => &[0, 10, 50, 150, 300],
        };
        Self {
            loss: chance.pick(loss),
            duplicate: chance.pick(&[0, 20, 200]),
            delay: chance.pick(if duel { &[1, 3] } else { &[1, 3, 8, 25] }),
            hold: chance.pick(if rebirth { &[100, 300] } else { &[0, 0, 5, 30] }),
            hold_views: chance.pick(if duel { &[0, 0, 100, 400] } else { &[0, 0, 50] }),
            replay: if rebirth { 300 } else { 0 },
            replay_lives: chance.pick(&[0, 900]),
            cuts: chance.pick(if duel { &[0] } else { &[0, 2, 8, 20] }),
            duel,
            crash: chance.pick(&[0, 0, 2]),
            expire: chance.pick(if duel { &[0, 0, 2] } else { &[0, 0, 2, 15] }),
            restart: chance.hit(300),
            amnesia: chance.pick(&[0, 3, 20]),
            rebirth_at: rebirth.then_some(at),
            deaf: chance.hit(150),
            heirs,
            disk: chance.pick(if duel { &[0, 0, 3] } else { &[0, 0, 3, 30] }),
            writing: chance.pick(&[0, 5, 60]),
            rot: chance.pick(&[0, 0, 50, 300]),
            idle: chance.pick(if duel { &[970, 985, 995] } else { &[900] }),
            patience: chance.pick(if heirs { &[8] } else { &[1, 1, 4] }),
            bytes: seed.is_multiple_of(4),
        }
    }
}

/// What moves logs and views.
pub(crate) fn is_of_view_change(message: &Message) -> bool {
    match message {
        Message::StartViewChange(_) | Message::DoViewChange(_) | Message::StartView(_) => true,
        Message::GetState(_) | Message::NewState(_) => true,
        Message::GetCheckpoint(_) | Message::CheckpointChunk(_) => true,
        Message::Recovery(_) | Message::RecoveryResponse(_) => true,
        Message::Prepare(_) | Message::PrepareOk(_) | Message::Commit(_) => false,
        Message::Hello(_) | Message::Request(_) | Message::Reply(_) => false,
        Message::Read(_) | Message::ReadReply(_) => false,
        Message::Round(_) | Message::RoundOk(_) => false,
        Message::GetView(_) | Message::NormalView(_) => false,
    }
}

impl World {
    pub(crate) fn make_faults(&mut self) {
        if self.faults.duel {
            self.duel();
        } else if self.chance.hit(self.faults.cuts) {
            self.make_cut();
        }
        if self.chance.hit(self.faults.crash) && self.may_lose_one() {
            let which = self.any_node();
            if self.nodes[which].is_well() {
                self.nodes[which].up = false;
                self.reached.crashes += 1;
            }
        }
        self.bring_back(false);
        if self.chance.hit(self.faults.amnesia) {
            // Often the same one: what its last life was told may be under way still.
            let again = self.chance.hit(self.faults.replay_lives);
            let which = self.forgetful.filter(|_| again);
            let which = which.unwrap_or_else(|| self.any_node());
            // Also one that has not recovered yet from the last time.
            let node = &self.nodes[which];
            let again = node.up && !node.outside && !node.is_well();
            if again || (node.is_well() && self.losses_left() > 0) {
                self.forget_all(which);
            }
        }
        if self.faults.restart && self.chance.hit(2) && self.may_lose_one() {
            let which = self.any_node();
            if self.nodes[which].is_well() {
                self.restart(which);
            }
        }
        if self.faults.rebirth_at == Some(self.now) {
            self.be_born_again();
        }
    }

    /// How many more may be lost than are.
    pub(crate) fn losses_left(&self) -> usize {
        let lost = self.nodes.iter().filter(|node| !node.is_well()).count();
        usize::from(self.group.failures()).saturating_sub(lost)
    }

    fn may_lose_one(&self) -> bool {
        let mut well = self.nodes.iter().filter(|node| node.is_well());
        let is_formed = well.all(|node| node.replica.group_checksum().is_some());
        self.losses_left() > 0 && is_formed
    }

    pub(crate) fn any_node(&mut self) -> usize {
        let count = u64::from(self.group.replica_count());
        usize::try_from(self.chance.below(count)).expect("small")
    }

    /// Cuts each new primary off, at once or when it has begun, and heals the one before.
    fn duel(&mut self) {
        let leads = |replica: &&Replica| replica.role() == Role::Primary;
        let newest = self.live().filter(leads).max_by_key(|r| r.view());
        let Some((one, view)) = newest.map(|replica| (replica.id().0, replica.view())) else {
            return;
        };
        if self.duelist.is_none_or(|(known, _)| known < view) {
            let pause = self.chance.pick(&[0, 1, 3, 6, 10, 40]);
            self.duelist = Some((view, self.now + pause));
        }
        if self.duelist != Some((view, self.now)) {
            return;
        }
        self.reached.cuts += 1;
        self.cut.clear();
        let until = self.now + self.chance.range(60, 300);
        for other in 0..self.group.replica_count() {
            self.cut.insert((one, other), until);
            self.cut.insert((other, one), until);
        }
    }

    fn make_cut(&mut self) {
        self.reached.cuts += 1;
        let until = self.now + self.chance.range(5, 300);
        let count = self.group.replica_count();
        let one = u8::try_from(self.any_node()).expect("small");
        let other = u8::try_from(self.any_node()).expect("small");
        let side: BTreeSet<u8> = (0..count).filter(|_| self.chance.hit(500)).collect();
        let kind = self.chance.below(6);
        for a in 0..count {
            for b in 0..count {
                let crosses = side.contains(&a) != side.contains(&b);
                let is_cut = match kind {
                    0 => (a, b) == (one, other),
                    1 => (a, b) == (one, other) || (b, a) == (one, other),
                    2 => a == one,
                    3 => b == one,
                    4 => a == one || b == one,
                    _ => crosses,
                };
                if is_cut {
                    self.cut.insert((a, b), until);
                }
            }
        }
    }

    /// A crash from which the replica comes back without its record: it must stay outside.
    fn restart(&mut self, which: usize) {
        self.reached.restarts += 1;
        self.replace(which, 5000 + self.now);
        self.nodes[which].outside = true;
    }

    /// The whole group dies. What it has said is still on its way when the next one forms; but for
    /// greetings: who promises to form a group with a life that has ended waits to be restarted.
    fn be_born_again(&mut self) {
        self.reached.rebirths += 1;
        for which in 0..self.nodes.len() {
            self.replace(
                which,
                9000 + self.now * 8 + u64::try_from(which).expect("small"),
            );
            let node = &mut self.nodes[which];
            (node.up, node.outside, node.back_at) = (true, false, None);
        }
        self.dead.clear();
        self.duelist = None;
        self.network.retain(|_, packet| !packet.is_greeting());
        self.checker = super::checker::Checker::default();
        let clients = (0..).zip(&mut self.clients);
        for (id, client) in clients {
            *client = Client::new(1000 + id, self.group, 20);
        }
    }

    fn replace(&mut self, which: usize, life: u64) {
        let old = &self.nodes[which].replica;
        let (id, options) = (old.id(), *old.options());
        let fresh = Replica::new(id, self.group, options, Incarnation(life));
        self.nodes[which].record = None;
        self.checker.wiped(id);
        self.take_over(which, fresh);
    }

    /// A life begins.
    pub(crate) fn take_over(&mut self, which: usize, mut fresh: Replica) {
        let id = fresh.id();
        self.bug.into_iter().for_each(|bug| fresh.plant(bug));
        let old = std::mem::replace(&mut self.nodes[which].replica, fresh);
        self.dead.push(old);
        self.nodes[which].state = 0;
        self.nodes[which].draft = None;
        self.nodes[which].restore = None;
        self.nodes[which].arrived.clear();
        self.nodes[which].barrier = None;
        self.nodes[which].journal.clear();
        self.checker.forget(id);
        self.restart_timeouts(which, Progress::ROLE_CHANGED);
    }

    /// When all is well, one replica goes deaf. Whoever it is, one change of view is enough.
    pub(crate) fn endure_a_deaf_one(&mut self) {
        let deaf = self.any_node();
        if !self.nodes[deaf].is_well() || self.losses_left() == 0 {
            return;
        }
        self.reached.deaf += 1;
        let deaf = u8::try_from(deaf).expect("small");
        let until = self.now + DEAF_TICKS;
        self.cut = (0..self.group.replica_count())
            .map(|from| ((from, deaf), until))
            .collect();
        let before = self.highest_view();
        for client in &mut self.clients {
            client.left += 2;
        }
        while self.now < until {
            self.tick();
        }
        let lost = u64::try_from(self.nodes.iter().filter(|node| !node.is_well()).count());
        let most = 2 + lost.expect("small");
        let changes = self.highest_view() - before;
        assert!(
            changes <= most,
            "{changes} view changes for a deaf one: {}",
            self.describe()
        );
    }

    /// Those who are left join a view that cannot begin. All must give it up, and each has its own
    /// patience: they meet nevertheless when the last of a quorum has lost it.
    pub(crate) fn lose_the_heir_too(&mut self) {
        let view = View(self.highest_view());
        let primaries = [0, 1, 2].map(|ahead| {
            let view = View(view.0 + ahead);
            self.group.primary(view).index()
        });
        let all_well = primaries.iter().all(|&which| self.nodes[which].is_well());
        if !all_well || self.losses_left() < 2 {
            return;
        }
        self.reached.heirs += 1;
        self.network.clear(); // no late word of who is dead
        for which in &primaries[..2] {
            self.nodes[*which].up = false;
        }
        let give_up = 3 * timeouts::GIVE_UP / 2 * self.faults.patience;
        let until = self.now + 2 * timeouts::SILENCE + give_up + 100;
        while self.highest_view() < view.0 + 2 || !self.is_led() {
            assert!(self.now < until, "votes do not meet: {}", self.describe());
            self.tick();
        }
    }

    fn highest_view(&self) -> u64 {
        self.live()
            .map(|replica| replica.view().0)
            .max()
            .unwrap_or(0)
    }
}

/// Long enough for the deaf one to vote many times.
const DEAF_TICKS: u64 = 12 * timeouts::SILENCE;
