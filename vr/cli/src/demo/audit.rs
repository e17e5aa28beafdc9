//! A key-value store that keeps a ledger: which operations it has executed, and which of them more
//! than once.
//!
//! Every operation of the demo carries who made it and its number, both given by the worker and
//! unknown to the protocol. A request that the protocol lets through twice is executed twice with
//! the same number, and the ledger shows it.
//!
//! The ledger is a part of the state: it is in every checkpoint, and who restores one goes on with
//! the ledger of that checkpoint. So a replica that comes back empty and executes again what comes
//! behind a checkpoint has done nothing twice, and one that executes what a checkpoint has already
//! has: what is looked for is an operation that is twice in one history of the state, in whichever
//! lives of whichever replicas that was made.

use viewring::kv::{Kv, Operation};
use viewring::{Piece, RestoreError, StateMachine};

use super::numbers::{Numbers, word};

/// What was executed, by worker. It stays small, however much that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ledger {
    workers: Vec<Executed>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Executed {
    all: Numbers,
    /// More than once.
    repeated: Numbers,
}

impl Ledger {
    pub(super) fn new(workers: u32) -> Self {
        Self {
            workers: vec![Executed::default(); workers as usize],
        }
    }

    /// The operations of worker `tag` that were executed.
    pub(super) fn executed(&self, tag: u32) -> &Numbers {
        &self.workers[tag as usize].all
    }

    /// How many operations were executed.
    pub(super) fn len(&self) -> u64 {
        let lens = self.workers.iter().map(|executed| executed.all.len());
        lens.sum()
    }

    /// Whether who has executed this, and goes on, can come to `later`.
    ///
    /// A worker begins an operation when the one before it was answered, so of each worker all is
    /// executed up to some number.
    pub(super) fn is_prefix_of(&self, later: &Self) -> bool {
        let mut workers = self.workers.iter().zip(&later.workers);
        workers.all(|(executed, later)| executed.all.is_prefix_of(&later.all))
    }

    /// What was executed more than once: worker and number.
    pub(super) fn repeated(&self) -> impl Iterator<Item = (u32, u64)> {
        let workers = (0..).zip(&self.workers);
        workers.flat_map(|(tag, executed)| executed.repeated.iter().map(move |n| (tag, n)))
    }

