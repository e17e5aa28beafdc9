//! Where the log is kept so that an acknowledgement can be believed.
//!
//! One journal exists: memory. A group on it survives the loss of f replicas at once and no more;
//! a replica that comes back has nothing and takes part in nothing.

use viewring_protocol::{Durable, Persist};

/// The replica's own copy of the log is the journal: as durable as the process.
#[derive(Debug, Default)]
pub(crate) struct Memory;

impl Memory {
    /// Carries out an order. In memory it is done as soon as it is given, since the replica holds
    /// the entries already.
    pub(crate) fn write(&mut self, order: Persist) -> Durable {
        order.written()
    }
}
