//! Faults that aim: at one kind of message on one link, at a moment, at a reader.
//!
//! What is rare in a world of blind faults is often one message: held until it is about something
//! else, lost where the others come through, heard again seconds later. Here rules are drawn that
//! single out a kind of message, for a while; each run has a few kinds that it prefers, so that
//! what has to happen to the same kind several times does. Beside them stand what makes such
//! messages matter: a split group whose lesser part has a reader, a replica that stands still while
//! another is out of touch, a restart right after something was said.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use viewring_protocol::ReplicaId;
use viewring_protocol::wire::kind;
use viewring_runtime::sim::{NodeId, Packet, Random, RuleGuard, Verdict};
use viewring_runtime::time::Instant;

use super::Cluster;
use super::script::KINDS;
use super::sent::frames;

/// Targeted faults, as they happen.
#[derive(Debug)]
pub(super) struct Targeted {
    random: Random,
    /// The kinds of message that most rules are about.
    preferred: Vec<Kind>,
    /// What most rules do.
    way: u64,
    next_at: Instant,
    /// The mean rest between two acts.
    rest: Duration,
    running: Vec<Running>,
    /// So many rules may be in force together.
    rules_max: usize,
    /// The lesser part of a group that is split.
    apart: Rc<RefCell<Vec<NodeId>>>,
    whole_at: Option<Instant>,
    /// The next act is a split.
    splits_next: bool,
    /// In force from the beginning to the end.
    standing: Vec<RuleGuard>,
    /// Those who hear nothing, or are not heard, for a moment.
    out_of_touch: Vec<(Instant, NodeId)>,
    /// A vote may be under way for long.
    delays_votes: bool,
}

/// What is asked of who knows how many may be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Stop this one, and start it again at once.
    Restart(ReplicaId),
    /// The same to all backups, one after the other has its memory back.
    RestartBackups,
    /// Stop for ever as many as the group survives.
    StopMinority,
}

/// A kind of message; None: all.
type Kind = Option<u8>;

/// A rule, until it ends.
#[derive(Debug)]
struct Running {
    until: Instant,
    _rule: RuleGuard,
    /// What it holds back, by number.
    held: Rc<RefCell<Vec<u64>>>,
}

/// What happens to the messages that a rule is about.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    Held,
    /// So much later.
    Delayed(Duration),
    /// A second time, so much later.
    Twice(Duration),
}

/// Which of them.
#[derive(Clone, Copy, Debug)]
enum Count {
    All,
    Only(u64),
    First(u64),
}

/// No rule is in force for longer.
const RULE_MAX: Duration = Duration::from_secs(6);
/// A rule is in force for at least so long.
const RULE_MIN: Duration = Duration::from_millis(50);
/// A message may come so much later.
const LATER_MIN: Duration = Duration::from_millis(2);
const LATER_MAX: Duration = Duration::from_secs(4);
/// A message may come again so much later.
const AGAIN_MAX: Duration = Duration::from_secs(20);

impl Targeted {
    /// They begin now. If there are `readers`, rounds are preferred.
    pub(super) fn new(mut random: Random, cluster: &mut Cluster, readers: bool) -> Self {
        let mut preferred: Vec<Kind> = Vec::new();
        if readers && random.chance(0.6) {
            let round = random.between(kind::ROUND.into()..=kind::NORMAL_VIEW.into());
            preferred.push(Some(round as u8));
        }
        for _ in preferred.len() as u64..random.between(1..=3) {
            preferred.push(any_kind(&mut random));
        }
        let mut targeted = Self {
            preferred,
            way: random.below(4),
            next_at: cluster.world.now(),
            rest: Duration::from_millis(random.between(300..=2_000)),
            running: Vec::new(),
            rules_max: random.between(1..=3) as usize,
            apart: Rc::default(),
            whole_at: None,
            splits_next: false,
            standing: Vec::new(),
            out_of_touch: Vec::new(),
            delays_votes: false,
            random,
        };
        targeted.stand(cluster);
        targeted
    }

    /// What is in force from the beginning to the end: first that nothing crosses a split, but for
    /// what is under way; then, perhaps, that all messages of one kind are late, or come twice.
    fn stand(&mut self, cluster: &mut Cluster) {
        let apart = Rc::clone(&self.apart);
        self.standing.push(cluster.world.rule(move |packet| {
            let apart = apart.borrow();
            let to = packet.to_node().is_some_and(|to| apart.contains(&to));
            if apart.contains(&packet.from_node()) == to {
                Verdict::Deliver
            } else {
                Verdict::Drop
            }
        }));
        let Some(kind) = self.preferred[0].filter(|_| self.random.chance(0.5)) else {
            return;
        };
        let verdict = if self.random.chance(0.5) {
            Verdict::Delay(self.magnitude(LATER_MIN, LATER_MAX))
        } else {
            Verdict::Duplicate(self.magnitude(LATER_MIN, AGAIN_MAX))
        };
        self.note_delay(Some(kind));
        self.standing.push(cluster.world.rule(move |packet| {
            if is_of(packet, Some(kind)) {
                verdict.clone()
            } else {
                Verdict::Deliver
            }
        }));
    }

