//! Deadlines and whom to wake: a hierarchical timing wheel. Pure: it knows no clock.
//!
//! Arming and cancelling are O(1): link or unlink a node. That is what a protocol needs whose
//! timeouts nearly never fire but restart with every message. A tick is 2^16 ns (65.5 µs), each
//! level has 64 slots, and level `l` holds the deadlines whose tick first differs from the present
//! in the `l`-th group of six bits. Each node keeps its exact deadline: within the slot of the
//! present tick only what is due fires, so a timer never fires early and the precision is that of
//! the clock, not of the tick.
//!
//! **Earliest.** [`Timers::earliest`] is a lower bound: no timer is due before it. Cancelling does
//! not raise it. At worst the reactor wakes once at a deadline that is no longer there, and finds
//! nothing; in exchange a restart costs neither a search nor a system call.

use std::task::Waker;

use slab::Slab;

use crate::time::Instant;

const TICK_BITS: u32 = 16;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 16 + 8 * 6 = 64 bits of nanoseconds.
const LEVELS: usize = 8;
const NIL: u32 = u32::MAX;
/// The `place` of a node that has fired.
const FIRED: u16 = u16::MAX;

/// Names an armed timer until it is [removed](Timers::remove).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey(u32);

pub(crate) struct Timers {
    nodes: Slab<Node>,
    /// The first node of each slot's list, `NIL` if empty.
    heads: Box<[u32; LEVELS * SLOTS]>,
    /// One bit per slot that is not empty.
    occupied: [u64; LEVELS],
    /// The tick up to which everything has fired.
    elapsed: u64,
    /// No timer that is armed is due before this, in ns.
    earliest_ns: u64,
    sequence: u64,
    due: Vec<(u64, u64, Waker)>,
}

