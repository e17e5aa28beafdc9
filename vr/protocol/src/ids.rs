//! The numbers of the protocol, each a type of its own.

use core::fmt;

/// Declares a newtype over an unsigned integer.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// One of the 2f+1 replicas: its index in the configuration (VRR §4, `i`).
    ReplicaId(u8)
}
number! {
    /// A period with one primary (VRR §4, view-number, `v`).
    View(u64)
}
number! {
    /// The position given to a request, counted from 1 (VRR §4, op-number, `n`).
    OpNumber(u64)
}
number! {
    /// A client (VRR §4, `c`).
    ClientId(u64)
}
number! {
    /// A client's request, counted from 1; 0 is its registration (VRR §4, `s`).
    RequestNumber(u64)
}
number! {
    /// The hash of an entry and, through its parent, of all entries before it.
    Checksum(u64)
}
number! {
    /// One life of a replica's process: fresh at every start.
    Incarnation(u64)
}
number! {
    /// Ties an answer to the question it answers (VRR §4.3, `x`).
    Nonce(u64)
}
number! {
    /// A round in which a primary asks whether it leads still. Counted through one life of a
    /// replica, from a number that is that life's own: never used again.
    RoundNumber(u64)
}

impl ReplicaId {
    /// The id as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl View {
    /// The first view.
    pub const ZERO: Self = Self(0);

    /// The view after this one; none after the last.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl OpNumber {
    /// The op-number of the empty log.
    pub const ZERO: Self = Self(0);

    /// The op-number after this one.
    ///
    /// # Panics
    ///
    /// Panics at the end of the number space. Call it only on numbers of our own log.
    #[must_use]
    pub fn next(self) -> Self {
        Self(
            self.0
                .checked_add(1)
                .expect("a log never holds 2^64 entries"),
        )
    }

    /// How many ops lie after `earlier` up to and with this one; 0 if there is none.
    pub fn distance_from(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl RequestNumber {
    /// The number of a registration.
    pub const ZERO: Self = Self(0);
}
