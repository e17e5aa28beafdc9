//! The operation table: the life of every operation between its start and its final completion.
//!
//! ```text
//!            poll            completion             poll
//! Submitted ------> Waiting -----------> Completed ------> (free)
//!     |                |  drop of the future    |  drop
//!     +----------------+---------> Orphaned     +---------> (free)
//!                                     | final completion
//!                                     +---------> (free)
//! Posted: nobody waits; a sink hears how it went.   Stream: many completions, into a queue.
//! ```
//!
//! An operation whose outcome matters also when nobody waits any more is not orphaned but
//! [bequeathed](Ops::bequeath): it becomes Posted.
//!
//! The table decides who hears of a completion. The bytes that the operation reads or writes are
//! the reactor's (see the ownership rule in `reactor.rs`): an orphan's buffers are safe there until
//! the completion that frees its entry here.
//!
//! An [`OpKey`] carries the generation of its entry's user. A completion whose generation is not
//! the entry's is stale: it is counted and changes nothing.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::reactor::{Completion, OpKey, Outcome};

/// Where completions go that no future waits for.
pub(crate) trait Sink {
    /// Takes one completion; `more` says whether others follow.
    fn complete(self: Rc<Self>, result: io::Result<Outcome>, more: bool);
}

/// What is to be done about a completion once the table is no longer borrowed: a waker, a sink or
/// a dropped buffer may run anything.
#[must_use]
pub(crate) enum Delivery {
    Wake(Waker),
    /// The flag says whether more completions follow.
    Tell(Rc<dyn Sink>, io::Result<Outcome>, bool),
    /// Nobody waits: the result is dropped, its buffers go back to their pool.
    Drop(io::Result<Outcome>),
    Nothing,
}

pub(crate) struct Ops {
    entries: Slab<Entry>,
    generation: u32,
    /// Completions of operations that the table no longer knows. Stays 0 unless a reactor errs.
    pub(crate) stale: u64,
    /// Futures dropped while their operation was in flight.
    pub(crate) orphaned: u64,
}

struct Entry {
    generation: u32,
    state: State,
}

pub(crate) enum State {
    Submitted,
    Waiting(Waker),
    Completed(io::Result<Outcome>),
    Orphaned,
    Posted(Rc<dyn Sink>),
    Stream(Rc<dyn Sink>),
}

/// What [`Ops::orphan`] found.
#[must_use = "drop it when the table is not borrowed"]
pub(crate) struct Orphan {
    /// The reactor should be asked to cancel the operation.
    pub(crate) in_flight: bool,
    /// Who was interested.
    pub(crate) held: Option<State>,
}

/// What [`Ops::bequeath`] found.
#[must_use = "drop it when the table is not borrowed"]
pub(crate) enum Bequest {
    /// The heir will hear of it; the reactor should be asked to cancel it. Who was interested.
    InFlight(State),
    /// The heir is to be told this.
    Completed(io::Result<Outcome>),
    /// Nobody will ever know.
    Lost,
}

impl Entry {
    fn is_awaited(&self) -> bool {
        !matches!(self.state, State::Completed(_) | State::Orphaned)
    }
}

impl Ops {
    pub(crate) fn new() -> Self {
        Self {
            entries: Slab::new(),
            generation: 0,
            stale: 0,
            orphaned: 0,
        }
    }

    /// An entry that a future will [`poll`](Self::poll).
    pub(crate) fn insert(&mut self) -> OpKey {
        self.insert_state(State::Submitted)
    }

    /// An entry that nobody waits for; `sink` hears of its one completion.
    pub(crate) fn insert_posted(&mut self, sink: Rc<dyn Sink>) -> OpKey {
        self.insert_state(State::Posted(sink))
    }

    /// An entry of many completions, all for `sink`.
    pub(crate) fn insert_stream(&mut self, sink: Rc<dyn Sink>) -> OpKey {
        self.insert_state(State::Stream(sink))
    }

    fn insert_state(&mut self, state: State) -> OpKey {
        self.generation = (self.generation + 1) & ((1 << OpKey::GENERATION_BITS) - 1);
        let generation = self.generation;
        let index = self.entries.insert(Entry { generation, state });
        let index = u32::try_from(index).expect("fewer than 2^32 operations fit in memory");
        OpKey { index, generation }
    }