    /// When something is to be done.
    pub(super) fn due_at(&self) -> Instant {
        let ends = self.running.iter().map(|rule| rule.until);
        let back = self.out_of_touch.iter().map(|&(at, _)| at);
        let whole = self.whole_at;
        ends.chain(back)
            .chain(whole)
            .fold(self.next_at, Instant::min)
    }

    /// Does what is due. The world may run meanwhile.
    pub(super) fn act(&mut self, cluster: &mut Cluster) -> Option<Wish> {
        self.end_what_is_due(cluster);
        let now = cluster.world.now();
        if now < self.next_at {
            return None;
        }
        // Often at once, so that one thing falls into another.
        let rest = if self.random.chance(0.5) {
            self.random.any_magnitude(Duration::from_millis(200))
        } else {
            self.random.exponential(self.rest)
        };
        self.next_at = now + rest + Duration::from_micros(1);
        if std::mem::take(&mut self.splits_next) {
            self.split(cluster);
            return None;
        }
        match self.random.below(25) {
            0..12 => self.single_out(cluster),
            12..18 => self.split(cluster),
            18..20 => self.stand_still(cluster),
            20..22 => return self.restart_who_spoke(cluster),
            22..24 => {
                if self.random.chance(0.5) {
                    (self.splits_next, self.next_at) = (true, now);
                }
                return Some(Wish::RestartBackups);
            }
            _ => {
                self.let_views_fail(cluster);
                return Some(Wish::StopMinority);
            }
        }
        None
    }

    /// No rule is in force any more.
    pub(super) fn end(&mut self) {
        self.running.clear();
        self.standing.clear();
        self.out_of_touch.clear();
    }

    /// Whether a vote may come long after it was cast.
    pub(super) fn delays_votes(&self) -> bool {
        self.delays_votes
    }

    fn end_what_is_due(&mut self, cluster: &mut Cluster) {
        let now = cluster.world.now();
        for ended in self.running.extract_if(.., |rule| rule.until <= now) {
            let held = ended.held.take();
            cluster
                .world
                .release(|packet| held.contains(&packet.number()));
        }
        if self.whole_at.is_some_and(|at| at <= now) {
            self.whole_at = None;
            self.apart.borrow_mut().clear();
        }
        for (_, node) in self.out_of_touch.extract_if(.., |&mut (at, _)| at <= now) {
            cluster.world.set_deaf(node, false);
            cluster.world.set_mute(node, false);
        }
    }

    /// A rule about one kind of message, from one node or any to one or any.
    fn single_out(&mut self, cluster: &mut Cluster) {
        if self.running.len() >= self.rules_max {
            return;
        }
        let kind = if self.random.chance(0.8) {
            self.preferred[self.random.index(self.preferred.len())]
        } else {
            any_kind(&mut self.random)
        };
        let (from, to) = (self.end_of_link(cluster), self.end_of_link(cluster));
        let is_it = move |packet: &Packet| {
            from.is_none_or(|from| packet.from_node() == from)
                && to.is_none_or(|to| packet.to_node() == Some(to))
                && is_of(packet, kind)
        };
        let (fate, count) = (self.fate(), self.count());
        if !matches!(fate, Fate::Lost) {
            self.note_delay(kind);
        }
        let period = self.magnitude(RULE_MIN, RULE_MAX);
        self.start(cluster, period, is_it, fate, count);
    }

    /// Messages of this kind may come late.
    fn note_delay(&mut self, kind: Kind) {
        let votes = [kind::START_VIEW_CHANGE, kind::DO_VIEW_CHANGE];
        self.delays_votes |= kind.is_none_or(|kind| votes.contains(&kind));
    }

    /// For seconds no view starts: what it takes is lost, whoever says it.
    fn let_views_fail(&mut self, cluster: &mut Cluster) {
        let kinds = [kind::DO_VIEW_CHANGE, kind::START_VIEW];
        let kind = Some(kinds[self.random.index(kinds.len())]);
        let period = Duration::from_millis(self.random.between(1_000..=8_000));
        let is_it = move |packet: &Packet| is_of(packet, kind);
        self.start(cluster, period, is_it, Fate::Lost, Count::All);
    }

    /// The group falls in two, and the clients with it: the lesser part often has the primary. What
    /// is under way arrives.
    fn split(&mut self, cluster: &mut Cluster) {
        let replicas = usize::from(cluster.replicas());
        let lesser = self.random.between(1..=replicas as u64 / 2) as usize;
        let primary = cluster.primary().filter(|_| self.random.chance(0.7));
        let first = primary.unwrap_or_else(|| self.victim(cluster));
        let mut others: Vec<_> = cluster.replica_ids().filter(|&id| id != first).collect();
        self.random.shuffle(&mut others);
        let members = others.into_iter().take(lesser - 1).chain([first]);
        let mut apart: Vec<NodeId> = members.map(|id| cluster.node(id)).collect();
        let clients = cluster.world.nodes().skip(replicas);
        apart.extend(clients.filter(|_| self.random.chance(0.5)));
        self.apart.replace(apart);
        let period = Duration::from_millis(self.random.between(200..=2_500));
        self.whole_at = Some(cluster.world.now() + period);
    }

