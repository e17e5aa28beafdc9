//! Are these answers possible for one copy of the data, used by one client at a time?
//!
//! Wing and Gong's search in the form that Lowe gave it (2017): try to put the operations in an
//! order that respects real time and in which each answer is the right one; remember pairs of
//! (operations placed, state) that led nowhere. Keys are independent, so each is searched alone
//! (Herlihy and Wing 1990: linearizability is local).
//!
//! An operation whose answer never came may have taken effect at any time after its call, or
//! never. Tried in every order, a few dozen of those would take for ever. But if there is a
//! possible order, there is one in which each of them that takes effect is seen: one that changes
//! nothing, or is overwritten by the very next operation, can be left out of it. So only such
//! orders are tried.
//!
//! And what nobody can tell apart is tried once. A value is *dead* when no answer that is still to
//! be explained tells it from others, and no swap leads from it to one that is not dead; it stays
//! so. All dead values are one. Of several operations without an answer that do the same, the first
//! to be called is taken: wherever another is in a possible order, the two may change places.

use std::collections::{BTreeMap, BTreeSet};

/// A register: what one key of the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Writes a value, or none.
    Write(Value),
    /// Reads, and the answer was this.
    Read(Value),
    /// Replaces the value if it was `expected`; whether it did, if the answer came.
    CompareAndSwap {
        /// The value that it asked for.
        expected: Value,
        /// The value that it puts.
        new: Value,
        /// Whether the answer said that it was swapped. None: no answer.
        swapped: Option<bool>,
    },
}

/// A value by number; none for a missing key.
pub type Value = Option<u64>;

/// One operation on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was called.
    pub called: u64,
    /// When its answer came. None: never.
    pub returned: Option<u64>,
    /// What it did.
    pub act: Act,
}

impl Act {
    /// The state after it, if it can happen in `state` with its answer.
    fn apply(self, state: Value) -> Option<Value> {
        match self {
            Self::Write(value) => Some(value),
            Self::Read(value) => (value == state).then_some(state),
            Self::CompareAndSwap {
                expected,
                new,
                swapped,
            } => {
                let swaps = expected == state;
                let possible = swapped.is_none_or(|swapped| swapped == swaps);
                possible.then_some(if swaps { new } else { state })
            }
        }
    }
}

impl Act {
    /// The value that it puts, or saw.
    fn puts(self) -> Value {
        match self {
            Self::Write(value) | Self::Read(value) => value,
            Self::CompareAndSwap { new, .. } => new,
        }
    }
}

impl Operation {
    /// The value that its answer tells from others, if it came and does.
    fn tells(&self) -> Option<Value> {
        match self.act {
            _ if self.returned.is_none() => None,
            Act::Write(_) => None,
            Act::Read(value) => Some(value),
            Act::CompareAndSwap { expected, .. } => Some(expected),
        }
    }
}

/// Whether `operations` on one key, missing at first, are linearizable. A read without an answer
/// must not be given: it says nothing.
///
/// # Panics
/// When an answer came before its call.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    for operation in operations {
        assert!(
            operation
                .returned
                .is_none_or(|returned| returned >= operation.called)
        );
    }
    Search::new(operations).run()
}

struct Search<'a> {
    operations: &'a [Operation],
    /// Calls and returns in the order of time; a doubly linked list that the search takes apart
    /// and puts together again.
    events: Vec<Event>,
    next: Vec<usize>,
    prev: Vec<usize>,
    placed: Vec<u64>,
    seen: BTreeSet<(Vec<u64>, Seen)>,
    /// Operations whose answer came and that are not placed.
    answered_left: usize,
    /// How many of them tell this value from others.
    tell: BTreeMap<Value, usize>,
    /// The swaps without an answer, by the value that they ask for.
    swaps: BTreeMap<Value, Vec<usize>>,
}

/// What can be told of a state: its value, unless that is dead, and whether it is unseen.
type Seen = (Option<Value>, bool);

/// What an operation without an answer does, as far as anybody can tell.
#[derive(PartialEq, Eq)]
enum Deed {
    Write(Option<Value>),
    Swap(Value, Option<Value>),
}

/// Chains of swaps are followed so far; a longer one may lead to anything.
const CHAIN_MAX: usize = 32;

