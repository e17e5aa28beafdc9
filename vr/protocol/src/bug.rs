//! Bugs to be found.
//!
//! A test that has never failed proves nothing. Each of these is a mistake that was made in a
//! published protocol, in an implementation of it, or nearly here. The swarm plants one after the
//! other and must find them all.

/// Declares the bugs with the name of each.
macro_rules! bugs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A deliberate bug, planted to prove that tests find it; never set outside tests.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What it does, in a few words.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

bugs! {
    /// What f replicas hold, instead of f+1, is committed.
    QuorumOfOneLess = "a quorum is one less",
    /// A DoViewChange tells the view of the last entry as its last normal view.
    LogViewIsLastEntrysView = "the last entry's view counts as last normal view",
    /// The commit-number becomes what was heard, even if that is lower.
    CommitSetToHeard = "the commit-number is set to what is heard",
    /// A view starts with the worst log that was brought, not with the best.
    StalestLogChosen = "the stalest log is chosen",
    /// Who hears of a newer view cuts its log down to the commit-number at once, as in the paper.
    TruncateAtGetState = "the log is cut before the new one is there",
    /// A StartView for the view in which a replica is normal is taken.
    StartViewWhileNormal = "a StartView is taken while normal in its view",
    /// A PrepareOk that comes twice counts for two replicas.
    AckCountedWithoutId = "a PrepareOk counts twice",
    /// Who was restarted and hears a member takes itself for one.
    RecoveringVotes = "a restarted replica takes part",
    /// A NewState is used, although it answers an old question, of an old view.
    NonceIgnored = "a stale NewState is used",
    /// What was accepted counts as seen even when a view change has cut it off.
    TableUpdatedOnAccept = "requests that were cut off count as seen",
    /// Replicas with odd ids forget another client than those with even ones.
    EvictionDiffers = "replicas forget different clients",
    /// A request of a client that was forgotten brings it back, with nothing known of it.
    EvictedExecuted = "who was forgotten begins anew",
    /// A client that registers again is given the session of its earlier life.
    SessionOutlivesClient = "a client's next life gets the session of the last",
    /// What is left of an old log above a shorter new one is kept, and acknowledged.
    TailAckedUnproven = "a stale tail is kept and acknowledged",
    /// A PrepareOk is counted, whatever log it acknowledges.
    AckWithoutChecksum = "a PrepareOk of another log is counted",
    /// One vote is enough to leave a view, as in the paper.
    JoinOnOneVote = "one vote ends a view",
    /// What comes before its predecessor is thrown away.
    EarlyPreparesForgotten = "early Prepares are forgotten",
    /// What is lost of the normal case is not sent again, as in the paper.
    NoResendOfPrepares = "Prepares are not sent again",
    /// A primary leads on while it is answered, whatever of its log gets through.
    AnyAnswerIsEnough = "a primary leads on although nothing is acknowledged",
    /// The last normal view rises with the view-number, before the view's log is there.
    LogViewRaisedOnAdopt = "the last normal view rises without a log",
    /// A message of a group of these replicas that has died is believed.
    DeadGroupBelieved = "a dead group is believed",
    /// Nothing is remembered of clients that never register.
    WalkInsForgotten = "walk-ins are forgotten at once",
    /// Who has lost its memory takes part in view changes.
    ForgetfulTakesPart = "a recovering replica votes",
    /// An answer to an earlier life is used to recover.
    RecoveryNonceIgnored = "a stale RecoveryResponse is used",
    /// The view that is joined is not written down before it is spoken of.
    ViewNotRemembered = "a view is not remembered",
    /// A replica between views answers who has lost its memory.
    RecoveryAnsweredBetweenViews = "a Recovery is answered between views",
    /// Who has lost its memory does without that of the primary.
    RecoveryWithoutPrimary = "a recovery does without the primary",
    /// Who has given a view up says so once.
    VoteNotRenewed = "a vote is not renewed between views",
    /// The log is cut when a checkpoint is ordered, not when it is complete.
    CutBeforeCheckpoint = "the log is cut before its checkpoint is there",
    /// A checkpoint is restored without its client table.
    TableNotInCheckpoint = "the client table is not restored",
    /// The log of a newer view begins with a checkpoint: the old log goes when that is there, and
    /// not when all of the new one is.
    CheckpointDropsTail = "a checkpoint replaces the log before the rest is there",
    /// A checkpoint is used, whatever bytes it has.
    DigestIgnored = "a checkpoint of other bytes is used",
    /// The rounds of a view all have one number, so that an old answer confirms a new read.
    RoundReused = "the number of a round is used again",
    /// A new primary answers reads before it knows what its view began with to be committed.
    ReadBeforeInherited = "a new primary reads before it has committed its log",
    /// A read that is confirmed is answered from the state as it is.
    ReadBeforeExecuted = "a read is answered before its index is executed",
    /// A backup votes, and follows others, although it has promised not to.
    PromiseBroken = "a promise to stay is broken",
    /// An answer that is true of a view only is given once that has been left, as if it were of
    /// the next one.
    UnconfirmedOutlivesView = "an unconfirmed answer outlives its view",
    /// A reader counts what backups have said of any view.
    ConfirmedInAnyView = "a reader ignores the view of what it is told",
    /// A reader counts what backups have said in answer to earlier questions.
    ConfirmedBefore = "a reader believes what was said before it asked",
}

impl Bug {
    /// Whether it shows only where somebody reads.
    pub fn is_of_reads(self) -> bool {
        let of_reads = [
            Self::RoundReused,
            Self::ReadBeforeInherited,
            Self::ReadBeforeExecuted,
            Self::PromiseBroken,
            Self::UnconfirmedOutlivesView,
            Self::ConfirmedInAnyView,
            Self::ConfirmedBefore,
        ];
        of_reads.contains(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
    }
}
