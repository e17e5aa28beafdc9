//! How fresh answers must be, as a word on the command line.

use clap::ValueEnum;
use viewring::{ConfirmedBy, ReadConsistency};

/// How fresh the answer to a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// Linearizable; the read gets an entry in the log, as a write does.
    Log,
    /// Linearizable; others are asked whether the primary leads still.
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

/// Who asks the others, for a read-index read, whether the primary leads still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Asker {
    /// The primary, once for all reads that wait: two round trips, and the least work.
    Primary,
    /// The reader, while the primary answers: one round trip.
    Reader,
    /// The reader, if more of its reads are under way; the primary for a lone one.
    Cheaper,
}

impl From<Asker> for ConfirmedBy {
    fn from(word: Asker) -> Self {
        match word {
            Asker::Primary => Self::Primary,
            Asker::Reader => Self::Reader,
            Asker::Cheaper => Self::Cheaper,
        }
    }
}
