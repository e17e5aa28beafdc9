//! What is replicated.

use thiserror::Error;

/// A deterministic service that the group executes, operation by operation, on every replica.
///
/// # Examples
/// A counter: every operation adds its bytes' sum and answers with the total.
/// ```
/// use viewring::StateMachine;
///
/// #[derive(Default)]
/// struct Counter(u64);
///
/// impl StateMachine for Counter {
///     fn apply(&mut self, operation: &[u8], reply: &mut Vec<u8>) {
///         self.0 += operation.iter().map(|&byte| u64::from(byte)).sum::<u64>();
///         reply.extend_from_slice(&self.0.to_le_bytes());
///     }
/// }
/// ```
pub trait StateMachine {
    /// Executes a committed operation and appends its result to `reply`, which is empty.
    ///
    /// It is called once for each operation, in the same order on every replica. The result and
    /// the new state must depend on the operation and the old state alone: no clock, no
    /// randomness, no iteration over a randomly seeded map. What time it is, or a number drawn by
    /// chance, whoever makes the call writes into the operation. It should be quick: the replica
    /// hears nobody meanwhile.
    ///
    /// # Panics
    /// It must not, whatever bytes a client sent: check them, and answer with an error of your own.
    /// A panic ends the replica. The next primary executes the same operation and ends, too, and
    /// so each: the log is in memory, and **the group and all it held are lost**.
    fn apply(&mut self, operation: &[u8], reply: &mut Vec<u8>);

    /// Answers a question about the state without changing it, and without going through the log:
    /// the answer is appended to `reply`, which is empty.
    ///
    /// The same rules hold as for [`apply`](Self::apply). A state machine that has no questions
    /// answers with nothing, as this does by default.
    fn query(&self, query: &[u8], reply: &mut Vec<u8>) {
        let _ = (query, reply);
    }

    /// Freezes the state as it is now, to be written into a checkpoint, while operations go on.
    /// False if that cannot be done: then no checkpoint is taken, now or later; the log grows for
    /// as long as the replica lives, and one that is far behind must fetch all of it. That is the
    /// default.
    ///
    /// It is called between two operations, and should be quick whatever the size of the state:
    /// clone a persistent map; or keep what is replaced from now on, as [`Kv`](crate::kv::Kv) does;
    /// or, if the state is small, write all of it into a buffer. What was frozen before is not
    /// needed any more.
    fn freeze(&mut self) -> bool {
        false
    }

    /// Appends the next `budget_bytes`, more or less, of the frozen state to `out`, which is empty;
    /// whether there is more. All pieces together must be the same bytes on every replica that has
    /// executed the same operations. Called in many turns, with operations between.
    fn write_frozen(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> bool {
        let _ = (budget_bytes, out);
        false
    }

    /// Reads the next piece of what another replica has written. Pieces may be cut anywhere.
    ///
    /// Until the last one is read the state is what it was: operations and queries go on, and a
    /// first piece may come instead of the next one, which begins again. With the last one the
    /// state is that of the other replica.
    ///
    /// # Errors
    /// When the bytes are not what a state machine like this one writes. Then the state is still
    /// what it was. By default, always.
    fn restore(&mut self, piece: Piece<'_>) -> Result<(), RestoreError> {
        let _ = piece;
        Err(RestoreError)
    }
}

/// A part of a state that is read.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// What it has. Empty only if the whole state is.
    pub bytes: &'a [u8],
    /// Whether nothing is before it.
    pub is_first: bool,
    /// Whether nothing is behind it.
    pub is_last: bool,
}

impl Piece<'_> {
    /// For a small state, that is read in one go: gathers pieces in `so_far` until the last one has
    /// come, and returns all of them then.
    pub fn gather(self, so_far: &mut Vec<u8>) -> Option<Vec<u8>> {
        if self.is_first {
            so_far.clear();
        }
        so_far.extend_from_slice(self.bytes);
        self.is_last.then(|| std::mem::take(so_far))
    }
}

/// The bytes are no state.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the bytes of a checkpoint are no state of this state machine")]
pub struct RestoreError;

/// Answers every operation with nothing: what replication alone costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl StateMachine for Null {
    fn apply(&mut self, _operation: &[u8], _reply: &mut Vec<u8>) {}

    fn freeze(&mut self) -> bool {
        true
    }

    fn restore(&mut self, piece: Piece<'_>) -> Result<(), RestoreError> {
        if piece.bytes.is_empty() {
            Ok(())
        } else {
            Err(RestoreError)
        }
    }
}
