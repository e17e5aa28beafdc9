//! How a group begins. Not in the paper.
//!
//! A replica that has lost its memory must not take part: it would acknowledge with nothing
//! behind it, or vote with a log that has forgotten what it acknowledged. A replica that starts
//! with nothing cannot tell by itself whether its group starts with it or runs already. So every
//! record of a replica, or every life of one that keeps none, has its own *incarnation*, and a
//! group is a set of incarnations, one a replica, all of which have promised to be of that set
//! and no other:
//!
//! 1. A starting replica says its incarnation. When it knows one of every replica, it *locks*
//!    that set, for ever, and says so.
//! 2. When all replicas have said that they locked the same set, the group is formed: whoever
//!    knows this is a *member*, normal in view 0 with an empty log. Whoever locked the set and
//!    hears a member of it knows it, too.
//!
//! Each step is remembered before it is spoken of: the incarnation, the set, the membership. So
//! who is restarted goes on where it was: it forms the same group under the same incarnation,
//! whose promise it keeps; and only who may have taken part in it has something to
//! [recover](super::recovery).
//!
//! *Why it is safe.* A set with a member was locked by all its incarnations. Two such sets that
//! differ cannot share an incarnation, as each locks once: they differ in every replica, so
//! every replica of the elder set is dead, and with it all that a diskless group can keep. While
//! one member lives, no other group can form: it is asked, and does not lock again. A replica
//! that was restarted without its record therefore stays outside; to the others it is one that
//! has crashed, and f of these are tolerated. The root of the log's hash chain is made of the
//! set, so that messages of a group that died whole fit nowhere in the next.
//!
//! *What it costs.* Forming needs all replicas, and a replica that dies between locking and
//! forming, and loses its record or keeps none, blocks the others until they begin anew as well:
//! [`Replica::waiting_reason`] says so.

use super::{Replica, Role, Status};
use crate::bug::Bug;
use crate::configuration::Configuration;
use crate::counters::Ignored;
use crate::effects::{Effects, Progress};
use crate::ids::{Checksum, Incarnation, ReplicaId, View};
use crate::log::Log;
use crate::message::{Hello, Message, Standing};
use crate::quorum::ReplicaSet;
use crate::record::Record;
use alloc::vec::Vec;
use core::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// Why a replica is not a member (yet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingReason {
    /// These replicas have not been heard at all.
    WaitingFor(ReplicaSet),
    /// All are there; these have not said yet that they form the same group.
    WaitingForAgreement(ReplicaSet),
    /// We promised to form a group with lives of these replicas that have ended: all replicas
    /// that are not members must begin anew.
    LockedWithDead(ReplicaSet),
    /// The group was formed without this life of the replica, which was restarted.
    GroupRunsWithoutMe {
        /// The view that a member told.
        view: View,
    },
    /// A member that asks the others for the memory that it has lost.
    Recovering {
        /// Who has answered.
        answered: ReplicaSet,
        /// How many must answer, the primary among them.
        needed: u8,
    },
    /// More replicas have lost their memory than the group survives: it cannot go on, and nothing
    /// begins by itself.
    MemoryLost {
        /// Those that have, as far as is known; also this one.
        lost: ReplicaSet,
    },
}

/// A list of replicas, for humans.
struct List(ReplicaSet);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, id) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for WaitingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaitingFor(ids) => write!(f, "waiting to hear from replica {}", List(*ids)),
            Self::WaitingForAgreement(ids) => {
                write!(
                    f,
                    "waiting for replica {} to agree on the group",
                    List(*ids)
                )
            }
            Self::LockedWithDead(ids) => write!(
                f,
                "replica {} began anew while the group formed: restart this one, too, without its \
                 data directory if it has one",
                List(*ids)
            ),
            Self::GroupRunsWithoutMe { view } => write!(
                f,
                "a member says that the group was formed before (view {view}), and this replica \
                 was restarted without its memory: it cannot take part, as one that has kept a \
                 data directory could. There is no way back into this group yet: while it serves, \
                 write its state out, and begin a new group with that"
            ),
            Self::Recovering { answered, needed } => write!(
                f,
                "this replica has lost its memory and asks the others for it: {} of {needed} \
                 have answered",
                answered.len()
            ),
            Self::MemoryLost { lost } => write!(
                f,
                "replicas {} have lost their memory, which are more than the group survives: what \
                 it held is lost, and nothing begins by itself. For a new group, restart all \
                 replicas on empty data directories",
                List(*lost)
            ),
        }
    }
}

