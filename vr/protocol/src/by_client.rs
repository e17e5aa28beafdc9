//! What is known of each client, to be found at once.
//!
//! A request has its client looked for half a dozen times: has it a session, is it in flight,
//! where is it? In a tree that is a tenth of what a request costs. So it is a hash table: open
//! addressing, at most half full, and what is taken out leaves no tombs.
//!
//! It cannot be walked through: where things are is chance, and nothing that comes out may depend
//! on it. Whoever needs them all is given them [in order](ByClient::sorted). And since clients
//! choose their ids, places are drawn with a key that they do not know: nobody can make up ids that
//! all want the same one.

use crate::ids::{ClientId, Incarnation};
use alloc::vec::Vec;
use core::fmt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A map from client ids, without an order.
pub struct ByClient<T> {
    key: u64,
    /// A power of two, or none. What is not at home is behind it, with no gap between.
    places: Vec<Option<(ClientId, T)>>,
    len: usize,
}

impl<T> ByClient<T> {
    /// An empty one, for a replica in this life of it: no client is told that number.
    pub fn new(life: Incarnation) -> Self {
        Self {
            key: life.0,
            places: Vec::new(),
            len: 0,
        }
    }

    /// How many clients are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is known of a client.
    pub fn get(&self, id: ClientId) -> Option<&T> {
        let at = self.find(id).ok()?;
        self.places[at].as_ref().map(|(_, thing)| thing)
    }

    /// What is known of a client, to be changed.
    pub fn get_mut(&mut self, id: ClientId) -> Option<&mut T> {
        let at = self.find(id).ok()?;
        self.places[at].as_mut().map(|(_, thing)| thing)
    }

    /// What is known of a client, to be changed. At first, nothing.
    pub fn entry(&mut self, id: ClientId) -> &mut T
    where
        T: Default,
    {
        let at = match self.find(id) {
            Ok(at) => at,
            Err(free) => self.put(free, id, T::default()),
        };
        let (_, thing) = self.places[at]
            .as_mut()
            .expect("it was found, or put there");
        thing
    }

    /// Remembers this of a client, and returns what it takes the place of.
    pub fn insert(&mut self, id: ClientId, thing: T) -> Option<T> {
        match self.find(id) {
            Ok(at) => self.places[at].replace((id, thing)).map(|(_, last)| last),
            Err(free) => {
                self.put(free, id, thing);
                None
            }
        }
    }

    /// Forgets a client, and returns what was known of it.
    pub fn remove(&mut self, id: ClientId) -> Option<T> {
        let mut gap = self.find(id).ok()?;
        let (_, thing) = self.places[gap].take()?;
        self.len -= 1;
        // Who is behind the gap and would have liked to be there, or before, moves up.
        let mut at = self.behind(gap);
        while let Some((next, _)) = &self.places[at] {
            if self.distance(self.home(*next), at) >= self.distance(gap, at) {
                self.places.swap(gap, at);
                gap = at;
            }
            at = self.behind(at);
        }
        Some(thing)
    }

    /// All clients, in the order of their ids.
    pub fn sorted(&self) -> Vec<(ClientId, &T)> {
        let all = self.places.iter().flatten();
        let mut all: Vec<_> = all.map(|(id, thing)| (*id, thing)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Where a client is, or else the place that it would get.
    fn find(&self, id: ClientId) -> Result<usize, usize> {
        let mut at = self.home(id);
        loop {
            match self.places.get(at) {
                Some(Some((there, _))) if *there == id => return Ok(at),
                Some(Some(_)) => at = self.behind(at),
                Some(None) | None => return Err(at),
            }
        }
    }

    /// Puts a client there, or where it goes if that is too narrow: there it is.
    fn put(&mut self, free: usize, id: ClientId, thing: T) -> usize {
        let mut at = free;
        if self.places.len() < 2 * (self.len + 1) {
            self.grow();
            at = self.find(id).expect_err("it is not here");
        }
        self.places[at] = Some((id, thing));
        self.len += 1;
        at
    }

    fn grow(&mut self) {
        let len = (self.places.len() * 2).max(PLACES_MIN);
        let mut places = Vec::with_capacity(len);
        places.resize_with(len, || None);
        let before = core::mem::replace(&mut self.places, places);
        for (id, thing) in before.into_iter().flatten() {
            let at = self.find(id).expect_err("each was here once");
            self.places[at] = Some((id, thing));
        }
    }

    fn mask(&self) -> usize {
        self.places.len().wrapping_sub(1)
    }

    fn home(&self, id: ClientId) -> usize {
        let hash = xxh3_64_with_seed(&id.0.to_le_bytes(), self.key);
        usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) & self.mask()
    }

    fn behind(&self, at: usize) -> usize {
        (at + 1) & self.mask()
    }

    /// How far it is from one place on to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }
}

const PLACES_MIN: usize = 8;

impl<T: fmt::Debug> fmt::Debug for ByClient<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.sorted()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_does_what_a_map_does(
            life in any::<u64>(),
            steps in prop::collection::vec((0..5u8, 0..40u64, any::<u32>()), 1..400),
        ) {
            let (mut by_client, mut map) = (ByClient::new(Incarnation(life)), BTreeMap::new());
            for (what, id, thing) in steps {
                let id = ClientId(id);
                match what {
                    0 => prop_assert_eq!(by_client.insert(id, thing), map.insert(id, thing)),
                    1 | 2 => prop_assert_eq!(by_client.remove(id), map.remove(&id)),
                    3 => {
                        *by_client.entry(id) ^= thing;
                        *map.entry(id).or_default() ^= thing;
                    }
                    _ => {
                        let (mine, theirs) = (by_client.get_mut(id), map.get_mut(&id));
                        prop_assert_eq!(&mine, &theirs);
                        mine.into_iter().chain(theirs).for_each(|known| *known = thing);
                    }
                }
                prop_assert_eq!(by_client.len(), map.len());
                prop_assert_eq!(by_client.is_empty(), map.is_empty());
                let all = map.iter().map(|(id, thing)| (*id, thing));
                prop_assert_eq!(by_client.sorted(), all.collect::<Vec<_>>());
                for id in (0..40).map(ClientId) {
                    prop_assert_eq!(by_client.get(id), map.get(&id));
                }
            }
        }
    }

    #[test]
    fn nobody_is_far_from_home_whatever_ids_are_made_up() {
        for stride in [1, 8, 1 << 16, 1 << 32, 1 << 48] {
            let mut by_client = ByClient::new(Incarnation(77));
            for id in (0..10_000_u64).map(|i| ClientId(i.wrapping_mul(stride))) {
                by_client.insert(id, ());
            }
            let far_from_home = |&(id, _): &(ClientId, _)| {
                let at = by_client.find(id).expect("it is here");
                by_client.distance(by_client.home(id), at)
            };
            let farthest = by_client.sorted().iter().map(far_from_home).max();
            assert!(farthest < Some(64), "stride {stride}: {farthest:?}");
        }
    }

    #[test]
    fn places_are_drawn_anew_for_each_life() {
        let homes = |life| {
            let mut by_client = ByClient::new(Incarnation(life));
            (0..64).for_each(|id| _ = by_client.insert(ClientId(id), ()));
            let homes = (0..64).map(|id| by_client.home(ClientId(id)));
            homes.collect::<Vec<_>>()
        };
        assert_ne!(homes(1), homes(2));
    }
}
