//! What is replicated.

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
    /// randomness, no iteration over a randomly seeded map. It must not panic, whatever bytes a
    /// client sent: answer with an error of your own. It should be quick: the replica hears nobody
    /// meanwhile.
    fn apply(&mut self, operation: &[u8], reply: &mut Vec<u8>);

    /// Answers a question about the state without changing it, and without going through the log:
    /// the answer is appended to `reply`, which is empty.
    ///
    /// The same rules hold as for [`apply`](Self::apply). A state machine that has no questions
    /// answers with nothing, as this does by default.
    fn query(&self, query: &[u8], reply: &mut Vec<u8>) {
        let _ = (query, reply);
    }
}

/// Answers every operation with nothing: what replication alone costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl StateMachine for Null {
    fn apply(&mut self, _operation: &[u8], _reply: &mut Vec<u8>) {}
}
