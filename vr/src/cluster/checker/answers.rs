//! What is executed, and what clients are told of it.

use viewring_protocol::{ClientId, Entry, OpNumber, Replica, RequestNumber};

use super::{Checker, hash_of};

impl Checker {
    /// An operation was executed.
    ///
    /// # Panics
    /// When it was executed before elsewhere in the order, or with another result.
    pub fn applied(&mut self, replica: &Replica, entry: &Entry, result: &[u8]) {
        let (id, op) = (replica.id(), entry.op());
        let hash = hash_of(result);
        self.versions.note(entry, result);
        let known = *self.results.entry(op).or_insert_with(|| {
            self.bodies.insert(op, hash_of(entry.body()));
            hash
        });
        assert_eq!(known, hash, "{id:?} executed {op:?} with another result");
        self.executing[usize::from(id.0)].insert(op);
        let request = (entry.client(), entry.session(), entry.number());
        let known = *self.executed.entry(request).or_insert(op);
        assert_eq!(known, op, "{id:?} executed {request:?} a second time");
    }

    /// A client was told this result of `operation`, the request with this number in its session.
    ///
    /// # Panics
    /// When no replica has executed the request with this result; or what was executed under its
    /// number is not what it asked for.
    pub fn acknowledged(
        &mut self,
        (client, session): (u64, u64),
        number: u64,
        operation: &[u8],
        result: &[u8],
    ) {
        let request = (ClientId(client), OpNumber(session), RequestNumber(number));
        let op = self.executed.get(&request);
        let op = op.unwrap_or_else(|| panic!("{request:?} was answered and never executed"));
        assert!(
            op.0 as usize <= self.committed.len(),
            "{request:?} was answered uncommitted"
        );
        assert_eq!(
            self.results.get(op),
            Some(&hash_of(result)),
            "{request:?}: another result"
        );
        assert_eq!(
            self.bodies.get(op),
            Some(&hash_of(operation)),
            "{request:?} was answered for what it did not ask"
        );
        self.versions.acknowledge(op.0);
    }

    /// Whether somebody has executed a request.
    pub fn was_executed(&self, (client, session): (u64, u64), number: u64) -> bool {
        let request = (ClientId(client), OpNumber(session), RequestNumber(number));
        self.executed.contains_key(&request)
    }
}
