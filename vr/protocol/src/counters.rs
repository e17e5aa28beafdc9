//! Why messages were ignored, counted.

/// Declares the reasons with the name and index of each.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why something that came in changed nothing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Ignored {
            $($(#[$doc])* $variant,)*
        }

        impl Ignored {
            /// All reasons, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The reason in words, fit for a status page.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// The sender is ourselves or not of the group.
    UnknownSender = "unknown sender",
    /// The message is one that replicas send and never receive.
    NotForReplicas = "not for replicas",
    /// We are not a member (yet): we take part in nothing.
    NotMember = "not a member",
    /// We have lost our memory: we take part in nothing until we have it back.
    Recovering = "recovering",
    /// Only a normal replica can answer this.
    NotNormal = "not normal",
    /// A message of a group of these replicas that has died.
    OtherGroup = "another group",
    /// A message of a view that we have left.
    OldView = "old view",
    /// Only the primary of the message's view may send this.
    NotFromPrimary = "not from the primary",
    /// Only the primary of the message's view has a use for this.
    NotPrimary = "not the primary",
    /// A StartView for the view in which we already are normal.
    AlreadyNormal = "already normal in that view",
    /// A view change message that we already have.
    Duplicate = "duplicate",
    /// The message contradicts itself, or what is committed here.
    Inconsistent = "inconsistent",
    /// The entries are not those of our log, or not chained on it.
    Diverged = "diverged",
    /// An acknowledgement of entries that we do not have.
    BeyondLog = "beyond the log",
    /// A NewState for which nobody asked, or not any more.
    StaleNonce = "stale nonce",
    /// The buffer of out-of-order entries is full.
    BufferFull = "buffer full",
    /// A GetState for what we cannot give.
    CannotServe = "cannot serve",
    /// A checkpoint that we do not need, or that is no step forward.
    UselessCheckpoint = "useless checkpoint",
    /// The bytes of a checkpoint are not those that were promised.
    BadCheckpoint = "bad checkpoint",
    /// A request older than the client's last one.
    OldRequest = "old request",
    /// A request that is in the log and not executed yet.
    InFlight = "in flight",
    /// A request, while no quorum is heard.
    Abdicating = "abdicating",
    /// A request, because too many are uncommitted.
    Busy = "busy",
    /// A request that is larger than we take.
    TooLarge = "request too large",
    /// A request of a session that has ended.
    SessionEnded = "session ended",
    /// A request of a session that has never existed.
    NoSession = "no such session",
    /// A token of the journal for a log that was replaced since, or of another replica.
    StaleDurable = "stale durable",
    /// There is no view after this one.
    ViewExhausted = "views exhausted",
    /// A greeting that tells us nothing.
    NothingNew = "nothing new",
    /// An answer to a round that we never began in this view.
    UnknownRound = "unknown round",
    /// To vote, or to follow others into another view, while we have promised not to.
    Promised = "promised to stay",
    /// A timeout of a role that we do not have.
    WrongRole = "timeout of another role",
}

/// How often each reason to ignore something occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    ignored: [u64; Ignored::ALL.len()],
}

impl Counters {
    /// How often this reason occurred.
    pub fn ignored(&self, reason: Ignored) -> u64 {
        self.ignored[reason as usize]
    }

    /// Each reason's name with how often it occurred.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Ignored::ALL
            .iter()
            .map(|&reason| (reason.name(), self.ignored(reason)))
    }

    pub(crate) fn count(&mut self, reason: Ignored) {
        let count = &mut self.ignored[reason as usize];
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_name() {
        let mut counters = Counters::default();
        for (times, &reason) in Ignored::ALL.iter().enumerate() {
            for _ in 0..times {
                counters.count(reason);
            }
        }
        for (times, (name, count)) in counters.iter().enumerate() {
            assert_eq!(count, u64::try_from(times).expect("small"), "{name}");
        }
        let names: std::collections::BTreeSet<_> = counters.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), Ignored::ALL.len());
    }
}