/// What a replica knows of the group that it wants to form.
#[derive(Debug)]
pub(super) struct Formation {
    me: ReplicaId,
    incarnation: Incarnation,
    /// The last life heard of each replica, our own included.
    heard: Vec<Option<Incarnation>>,
    /// The set that was promised, for ever.
    locked: Option<Vec<Incarnation>>,
    /// Who has promised the same, we included.
    agreeing: ReplicaSet,
    /// A group that runs, as far as we know, and the view that a member told.
    runs_without_me: Option<(Vec<Incarnation>, View)>,
    hello_due: bool,
    root: Checksum,
}

impl Formation {
    pub(super) fn new(me: ReplicaId, group: &Configuration, incarnation: Incarnation) -> Self {
        let mut heard = alloc::vec![None; usize::from(group.replica_count())];
        heard[me.index()] = Some(incarnation);
        Self {
            me,
            incarnation,
            heard,
            locked: None,
            agreeing: ReplicaSet::EMPTY,
            runs_without_me: None,
            hello_due: false,
            root: Checksum(0),
        }
    }

    /// Step 1: locks, if a life of every replica is known and no group is known to run.
    fn try_to_lock(&mut self) {
        if self.locked.is_some() {
            return;
        }
        if let Some((members, _)) = &self.runs_without_me {
            // It was a late word of a group that has died whole, if all its members have.
            let mut lives = self.heard.iter().zip(members);
            if !lives.all(|(heard, member)| heard.is_some_and(|heard| heard != *member)) {
                return;
            }
            self.runs_without_me = None;
        }
        let all: Option<Vec<_>> = self.heard.iter().copied().collect();
        if let Some(all) = all {
            self.promise(all);
        }
    }

    /// Will be of this set and no other.
    pub(super) fn promise(&mut self, founders: Vec<Incarnation>) {
        self.locked = Some(founders);
        self.agreeing.insert(self.me);
        self.hello_due = true;
    }

    /// A replica that is not a member spoke. Whether it told something new.
    fn hear(&mut self, from: ReplicaId, hello: &Hello) -> bool {
        let known = &mut self.heard[from.index()];
        let mut news = *known != Some(hello.incarnation);
        *known = Some(hello.incarnation);
        self.try_to_lock();
        let same = hello.locked.is_some() && hello.locked == self.locked;
        let is_of_it = self
            .locked
            .as_ref()
            .is_some_and(|locked| locked.get(from.index()) == Some(&hello.incarnation));
        if same && is_of_it {
            news |= self.agreeing.insert(from);
        }
        news
    }
}

impl Replica {
    /// A periodic timeout while outside or recovering: says who we are, and what we need.
    pub fn announce(&mut self, effects: &mut Effects) -> Progress {
        self.invariants();
        match self.role() {
            Role::Outside => {
                self.try_to_form();
                self.formation.hello_due = true;
                self.flush_hello(effects);
            }
            Role::Recovering => self.ask_for_memory(effects),
            Role::Primary | Role::Backup | Role::ViewChange | Role::CatchingUp => {
                return self.ignore(Ignored::WrongRole);
            }
        }
        self.invariants();
        self.formed()
    }

    pub(super) fn flush_hello(&mut self, effects: &mut Effects) {
        if self.formation.hello_due {
            self.formation.hello_due = false;
            self.remember(effects);
            effects.broadcast(Message::Hello(self.hello()));
        }
    }

    /// What must not be forgotten.
    pub(super) fn record(&self) -> Record {
        Record {
            incarnation: self.formation.incarnation,
            founders: self.formation.locked.clone(),
            member: self.role() != Role::Outside,
            view: self.view,
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            incarnation: self.formation.incarnation,
            locked: self.formation.locked.clone(),
            standing: match self.role() {
                Role::Outside => Standing::Forming,
                Role::Recovering => Standing::Recovering,
                Role::Primary | Role::Backup => Standing::Member,
                Role::ViewChange | Role::CatchingUp => Standing::Member,
            },
            view: self.view,
        }
    }