    pub(super) fn record(&mut self, tag: u32, number: u64) {
        let Some(executed) = self.workers.get_mut(tag as usize) else {
            return;
        };
        if !executed.all.insert(number) {
            executed.repeated.insert(number);
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for executed in &self.workers {
            executed.all.encode(out);
            executed.repeated.encode(out);
        }
    }

    /// The ledger of so many workers that these bytes are.
    fn decode(mut bytes: &[u8], workers: usize) -> Option<Self> {
        let mut read = || {
            Some(Executed {
                all: Numbers::decode(&mut bytes)?,
                repeated: Numbers::decode(&mut bytes)?,
            })
        };
        let workers = (0..workers).map(|_| read()).collect::<Option<_>>()?;
        bytes.is_empty().then_some(Self { workers })
    }
}

/// The tag of who does not work, but looks: in no ledger.
pub(super) const AUDITOR: u32 = u32::MAX;

/// An operation's bytes, behind who made it and its number.
pub(super) fn stamp(tag: u32, number: u64, operation: Operation<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    operation.encode(out);
}

/// The store of one replica of the demo.
///
/// In a checkpoint: the length of the ledger's bytes, those, and what the store writes. The ledger
/// is small and written when it is frozen; all of it is read in one go, since the demo's store is
/// small, too.
pub(super) struct Audited {
    kv: Kv,
    ledger: Ledger,
    /// What is not written yet of a ledger that was frozen.
    frozen: Vec<u8>,
    /// What was read of a checkpoint so far.
    incoming: Vec<u8>,
}

impl Audited {
    /// An empty store, which so many workers will use.
    pub(super) fn new(workers: u32) -> Self {
        Self {
            kv: Kv::default(),
            ledger: Ledger::new(workers),
            frozen: Vec::new(),
            incoming: Vec::new(),
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl StateMachine for Audited {
    fn apply(&mut self, stamped: &[u8], reply: &mut Vec<u8>) {
        let mut operation = stamped;
        if let Some((tag, rest)) = stamped.split_first_chunk()
            && let Some((number, rest)) = rest.split_first_chunk()
        {
            operation = rest;
            let (tag, number) = (u32::from_le_bytes(*tag), u64::from_le_bytes(*number));
            self.ledger.record(tag, number);
        }
        self.kv.apply(operation, reply);
    }

    fn freeze(&mut self) -> bool {
        let mut ledger = Vec::new();
        self.ledger.encode(&mut ledger);
        self.frozen = (ledger.len() as u64).to_le_bytes().to_vec();
        self.frozen.append(&mut ledger);
        self.kv.freeze()
    }

    fn write_frozen(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> bool {
        if self.frozen.is_empty() {
            return self.kv.write_frozen(budget_bytes, out);
        }
        let most = budget_bytes.clamp(1, self.frozen.len());
        out.extend(self.frozen.drain(..most));
        true
    }

    fn restore(&mut self, piece: Piece<'_>) -> Result<(), RestoreError> {
        let Some(bytes) = piece.gather(&mut self.incoming) else {
            return Ok(());
        };
        let mut bytes = &bytes[..];
        let len = word(&mut bytes).and_then(|len| usize::try_from(len).ok());
        let parts = len.and_then(|len| bytes.split_at_checked(len));
        let (ledger, store) = parts.ok_or(RestoreError)?;
        let ledger = Ledger::decode(ledger, self.ledger.workers.len()).ok_or(RestoreError)?;
        self.kv.restore(Piece {
            bytes: store,
            is_first: true,
            is_last: true,
        })?;
        self.ledger = ledger;
        self.frozen.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use viewring::kv::Outcome;

    use super::*;

    fn execute(store: &mut Audited, operations: &[(u32, u64)]) {
        let (mut bytes, mut reply) = (Vec::new(), Vec::new());
        for &(tag, number) in operations {
            reply.clear();
            let value = &number.to_string().into_bytes()[..];
            stamp(tag, number, Operation::Put { key: b"k", value }, &mut bytes);
            store.apply(&bytes, &mut reply);
            assert_eq!(Outcome::decode(&reply), Some(Outcome::Stored));
        }
    }

    fn repeated(store: &Audited) -> Vec<(u32, u64)> {
        store.ledger().repeated().collect()
    }

    /// What is written of a store that was frozen, in pieces.
    fn written(store: &mut Audited) -> Vec<Vec<u8>> {
        let (mut pieces, mut more) = (Vec::new(), true);
        while more {
            let mut piece = Vec::new();
            more = store.write_frozen(10, &mut piece);
            assert!((1..=20).contains(&piece.len()), "{piece:?}");
            pieces.push(piece);
        }
        pieces
    }

    fn restored(pieces: &[Vec<u8>]) -> Audited {
        let mut store = Audited::new(2);
        execute(&mut store, &[(1, 7), (1, 7)]);
        for (index, bytes) in pieces.iter().enumerate() {
            assert_eq!(repeated(&store), [(1, 7)], "until the last is read");
            let piece = Piece {
                bytes,
                is_first: index == 0,
                is_last: index + 1 == pieces.len(),
            };
            assert_eq!(store.restore(piece), Ok(()));
        }
        store
    }

    #[test]
    fn what_is_applied_twice_shows() {
        let mut store = Audited::new(2);
        let all = [(0, 1), (1, 1), (0, 2), (0, 2), (AUDITOR, 1), (AUDITOR, 1)];
        execute(&mut store, &all);
        let executed = |tag| store.ledger().executed(tag).iter().collect::<Vec<_>>();
        assert_eq!((executed(0), executed(1)), (vec![1, 2], vec![1]));
        assert_eq!(repeated(&store), [(0, 2)]);
    }

    #[test]
    fn a_checkpoint_has_the_ledger_as_it_was_frozen() {
        let mut store = Audited::new(2);
        execute(&mut store, &[(0, 1), (0, 2), (0, 2), (1, 1)]);
        let before = store.ledger().clone();
        assert!(store.freeze());
        execute(&mut store, &[(0, 3), (1, 1)]);
        let pieces = written(&mut store);
        let mut other = restored(&pieces);
        assert_eq!((other.ledger(), repeated(&other)), (&before, vec![(0, 2)]));
        assert!(other.freeze());
        assert_eq!(written(&mut other).concat(), pieces.concat());
    }

    #[test]
    fn a_new_life_repeats_what_its_checkpoint_has_and_nothing_else() {
        let mut store = Audited::new(2);
        execute(&mut store, &[(0, 1), (0, 2)]);
        assert!(store.freeze());
        execute(&mut store, &[(0, 3)]);
        let pieces = written(&mut store);
        // Behind the checkpoint it executes 3 for the first time, as its last life did.
        let mut next = restored(&pieces);
        execute(&mut next, &[(0, 3), (0, 4)]);
        assert_eq!(
            (repeated(&next), next.ledger()),
            (vec![], {
                execute(&mut store, &[(0, 4)]);
                store.ledger()
            })
        );
        let mut wrong = restored(&pieces);
        execute(&mut wrong, &[(0, 2), (0, 3)]);
        assert_eq!(repeated(&wrong), [(0, 2)]);
    }

    #[test]
    fn bytes_that_are_no_state_change_nothing() {
        let mut store = Audited::new(2);
        execute(&mut store, &[(0, 1), (0, 1), (1, 1)]);
        assert!(store.freeze());
        let bytes = written(&mut store).concat();
        let whole = |bytes| Piece {
            bytes,
            is_first: true,
            is_last: true,
        };
        let mut other = Audited::new(2);
        // Of the bytes from where the entries begin on, another store could be made.
        let entries = bytes.len() - (b"k".len() + b"1".len() + 4);
        for len in (0..bytes.len()).filter(|&len| len != entries) {
            assert_eq!(
                other.restore(whole(&bytes[..len])),
                Err(RestoreError),
                "{len}"
            );
        }
        assert_eq!(Audited::new(3).restore(whole(&bytes)), Err(RestoreError));
        assert_eq!(other.ledger(), &Ledger::new(2));
        assert_eq!(other.restore(whole(&bytes)), Ok(()));
        assert_eq!(other.ledger(), store.ledger());
    }
}
