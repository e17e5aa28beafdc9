//! Whether anything was lost or done twice, or differs between replicas. Pure: it knows the
//! histories, what the keys hold in the end, and the ledgers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::audit::Ledger;
use super::numbers::Numbers;
use super::plan::{self, KEYS};

/// What one worker did. Each of its keys is written by nobody else, always with the number of the
/// operation, so that values only grow. Which operation did what the [plan](super::plan) tells, so
/// a history stays small, however long it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    pub(super) tag: u32,
    /// The operations that were acknowledged; not a swap that has not swapped.
    acknowledged: Numbers,
    /// How many of them were writes.
    writes: u64,
    /// The last operation that was begun. It may be unknown whether it was executed.
    attempted: u64,
    /// Acknowledged writes that an answer of the group has already contradicted.
    missed: BTreeSet<u64>,
}

impl History {
    pub(super) fn new(tag: u32) -> Self {
        Self {
            tag,
            ..Self::default()
        }
    }

    /// An operation is begun: one at a time, in the order of their numbers.
    pub(super) fn begin(&mut self, number: u64) {
        self.attempted = number;
    }

    pub(super) fn acknowledge(&mut self, number: u64) {
        if self.acknowledged.insert(number) && plan::is_write(number) {
            self.writes += 1;
        }
    }

    /// An answer says that `key` holds this.
    pub(super) fn look(&mut self, key: u64, held: Option<u64>) {
        let missed: Vec<u64> = self.contradicted_by(key, held).collect();
        self.missed.extend(missed);
    }

    /// The last acknowledged write to the key of operation `number`, before it.
    pub(super) fn last_write_before(&self, number: u64) -> Option<u64> {
        let mut writes = plan::before(number).filter(|&write| plan::is_write(write));
        writes.find(|&write| self.acknowledged.contains(write))
    }

    /// The acknowledged writes that cannot have happened if the key holds this.
    ///
    /// It must hold the last of them, or the attempt after it. Less: all later ones are lost. What
    /// nobody wrote is worth nothing.
    fn contradicted_by(&self, key: u64, held: Option<u64>) -> impl Iterator<Item = u64> {
        let was_written = |&number: &u64| {
            number <= self.attempted && plan::key_of(number) == key && plan::is_write(number)
        };
        let after = held.filter(was_written).unwrap_or(0);
        plan::writes(key, after, self.attempted).filter(|&write| self.acknowledged.contains(write))
    }

    /// The acknowledged writes that this ledger does not know.
    fn unexecuted(&self, ledger: Option<&Ledger>) -> impl Iterator<Item = u64> + use<> {
        let mut left = self.acknowledged.clone();
        if let Some(ledger) = ledger {
            left.remove_all(ledger.executed(self.tag));
        }
        let left: Vec<u64> = left
            .iter()
            .filter(|&number| plan::is_write(number))
            .collect();
        left.into_iter()
    }
}

/// How a worker's value tells its number; `None` if no worker wrote it.
pub(super) fn number_of(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// What the replicas have written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledgers {
    /// Of those that live in the end.
    pub(super) living: Vec<Ledger>,
    pub(super) dead: Dead,
}

/// What those had written down that were stopped, whether or not they came back. It stays small,
/// however many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dead {
    /// What they had executed more than once.
    repeated: BTreeSet<(u32, u64)>,
    longest: Option<Ledger>,
    /// How many did not fit the longest when they were stopped.
    diverged: u64,
}

impl Dead {
    /// One more was stopped.
    pub(super) fn bury(&mut self, ledger: Ledger) {
        self.repeated.extend(ledger.repeated());
        let longest = self.longest.take();
        self.diverged += diverged(longest.iter().chain([&ledger]));
        self.longest = longest.into_iter().chain([ledger]).max_by_key(Ledger::len);
    }
}

impl Ledgers {
    /// Who has executed most of those that live. What it lacks, all lack.
    fn longest(&self) -> Option<&Ledger> {
        self.living.iter().max_by_key(|ledger| ledger.len())
    }

    fn repeated(&self) -> BTreeSet<(u32, u64)> {
        let living = self.living.iter().flat_map(Ledger::repeated);
        living.chain(self.dead.repeated.iter().copied()).collect()
    }

    fn diverged(&self) -> u64 {
        self.dead.diverged + diverged(self.living.iter().chain(&self.dead.longest))
    }
}

/// How many of these are not what the next longer one began with. All replicas execute in one
/// order, also those that began with a checkpoint: the longer goes on where the shorter ends.
fn diverged<'a>(ledgers: impl Iterator<Item = &'a Ledger>) -> u64 {
    let mut ledgers: Vec<_> = ledgers.collect();
    ledgers.sort_by_key(|ledger| ledger.len());
    let pairs = ledgers.windows(2);
    pairs.filter(|pair| !pair[0].is_prefix_of(pair[1])).count() as u64
}