    /// The result, if it is there, which frees the entry; else `cx` is woken when it comes. A
    /// waker that was replaced is left in `replaced`, to be dropped when the table is not
    /// borrowed.
    ///
    /// Pending for ever if the runtime, shutting down, has [orphaned](Self::orphan) the operation
    /// while its future lives.
    pub(crate) fn poll(
        &mut self,
        key: OpKey,
        cx: &Context<'_>,
        replaced: &mut Option<Waker>,
    ) -> Poll<io::Result<Outcome>> {
        let Some(entry) = self.entry(key) else {
            return Poll::Pending;
        };
        match &mut entry.state {
            State::Completed(_) => {}
            State::Submitted => {
                entry.state = State::Waiting(cx.waker().clone());
                return Poll::Pending;
            }
            State::Waiting(waker) => {
                if !waker.will_wake(cx.waker()) {
                    *replaced = Some(std::mem::replace(waker, cx.waker().clone()));
                }
                return Poll::Pending;
            }
            State::Orphaned => return Poll::Pending,
            State::Posted(_) | State::Stream(_) => {
                unreachable!("a future polls only the operation that it started")
            }
        }
        let entry = self.entries.remove(key.index as usize);
        let State::Completed(result) = entry.state else {
            unreachable!("matched above")
        };
        Poll::Ready(result)
    }

    /// The future of `key` is gone, and so is its interest. What is returned is to be dropped when
    /// the table is not borrowed.
    pub(crate) fn orphan(&mut self, key: OpKey) -> Orphan {
        let Some(entry) = self.entry(key) else {
            return Orphan {
                in_flight: false,
                held: None,
            };
        };
        if matches!(entry.state, State::Completed(_)) {
            let entry = self.entries.remove(key.index as usize);
            return Orphan {
                in_flight: false,
                held: Some(entry.state),
            };
        }
        // An orphan keeps no task and no socket alive.
        let before = std::mem::replace(&mut entry.state, State::Orphaned);
        self.orphaned += 1;
        Orphan {
            in_flight: true,
            held: Some(before),
        }
    }

    /// The future of `key` is gone, and `heir` is to hear of the completion in its place. If that
    /// has come already, or will never come, it is given back for the heir to be told.
    pub(crate) fn bequeath(&mut self, key: OpKey, heir: Rc<dyn Sink>) -> Bequest {
        let Some(entry) = self.entry(key) else {
            return Bequest::Lost;
        };
        match entry.state {
            State::Completed(_) => {
                let entry = self.entries.remove(key.index as usize);
                let State::Completed(result) = entry.state else {
                    unreachable!("matched above")
                };
                Bequest::Completed(result)
            }
            // The runtime, shutting down, was faster.
            State::Orphaned => Bequest::Lost,
            State::Submitted | State::Waiting(_) => {
                let before = std::mem::replace(&mut entry.state, State::Posted(heir));
                self.orphaned += 1;
                Bequest::InFlight(before)
            }
            State::Posted(_) | State::Stream(_) => {
                unreachable!("a future bequeaths only the operation that it started")
            }
        }
    }

