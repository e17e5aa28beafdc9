//! Tasks that wait for something that several may wait for.
//!
//! Each waiting future has a *place* and gives it back when it is dropped, so a list never holds
//! the waker of somebody who has gone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Waker};

/// The place of one waiting future, if it has one. Give it back with [`Waiters::leave`].
#[derive(Debug, Default)]
pub(crate) struct Place(Option<u64>);

impl Place {
    pub(crate) fn is_taken(&self) -> bool {
        self.0.is_some()
    }
}

#[derive(Default)]
pub(crate) struct Waiters {
    /// Who came first stands first, and is woken first: else who comes back again and again could
    /// be before those who wait, every time.
    entries: RefCell<VecDeque<Entry>>,
    /// How many places there were.
    places: Cell<u64>,
}

struct Entry {
    place: u64,
    /// How much must be there for it to be woken.
    wanted: usize,
    /// None once woken.
    waker: Option<Waker>,
}

impl Waiters {
    /// Has `cx` woken when `wanted` are there.
    pub(crate) fn wait(&self, place: &mut Place, wanted: usize, cx: &Context<'_>) {
        let mut entries = self.entries.borrow_mut();
        let Some(place) = place.0 else {
            let number = self.places.get();
            self.places.set(number + 1);
            place.0 = Some(number);
            return entries.push_back(Entry {
                place: number,
                wanted,
                waker: Some(cx.waker().clone()),
            });
        };
        let index = index_of(&entries, place);
        let entry = &mut entries[index];
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
        if let Some(place) = place.0.take() {
            let mut entries = self.entries.borrow_mut();
            let index = index_of(&entries, place);
            let entry = entries.remove(index);
            drop(entries);
            drop(entry); // nothing is borrowed
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    /// How many came before the one who has that place: all, if nobody has it.
    pub(crate) fn before(&self, place: &Place) -> usize {
        let entries = self.entries.borrow();
        place
            .0
            .map_or(entries.len(), |place| index_of(&entries, place))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Adds to `wakers` everybody who wants no more than `there`, in the order in which they
    /// came. Wake them when nothing is borrowed.
    pub(crate) fn take(&self, there: usize, wakers: &mut impl Extend<Waker>) {
        let mut entries = self.entries.borrow_mut();
        let ready = entries.iter_mut().filter(|entry| entry.wanted <= there);
        wakers.extend(ready.filter_map(|entry| entry.waker.take()));
    }
}

/// # Panics
/// When nobody has that place.
fn index_of(entries: &VecDeque<Entry>, place: u64) -> usize {
    entries
        .binary_search_by_key(&place, |entry| entry.place)
        .expect("who has a place stands here")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;

    #[test]
    fn who_leaves_and_comes_again_is_woken_after_those_who_stayed() {
        struct Nobody;
        impl Wake for Nobody {
            fn wake(self: Arc<Self>) {}
        }
        let waiters = Waiters::default();
        let [one, two] = [(); 2].map(|()| Waker::from(Arc::new(Nobody)));
        let (mut first, mut second) = (Place::default(), Place::default());
        waiters.wait(&mut first, 1, &Context::from_waker(&one));
        waiters.wait(&mut second, 1, &Context::from_waker(&two));
        assert_eq!((waiters.before(&first), waiters.before(&second)), (0, 1));
        waiters.leave(&mut first);
        assert_eq!((waiters.before(&first), waiters.before(&second)), (1, 0));
        waiters.wait(&mut first, 1, &Context::from_waker(&one));
        let mut woken = Vec::new();
        waiters.take(1, &mut woken);
        assert!(woken[0].will_wake(&two) && woken[1].will_wake(&one));
    }

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
