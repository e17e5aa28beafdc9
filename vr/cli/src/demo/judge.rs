//! Whether anything was lost or done twice. Pure: it knows the histories, what the keys hold in
//! the end, and the ledgers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::audit::Ledger;

/// What one worker did. Each of its keys is written by nobody else, always with the number of the
/// operation, so that values only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    pub(super) tag: u32,
    pub(super) keys: BTreeMap<Vec<u8>, KeyHistory>,
    /// Acknowledged writes that an answer of the group has already contradicted.
    pub(super) missed: BTreeSet<u64>,
}

/// What was written to one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyHistory {
    /// The numbers of the writes that were acknowledged, growing.
    pub(super) acknowledged: Vec<u64>,
    /// The last write that was begun. It may be unknown whether it was executed.
    pub(super) attempted: u64,
}

impl KeyHistory {
    /// The acknowledged writes that cannot have happened if the key holds this.
    ///
    /// It must hold the last of them, or the attempt after it. Less: all later ones are lost. What
    /// nobody wrote is worth nothing.
    pub(super) fn contradicted_by(&self, held: Option<u64>) -> &[u64] {
        let held = held.filter(|&number| number <= self.attempted).unwrap_or(0);
        let kept = self.acknowledged.partition_point(|&number| number <= held);
        &self.acknowledged[kept..]
    }
}

/// How a worker's value tells its number; `None` if no worker wrote it.
pub(super) fn number_of(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The ledger of one replica.
#[derive(Clone, Debug)]
pub(super) struct ReplicaLedger {
    pub(super) ledger: Ledger,
    /// Whether the replica lived to the end. One that did not still must not have executed
    /// anything twice.
    pub(super) survived: bool,
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
}

impl Verdict {
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0
    }
}

/// Compares what was acknowledged with what is there.
///
/// An acknowledged write is lost if its key holds neither it nor something later, if an answer
/// during the run said so, or if no replica that survived has executed it.
pub(super) fn judge(
    histories: &[History],
    held: &BTreeMap<Vec<u8>, Vec<u8>>,
    ledgers: &[ReplicaLedger],
) -> Verdict {
    let (mut acknowledged, mut lost) = (0, 0);
    let survivors = || ledgers.iter().filter(|ledger| ledger.survived);
    for history in histories {
        let mut lost_here = history.missed.clone();
        for (key, writes) in &history.keys {
            let number = held.get(key).and_then(|value| number_of(value));
            lost_here.extend(writes.contradicted_by(number));
            let unexecuted = |&&number: &&u64| {
                survivors().all(|replica| replica.ledger.executed(history.tag, number) == 0)
            };
            lost_here.extend(writes.acknowledged.iter().filter(unexecuted));
            acknowledged += writes.acknowledged.len() as u64;
        }
        lost += lost_here.len() as u64;
    }
    let repeated: BTreeSet<_> = ledgers
        .iter()
        .flat_map(|replica| replica.ledger.repeated())
        .collect();
    Verdict {
        acknowledged,
        lost,
        duplicated: repeated.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worker 0 wrote 1, 2, 3 to key `a` and 4, 6 to key `b`; 7 to `b` was not acknowledged.
    fn history() -> History {
        let a = KeyHistory {
            acknowledged: vec![1, 2, 3],
            attempted: 3,
        };
        let b = KeyHistory {
            acknowledged: vec![4, 6],
            attempted: 7,
        };
        let keys = [(b"a".to_vec(), a), (b"b".to_vec(), b)].into();
        History {
            tag: 0,
            keys,
            missed: BTreeSet::new(),
        }
    }

    fn held(a: &str, b: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        [(b"a".to_vec(), a.into()), (b"b".to_vec(), b.into())].into()
    }

    fn ledger(survived: bool, numbers: &[u64]) -> ReplicaLedger {
        let mut ledger = Ledger::new(1);
        numbers.iter().for_each(|&number| ledger.record(0, number));
        ReplicaLedger { ledger, survived }
    }

    fn check(
        held: &BTreeMap<Vec<u8>, Vec<u8>>,
        ledgers: &[ReplicaLedger],
        lost: u64,
        duplicated: u64,
    ) {
        let verdict = judge(&[history()], held, ledgers);
        assert_eq!(
            verdict,
            Verdict {
                acknowledged: 5,
                lost,
                duplicated
            },
            "{held:?} {ledgers:?}"
        );
        assert_eq!(verdict.is_clean(), lost + duplicated == 0);
    }

    const ALL: [u64; 7] = [1, 2, 3, 4, 5, 6, 7];

    #[test]
    fn all_there_is_clean_whether_or_not_the_last_attempt_came_through() {
        check(&held("3", "6"), &[ledger(true, &ALL)], 0, 0);
        check(&held("3", "7"), &[ledger(true, &ALL)], 0, 0);
        // A replica that lags has lost nothing, nor has one that was stopped.
        let ledgers = [
            ledger(true, &[1, 2]),
            ledger(true, &ALL),
            ledger(false, &[1]),
        ];
        check(&held("3", "7"), &ledgers, 0, 0);
    }

    #[test]
    fn a_planted_loss_is_found() {
        let ledgers = [ledger(true, &ALL)];
        check(&held("2", "7"), &ledgers, 1, 0);
        check(&held("3", "4"), &ledgers, 1, 0);
        check(&held("", "7"), &ledgers, 3, 0);
        check(&BTreeMap::new(), &ledgers, 5, 0);
        // Nobody wrote that.
        check(&held("9", "7"), &ledgers, 3, 0);
        check(&held("3x", "7"), &ledgers, 3, 0);
    }

    #[test]
    fn a_write_that_only_the_dead_executed_is_lost() {
        let ledgers = [ledger(true, &[1, 2, 3, 4]), ledger(false, &ALL)];
        check(&held("3", "7"), &ledgers, 1, 0);
    }

    #[test]
    fn a_write_that_an_answer_contradicted_is_lost_once() {
        let mut history = history();
        history.missed.insert(3);
        let verdict = judge(&[history], &held("2", "7"), &[ledger(true, &ALL)]);
        assert_eq!(verdict.lost, 1);
    }

    #[test]
    fn a_planted_duplicate_is_found_also_at_one_replica_and_at_the_dead() {
        let twice = [1, 2, 3, 4, 5, 6, 7, 5, 5];
        check(
            &held("3", "7"),
            &[ledger(true, &twice), ledger(true, &ALL)],
            0,
            1,
        );
        check(
            &held("3", "7"),
            &[ledger(true, &ALL), ledger(false, &[1, 2, 1, 2])],
            0,
            2,
        );
    }
}
