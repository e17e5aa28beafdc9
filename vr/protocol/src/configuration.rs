//! The group (VRR §4) and the knobs of one replica.

use crate::ids::{ReplicaId, View};
use core::fmt;

/// How many replicas there are, and what every one of them must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    replicas: u8,
    max_clients: u32,
    max_reply_bytes: u32,
    max_kept_bytes: u64,
}

/// Why a configuration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigurationError {
    /// The number of replicas is even, zero, or larger than seven.
    Replicas(u8),
    /// The client table has room for nobody.
    NoClients,
    /// The client table has no room for one reply of the greatest length.
    NoReplies,
}

impl fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replicas(n) => write!(f, "a group has 1, 3, 5 or 7 replicas, not {n}"),
            Self::NoClients => write!(f, "a group serves at least one client"),
            Self::NoReplies => write!(f, "a group keeps at least one reply, however long"),
        }
    }
}

impl core::error::Error for ConfigurationError {}

impl Configuration {
    /// The largest group.
    pub const MAX_REPLICAS: u8 = 7;

    /// A group of `replicas` = 2f+1 replicas with the usual room for clients.
    ///
    /// # Errors
    ///
    /// If `replicas` is not 1, 3, 5 or 7.
    pub fn new(replicas: u8) -> Result<Self, ConfigurationError> {
        if replicas.is_multiple_of(2) || replicas > Self::MAX_REPLICAS {
            return Err(ConfigurationError::Replicas(replicas));
        }
        Ok(Self {
            replicas,
            max_clients: 65_536,
            max_reply_bytes: 32 * 1024,
            max_kept_bytes: 64 << 20,
        })
    }

    /// The same group with room for `max_clients` registered clients. When one more registers,
    /// the one that was silent longest is forgotten. Must be the same at every replica, since
    /// each decides it alone from the log.
    ///
    /// # Errors
    ///
    /// If `max_clients` is zero.
    pub fn with_max_clients(self, max_clients: u32) -> Result<Self, ConfigurationError> {
        if max_clients == 0 {
            return Err(ConfigurationError::NoClients);
        }
        Ok(Self {
            max_clients,
            ..self
        })
    }

    /// The same group with results of at most `longest` bytes, and room for `together` bytes of
    /// kept ones. Of an operation whose result is longer the client is told that it was executed
    /// and no more ([`Outcome::ResultTooLarge`](crate::Outcome::ResultTooLarge)). When all kept
    /// results are longer together, clients are forgotten as if there were too many. Must be the
    /// same at every replica.
    ///
    /// # Errors
    ///
    /// If `together` is less than `longest`.
    pub fn with_reply_bytes(self, longest: u32, together: u64) -> Result<Self, ConfigurationError> {
        if together < u64::from(longest) {
            return Err(ConfigurationError::NoReplies);
        }
        Ok(Self {
            max_reply_bytes: longest,
            max_kept_bytes: together,
            ..self
        })
    }

    /// n = 2f+1.
    pub fn replica_count(&self) -> u8 {
        self.replicas
    }

    /// f: how many replicas may fail at once.
    pub fn failures(&self) -> u8 {
        self.replicas / 2
    }

    /// f+1: any two sets of this size share a replica.
    pub fn quorum(&self) -> u8 {
        self.failures() + 1
    }

    /// The primary of a view (VRR §4: round-robin).
    pub fn primary(&self, view: View) -> ReplicaId {
        let index = view.0 % u64::from(self.replicas);
        ReplicaId(u8::try_from(index).expect("a remainder of at most seven"))
    }

    /// Whether `id` is one of the group.
    pub fn contains(&self, id: ReplicaId) -> bool {
        id.0 < self.replicas
    }