/// How far the search is, besides what is placed.
#[derive(Clone, Copy, Default)]
struct State {
    value: Value,
    /// The value is that of an operation without an answer, and nobody has seen it yet.
    is_unseen: bool,
}

#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    is_call: bool,
}

const HEAD: usize = 0;

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        // At the same moment calls come first: then the two overlap, which forbids less.
        let mut order: Vec<(u64, bool, usize)> = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            order.push((operation.called, false, index));
            order.push((operation.returned.unwrap_or(u64::MAX), true, index));
        }
        order.sort_unstable();
        let head = Event {
            operation: usize::MAX,
            is_call: false,
        };
        let mut events = vec![head];
        events.extend(order.iter().map(|&(_, is_return, operation)| Event {
            operation,
            is_call: !is_return,
        }));
        let count = events.len();
        let mut tell = BTreeMap::new();
        let mut swaps: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
        for (index, operation) in operations.iter().enumerate() {
            if let Some(told) = operation.tells() {
                *tell.entry(told).or_default() += 1;
            } else if let (None, Act::CompareAndSwap { expected, .. }) =
                (operation.returned, operation.act)
            {
                swaps.entry(expected).or_default().push(index);
            }
        }
        Self {
            operations,
            events,
            next: (1..=count).collect(),
            prev: (0..count).map(|index| index.saturating_sub(1)).collect(),
            placed: vec![0; operations.len().div_ceil(64)],
            seen: BTreeSet::new(),
            answered_left: operations.iter().filter(|o| o.returned.is_some()).count(),
            tell,
            swaps,
        }
    }

    fn run(&mut self) -> bool {
        let mut now = State::default();
        // What was placed, and the state before it.
        let mut stack: Vec<(usize, State)> = Vec::new();
        let mut at = self.next[HEAD];
        while self.answered_left > 0 {
            let event = self.events[at];
            if event.is_call {
                if let Some(after) = self.after(now, at) {
                    self.place(at);
                    if self.is_new(after) {
                        stack.push((at, now));
                        now = after;
                        at = self.next[HEAD];
                        continue;
                    }
                    self.unplace(at);
                }
                at = self.next[at];
                continue;
            }
            // A return whose operation is not placed: nothing further may go before it.
            let Some((last, before)) = stack.pop() else {
                return false;
            };
            now = before;
            self.unplace(last);
            at = self.next[last];
        }
        true
    }

    /// The state after the operation of a call, if it can happen in `now` and must be tried.
    fn after(&self, now: State, call: usize) -> Option<State> {
        let operation = &self.operations[self.events[call].operation];
        let value = operation.act.apply(now.value)?;
        let is_unseen = operation.returned.is_none();
        let is_useless = is_unseen && self.live(value) == self.live(now.value);
        let wastes_the_last = now.is_unseen && matches!(operation.act, Act::Write(_));
        if is_useless || wastes_the_last || self.has_a_twin_before(call) {
            return None;
        }
        Some(State { value, is_unseen })
    }

    /// The value, unless it is dead.
    fn live(&self, value: Value) -> Option<Value> {
        self.is_live(value, CHAIN_MAX).then_some(value)
    }

    fn is_live(&self, value: Value, chain_max: usize) -> bool {
        if chain_max == 0 || self.tell.get(&value).is_some_and(|&count| count > 0) {
            return true;
        }
        let swaps = self.swaps.get(&value).into_iter().flatten();
        swaps.filter(|&&swap| !self.is_placed(swap)).any(|&swap| {
            let new = self.operations[swap].act.puts();
            new != value && self.is_live(new, chain_max - 1)
        })
    }

    fn is_placed(&self, operation: usize) -> bool {
        self.placed[operation / 64] & 1 << (operation % 64) != 0
    }

    /// Whether an operation that was called before, and is not placed, does the same without an
    /// answer.
    fn has_a_twin_before(&self, call: usize) -> bool {
        let Some(deed) = self.deed(call) else {
            return false;
        };
        let mut at = self.next[HEAD];
        while at != call {
            if self.events[at].is_call && self.deed(at).as_ref() == Some(&deed) {
                return true;
            }
            at = self.next[at];
        }
        false
    }

    /// None: its answer came, which tells it from all others.
    fn deed(&self, call: usize) -> Option<Deed> {
        let operation = &self.operations[self.events[call].operation];
        match operation.act {
            _ if operation.returned.is_some() => None,
            Act::Write(value) => Some(Deed::Write(self.live(value))),
            Act::CompareAndSwap { expected, new, .. } => Some(Deed::Swap(expected, self.live(new))),
            Act::Read(_) => None,
        }
    }

    /// Whether what is placed, with this result, was not tried yet.
    fn is_new(&mut self, after: State) -> bool {
        let seen = (self.live(after.value), after.is_unseen);
        self.seen.insert((self.placed.clone(), seen))
    }

    fn place(&mut self, call: usize) {
        let operation = self.events[call].operation;
        self.placed[operation / 64] |= 1 << (operation % 64);
        self.answered_left -= usize::from(self.operations[operation].returned.is_some());
        if let Some(told) = self.operations[operation].tells() {
            *self.tell.entry(told).or_default() -= 1;
        }
        self.unlink(call);
        let returned = self.return_of(call);
        self.unlink(returned);
    }

    fn unplace(&mut self, call: usize) {
        let operation = self.events[call].operation;
        self.placed[operation / 64] &= !(1 << (operation % 64));
        self.answered_left += usize::from(self.operations[operation].returned.is_some());
        if let Some(told) = self.operations[operation].tells() {
            *self.tell.entry(told).or_default() += 1;
        }
        let returned = self.return_of(call);
        self.relink(returned);
        self.relink(call);
    }

    fn return_of(&self, call: usize) -> usize {
        let operation = self.events[call].operation;
        let behind = self.events[call..].iter();
        let offset = behind
            .enumerate()
            .position(|(offset, event)| offset > 0 && event.operation == operation);
        call + offset.expect("every call has a return")
    }

    fn unlink(&mut self, event: usize) {
        let (prev, next) = (self.prev[event], self.next[event]);
        self.next[prev] = next;
        if let Some(slot) = self.prev.get_mut(next) {
            *slot = prev;
        }
    }

    fn relink(&mut self, event: usize) {
        let (prev, next) = (self.prev[event], self.next[event]);
        self.next[prev] = event;
        if let Some(slot) = self.prev.get_mut(next) {
            *slot = event;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(called: u64, returned: impl Into<Option<u64>>, value: u64) -> Operation {
        Operation {
            called,
            returned: returned.into(),
            act: Act::Write(Some(value)),
        }
    }

    fn read(called: u64, returned: u64, value: Value) -> Operation {
        Operation {
            called,
            returned: Some(returned),
            act: Act::Read(value),
        }
    }

    fn cas(called: u64, returned: Option<u64>, act: (u64, u64), swapped: bool) -> Operation {
        let (expected, new) = act;
        let swapped = returned.is_some().then_some(swapped);
        let act = Act::CompareAndSwap {
            expected: Some(expected),
            new: Some(new),
            swapped,
        };
        Operation {
            called,
            returned,
            act,
        }
    }

    #[test]
    fn what_one_client_does_is_linearizable() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[
            read(0, 1, None),
            write(2, 3, 7),
            read(4, 5, Some(7))
        ]));
    }

    /// Tried in every order these would take longer than anyone lives.
    #[test]
    fn many_operations_without_an_answer_are_no_burden() {
        let mut operations: Vec<Operation> = (0..60).map(|value| write(0, None, value)).collect();
        operations.extend((0..60).map(|from| cas(1, None, (from, from + 100), true)));
        operations.push(read(2, 3, Some(17)));
        operations.push(read(4, 5, Some(140)));
        assert!(is_linearizable(&operations));
        operations.push(read(6, 7, Some(17)));
        assert!(!is_linearizable(&operations), "a write happens once");
    }

    /// Each failed swap says that something came between, and any of what was not answered may
    /// have: all of it would be tried in all orders.
    #[test]
    fn what_nobody_can_tell_apart_is_tried_once() {
        let mut operations = Vec::new();
        for value in 0..50 {
            let at = value * 10;
            operations.push(write(at, None, 100 + value));
            operations.push(write(at, None, 400 + value));
            operations.push(cas(at, None, (100 + value, 200 + value), true));
            operations.push(write(at + 1, at + 2, value));
            operations.push(cas(at + 3, Some(at + 4), (value, 300 + value), false));
        }
        operations.push(read(600, 601, Some(110)));
        operations.push(read(602, 603, Some(240)));
        assert!(is_linearizable(&operations));
        operations.push(read(604, 605, Some(110)));
        assert!(!is_linearizable(&operations), "a write happens once");
    }

    #[test]
    fn a_stale_read_is_not() {
        assert!(!is_linearizable(&[write(0, 1, 7), read(2, 3, None)]));
        assert!(!is_linearizable(&[
            write(0, 1, 7),
            write(2, 3, 8),
            read(4, 5, Some(7))
        ]));
    }

    #[test]
    fn a_read_that_overlaps_a_write_may_see_it_or_not_but_not_go_back() {
        assert!(is_linearizable(&[
            write(0, 9, 7),
            read(1, 2, None),
            read(3, 4, Some(7))
        ]));
        assert!(!is_linearizable(&[
            write(0, 9, 7),
            read(1, 2, Some(7)),
            read(3, 4, None)
        ]));
    }

    #[test]
    fn an_unanswered_write_may_take_effect_late_or_never() {
        assert!(is_linearizable(&[
            write(0, None, 7),
            read(1, 2, None),
            read(8, 9, Some(7))
        ]));
        assert!(is_linearizable(&[
            write(0, None, 7),
            read(1, 2, None),
            read(8, 9, None)
        ]));
        let comes_and_goes = [
            write(0, None, 7),
            read(1, 2, None),
            read(3, 4, Some(7)),
            read(5, 6, None),
        ];
        assert!(!is_linearizable(&comes_and_goes));
    }

    #[test]
    fn a_swap_happens_once() {
        let lost = [
            write(0, 1, 1),
            cas(2, Some(3), (1, 2), true),
            cas(4, Some(5), (1, 3), true),
        ];
        assert!(!is_linearizable(&lost));
        let unanswered = [
            write(0, 1, 1),
            cas(2, None, (1, 2), true),
            cas(3, Some(4), (2, 3), true),
        ];
        assert!(is_linearizable(&unanswered));
    }

    /// Tries every order.
    fn by_force(left: &mut Vec<Operation>, state: Value) -> bool {
        if left.iter().all(|operation| operation.returned.is_none()) {
            return true;
        }
        let first_return = left
            .iter()
            .map(|o| o.returned.unwrap_or(u64::MAX))
            .min()
            .unwrap_or(u64::MAX);
        for index in 0..left.len() {
            let operation = left[index];
            if operation.called > first_return {
                continue;
            }
            if let Some(after) = operation.act.apply(state) {
                left.remove(index);
                let possible = by_force(left, after);
                left.insert(index, operation);
                if possible {
                    return true;
                }
            }
        }
        false
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let value = prop::option::of(0..3u64);
        let act = prop_oneof![
            value.clone().prop_map(Act::Write),
            value.clone().prop_map(Act::Read),
            (value.clone(), value, any::<bool>()).prop_map(|(expected, new, swapped)| {
                Act::CompareAndSwap {
                    expected,
                    new,
                    swapped: Some(swapped),
                }
            }),
        ];
        (0..20u64, 1..8u64, any::<u8>(), act).prop_map(|(called, took, lost, act)| {
            let is_read = matches!(act, Act::Read(_));
            let returned = (is_read || lost > 100).then_some(called + took);
            let act = match act {
                Act::CompareAndSwap { expected, new, .. } if returned.is_none() => {
                    Act::CompareAndSwap {
                        expected,
                        new,
                        swapped: None,
                    }
                }
                Act::Write(_) | Act::Read(_) | Act::CompareAndSwap { .. } => act,
            };
            Operation {
                called,
                returned,
                act,
            }
        })
    }

    proptest! {
        #[test]
        fn the_search_agrees_with_brute_force(
            operations in prop::collection::vec(operation(), 0..8)
        ) {
            let expected = by_force(&mut operations.clone(), None);
            prop_assert_eq!(is_linearizable(&operations), expected);
        }
    }
}
