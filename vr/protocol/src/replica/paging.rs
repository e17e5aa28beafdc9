//! How long the answers may be that we ask for: pages of the log, and pieces of a checkpoint.
//!
//! One question is under way at a time, so that what a round trip brings is one answer. Where
//! round trips are long a page is little for that, and an answer of several pages is asked for.
//! Whoever measures round trips says how many are worth one ([`Replica::allow_pages`]). Within that
//! an answer that comes makes the next one twice as long, and a question in vain half as long: a
//! link may be narrow, or lose something of whatever is long.

use super::Replica;
use crate::configuration::Configuration;
use crate::ids::ReplicaId;

/// As many pages make the longest answer, whoever asks for more.
pub(super) const PAGES_MAX: u8 = 8;

/// What is asked for at once.
#[derive(Debug)]
pub(super) struct Paging {
    now: u8,
    /// Of which replica how many may be asked for.
    most: [u8; Configuration::MAX_REPLICAS as usize],
}

impl Paging {
    /// One page at a time, until more is allowed.
    pub(super) fn new() -> Self {
        Self {
            now: 1,
            most: [1; Configuration::MAX_REPLICAS as usize],
        }
    }

    /// As long as how many pages an answer of this replica may be.
    pub(super) fn pages(&self, of: ReplicaId) -> u8 {
        self.now.min(self.most[of.index()])
    }

    /// The answer has come.
    pub(super) fn answered(&mut self) {
        let most = self.most.into_iter().max().unwrap_or(1);
        self.now = self.now.saturating_mul(2).min(most);
    }

    /// It has not.
    pub(super) fn asked_in_vain(&mut self) {
        self.now = (self.now / 2).max(1);
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
            replica.paging.answered();
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
}
