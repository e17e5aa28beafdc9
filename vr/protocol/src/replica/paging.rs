//! How long the answers may be that we ask for: pages of the log, and pieces of a checkpoint.
//!
//! One question is under way at a time, so that what a round trip brings is one answer. Where
//! round trips are long a page is little for that, and an answer of several pages is asked for.
//! Whoever measures round trips says how many are worth one ([`Replica::allow_pages`]). Within that
//! an answer that comes makes the next one twice as long, and a question in vain half as long: a
//! link may be narrow, or lose something of whatever is long. To try that again and again would
//! cost more than it brings: whenever the first answer of a length does not come, twice as many
//! must come before the next longer one is tried, and half as many when it does.

use super::Replica;
use crate::configuration::Configuration;
use crate::ids::ReplicaId;

/// As many pages make the longest answer, whoever asks for more.
pub(super) const PAGES_MAX: u8 = 8;
/// No more answers than these must come before a longer one is asked for.
const NEEDED_MAX: u8 = 64;

/// What is asked for at once.
#[derive(Debug)]
pub(super) struct Paging {
    now: u8,
    /// So many answers must come before a longer one is asked for, and so many have.
    needed: u8,
    come: u8,
    /// None of this length has come yet.
    is_trial: bool,
    /// Of which replica how many may be asked for.
    most: [u8; Configuration::MAX_REPLICAS as usize],
}

impl Paging {
    /// One page at a time, until more is allowed.
    pub(super) fn new() -> Self {
        Self {
            now: 1,
            needed: 1,
            come: 0,
            is_trial: false,
            most: [1; Configuration::MAX_REPLICAS as usize],
        }
    }

    /// As long as how many pages an answer of this replica is asked for.
    pub(super) fn pages(&self, of: ReplicaId) -> u8 {
        self.now.min(self.most(of))
    }

    /// As long as how many pages it may be: how far away this one is.
    pub(super) fn most(&self, of: ReplicaId) -> u8 {
        self.most[of.index()]
    }

    /// The same of the farthest.
    pub(super) fn most_of_all(&self) -> u8 {
        self.most.into_iter().max().unwrap_or(1)
    }

    /// The answer of this replica has come. If it could not be any longer, that says nothing.
    pub(super) fn answered(&mut self, by: ReplicaId) {
        let most = self.most(by);
        if self.now > most {
            return;
        }
        if self.is_trial {
            self.needed = (self.needed / 2).max(1);
        }
        self.is_trial = false;
        self.come = self.come.saturating_add(1);
        if self.come >= self.needed && self.now < most {
            (self.now, self.come) = (self.now.saturating_mul(2).min(most), 0);
            self.is_trial = true;
        }
    }

    /// It has not.
    pub(super) fn asked_in_vain(&mut self) {
        if self.is_trial {
            self.needed = self.needed.saturating_mul(2).min(NEEDED_MAX);
        }
        self.now = (self.now / 2).max(1);
        (self.come, self.is_trial) = (0, false);
    }
}

impl Replica {
    /// Answers of `from` may be as long as so many pages: as are worth a round trip to it. At
    /// first, one; at most, eight.
    pub fn allow_pages(&mut self, from: ReplicaId, most: u8) {
        if let Some(allowed) = self.paging.most.get_mut(from.index()) {
            *allowed = most.clamp(1, PAGES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_grow_while_they_come_and_shrink_when_they_do_not() {
        let group = Configuration::new(3).expect("odd");
        let (own, near, far) = (ReplicaId(0), ReplicaId(1), ReplicaId(2));
        let mut replica = Replica::founding_member(own, group, crate::Options::default());
        let answer = |replica: &mut Replica| {
            replica.paging.answered(far);
            (replica.paging.pages(near), replica.paging.pages(far))
        };
        assert_eq!(
            answer(&mut replica),
            (1, 1),
            "nobody has said how far away they are"
        );
        replica.allow_pages(far, 5);
        let grown = [(); 3].map(|()| answer(&mut replica));
        assert_eq!(grown, [(1, 2), (1, 4), (1, 5)]);
        let shrunk = [(); 3].map(|()| {
            replica.paging.asked_in_vain();
            replica.paging.pages(far)
        });
        assert_eq!(shrunk, [2, 1, 1]);
        replica.allow_pages(far, u8::MAX);
        replica.allow_pages(ReplicaId(u8::MAX), 5);
        let grown = [(); 4].map(|()| answer(&mut replica));
        assert_eq!(grown[3], (1, PAGES_MAX));
    }

    #[test]
    fn what_is_too_long_for_a_link_is_tried_more_and_more_rarely() {
        let group = Configuration::new(3).expect("odd");
        let mut replica = Replica::founding_member(ReplicaId(0), group, crate::Options::default());
        let far = ReplicaId(2);
        replica.allow_pages(far, PAGES_MAX);
        let mut fetch = |fits: u8| {
            let asked = replica.paging.pages(far);
            if asked <= fits {
                replica.paging.answered(far);
            } else {
                replica.paging.asked_in_vain();
            }
            asked
        };
        let mut in_vain = |fits| (0..1_000).filter(|_| fetch(fits) > fits).count();
        assert!((10..25).contains(&in_vain(1)), "1, 2, 4 ... 64 in between");
        assert!(in_vain(4) < 25);
        assert_eq!(in_vain(PAGES_MAX), 0);
        assert_eq!(fetch(PAGES_MAX), PAGES_MAX, "it fits now");
    }

    #[test]
    fn answers_that_can_be_no_longer_say_nothing() {
        let group = Configuration::new(3).expect("odd");
        let mut replica = Replica::founding_member(ReplicaId(0), group, crate::Options::default());
        let (near, far) = (ReplicaId(1), ReplicaId(2));
        replica.allow_pages(far, PAGES_MAX);
        for _ in 0..10 {
            replica.paging.answered(near);
        }
        assert_eq!(replica.paging.pages(far), 1);
    }
}
