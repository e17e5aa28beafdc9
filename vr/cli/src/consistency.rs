//! How fresh answers must be, as a word on the command line.

use clap::ValueEnum;
use viewring::ReadConsistency;

/// How fresh the answer to a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// Linearizable; the read gets an entry in the log, as a write does.
    Log,
    /// Linearizable; the primary asks the others whether it leads still.
    ReadIndex,
    /// Linearizable while clocks drift no faster than they may; the primary answers alone. Where
    /// the group has no leases: read-index.
    Lease,
    /// Perhaps stale; any replica answers alone.
    Local,
}

impl From<Consistency> for ReadConsistency {
    fn from(word: Consistency) -> Self {
        match word {
            Consistency::Log => Self::Log,
            Consistency::ReadIndex => Self::ReadIndex,
            Consistency::Lease => Self::Lease,
            Consistency::Local => Self::Local,
        }
    }
}