struct Node {
    deadline_ns: u64,
    /// Timers of the same deadline fire in the order in which they were armed.
    sequence: u64,
    /// None once fired.
    waker: Option<Waker>,
    prev: u32,
    next: u32,
    /// `level * SLOTS + slot`, or [`FIRED`].
    place: u16,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Slab::new(),
            heads: Box::new([NIL; LEVELS * SLOTS]),
            occupied: [0; LEVELS],
            elapsed: 0,
            earliest_ns: u64::MAX,
            sequence: 0,
            due: Vec::new(),
        }
    }

    /// Arms a timer: `waker` is woken by the first [`fire`](Self::fire) at or after `deadline`.
    pub(crate) fn insert(&mut self, deadline: Instant, waker: Waker) -> TimerKey {
        let deadline_ns = deadline.as_nanos();
        self.sequence += 1;
        let node = Node {
            deadline_ns,
            sequence: self.sequence,
            waker: Some(waker),
            prev: NIL,
            next: NIL,
            place: FIRED,
        };
        let key = self.nodes.insert(node) as u32;
        self.link(key);
        TimerKey(key)
    }

    /// Moves an armed timer to another deadline.
    pub(crate) fn reset(&mut self, TimerKey(key): TimerKey, deadline: Instant) {
        debug_assert!(
            self.nodes[key as usize].place != FIRED,
            "a fired timer is not reset"
        );
        self.unlink(key);
        self.sequence += 1;
        let sequence = self.sequence;
        let node = self.node(key);
        node.deadline_ns = deadline.as_nanos();
        node.sequence = sequence;
        self.link(key);
    }

    /// Disarms a timer and frees its place. Drop what is returned when nothing is borrowed.
    pub(crate) fn remove(&mut self, TimerKey(key): TimerKey) -> Option<Waker> {
        self.unlink(key);
        self.nodes.remove(key as usize).waker
    }

    /// Whether the timer has fired.
    pub(crate) fn has_fired(&self, TimerKey(key): TimerKey) -> bool {
        self.nodes[key as usize].place == FIRED
    }

    /// Wakes `waker` instead of the one before, which is returned if it was another.
    pub(crate) fn set_waker(&mut self, TimerKey(key): TimerKey, waker: &Waker) -> Option<Waker> {
        let node = self.node(key);
        if node
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            return None;
        }
        node.waker.replace(waker.clone())
    }

    /// No timer is due before this moment; `None` if none is armed.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        (self.earliest_ns != u64::MAX).then(|| Instant::from_nanos(self.earliest_ns))
    }

    /// Adds to `wakers` everybody whose deadline is `now` or before, in the order of deadlines.
    pub(crate) fn fire(&mut self, now: Instant, wakers: &mut impl Extend<Waker>) {
        let now_ns = now.as_nanos();
        if now_ns < self.earliest_ns {
            return;
        }
        let now_tick = now_ns >> TICK_BITS;
        while let Some((level, slot)) = self.first_slot() {
            let start = self.start_of(level, slot);
            if start > now_tick {
                break;
            }
            self.elapsed = self.elapsed.max(start);
            self.empty_slot(level * SLOTS + slot, now_ns);
            if level == 0 && start == now_tick {
                break; // what is left in this slot is not due yet
            }
        }
        self.elapsed = self.elapsed.max(now_tick);
        self.earliest_ns = self.find_earliest();
        self.due
            .sort_unstable_by_key(|&(deadline_ns, sequence, _)| (deadline_ns, sequence));
        wakers.extend(self.due.drain(..).map(|(_, _, waker)| waker));
    }

    /// How many timers there are, armed or fired.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Takes a slot's list apart: what is due is recorded, the rest is linked anew, nearer.
    fn empty_slot(&mut self, place: usize, now_ns: u64) {
        let mut next = std::mem::replace(&mut self.heads[place], NIL);
        self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        while next != NIL {
            let key = next;
            let node = self.node(key);
            next = node.next;
            if node.deadline_ns <= now_ns {
                node.place = FIRED;
                let waker = node
                    .waker
                    .take()
                    .expect("a timer that has not fired has its waker");
                let due = (node.deadline_ns, node.sequence, waker);
                self.due.push(due);
            } else {
                self.link(key);
            }
        }
    }

    /// Links a node into the slot of its deadline.
    fn link(&mut self, key: u32) {
        let elapsed = self.elapsed;
        let node = &mut self.nodes[key as usize];
        // A deadline in the past belongs to the present tick.
        let tick = (node.deadline_ns >> TICK_BITS).max(elapsed);
        let differing = tick ^ elapsed;
        let level = (63 - (differing | 1).leading_zeros()) / SLOT_BITS;
        let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
        let level = level as usize;
        let place = level * SLOTS + slot;
        let head = self.heads[place];
        node.place = place as u16;
        node.prev = NIL;
        node.next = head;
        self.earliest_ns = self.earliest_ns.min(node.deadline_ns);
        if head != NIL {
            self.nodes[head as usize].prev = key;
        }
        self.heads[place] = key;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, key: u32) {
        let node = &mut self.nodes[key as usize];
        let (prev, next, place) = (node.prev, node.next, node.place);
        if place == FIRED {
            return;
        }
        node.place = FIRED;
        if next != NIL {
            self.node(next).prev = prev;
        }
        if prev != NIL {
            self.node(prev).next = next;
            return;
        }
        let place = usize::from(place);
        self.heads[place] = next;
        if next == NIL {
            self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        }
    }

    /// The slot of the nearest deadlines. Slots of one level never wrap: each is at or after the
    /// present, since a deadline that shares no higher digit with the present is on a higher level.
    fn first_slot(&self) -> Option<(usize, usize)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        Some((level, self.occupied[level].trailing_zeros() as usize))
    }

    /// The first tick of a slot.
    fn start_of(&self, level: usize, slot: usize) -> u64 {
        let shift = level as u32 * SLOT_BITS;
        let above = shift + SLOT_BITS;
        let high = if above >= u64::BITS {
            0
        } else {
            self.elapsed >> above << above
        };
        high | (slot as u64) << shift
    }

    fn find_earliest(&self) -> u64 {
        let Some((level, slot)) = self.first_slot() else {
            return u64::MAX;
        };
        let mut earliest_ns = u64::MAX;
        let mut next = self.heads[level * SLOTS + slot];
        while next != NIL {
            let node = &self.nodes[next as usize];
            earliest_ns = earliest_ns.min(node.deadline_ns);
            next = node.next;
        }
        earliest_ns
    }

    fn node(&mut self, key: u32) -> &mut Node {
        &mut self.nodes[key as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    /// Wakes of one timer, counted.
    #[derive(Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    fn fire(timers: &mut Timers, now: u64) -> usize {
        let mut wakers = Vec::new();
        timers.fire(at(now), &mut wakers);
        wakers.len()
    }

    #[test]
    fn a_timer_fires_at_its_deadline_and_not_a_nanosecond_before() {
        let mut timers = Timers::new();
        let key = timers.insert(at(1_000_001), Waker::noop().clone());
        assert_eq!(timers.earliest(), Some(at(1_000_001)));
        assert_eq!(fire(&mut timers, 1_000_000), 0);
        assert_eq!(fire(&mut timers, 1_000_001), 1);
        assert!(timers.has_fired(key));
        assert_eq!(timers.earliest(), None);
        assert_eq!(fire(&mut timers, 2_000_000), 0);
    }

    #[test]
    fn timers_fire_in_the_order_of_their_deadlines_then_of_their_arming() {
        let mut timers = Timers::new();
        let counts: Vec<Arc<Count>> = (0..4).map(|_| Arc::default()).collect();
        for (count, deadline) in counts
            .iter()
            .zip([5_000_000_000, 70_000, 5_000_000_000, 69_999])
        {
            timers.insert(at(deadline), Waker::from(Arc::clone(count)));
        }
        let mut wakers = Vec::new();
        timers.fire(at(6_000_000_000), &mut wakers);
        let order: Vec<usize> = wakers
            .into_iter()
            .map(|waker| {
                waker.wake();
                let is_woken = |count: &Arc<Count>| count.0.swap(0, Ordering::Relaxed) > 0;
                counts.iter().position(is_woken).expect("a waker of ours")
            })
            .collect();
        assert_eq!(order, [3, 1, 0, 2]);
    }

    #[test]
    fn a_removed_timer_does_not_fire_and_leaves_a_lower_bound() {
        let mut timers = Timers::new();
        let near = timers.insert(at(1_000), Waker::noop().clone());
        timers.insert(at(9_000_000), Waker::noop().clone());
        timers.remove(near);
        assert_eq!(timers.earliest(), Some(at(1_000)));
        assert_eq!(fire(&mut timers, 1_000), 0);
        assert_eq!(timers.earliest(), Some(at(9_000_000)));
        assert_eq!(timers.len(), 1);
    }

    #[test]
    fn a_deadline_in_the_past_or_at_the_end_of_time_is_no_special_case() {
        let mut timers = Timers::new();
        assert_eq!(fire(&mut timers, 1 << 40), 0);
        timers.insert(at(5), Waker::noop().clone());
        timers.insert(at(u64::MAX - 1), Waker::noop().clone());
        assert_eq!(fire(&mut timers, 1 << 40), 1);
        assert_eq!(fire(&mut timers, u64::MAX - 1), 1);
    }

    #[derive(Debug, Clone)]
    enum Act {
        Insert(u64),
        Remove(usize),
        Reset(usize, u64),
        Advance(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let span = prop_oneof![0..200_000u64, 0..50_000_000u64, 0..100_000_000_000_000u64];
        prop_oneof![
            3 => span.clone().prop_map(Act::Insert),
            1 => any::<usize>().prop_map(Act::Remove),
            1 => (any::<usize>(), span.clone()).prop_map(|(i, s)| Act::Reset(i, s)),
            3 => span.prop_map(Act::Advance),
        ]
    }

    proptest! {
        /// The wheel fires what a sorted map would, when it would, and its bound never lies.
        #[test]
        fn the_wheel_behaves_like_a_sorted_map(acts in prop::collection::vec(act(), 1..200)) {
            let mut timers = Timers::new();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = 0u64;
            for act in acts {
                let pick = |i: usize| model.keys().nth(i % model.len().max(1)).copied();
                match act {
                    Act::Insert(after) => {
                        let key = timers.insert(at(now + after), Waker::noop().clone());
                        model.insert(key.0, now + after);
                    }
                    Act::Remove(i) => {
                        let Some(key) = pick(i) else { continue };
                        timers.remove(TimerKey(key));
                        model.remove(&key);
                    }
                    Act::Reset(i, after) => {
                        let Some(key) = pick(i) else { continue };
                        timers.reset(TimerKey(key), at(now + after));
                        model.insert(key, now + after);
                    }
                    Act::Advance(by) => {
                        now += by;
                        let due: Vec<u32> = model
                            .iter()
                            .filter(|&(_, &deadline)| deadline <= now)
                            .map(|(&key, _)| key)
                            .collect();
                        prop_assert_eq!(fire(&mut timers, now), due.len());
                        for key in due {
                            prop_assert!(timers.has_fired(TimerKey(key)));
                            timers.remove(TimerKey(key));
                            model.remove(&key);
                        }
                        // Or else the loop would wake again and again for nothing.
                        prop_assert!(timers.earliest().is_none_or(|bound| bound > at(now)));
                    }
                }
                if let Some(&earliest) = model.values().min() {
                    prop_assert!(timers.earliest().is_some_and(|bound| bound <= at(earliest)));
                }
                prop_assert_eq!(timers.len(), model.len());
            }
        }
    }
}
