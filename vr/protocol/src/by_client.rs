//! What is known of each client, to be found at once.
//!
//! A request has its client looked for half a dozen times: has it a session, is it in flight,
//! where is it? In a tree that is a tenth of what a request costs. So it is a hash table.
//!
//! It cannot be walked through: where things are is chance, and nothing that comes out may depend
//! on it. Whoever needs them all is given them [in order](ByClient::sorted). And since clients
//! choose their ids, places are drawn with a key that they do not know: nobody can make up ids that
//! all want the same one.

use crate::ids::{ClientId, Incarnation};
use alloc::vec::Vec;
use core::fmt;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A map from client ids, without an order.
pub struct ByClient<T> {
    key: u64,
    table: HashTable<(ClientId, T)>,
}

impl<T> ByClient<T> {
    /// An empty one, for a replica in this life of it: no client is told that number.
    pub fn new(life: Incarnation) -> Self {
        Self {
            key: life.0,
            table: HashTable::new(),
        }
    }

    /// How many clients are in it.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// What is known of a client.
    pub fn get(&self, id: ClientId) -> Option<&T> {
        let found = self.table.find(hash(self.key, id), is(id));
        found.map(|(_, thing)| thing)
    }

    /// What is known of a client, to be changed.
    pub fn get_mut(&mut self, id: ClientId) -> Option<&mut T> {
        let found = self.table.find_mut(hash(self.key, id), is(id));
        found.map(|(_, thing)| thing)
    }

    /// What is known of a client, to be changed. At first, nothing.
    pub fn entry(&mut self, id: ClientId) -> &mut T
    where
        T: Default,
    {
        let found = self.find_entry(id).or_insert_with(|| (id, T::default()));
        let (_, thing) = found.into_mut();
        thing
    }

    /// Remembers this of a client, and returns what it takes the place of.
    pub fn insert(&mut self, id: ClientId, thing: T) -> Option<T> {
        match self.find_entry(id) {
            Entry::Occupied(found) => {
                let (_, last) = found.into_mut();
                Some(core::mem::replace(last, thing))
            }
            Entry::Vacant(place) => {
                place.insert((id, thing));
                None
            }
        }
    }

    /// Forgets a client, and returns what was known of it.
    pub fn remove(&mut self, id: ClientId) -> Option<T> {
        let found = self.table.find_entry(hash(self.key, id), is(id)).ok()?;
        let ((_, thing), _) = found.remove();
        Some(thing)
    }

    /// All clients, in the order of their ids.
    pub fn sorted(&self) -> Vec<(ClientId, &T)> {
        let all = self.table.iter().map(|(id, thing)| (*id, thing));
        let mut all: Vec<_> = all.collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    fn find_entry(&mut self, id: ClientId) -> Entry<'_, (ClientId, T)> {
        let key = self.key;
        let anew = |(there, _): &(ClientId, T)| hash(key, *there);
        self.table.entry(hash(key, id), is(id), anew)
    }
}

fn hash(key: u64, id: ClientId) -> u64 {
    xxh3_64_with_seed(&id.0.to_le_bytes(), key)
}

fn is<T>(id: ClientId) -> impl Fn(&(ClientId, T)) -> bool {
    move |(there, _)| *there == id
}

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
    fn places_are_drawn_anew_for_each_life() {
        let homes = |life| {
            let homes = (0..64).map(move |id| hash(life, ClientId(id)) % 64);
            homes.collect::<Vec<_>>()
        };
        assert_ne!(homes(1), homes(2));
    }
}