    /// One stands still for seconds; meanwhile another is out of touch for a moment.
    fn stand_still(&mut self, cluster: &mut Cluster) {
        let still = self.victim(cluster);
        let pause = Duration::from_millis(self.random.between(300..=3_000));
        cluster.world.pause(cluster.node(still), pause);
        let other = self.victim(cluster);
        if other == still {
            return;
        }
        cluster.world.run_for(self.random.any_magnitude(pause / 2));
        let node = cluster.node(other);
        if self.random.chance(0.7) {
            cluster.world.set_deaf(node, true);
        } else {
            cluster.world.set_mute(node, true);
        }
        let moment = Duration::from_millis(self.random.between(200..=1_000));
        self.out_of_touch.push((cluster.world.now() + moment, node));
    }

    /// One that has just said something is to be restarted, if it says it soon.
    fn restart_who_spoke(&mut self, cluster: &mut Cluster) -> Option<Wish> {
        let victim = self.victim(cluster);
        let kind = self.preferred[self.random.index(self.preferred.len())];
        let (node, spoke) = (cluster.node(victim), Rc::new(Cell::new(false)));
        let seen = Rc::clone(&spoke);
        let rule = cluster.world.rule(move |packet| {
            if packet.from_node() == node && is_of(packet, kind) {
                seen.set(true);
            }
            Verdict::Deliver
        });
        let soon = self.random.any_magnitude(Duration::from_millis(500));
        let has_spoken = cluster.world.run_until(|_| spoke.get(), soon).is_ok();
        drop(rule);
        has_spoken.then_some(Wish::Restart(victim))
    }

    /// The primary, as often as not.
    fn victim(&mut self, cluster: &Cluster) -> ReplicaId {
        let primary = cluster.primary().filter(|_| self.random.chance(0.4));
        let any = self.random.below(cluster.replicas().into()) as u8;
        primary.unwrap_or(ReplicaId(any))
    }

    /// None: any node.
    fn end_of_link(&mut self, cluster: &Cluster) -> Option<NodeId> {
        let any = self.random.chance(0.6);
        (!any).then(|| cluster.node(self.victim(cluster)))
    }

    /// A duration of which every order of magnitude is equally likely.
    fn magnitude(&mut self, least: Duration, most: Duration) -> Duration {
        let doublings = (most.as_micros() / least.as_micros()).ilog2();
        let from = least * (1 << self.random.below(u64::from(doublings) + 1));
        most.min(from.mul_f64(1.0 + self.random.unit()))
    }

    fn fate(&mut self) -> Fate {
        let way = if self.random.chance(0.5) {
            self.way
        } else {
            self.random.below(4)
        };
        match way {
            0 => Fate::Lost,
            1 => Fate::Held,
            2 => Fate::Delayed(self.magnitude(LATER_MIN, LATER_MAX)),
            _ => Fate::Twice(self.magnitude(LATER_MIN, AGAIN_MAX)),
        }
    }

    fn count(&mut self) -> Count {
        match self.random.below(6) {
            0 => Count::Only(self.random.between(1..=4)),
            1 => Count::First(self.random.between(1..=4)),
            _ => Count::All,
        }
    }

    fn start(
        &mut self,
        cluster: &mut Cluster,
        period: Duration,
        is_it: impl Fn(&Packet) -> bool + 'static,
        fate: Fate,
        count: Count,
    ) {
        let held: Rc<RefCell<Vec<u64>>> = Rc::default();
        let holds = Rc::clone(&held);
        let mut seen = 0;
        let rule = cluster.world.rule(move |packet| {
            if !is_it(packet) {
                return Verdict::Deliver;
            }
            seen += 1;
            if !count.has(seen) {
                return Verdict::Deliver;
            }
            match fate {
                Fate::Lost => Verdict::Drop,
                Fate::Delayed(by) => Verdict::Delay(by),
                Fate::Twice(after) => Verdict::Duplicate(after),
                Fate::Held => {
                    holds.borrow_mut().push(packet.number());
                    Verdict::Hold
                }
            }
        });
        self.running.push(Running {
            until: cluster.world.now() + period,
            _rule: rule,
            held,
        });
    }
}

impl Count {
    fn has(self, nth: u64) -> bool {
        match self {
            Self::All => true,
            Self::Only(n) => nth == n,
            Self::First(n) => nth <= n,
        }
    }
}

/// One of all kinds, or all.
fn any_kind(random: &mut Random) -> Kind {
    let (_, kind) = KINDS[random.index(KINDS.len())];
    (!random.chance(0.15)).then_some(kind)
}

fn is_of(packet: &Packet, kind: Kind) -> bool {
    frames(packet.payload()).any(|(has, _)| kind.is_none_or(|kind| kind == has))
}
