//! What clients asked and were told.

use std::collections::BTreeMap;

use viewring_runtime::sim::Random;

use super::linearizability::{Act, Operation, Value, is_linearizable};

/// The operations of all clients, by key, in one order of calls and answers.
#[derive(Debug, Default)]
pub struct History {
    /// Moments: each call and each answer has its own.
    now: u64,
    keys: BTreeMap<u8, Vec<Operation>>,
    /// Values are numbered, so that each is written once.
    values: u64,
}

/// An operation whose answer has not come.
#[derive(Clone, Copy, Debug)]
#[must_use = "an answer that is not recorded counts as one that never came"]
pub struct Pending {
    key: u8,
    index: usize,
}

impl History {
    /// A value that was never written before.
    pub fn new_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    /// One of the last few values.
    pub fn recent_value(&self, random: &mut Random) -> u64 {
        self.values.saturating_sub(random.below(4))
    }

    /// A client calls.
    pub fn call(&mut self, key: u8, act: Act) -> Pending {
        self.now += 1;
        let operations = self.keys.entry(key).or_default();
        operations.push(Operation {
            called: self.now,
            returned: None,
            act,
        });
        Pending {
            key,
            index: operations.len() - 1,
        }
    }

    /// A write was answered.
    pub fn wrote(&mut self, pending: Pending) {
        self.returned(pending);
    }

    /// A read was answered.
    pub fn read(&mut self, pending: Pending, value: Value) {
        self.returned(pending).act = Act::Read(value);
    }

    /// A compare-and-swap was answered.
    pub fn swapped(&mut self, pending: Pending, swapped: bool) {
        let operation = self.returned(pending);
        let Act::CompareAndSwap { expected, new, .. } = operation.act else {
            panic!("only a compare-and-swap swaps");
        };
        operation.act = Act::CompareAndSwap {
            expected,
            new,
            swapped: Some(swapped),
        };
    }

    fn returned(&mut self, pending: Pending) -> &mut Operation {
        self.now += 1;
        let operations = self.keys.get_mut(&pending.key).expect("it was called");
        let operation = &mut operations[pending.index];
        assert_eq!(operation.returned, None, "one answer a call");
        operation.returned = Some(self.now);
        operation
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.keys.values().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks each key.
    ///
    /// # Panics
    /// When one of them is not linearizable.
    pub fn check(&self) {
        for (key, operations) in &self.keys {
            // A read that was not answered says nothing.
            let told = |operation: &&Operation| {
                operation.returned.is_some() || !matches!(operation.act, Act::Read(_))
            };
            let operations: Vec<Operation> = operations.iter().filter(told).copied().collect();
            assert!(
                is_linearizable(&operations),
                "key {key} is not linearizable: {operations:#?}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "key 1 is not linearizable")]
    fn a_lost_write_is_found() {
        let mut history = History::default();
        let value = history.new_value();
        let put = history.call(1, Act::Write(Some(value)));
        history.wrote(put);
        let get = history.call(1, Act::Read(None));
        history.read(get, None);
        history.check();
    }

    #[test]
    fn an_unanswered_read_says_nothing() {
        let mut history = History::default();
        let _unanswered = history.call(1, Act::Read(Some(9)));
        history.check();
        assert_eq!(history.len(), 1);
    }
}
