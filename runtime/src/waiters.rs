//! Tasks that wait for something that several may wait for.
//!
//! Each waiting future has a *place* and gives it back when it is dropped, so a list never holds
//! the waker of somebody who has gone.

use std::cell::RefCell;
use std::task::{Context, Waker};

use slab::Slab;

/// The place of one waiting future, if it has one. Give it back with [`Waiters::leave`].
#[derive(Debug, Default)]
pub(crate) struct Place(Option<usize>);

impl Place {
    pub(crate) fn is_taken(&self) -> bool {
        self.0.is_some()
    }
}

#[derive(Default)]
pub(crate) struct Waiters {
    entries: RefCell<Slab<Entry>>,
}

struct Entry {
    /// How much must be there for it to be woken.
    wanted: usize,
    /// None once woken.
    waker: Option<Waker>,
}

impl Waiters {
    /// Has `cx` woken when `wanted` are there.
    pub(crate) fn wait(&self, place: &mut Place, wanted: usize, cx: &Context<'_>) {
        let mut entries = self.entries.borrow_mut();
        let Some(key) = place.0 else {
            let waker = Some(cx.waker().clone());
            place.0 = Some(entries.insert(Entry { wanted, waker }));
            return;
        };
        let entry = &mut entries[key];
        entry.wanted = wanted;
        let known = entry.waker.as_ref();
        if known.is_some_and(|known| known.will_wake(cx.waker())) {
            return;
        }
        let replaced = entry.waker.replace(cx.waker().clone());
        drop(entries);
        drop(replaced); // nothing is borrowed
    }

    /// Gives up a place.
    pub(crate) fn leave(&self, place: &mut Place) {
        if let Some(key) = place.0.take() {
            let entry = self.entries.borrow_mut().remove(key);
            drop(entry); // nothing is borrowed
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Adds to `wakers` everybody who wants no more than `there`. Wake them when nothing is
    /// borrowed.
    pub(crate) fn take(&self, there: usize, wakers: &mut impl Extend<Waker>) {
        let mut entries = self.entries.borrow_mut();
        let ready = entries
            .iter_mut()
            .filter(|(_, entry)| entry.wanted <= there);
        wakers.extend(ready.filter_map(|(_, entry)| entry.waker.take()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_are_woken_for_whom_there_is_enough_and_only_once() {
        let waiters = Waiters::default();
        let cx = Context::from_waker(Waker::noop());
        let (mut one, mut two) = (Place::default(), Place::default());
        waiters.wait(&mut one, 1, &cx);
        waiters.wait(&mut two, 2, &cx);
        let mut wakers = Vec::new();
        waiters.take(1, &mut wakers);
        assert_eq!(wakers.len(), 1);
        waiters.take(2, &mut wakers);
        assert_eq!(wakers.len(), 2);
        waiters.take(9, &mut wakers);
        assert_eq!(wakers.len(), 2);
        waiters.wait(&mut one, 1, &cx);
        waiters.take(1, &mut wakers);
        assert_eq!(wakers.len(), 3);
        waiters.leave(&mut one);
        waiters.leave(&mut one);
        assert!(!waiters.is_empty());
        waiters.leave(&mut two);
        assert!(waiters.is_empty());
    }
}
