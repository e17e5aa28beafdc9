//! The key-value store.
//!
//! [`Kv`] is the state machine; give it to a [`Node`](crate::Node). [`KvSession`] is a client of
//! it, and [`KvReader`] one that only reads. [`Operation`] and [`Outcome`] are what goes between
//! them, as bytes.
//!
//! ```
//! use viewring::kv::{Kv, KvSession};
//! use viewring::protocol::ReplicaId;
//! use viewring::{Client, ClientConfig, Node, NodeConfig};
//!
//! # viewring_runtime::block_on(async {
//! // A group of one, to begin with: it survives nothing.
//! let replicas = vec![([127, 0, 0, 1], 7310).into()];
//! let config = NodeConfig::new(1, ReplicaId(0), replicas.clone());
//! let mut node = Node::bind(config, Kv::default()).await?;
//! viewring_runtime::spawn(async move { node.run().await }).detach();
//!
//! let client = Client::new(ClientConfig::new(1, replicas))?;
//! let mut kv = KvSession::new(client.session().await?);
//! kv.put(b"colour", b"green").await?;
//! assert_eq!(kv.get(b"colour").await?.as_deref(), Some(&b"green"[..]));
//! assert!(kv.compare_and_swap(b"colour", Some(b"green"), b"blue").await?.is_ok());
//! assert_eq!(kv.delete(b"colour").await?, true);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap().unwrap();
//! ```

mod checkpoint;
mod operation;
mod outcome;
mod reader;
mod session;

use std::collections::BTreeMap;
use std::ops::Bound;

use self::checkpoint::{Frozen, Incoming, Past};
pub use self::operation::Operation;
pub use self::outcome::Outcome;
pub use self::session::{KvError, KvReader, KvSession, Page};
use crate::state_machine::{Piece, RestoreError, StateMachine};

/// A key may have so many bytes. The empty key is one like any other.
pub const KEY_BYTES_MAX: usize = 1024;
/// A value may have so many bytes: two of them and a key go into one operation, which a
/// compare-and-swap needs.
pub const VALUE_BYTES_MAX: usize = 15 * 1024;

/// The entries of one page of a scan have at most so many bytes, lengths included.
const PAGE_BYTES_MAX: usize = 31 * 1024;
/// What an entry of a page has besides its key and value: their lengths.
const ENTRY_FIXED: usize = 4;

// The longest entry fits a page: a scan always goes on.
const _: () = assert!(ENTRY_FIXED + KEY_BYTES_MAX + VALUE_BYTES_MAX <= PAGE_BYTES_MAX);

/// A map from keys to values, both plain bytes.
///
/// It executes an [`Operation`] and answers with an [`Outcome`]. Bytes that are no operation change
/// nothing and are answered with [`Outcome::Invalid`].
///
/// # Examples
/// ```
/// use viewring::StateMachine;
/// use viewring::kv::{Kv, Operation, Outcome};
///
/// let mut kv = Kv::default();
/// let mut ask = |operation: Operation<'_>| {
///     let mut reply = Vec::new();
///     kv.apply(&operation.to_bytes(), &mut reply);
///     reply
/// };
/// let reply = ask(Operation::Put { key: b"k", value: b"v" });
/// assert_eq!(Outcome::decode(&reply), Some(Outcome::Stored));
/// let reply = ask(Operation::Get { key: b"k" });
/// assert_eq!(Outcome::decode(&reply), Some(Outcome::Value(Some(b"v"))));
/// ```
///
/// Two are equal if they hold the same; a clone holds the same.
#[derive(Debug, Default)]
pub struct Kv {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A checkpoint that is being written.
    frozen: Option<Frozen>,
    /// A checkpoint that is being read.
    incoming: Incoming,
    past: Past,
}

impl Clone for Kv {
    fn clone(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            ..Self::default()
        }
    }
}

impl PartialEq for Kv {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for Kv {}

impl Kv {
    /// Executes one operation.
    pub fn execute(&mut self, operation: Operation<'_>) -> Outcome<'_> {
        match operation {
            Operation::Put { key, value } => {
                self.put(key, value);
                Outcome::Stored
            }
            Operation::Get { .. } | Operation::Scan { .. } => self.look(operation),
            Operation::Delete { key } => Outcome::Deleted(self.delete(key)),
            Operation::CompareAndSwap { key, expected, new } => {
                if self.value(key) != expected {
                    return Outcome::NotSwapped(self.value(key));
                }
                self.put(key, new);
                Outcome::Swapped
            }
        }
    }

    /// Answers an operation that only looks; to one that would change something the answer is
    /// [`Outcome::Invalid`].
    pub fn look(&self, operation: Operation<'_>) -> Outcome<'_> {
        match operation {
            Operation::Get { key } => Outcome::Value(self.value(key)),
            Operation::Scan {
                prefix,
                after,
                limit,
            } => self.page(prefix, after, usize::from(limit.get())),
            Operation::Put { .. } | Operation::Delete { .. } | Operation::CompareAndSwap { .. } => {
                Outcome::Invalid
            }
        }
    }

    /// All entries, in the order of their keys.
    pub fn entries(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.entries
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        let held = self.entries.insert(key.to_vec(), value.to_vec());
        if let Some(frozen) = &mut self.frozen {
            frozen.keep(key, held);
        }
    }

    /// Whether there was something.
    fn delete(&mut self, key: &[u8]) -> bool {
        let held = self.entries.remove(key);
        let was_there = held.is_some();
        if let Some(frozen) = &mut self.frozen {
            frozen.keep(key, held);
        }
        was_there
    }

    fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key).map(Vec::as_slice)
    }

    fn page(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Outcome<'_> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (key, value) in self.entries.range::<[u8], _>((start, Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                break;
            }
            bytes += ENTRY_FIXED + key.len() + value.len();
            if entries.len() == limit || bytes > PAGE_BYTES_MAX {
                return Outcome::Page {
                    entries,
                    more: true,
                };
            }
            entries.push((key.as_slice(), value.as_slice()));
        }
        Outcome::Page {
            entries,
            more: false,
        }
    }
}

impl StateMachine for Kv {
    fn apply(&mut self, operation: &[u8], reply: &mut Vec<u8>) {
        let outcome = match Operation::decode(operation) {
            Some(operation) => self.execute(operation),
            None => Outcome::Invalid,
        };
        outcome.encode(reply);
        self.past.fade();
    }

    fn freeze(&mut self) -> bool {
        self.freeze_entries();
        true
    }

    fn write_frozen(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> bool {
        self.write_entries(budget_bytes, out)
    }

    fn restore(&mut self, piece: Piece<'_>) -> Result<(), RestoreError> {
        self.read_entries(piece)
    }

    fn query(&self, query: &[u8], reply: &mut Vec<u8>) {
        let operation = Operation::decode(query);
        let outcome = operation.map_or(Outcome::Invalid, |operation| self.look(operation));
        outcome.encode(reply);
    }
}

#[cfg(test)]
mod tests;