    /// All replicas, in order.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        (0..self.replicas).map(ReplicaId)
    }

    /// The numbers that decide who is forgotten.
    pub(crate) fn limits(&self) -> [u64; 3] {
        let (clients, longest) = (self.max_clients.into(), self.max_reply_bytes.into());
        [clients, longest, self.max_kept_bytes]
    }

    /// How many clients may be registered at once.
    pub fn max_clients(&self) -> usize {
        usize::try_from(self.max_clients).unwrap_or(usize::MAX)
    }

    /// How long a result may be that is told and kept.
    pub fn max_reply_bytes(&self) -> usize {
        usize::try_from(self.max_reply_bytes).unwrap_or(usize::MAX)
    }

    /// How long all kept results may be together.
    pub fn max_kept_bytes(&self) -> usize {
        usize::try_from(self.max_kept_bytes).unwrap_or(usize::MAX)
    }
}

/// The knobs of one replica. They may differ from replica to replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A primary takes requests only while fewer entries than this are uncommitted. Bounds the
    /// headers of a view change and the buffer of out-of-order entries, too.
    pub window: u64,
    /// One `Prepare` carries entries up to this many bytes; a larger entry goes alone.
    pub prepare_budget_bytes: usize,
    /// A page: a `NewState` carries entries up to this many bytes, or a few times as many where
    /// [round trips are long](crate::Replica::allow_pages); a larger entry goes alone.
    pub page_budget_bytes: usize,
    /// A request with a larger body is refused.
    pub max_body_bytes: usize,
    /// A checkpoint is due after so many operations; 0: never. It and `checkpoint_bytes` should be
    /// the same at all replicas of a group. If they are not, nothing breaks, but a checkpoint that
    /// was begun to be fetched from one replica cannot be had from another.
    pub checkpoint_interval: u64,
    /// A checkpoint is due, too, when the operations since the last time take so many bytes.
    pub checkpoint_bytes: u64,
    /// So many entries behind the last checkpoint are kept for backups that are a little late, but
    /// not while the log takes more than `checkpoint_bytes`.
    pub checkpoint_keep: u64,
    /// What other replicas fetch, pages and pieces of checkpoints, takes so many bytes from one
    /// [`refill`](crate::Replica::refill) to the next, and one page or piece more; an answer of
    /// several pages is paid off by the next refills.
    pub transfer_budget_bytes: usize,
    /// So many reads may wait; more are told that the replica is busy.
    pub max_reads: usize,
    /// For how many microseconds a backup promises to stay, whenever it answers a round; zero: it
    /// promises nothing. Whoever owns the clock keeps the time.
    pub lease_us: u32,
    /// A primary asks f backups, and tells the others a little later, together: see
    /// [`tell_others`](crate::Replica::tell_others), which must then be called.
    pub thrifty: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            window: 1024,
            prepare_budget_bytes: 32 * 1024,
            page_budget_bytes: 48 * 1024,
            max_body_bytes: 32 * 1024,
            checkpoint_interval: 100_000,
            checkpoint_bytes: 64 * 1024 * 1024,
            checkpoint_keep: 20_000,
            transfer_budget_bytes: 1024 * 1024,
            max_reads: 8192,
            lease_us: 0,
            thrifty: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_odd_and_at_most_seven() {
        for n in 0..=u8::MAX {
            let fits = matches!(n, 1 | 3 | 5 | 7);
            assert_eq!(Configuration::new(n).is_ok(), fits, "{n}");
        }
    }

    #[test]
    fn a_group_keeps_one_reply_at_least() {
        let group = Configuration::new(3).expect("odd");
        assert!(group.with_max_clients(0).is_err());
        assert!(group.with_reply_bytes(10, 9).is_err());
        let group = group.with_reply_bytes(10, 10).expect("room for one");
        assert_eq!((group.max_reply_bytes(), group.max_kept_bytes()), (10, 10));
    }

    #[test]
    fn two_quorums_share_a_replica() {
        for n in [1, 3, 5, 7] {
            let group = Configuration::new(n).expect("odd");
            assert_eq!(group.quorum() * 2, n + 1);
            assert_eq!(group.failures() * 2 + 1, n);
        }
    }

    #[test]
    fn primaries_go_round() {
        let group = Configuration::new(3).expect("odd");
        let primaries: std::vec::Vec<_> = (0..4).map(|v| group.primary(View(v)).0).collect();
        assert_eq!(primaries, [0, 1, 2, 0]);
        assert!(group.contains(group.primary(View(u64::MAX))));
    }
}
