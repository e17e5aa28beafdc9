//! A reader that asks the backups itself: one round trip, where the primary's asking takes two.
//!
//! A primary that answers from its own state must know that nobody else leads (see
//! `replica/reads.rs`). So must whoever believes it, and need not ask through it: the reader sends
//! its read to the primary, and at the same time asks the backups in which view they are
//! ([`GetView`](crate::GetView)). The primary's answer ([`ReadOutcome::Unconfirmed`]) is that of
//! its view. It is true if f backups say that they were normal in the same view *after the read was
//! asked*: with the primary they are a quorum that had not left the view by then (nobody forgets a
//! view that it has joined, see `replica/recovery.rs`). So no later view had acknowledged anything
//! by then, and what was acknowledged in this or an earlier one its primary, of which a view has
//! one life only, had executed. (Readers that ask a quorum themselves: Charapko, Ailijiang and
//! Demirbas, "Linearizable Quorum Reads in Paxos", HotStorage 2019; here the primary's answer is
//! the value, so that nothing has to be waited for.)
//!
//! Questions are numbered, one for all reads of a turn, and answers are cumulative: who was normal
//! in a view when it heard the fifth question was so after the fourth was asked. Numbers begin
//! anywhere, so that an answer to an earlier owner of the address is none.

use crate::bug::Bug;
use crate::configuration::Configuration;
use crate::ids::{Checksum, ReplicaId, RoundNumber, View};
use crate::message::{NormalView, ReadOutcome, ReadReply};
use crate::quorum::ReplicaSet;

/// What a reader has asked of the backups, and what they have said.
#[derive(Debug)]
pub struct Confirming {
    group: Configuration,
    /// Numbers up to here are nobody's of ours.
    earlier: RoundNumber,
    /// The latest question.
    asked: RoundNumber,
    /// What each replica has said last.
    said: [Option<Said>; Configuration::MAX_REPLICAS as usize],
    /// The f backups that were the first to answer, the last time that so many did; nobody: any
    /// may be silent.
    nearest: ReplicaSet,
    /// The view in which they were, the highest of which that is known: elsewhere they may be
    /// behind, or lead.
    nearest_in: View,
    bug: Option<Bug>,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    number: RoundNumber,
    view: View,
    root: Checksum,
}

impl Confirming {
    /// Of a reader whose questions are numbered from behind `earlier` on: by chance, in the lower
    /// half of all numbers.
    pub fn new(group: Configuration, earlier: RoundNumber) -> Self {
        Self {
            group,
            earlier,
            asked: earlier,
            said: [None; Configuration::MAX_REPLICAS as usize],
            nearest: ReplicaSet::EMPTY,
            nearest_in: View::ZERO,
            bug: None,
        }
    }

    /// Makes it err: see [`Bug`].
    pub fn plant(&mut self, bug: Bug) {
        self.bug = Some(bug);
    }

    /// The question that a read which is asked now has to wait for: the next one.
    pub fn next(&self) -> RoundNumber {
        if self.bug == Some(Bug::ConfirmedBefore) {
            return self.earlier;
        }
        RoundNumber(self.asked.0 + 1)
    }

    /// Asks it, of these: the primary of `view` answers the read itself.
    pub fn ask(&mut self, view: View) -> (RoundNumber, ReplicaSet) {
        self.asked.0 += 1;
        let is_known = self.nearest.len() == self.group.failures();
        if is_known && self.nearest_in == view {
            return (self.asked, self.nearest);
        }
        let mut backups = ReplicaSet::first(self.group.replica_count());
        backups.remove(self.group.primary(view));
        (self.asked, backups)
    }

    /// An answer has come; whether it tells anything new.
    pub fn on_normal_view(&mut self, from: ReplicaId, told: &NormalView) -> bool {
        let is_ours = self.earlier < told.number && told.number <= self.asked;
        if !self.group.contains(from) || !is_ours {
            return false;
        }
        let said = &mut self.said[from.index()];
        if said.is_some_and(|said| said.number >= told.number) {
            return false;
        }
        *said = Some(Said {
            number: told.number,
            view: told.view,
            root: told.root,
        });
        self.learn(told);
        true
    }

    /// Who has answered the latest question in one view, and first, is asked alone next time.
    fn learn(&mut self, told: &NormalView) {
        let in_view = self.normal_in(told.view, told.root, self.asked);
        if in_view.len() == self.group.failures() && told.view >= self.nearest_in {
            self.nearest = in_view;
            self.nearest_in = told.view;
        }
    }

    /// No answer has come for a while: any may be silent.
    pub fn doubt(&mut self) {
        self.nearest = ReplicaSet::EMPTY;
    }

    /// The backups that were normal in a view after that question was asked.
    fn normal_in(&self, view: View, root: Checksum, after: RoundNumber) -> ReplicaSet {
        let primary = self.group.primary(view);
        let any_view = self.bug == Some(Bug::ConfirmedInAnyView);
        let mut normal = ReplicaSet::EMPTY;
        for (id, said) in self.group.replicas().zip(self.said) {
            let was = said.is_some_and(|said| {
                let same = (said.view, said.root) == (view, root) || any_view;
                said.number >= after && same
            });
            if was && id != primary {
                normal.insert(id);
            }
        }
        normal
    }

