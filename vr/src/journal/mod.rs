//! Where the log is kept so that an acknowledgement can be believed.
//!
//! One journal exists: memory. A group on it survives the loss of f replicas at once and no more. A
//! replica that comes back has nothing but its view file: with that it recovers from the others,
//! without it takes part in nothing.

mod view_file;

pub use view_file::ViewFileError;
pub(crate) use view_file::{Owner, ViewFile};

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
