//! What a read may say: a state that was committed, and one that is fresh enough.

use std::collections::BTreeMap;

use viewring_protocol::{Entry, Ignored, OpNumber, ReadConsistency, Replica};

use super::checker::{Checker, hash_of};
use super::sometimes::Mark;
use crate::kv::{Operation, Outcome};

/// What every key of the key-value store held after every operation, as hashes. Of another state
/// machine it knows nothing.
#[derive(Debug, Default)]
pub(super) struct Versions {
    keys: BTreeMap<Vec<u8>, BTreeMap<OpNumber, Option<u64>>>,
    /// The last operation that a client was told of, or that a linearizable read has shown.
    acknowledged: u64,
}

impl Versions {
    /// An operation was executed, with this result.
    pub(super) fn note(&mut self, entry: &Entry, result: &[u8]) {
        let (key, value) = match (Operation::decode(entry.body()), Outcome::decode(result)) {
            (Some(Operation::Put { key, value }), Some(Outcome::Stored)) => (key, Some(value)),
            (Some(Operation::Delete { key }), Some(Outcome::Deleted(_))) => (key, None),
            (Some(Operation::CompareAndSwap { key, new, .. }), Some(Outcome::Swapped)) => {
                (key, Some(new))
            }
            _ => return,
        };
        let versions = self.keys.entry(key.to_vec()).or_default();
        versions.insert(entry.op(), value.map(hash_of));
    }

    /// A client was told of an operation.
    pub(super) fn acknowledge(&mut self, op: u64) {
        self.acknowledged = self.acknowledged.max(op);
    }

    fn at(&self, key: &[u8], op: OpNumber) -> Option<u64> {
        let versions = self.keys.get(key)?;
        *versions.range(..=op).next_back()?.1
    }
}

impl Checker {
    /// The last operation that any client was told of, or that a linearizable read has shown.
    pub(super) fn acknowledged_op(&self) -> u64 {
        self.versions.acknowledged
    }

    /// A read of `key` was answered with `value`, from the state after `as_of`.
    ///
    /// # Panics
    /// When that state is not committed, or the key held something else in it.
    pub(super) fn read(&mut self, key: &[u8], value: Option<&[u8]>, as_of: u64) {
        assert!(
            as_of <= self.commits(),
            "a read shows what was not committed: as of {as_of}"
        );
        let held = self.versions.at(key, OpNumber(as_of));
        assert_eq!(
            value.map(hash_of),
            held,
            "a read of {key:?} shows what it did not hold as of {as_of}"
        );
    }

    /// A linearizable read was answered from the state after `as_of`; when it was asked, clients
    /// had been told of `acknowledged`.
    ///
    /// # Panics
    /// When it is stale.
    pub(super) fn is_fresh(&mut self, as_of: u64, acknowledged: u64, how: ReadConsistency) {
        assert!(
            as_of >= acknowledged,
            "a stale read, {how:?}: as of {as_of}, although {acknowledged} was acknowledged before"
        );
        self.versions.acknowledge(as_of);
    }

    pub(super) fn mark_reads(&mut self, replica: &Replica) {
        let counters = replica.read_counters();
        let marks = [
            (Mark::ReadRodeOnPrepare, counters.rode),
            (Mark::ReadLeftToReader, counters.unconfirmed),
            (Mark::LeaseRead, counters.lease),
            (Mark::ReadRefusedDeposed, counters.deposed),
            (
                Mark::PromiseKeptView,
                replica.counters().ignored(Ignored::Promised),
            ),
        ];
        for (mark, count) in marks {
            if count > 0 {
                self.marks.hit(mark);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use viewring_protocol::{Checksum, ClientId, Kind, Request, RequestNumber, View};

    fn put(versions: &mut Versions, op: u64, value: &[u8]) {
        let request = Request {
            client: ClientId(1),
            session: OpNumber(1),
            number: RequestNumber(op),
            kind: Kind::Operation,
            body: Operation::Put { key: b"k", value }.to_bytes().into(),
        };
        let entry = Entry::new(OpNumber(op), View(0), Checksum(0), &request);
        let mut result = Vec::new();
        Outcome::Stored.encode(&mut result);
        versions.note(&entry, &result);
    }

    #[test]
    fn a_key_holds_its_latest_version() {
        let mut versions = Versions::default();
        put(&mut versions, 3, b"a");
        put(&mut versions, 7, b"b");
        assert_eq!(versions.at(b"k", OpNumber(2)), None);
        assert_eq!(versions.at(b"k", OpNumber(6)), Some(hash_of(b"a")));
        assert_eq!(versions.at(b"k", OpNumber(9)), Some(hash_of(b"b")));
        assert_eq!(versions.at(b"other", OpNumber(9)), None);
    }

    #[test]
    #[should_panic(expected = "a stale read, Lease: as of 3, although 4 was acknowledged before")]
    fn a_read_that_lacks_what_was_acknowledged_is_found() {
        Checker::new(3).is_fresh(3, 4, ReadConsistency::Lease);
    }
}
