//! A key-value store that keeps a ledger: how often it executed which operation.
//!
//! Every operation of the demo carries who made it and its number, both given by the worker and
//! unknown to the protocol. A request that the protocol lets through twice is executed twice with
//! the same number, and the ledger shows it.

use std::sync::{Arc, Mutex};

use viewring::StateMachine;
use viewring::kv::{Kv, Operation};

/// How often one replica executed each operation of each worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// By worker, then by the operation's number less one.
    executions: Vec<Vec<u8>>,
}

impl Ledger {
    pub(super) fn new(workers: u32) -> Self {
        Self {
            executions: vec![Vec::new(); workers as usize],
        }
    }

    /// How often operation `number` of worker `tag` was executed.
    pub(super) fn executed(&self, tag: u32, number: u64) -> u8 {
        let of_worker = self.executions.get(tag as usize);
        let index = usize::try_from(number.wrapping_sub(1)).ok();
        let count = of_worker
            .zip(index)
            .and_then(|(counts, index)| counts.get(index));
        count.copied().unwrap_or(0)
    }

    /// What was executed more than once: worker and number.
    pub(super) fn repeated(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..).zip(&self.executions).flat_map(|(tag, counts)| {
            (1..)
                .zip(counts)
                .filter(|&(_, &count)| count > 1)
                .map(move |(number, _)| (tag, number))
        })
    }

    pub(super) fn record(&mut self, tag: u32, number: u64) {
        let Some(counts) = self.executions.get_mut(tag as usize) else {
            return;
        };
        let Some(index) = number
            .checked_sub(1)
            .and_then(|index| usize::try_from(index).ok())
        else {
            return;
        };
        if counts.len() <= index {
            counts.resize(index + 1, 0);
        }
        counts[index] = counts[index].saturating_add(1);
    }
}

/// The tag of who does not work, but looks: in no ledger.
pub(super) const AUDITOR: u32 = u32::MAX;

/// An operation's bytes, behind who made it and its number.
pub(super) fn stamp(tag: u32, number: u64, operation: Operation<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    operation.encode(out);
}

/// The store of one replica of the demo. The ledger outlives it.
pub(super) struct Audited {
    kv: Kv,
    ledger: Arc<Mutex<Ledger>>,
}

impl Audited {
    pub(super) fn new(ledger: Arc<Mutex<Ledger>>) -> Self {
        Self {
            kv: Kv::default(),
            ledger,
        }
    }
}

impl StateMachine for Audited {
    fn apply(&mut self, stamped: &[u8], reply: &mut Vec<u8>) {
        let mut operation = stamped;
        if let Some((tag, rest)) = stamped.split_first_chunk()
            && let Some((number, rest)) = rest.split_first_chunk()
        {
            operation = rest;
            let mut ledger = self
                .ledger
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            ledger.record(u32::from_le_bytes(*tag), u64::from_le_bytes(*number));
        }
        self.kv.apply(operation, reply);
    }
}

#[cfg(test)]
mod tests {
    use viewring::kv::Outcome;

    use super::*;

    #[test]
    fn what_is_applied_twice_shows() {
        let ledger = Arc::new(Mutex::new(Ledger::new(2)));
        let mut store = Audited::new(Arc::clone(&ledger));
        let (mut bytes, mut reply) = (Vec::new(), Vec::new());
        for (tag, number) in [(0, 1), (1, 1), (0, 2), (0, 2), (AUDITOR, 1), (AUDITOR, 1)] {
            reply.clear();
            stamp(
                tag,
                number,
                Operation::Put {
                    key: b"k",
                    value: b"v",
                },
                &mut bytes,
            );
            store.apply(&bytes, &mut reply);
            assert_eq!(Outcome::decode(&reply), Some(Outcome::Stored));
        }
        let ledger = ledger.lock().expect("nobody panicked");
        let executed = [(0, 1), (0, 2), (0, 3), (1, 1), (0, 0), (AUDITOR, 1)]
            .map(|(tag, number)| ledger.executed(tag, number));
        assert_eq!(executed, [1, 2, 0, 1, 0, 0]);
        assert_eq!(ledger.repeated().collect::<Vec<_>>(), [(0, 2)]);
    }
}