    /// Another replica introduces itself.
    pub(super) fn on_hello(
        &mut self,
        from: ReplicaId,
        hello: Hello,
        effects: &mut Effects,
    ) -> Progress {
        let count = usize::from(self.group.replica_count());
        if hello
            .locked
            .as_ref()
            .is_some_and(|locked| locked.len() != count)
        {
            return self.ignore(Ignored::Inconsistent);
        }
        let progress = match (self.role(), hello.standing) {
            (Role::Outside, Standing::Forming) => self.on_hello_of_starting(from, &hello),
            (Role::Outside, Standing::Member | Standing::Recovering) => {
                self.on_hello_of_member(hello)
            }
            (_, Standing::Forming) => {
                self.note_loss(from, &hello);
                self.remember(effects);
                effects.send(from, Message::Hello(self.hello()));
                Progress::NONE
            }
            (_, Standing::Member | Standing::Recovering) => {
                self.note_loss(from, &hello);
                self.ignore(Ignored::NothingNew)
            }
        };
        // A promise, or the membership, is remembered before anything that rests on it.
        self.remember(effects);
        progress
    }

    /// While recovering: has the sender lost its memory of our group, too, or never had it?
    fn note_loss(&mut self, from: ReplicaId, hello: &Hello) {
        let ours = hello.locked == self.formation.locked;
        if let Some(asking) = &mut self.recovery {
            let lost = match hello.standing {
                // It has yet to become the member that it promised to be.
                Standing::Forming => !ours,
                Standing::Member => !ours,
                Standing::Recovering => true,
            };
            asking.note(from, lost);
        }
    }

    fn on_hello_of_starting(&mut self, from: ReplicaId, hello: &Hello) -> Progress {
        let was_locked = self.formation.locked.is_some();
        let news = self.formation.hear(from, hello);
        self.remember_due |= was_locked != self.formation.locked.is_some();
        if !news {
            return self.ignore(Ignored::NothingNew);
        }
        self.formation.hello_due = true;
        self.try_to_form();
        self.formed()
    }

    fn formed(&self) -> Progress {
        match self.status {
            Status::Normal => Progress::ROLE_CHANGED,
            Status::ViewChange | Status::Recovering => Progress::NONE,
        }
    }

    fn on_hello_of_member(&mut self, hello: Hello) -> Progress {
        let Some(locked) = hello.locked else {
            return self.ignore(Ignored::Inconsistent);
        };
        if self.formation.locked.as_ref() == Some(&locked) {
            self.form(locked);
            return self.formed();
        }
        if self.has(Bug::RecoveringVotes) {
            self.form(locked);
            return self.formed();
        }
        self.formation.runs_without_me = Some((locked, hello.view));
        Progress::NONE
    }

    /// Step 2: forms the group, if all have promised the same.
    fn try_to_form(&mut self) {
        let was_locked = self.formation.locked.is_some();
        self.formation.try_to_lock();
        self.remember_due |= was_locked != self.formation.locked.is_some();
        let agreed = self.formation.agreeing.len() == self.group.replica_count();
        if let Some(set) = self.formation.locked.clone().filter(|_| agreed) {
            self.form(set);
        }
    }

    /// Becomes a member of the group of these incarnations.
    pub(super) fn form(&mut self, founders: Vec<Incarnation>) {
        self.name_group(founders);
        self.formation.runs_without_me = None;
        self.formation.hello_due = true;
        self.status = Status::Normal;
        self.remember_due = true;
    }

    /// Is of the group of these incarnations, and knows nothing of its log.
    pub(super) fn name_group(&mut self, founders: Vec<Incarnation>) {
        let mut bytes = Vec::new();
        for incarnation in &founders {
            bytes.extend_from_slice(&incarnation.0.to_le_bytes());
        }
        // Who would forget other clients than the others is of another group, and not believed.
        for limit in self.group.limits() {
            bytes.extend_from_slice(&limit.to_le_bytes());
        }
        self.formation.root = Checksum(xxh3_64(&bytes));
        self.formation.locked = Some(founders);
        self.log = Log::new(self.formation.root);
    }

    /// The root of the log's hash chain: names the group.
    pub(super) fn root(&self) -> Checksum {
        self.formation.root
    }

    /// Names the group of incarnations that this replica is a member of: the same at all
    /// members, another for each group. None while it is not a member.
    pub fn group_checksum(&self) -> Option<Checksum> {
        (self.role() != Role::Outside).then_some(self.formation.root)
    }