    /// The reply to a read that had to wait for the question `after`, if it is true by all that
    /// was said; else the reply as it came. One that says nothing unconfirmed needs nothing.
    ///
    /// # Errors
    /// It is not confirmed, yet.
    pub fn confirm(&self, after: RoundNumber, reply: ReadReply) -> Result<ReadReply, ReadReply> {
        let ReadOutcome::Unconfirmed { as_of, root, body } = reply.outcome else {
            return Ok(reply);
        };
        if self.normal_in(reply.view, root, after).len() >= self.group.failures() {
            let stale = false;
            let outcome = ReadOutcome::Result { as_of, stale, body };
            Ok(ReadReply { outcome, ..reply })
        } else {
            let outcome = ReadOutcome::Unconfirmed { as_of, root, body };
            Err(ReadReply { outcome, ..reply })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClientId, OpNumber, RequestNumber};

    const EARLIER: u64 = 100;

    fn reader(replicas: u8) -> Confirming {
        let group = Configuration::new(replicas).expect("odd");
        Confirming::new(group, RoundNumber(EARLIER))
    }

    fn told(number: u64, view: u64) -> NormalView {
        NormalView {
            view: View(view),
            root: Checksum(7),
            client: ClientId(9),
            number: RoundNumber(EARLIER + number),
        }
    }

    fn reply(view: u64) -> ReadReply {
        ReadReply {
            view: View(view),
            client: ClientId(9),
            number: RequestNumber(1),
            outcome: ReadOutcome::Unconfirmed {
                as_of: OpNumber(4),
                root: Checksum(7),
                body: [].into(),
            },
        }
    }

    /// Asks as in `view`: whom.
    fn ask(reader: &mut Confirming, view: u64) -> std::vec::Vec<u8> {
        let (_, asked) = reader.ask(View(view));
        asked.iter().map(|id| id.0).collect()
    }

    fn is_confirmed(reader: &Confirming, after: RoundNumber, view: u64) -> bool {
        reader.confirm(after, reply(view)).is_ok()
    }

    #[test]
    fn a_read_is_confirmed_by_who_was_asked_after_it() {
        let mut reader = reader(3);
        let first = reader.next();
        assert_eq!(ask(&mut reader, 0), [1, 2]);
        assert!(!is_confirmed(&reader, first, 0));
        assert!(reader.on_normal_view(ReplicaId(2), &told(1, 0)));
        assert!(is_confirmed(&reader, first, 0));
        let second = reader.next();
        assert!(!is_confirmed(&reader, second, 0), "it was said before");
        assert_eq!(ask(&mut reader, 0), [2], "who was the first to answer");
        assert!(reader.on_normal_view(ReplicaId(2), &told(2, 0)));
        assert!(is_confirmed(&reader, second, 0) && is_confirmed(&reader, first, 0));
    }

    #[test]
    fn another_view_another_group_and_the_primary_itself_confirm_nothing() {
        let mut reader = reader(3);
        let first = reader.next();
        ask(&mut reader, 0);
        assert!(reader.on_normal_view(ReplicaId(2), &told(1, 1)));
        assert!(!is_confirmed(&reader, first, 0));
        let of_another = NormalView {
            root: Checksum(8),
            ..told(1, 0)
        };
        assert!(reader.on_normal_view(ReplicaId(1), &of_another));
        assert!(!is_confirmed(&reader, first, 0));
        assert!(reader.on_normal_view(ReplicaId(0), &told(1, 0)));
        assert!(!is_confirmed(&reader, first, 0));
        assert!(is_confirmed(&reader, first, 1), "2 is a backup of view 1");
    }

    #[test]
    fn a_group_of_five_needs_two() {
        let mut reader = reader(5);
        let first = reader.next();
        ask(&mut reader, 0);
        assert!(reader.on_normal_view(ReplicaId(4), &told(1, 0)));
        assert!(!reader.on_normal_view(ReplicaId(4), &told(1, 0)), "twice");
        assert!(!is_confirmed(&reader, first, 0));
        assert!(reader.on_normal_view(ReplicaId(1), &told(1, 0)));
        assert!(is_confirmed(&reader, first, 0));
        assert_eq!(ask(&mut reader, 0), [1, 4]);
        assert_eq!(ask(&mut reader, 1), [0, 2, 3, 4], "1 leads view 1");
        assert_eq!(ask(&mut reader, 0), [1, 4]);
        reader.doubt();
        assert_eq!(ask(&mut reader, 0), [1, 2, 3, 4]);
    }

    #[test]
    fn who_is_left_behind_in_an_old_view_is_not_asked_alone() {
        let mut reader = reader(3);
        let first = reader.next();
        assert_eq!(ask(&mut reader, 1), [0, 2]);
        assert!(reader.on_normal_view(ReplicaId(0), &told(1, 1)));
        assert!(is_confirmed(&reader, first, 1));
        assert!(reader.on_normal_view(ReplicaId(2), &told(1, 0)));
        assert_eq!(ask(&mut reader, 1), [0]);
        // Nor is it where it was the first to answer who knew no better.
        let mut stranger = self::reader(3);
        assert_eq!(ask(&mut stranger, 0), [1, 2]);
        assert!(stranger.on_normal_view(ReplicaId(2), &told(1, 0)));
        assert_eq!(ask(&mut stranger, 1), [0, 2]);
    }

    #[test]
    fn one_replica_alone_is_a_quorum() {
        let mut reader = reader(1);
        let first = reader.next();
        assert_eq!(ask(&mut reader, 0), [0; 0]);
        assert!(is_confirmed(&reader, first, 0));
    }

    #[test]
    fn what_was_not_asked_is_not_answered() {
        let mut reader = reader(3);
        ask(&mut reader, 0);
        assert!(!reader.on_normal_view(ReplicaId(1), &told(0, 0)));
        assert!(!reader.on_normal_view(ReplicaId(1), &told(2, 0)));
        assert!(!reader.on_normal_view(ReplicaId(3), &told(1, 0)));
    }
}