/// What is to be said in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    /// Writes that were acknowledged.
    pub(super) acknowledged: u64,
    /// Of those, the ones that are gone.
    pub(super) lost: u64,
    /// Operations that some replica executed more than once.
    pub(super) duplicated: u64,
    /// Replicas that have not executed what another did, in the same order.
    pub(super) diverged: u64,
}

impl Verdict {
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.diverged == 0
    }
}

/// Compares what was acknowledged with what is there.
///
/// An acknowledged write is lost if its key holds neither it nor something later, if an answer
/// during the run said so, or if it is not in the longest ledger of those that live: the others
/// must be the beginning of that.
pub(super) fn judge(
    histories: &[History],
    held: &BTreeMap<Vec<u8>, Vec<u8>>,
    ledgers: &Ledgers,
) -> Verdict {
    let (mut acknowledged, mut lost) = (0, 0);
    let longest = ledgers.longest();
    for history in histories {
        let mut lost_here = history.missed.clone();
        for key in 0..KEYS {
            let value = held.get(&plan::key_bytes(history.tag, key));
            let number = value.and_then(|value| number_of(value));
            lost_here.extend(history.contradicted_by(key, number));
        }
        lost_here.extend(history.unexecuted(longest));
        acknowledged += history.writes;
        lost += lost_here.len() as u64;
    }
    Verdict {
        acknowledged,
        lost,
        duplicated: ledgers.repeated().len() as u64,
        diverged: ledgers.diverged(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worker 0 has begun 97 operations, and all were acknowledged but the last: a swap of key 1,
    /// which was written by 1, 17, 49, 65 and 81 before. Of key 2 the last write is 82.
    fn history() -> History {
        let mut history = History::new(0);
        for number in 1..97 {
            history.begin(number);
            history.acknowledge(number);
        }
        history.begin(97);
        history
    }

    /// What the keys hold in the end, key 1 and 2 as given.
    fn held(one: &str, two: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let last = |key| plan::writes(key, 0, 96).last().expect("some").to_string();
        let entry = |key| (plan::key_bytes(0, key), last(key).into_bytes());
        let mut held: BTreeMap<_, _> = (0..KEYS).map(entry).collect();
        held.insert(plan::key_bytes(0, 1), one.into());
        held.insert(plan::key_bytes(0, 2), two.into());
        held
    }

    fn ledger(numbers: impl IntoIterator<Item = u64>) -> Ledger {
        let mut ledger = Ledger::new(1);
        numbers
            .into_iter()
            .for_each(|number| ledger.record(0, number));
        ledger
    }

    fn living<const N: usize>(living: [Ledger; N]) -> Ledgers {
        Ledgers {
            living: living.into(),
            ..Ledgers::default()
        }
    }

    fn with_dead<const N: usize>(mut ledgers: Ledgers, dead: [Ledger; N]) -> Ledgers {
        dead.into_iter()
            .for_each(|ledger| ledgers.dead.bury(ledger));
        ledgers
    }

    #[track_caller]
    fn check(held: &BTreeMap<Vec<u8>, Vec<u8>>, ledgers: &Ledgers, (lost, duplicated): (u64, u64)) {
        check_all(held, ledgers, (lost, duplicated, 0));
    }

    #[track_caller]
    fn check_all(
        held: &BTreeMap<Vec<u8>, Vec<u8>>,
        ledgers: &Ledgers,
        (lost, duplicated, diverged): (u64, u64, u64),
    ) {
        let verdict = judge(&[history()], held, ledgers);
        let acknowledged = (1..97).filter(|&number| plan::is_write(number)).count() as u64;
        let expected = Verdict {
            acknowledged,
            lost,
            duplicated,
            diverged,
        };
        assert_eq!(verdict, expected, "{held:?} {ledgers:?}");
        assert_eq!(verdict.is_clean(), lost + duplicated + diverged == 0);
    }

    #[test]
    fn all_there_is_clean_whether_or_not_the_last_attempt_came_through() {
        let all = living([ledger(1..97)]);
        check(&held("81", "82"), &all, (0, 0));
        check(&held("97", "82"), &living([ledger(1..98)]), (0, 0));
        // A replica that lags has lost nothing.
        check(
            &held("81", "82"),
            &living([ledger(1..3), ledger(1..98)]),
            (0, 0),
        );
        // Nor have those that were stopped, however early, and one that knows the last attempt.
        let dead = [ledger([]), ledger(1..50), ledger(1..98), ledger(1..40)];
        check(&held("81", "82"), &with_dead(all, dead), (0, 0));
    }

    #[test]
    fn two_that_have_all_only_between_them_have_diverged_and_lost() {
        let held = held("81", "82");
        let writes = |range: std::ops::Range<u64>| range.filter(|&n| plan::is_write(n)).count();
        let halves = || [ledger(1..50), ledger(40..97)];
        check_all(&held, &living(halves()), (writes(1..40) as u64, 0, 1));
        let all = || living([ledger(1..97)]);
        check_all(&held, &with_dead(all(), halves()), (0, 0, 2));
    }

    #[test]
    fn a_planted_divergence_is_found_in_a_backup_and_in_the_dead() {
        let held = held("81", "82");
        let all = || ledger(1..97);
        // It executed what nobody else knows, it left one out, it executed another instead.
        let other = ledger((1..10).chain([97]));
        let hole = ledger((1..10).chain([11, 12]));
        let instead = ledger((1..96).chain([97]));
        for wrong in [other, hole, instead] {
            let ledgers = living([ledger(1..5), wrong.clone(), all()]);
            check_all(&held, &ledgers, (0, 0, 1));
            let ledgers = with_dead(living([all(), all()]), [ledger(1..5), wrong]);
            check_all(&held, &ledgers, (0, 0, 1));
        }
        // It fits the living, but not one that was stopped before it.
        let dead = [ledger(1..90), ledger((1..80).chain([81])), ledger(1..91)];
        check_all(&held, &with_dead(living([all()]), dead), (0, 0, 1));
    }

    #[test]
    fn a_divergence_is_found_also_if_each_worker_is_right() {
        let of = |numbers: &[(u32, u64)]| {
            let mut ledger = Ledger::new(2);
            let mut record = |&(tag, number)| ledger.record(tag, number);
            numbers.iter().for_each(&mut record);
            ledger
        };
        let ledgers = living([of(&[(0, 1), (0, 2)]), of(&[(1, 1), (1, 2), (0, 1)])]);
        assert_eq!(judge(&[], &BTreeMap::new(), &ledgers).diverged, 1);
        let ledgers = living([of(&[(0, 1), (1, 1)]), of(&[(1, 1), (1, 2), (0, 1)])]);
        assert_eq!(judge(&[], &BTreeMap::new(), &ledgers).diverged, 0);
    }

    #[test]
    fn a_planted_loss_is_found() {
        let all = living([ledger(1..98)]);
        check(&held("65", "82"), &all, (1, 0));
        check(&held("49", "66"), &all, (3, 0));
        check(&held("", "82"), &all, (5, 0));
        let writes = (1..97).filter(|&number| plan::is_write(number)).count() as u64;
        check(&BTreeMap::new(), &all, (writes, 0));
        // Nobody wrote that: too high, no number, a get, another key.
        for wrong in ["113", "81x", "33", "82"] {
            check(&held(wrong, "82"), &all, (5, 0));
        }
    }

    #[test]
    fn a_write_that_none_of_the_living_executed_is_lost() {
        // 33 is a get.
        let without = ledger((1..98).filter(|&number| number != 17 && number != 33));
        check(&held("81", "82"), &living([without]), (1, 0));
        check(&held("81", "82"), &living([ledger(1..90)]), (6, 0));
        let dead = with_dead(living([ledger(1..90)]), [ledger(1..98)]);
        check(&held("81", "82"), &dead, (6, 0));
        check(&held("81", "82"), &living([]), (84, 0));
    }

    #[test]
    fn a_write_that_an_answer_contradicted_is_lost_once() {
        let mut history = history();
        history.look(1, Some(65));
        let all = living([ledger(1..98)]);
        for (one, lost) in [("97", 1), ("65", 1), ("49", 2)] {
            let verdict = judge(&[history.clone()], &held(one, "82"), &all);
            assert_eq!(verdict.lost, lost, "{one}");
        }
    }

    #[test]
    fn an_answer_is_right_that_holds_the_last_write_or_the_attempt_after_it() {
        let mut history = history();
        for right in [81, 97] {
            history.look(1, Some(right));
        }
        assert!(history.missed.is_empty());
        history.look(2, None);
        let writes: BTreeSet<u64> = plan::writes(2, 0, 97).collect();
        assert!(writes.len() == 5 && history.missed == writes, "{history:?}");
    }

    #[test]
    fn a_planted_duplicate_is_found_also_at_one_replica_and_at_the_dead() {
        let twice = ledger((1..98).chain([5, 6, 5]));
        check(&held("81", "82"), &living([twice, ledger(1..98)]), (0, 2));
        let both = living([ledger((1..98).chain([5]))]);
        let both = with_dead(both, [ledger((1..9).chain([5, 7])), ledger(1..9)]);
        check(&held("81", "82"), &both, (0, 2));
    }

    #[test]
    fn the_last_acknowledged_write_is_what_a_swap_expects() {
        let mut history = history();
        assert_eq!(history.last_write_before(97), Some(81));
        assert_eq!(history.last_write_before(65), Some(49), "33 is a get");
        assert_eq!(history.last_write_before(1), None);
        history.acknowledge(97);
        assert_eq!(history.last_write_before(113), Some(97));
    }
}
