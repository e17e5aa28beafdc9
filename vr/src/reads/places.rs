//! Places for what is numbered one after the other, and ends nearly in that order.
//!
//! Reads come and go some hundred thousand times a second: in a tree, nodes would come and go with
//! them. Here a place is found by how far its number is from the first. Who ends in the middle
//! leaves a gap; once more than half are gaps, which one that waits for long brings about, all are
//! closed, and numbers are searched for by halving. So it is no longer than twice what is in it.

use std::collections::VecDeque;

use viewring_protocol::RequestNumber;

/// A map from numbers that rise, in their order.
pub(super) struct Places<T> {
    /// Neither the first is a gap nor the last.
    places: VecDeque<(RequestNumber, Option<T>)>,
    /// Those that are no gaps.
    len: usize,
}

/// So many gaps are never closed.
const GAPS_MIN: usize = 16;

impl<T> Places<T> {
    pub(super) fn new() -> Self {
        Self {
            places: VecDeque::new(),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds the last one.
    ///
    /// # Panics
    /// When the number is no higher than the last.
    pub(super) fn push(&mut self, number: RequestNumber, thing: T) {
        let last = self.places.back();
        assert!(last.is_none_or(|(last, _)| *last < number), "numbers rise");
        self.places.push_back((number, Some(thing)));
        self.len += 1;
    }

    pub(super) fn get_mut(&mut self, number: RequestNumber) -> Option<&mut T> {
        let at = self.find(number)?;
        self.places[at].1.as_mut()
    }

    pub(super) fn remove(&mut self, number: RequestNumber) -> Option<T> {
        let at = self.find(number)?;
        let thing = self.places[at].1.take()?;
        self.len -= 1;
        let is_gap = |(_, thing): &mut (RequestNumber, Option<T>)| thing.is_none();
        while self.places.pop_front_if(is_gap).is_some() {}
        while self.places.pop_back_if(is_gap).is_some() {}
        if self.places.len() > 2 * self.len + GAPS_MIN {
            self.places.retain(|(_, thing)| thing.is_some());
        }
        Some(thing)
    }

    /// All of them, in the order of their numbers.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places
            .iter_mut()
            .filter_map(|(_, thing)| thing.as_mut())
    }

    fn find(&self, number: RequestNumber) -> Option<usize> {
        let (first, _) = self.places.front()?;
        let distance = usize::try_from(number.0.checked_sub(first.0)?).ok()?;
        match self.places.get(distance) {
            Some((there, _)) if *there == number => Some(distance),
            // Gaps before it were closed, or it is not here.
            _ => self
                .places
                .binary_search_by_key(&number, |&(there, _)| there)
                .ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_that_waits_for_long_does_not_keep_the_room_of_those_that_end() {
        let mut places = Places::new();
        for number in 0..10_000 {
            places.push(RequestNumber(number), number);
            if number > 0 {
                assert_eq!(places.remove(RequestNumber(number)), Some(number));
            }
        }
        for number in 10_000..20_000 {
            places.push(RequestNumber(number), number);
            if number > 10_007 {
                assert_eq!(places.remove(RequestNumber(number - 7)), Some(number - 7));
            }
            assert!(places.places.len() <= 2 * places.len() + GAPS_MIN);
        }
        assert_eq!(places.get_mut(RequestNumber(0)), Some(&mut 0));
        assert_eq!(places.get_mut(RequestNumber(1)), None);
    }

    #[test]
    #[should_panic(expected = "numbers rise")]
    fn a_number_is_used_once() {
        let mut places = Places::new();
        places.push(RequestNumber(5), ());
        places.push(RequestNumber(5), ());
    }

    proptest! {
        #[test]
        fn it_holds_what_a_tree_would(
            acts in proptest::collection::vec((0..4_u8, 1..90_u64), 0..900),
        ) {
            let (mut places, mut tree) = (Places::new(), BTreeMap::new());
            let mut next = RequestNumber(7);
            for (act, back) in acts {
                let some = RequestNumber(next.0.saturating_sub(back));
                match act {
                    0 | 1 => {
                        places.push(next, next.0);
                        tree.insert(next, next.0);
                        next = RequestNumber(next.0 + 1 + back / 80);
                    }
                    2 => prop_assert_eq!(places.remove(some), tree.remove(&some)),
                    _ => prop_assert_eq!(places.get_mut(some), tree.get_mut(&some)),
                }
                prop_assert_eq!(places.len(), tree.len());
                prop_assert!(places.values_mut().eq(tree.values_mut()));
                prop_assert!(places.places.len() <= 2 * places.len() + GAPS_MIN);
            }
        }
    }
}