    /// Records one completion and says who is to hear of it.
    pub(crate) fn complete(&mut self, completion: Completion) -> Delivery {
        let Completion { key, result, more } = completion;
        let Some(entry) = self.entry(key) else {
            self.stale += 1;
            return Delivery::Drop(result);
        };
        match &entry.state {
            State::Stream(sink) if more => {
                return Delivery::Tell(Rc::clone(sink), result, true);
            }
            State::Orphaned if more => return Delivery::Drop(result),
            State::Submitted | State::Waiting(_) => {
                debug_assert!(!more, "an owned operation completes once");
                let before = std::mem::replace(&mut entry.state, State::Completed(result));
                let State::Waiting(waker) = before else {
                    return Delivery::Nothing;
                };
                return Delivery::Wake(waker);
            }
            // Its one completion was there before; its future will fetch that one.
            State::Completed(_) => {
                self.stale += 1;
                return Delivery::Drop(result);
            }
            State::Posted(_) | State::Stream(_) | State::Orphaned => {}
        }
        match self.entries.remove(key.index as usize).state {
            State::Posted(sink) | State::Stream(sink) => Delivery::Tell(sink, result, false),
            State::Submitted | State::Waiting(_) | State::Orphaned | State::Completed(_) => {
                Delivery::Drop(result)
            }
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The keys of everything in flight that somebody waits for.
    pub(crate) fn keys(&self) -> Vec<OpKey> {
        let key = |(index, entry): (usize, &Entry)| OpKey {
            index: index as u32,
            generation: entry.generation,
        };
        self.entries
            .iter()
            .filter(|(_, entry)| entry.is_awaited())
            .map(key)
            .collect()
    }

    /// Whether a sink waits for the one completion of `key`.
    pub(crate) fn is_posted(&self, key: OpKey) -> bool {
        let entry = self.entries.get(key.index as usize);
        entry.is_some_and(|entry| {
            entry.generation == key.generation && matches!(entry.state, State::Posted(_))
        })
    }

    fn entry(&mut self, key: OpKey) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key.index as usize)?;
        (entry.generation == key.generation).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(ops: &mut Ops, key: OpKey) -> Delivery {
        ops.complete(Completion {
            key,
            result: Ok(Outcome::Done),
            more: false,
        })
    }

    fn poll(ops: &mut Ops, key: OpKey) -> Poll<io::Result<Outcome>> {
        ops.poll(key, &Context::from_waker(Waker::noop()), &mut None)
    }

    #[test]
    fn a_completion_before_the_first_poll_is_kept() {
        let mut ops = Ops::new();
        let key = ops.insert();
        assert!(matches!(complete(&mut ops, key), Delivery::Nothing));
        assert!(poll(&mut ops, key).is_ready());
        assert_eq!(ops.len(), 0);
    }

    #[test]
    fn a_waiting_operation_wakes_its_task_once() {
        let mut ops = Ops::new();
        let key = ops.insert();
        assert!(poll(&mut ops, key).is_pending());
        assert!(poll(&mut ops, key).is_pending());
        assert!(matches!(complete(&mut ops, key), Delivery::Wake(_)));
        assert!(poll(&mut ops, key).is_ready());
    }

    #[test]
    fn an_orphan_holds_its_entry_until_its_completion() {
        let mut ops = Ops::new();
        let key = ops.insert();
        assert!(poll(&mut ops, key).is_pending());
        assert!(ops.orphan(key).in_flight);
        assert_eq!(ops.len(), 1);
        assert!(matches!(complete(&mut ops, key), Delivery::Drop(_)));
        assert_eq!((ops.len(), ops.stale), (0, 0));
    }

    #[test]
    fn a_completed_operation_whose_future_is_dropped_needs_no_cancel() {
        let mut ops = Ops::new();
        let key = ops.insert();
        assert!(matches!(complete(&mut ops, key), Delivery::Nothing));
        assert!(!ops.orphan(key).in_flight);
        assert_eq!(ops.len(), 0);
    }

    #[test]
    fn an_heir_hears_what_the_future_would_have_heard() {
        struct Heir;
        impl Sink for Heir {
            fn complete(self: Rc<Self>, _: io::Result<Outcome>, _: bool) {}
        }
        let mut ops = Ops::new();
        let key = ops.insert();
        assert!(poll(&mut ops, key).is_pending());
        let bequest = ops.bequeath(key, Rc::new(Heir));
        assert!(matches!(bequest, Bequest::InFlight(State::Waiting(_))));
        assert!(matches!(
            complete(&mut ops, key),
            Delivery::Tell(_, Ok(_), false)
        ));
        let key = ops.insert();
        assert!(matches!(complete(&mut ops, key), Delivery::Nothing));
        let bequest = ops.bequeath(key, Rc::new(Heir));
        assert!(matches!(bequest, Bequest::Completed(Ok(_))));
        let key = ops.insert();
        assert!(ops.orphan(key).in_flight);
        let bequest = ops.bequeath(key, Rc::new(Heir));
        assert!(matches!(bequest, Bequest::Lost));
        assert_eq!(ops.len(), 1);
    }

    #[test]
    fn a_second_completion_changes_nothing() {
        let mut ops = Ops::new();
        let key = ops.insert();
        assert!(matches!(complete(&mut ops, key), Delivery::Nothing));
        assert!(matches!(complete(&mut ops, key), Delivery::Drop(_)));
        assert_eq!((ops.len(), ops.stale), (1, 1));
        assert!(poll(&mut ops, key).is_ready());
    }

    #[test]
    fn a_stale_completion_does_not_reach_the_next_user_of_the_entry() {
        let mut ops = Ops::new();
        let first = ops.insert();
        assert!(matches!(complete(&mut ops, first), Delivery::Nothing));
        assert!(poll(&mut ops, first).is_ready());
        let second = ops.insert();
        assert_eq!(first.index, second.index);
        assert!(matches!(complete(&mut ops, first), Delivery::Drop(_)));
        assert_eq!(ops.stale, 1);
        assert!(poll(&mut ops, second).is_pending());
    }
}