    /// Why this replica is not a member (yet), or has not recovered, for humans. None if it
    /// takes part.
    pub fn waiting_reason(&self) -> Option<WaitingReason> {
        if self.role() != Role::Outside {
            return self.reason_to_recover();
        }
        let formation = &self.formation;
        if let Some((_, view)) = formation.runs_without_me {
            return Some(WaitingReason::GroupRunsWithoutMe { view });
        }
        let all = || self.group.replicas();
        let silent: ReplicaSet = all()
            .filter(|id| formation.heard[id.index()].is_none())
            .collect();
        let Some(locked) = formation.locked.as_ref().filter(|_| silent.is_empty()) else {
            return Some(WaitingReason::WaitingFor(silent));
        };
        let dead: ReplicaSet = all()
            .filter(|id| formation.heard[id.index()] != Some(locked[id.index()]))
            .collect();
        if !dead.is_empty() {
            return Some(WaitingReason::LockedWithDead(dead));
        }
        let missing = all()
            .filter(|&id| !formation.agreeing.contains(id))
            .collect();
        Some(WaitingReason::WaitingForAgreement(missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Options;
    use std::string::ToString as _;

    fn starting(id: u8, life: u64) -> Replica {
        let group = Configuration::new(3).expect("odd");
        Replica::new(ReplicaId(id), group, Options::default(), Incarnation(life))
    }

    fn greets(replica: &mut Replica, from: u8, life: u64, locked: Option<[u64; 3]>, member: bool) {
        let locked = locked.map(|lives| lives.map(Incarnation).to_vec());
        let hello = Hello {
            incarnation: Incarnation(life),
            locked,
            standing: if member {
                Standing::Member
            } else {
                Standing::Forming
            },
            view: View(4),
        };
        let mut effects = Effects::new();
        let before = replica.status();
        let progress = replica.on_message(ReplicaId(from), Message::Hello(hello), &mut effects);
        assert_eq!(progress.is_empty(), replica.status() == before);
    }

    #[test]
    fn a_group_of_one_forms_at_once() {
        let group = Configuration::new(1).expect("odd");
        let mut replica = Replica::new(ReplicaId(0), group, Options::default(), Incarnation(5));
        let progress = replica.announce(&mut Effects::new());
        assert_eq!(progress, Progress::ROLE_CHANGED);
        assert!(replica.is_primary() && replica.waiting_reason().is_none());
    }

    #[test]
    fn all_must_promise_the_same() {
        let mut replica = starting(0, 10);
        greets(&mut replica, 1, 11, None, false);
        greets(&mut replica, 2, 12, None, false);
        greets(&mut replica, 1, 11, Some([10, 11, 12]), false);
        greets(&mut replica, 2, 12, Some([10, 11, 99]), false);
        let reason = replica.waiting_reason().expect("not a member");
        assert_eq!(
            reason.to_string(),
            "waiting for replica 2 to agree on the group"
        );
        greets(&mut replica, 2, 12, Some([10, 11, 12]), false);
        assert_eq!(replica.status(), Status::Normal);
    }

    #[test]
    fn a_promise_is_kept_although_one_of_the_set_has_died() {
        let mut replica = starting(0, 10);
        greets(&mut replica, 1, 11, None, false);
        greets(&mut replica, 2, 12, None, false);
        greets(&mut replica, 2, 22, Some([10, 11, 22]), false);
        greets(&mut replica, 1, 11, Some([10, 11, 22]), false);
        let dead = [ReplicaId(2)].into_iter().collect();
        assert_eq!(
            replica.waiting_reason(),
            Some(WaitingReason::LockedWithDead(dead))
        );
        greets(&mut replica, 1, 11, Some([10, 11, 12]), true);
        assert_eq!(
            replica.status(),
            Status::Normal,
            "a member of the promised set tells"
        );
    }

    #[test]
    fn who_hears_that_a_group_runs_promises_nothing() {
        let mut replica = starting(0, 30);
        greets(&mut replica, 1, 11, Some([10, 11, 12]), true);
        greets(&mut replica, 1, 11, None, false);
        greets(&mut replica, 2, 12, None, false);
        assert_eq!(replica.formation.locked, None);
        let reason = replica.waiting_reason();
        assert_eq!(
            reason,
            Some(WaitingReason::GroupRunsWithoutMe { view: View(4) })
        );
        let text = reason.expect("it waits").to_string();
        assert!(text.starts_with("a member says that the group was formed before (view 4)"));
        assert!(
            !text.contains("runs"),
            "one was heard, and no quorum: {text}"
        );
    }
}
