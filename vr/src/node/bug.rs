//! Bugs to be found, in what waits: those of what decides are the protocol's [`Bug`].

use std::time::Duration;

use viewring_protocol::Bug;

use super::Node;

/// A deliberate bug of a whole replica, planted to prove that tests find it; never set outside
/// tests.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// In what it decides.
    Decision(Bug),
    /// In how long it waits, and for what.
    Wait(WaitBug),
}

/// A deliberate bug in how long a replica waits, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitBug {
    /// A backup's patience is shorter than the time between two heartbeats.
    SilenceTooShort,
    /// A primary that nobody answers leads for ever.
    NeverAbdicates,
    /// The next view is waited for no longer than the last one.
    NoBackOff,
    /// Entries that were asked for and did not come are not asked for again.
    TransferNotRepeated,
    /// Suspicions are never forgotten.
    VotesNeverExpire,
    /// An idle primary says nothing.
    NoHeartbeat,
    /// A backup waits for its primary for ever.
    NeverSuspects,
    /// What must be remembered is not waited for.
    RecordNotAwaited,
    /// Bytes that could not be made durable are taken for durable.
    FailedSyncBelieved,
    /// The messages of a view change are said once.
    ViewChangeSaidOnce,
    /// A view counts as stable as soon as it has started.
    BackOffForgottenAtOnce,
    /// What was heard before a pause counts after it.
    OldVotesCount,
    /// Timeouts are the same however far apart replicas are.
    RoundTripsIgnored,
    /// A primary believes a promise to the last moment, as if all clocks ran alike.
    LeaseWithoutDrift,
    /// A primary counts a promise from when it came, as if it had not been under way.
    LeaseFromReceipt,
    /// A replica that is restarted takes itself for free: of what the life before has promised it
    /// knows nothing.
    PromiseForgotten,
}

impl WaitBug {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::SilenceTooShort,
        Self::NeverAbdicates,
        Self::NoBackOff,
        Self::TransferNotRepeated,
        Self::VotesNeverExpire,
        Self::NoHeartbeat,
        Self::NeverSuspects,
        Self::RecordNotAwaited,
        Self::FailedSyncBelieved,
        Self::ViewChangeSaidOnce,
        Self::BackOffForgottenAtOnce,
        Self::OldVotesCount,
        Self::RoundTripsIgnored,
        Self::LeaseWithoutDrift,
        Self::LeaseFromReceipt,
        Self::PromiseForgotten,
    ];

    /// What it does, in a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::SilenceTooShort => "a live primary is suspected",
            Self::NeverAbdicates => "a primary that hears nobody leads on",
            Self::NoBackOff => "the next view is given no more time",
            Self::TransferNotRepeated => "lost entries are asked for once",
            Self::VotesNeverExpire => "suspicions are never forgotten",
            Self::NoHeartbeat => "an idle primary is silent",
            Self::NeverSuspects => "a dead primary is waited for",
            Self::RecordNotAwaited => "a record is not durable when it is relied on",
            Self::FailedSyncBelieved => "a failed sync is taken for a success",
            Self::ViewChangeSaidOnce => "what is said in a view change is said once",
            Self::BackOffForgottenAtOnce => "the back-off is reset when a view starts",
            Self::OldVotesCount => "votes from before a pause count after it",
            Self::RoundTripsIgnored => "round trips are not measured",
            Self::LeaseWithoutDrift => "a lease knows no drift",
            Self::LeaseFromReceipt => "a lease is counted from the answer",
            Self::PromiseForgotten => "a restart forgets a promise",
        }
    }
}

impl Planted {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let decisions = Bug::ALL.iter().copied().map(Self::Decision);
        decisions.chain(WaitBug::ALL.iter().copied().map(Self::Wait))
    }

    /// What it does, in a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decision(bug) => bug.name(),
            Self::Wait(bug) => bug.name(),
        }
    }
}

impl<S> Node<S> {
    /// Makes the replica err: for tests of tests.
    #[doc(hidden)]
    pub fn plant(&mut self, bug: Planted) {
        let timeouts = &mut self.configured;
        match bug {
            Planted::Decision(bug) => self.core.plant(bug),
            Planted::Wait(WaitBug::SilenceTooShort) => timeouts.silence = timeouts.heartbeat / 2,
            Planted::Wait(WaitBug::NeverAbdicates) => timeouts.abdicate = FOR_EVER,
            Planted::Wait(WaitBug::NoHeartbeat) => timeouts.heartbeat = FOR_EVER,
            Planted::Wait(WaitBug::NeverSuspects) => timeouts.silence = FOR_EVER,
            Planted::Wait(WaitBug::ViewChangeSaidOnce) => timeouts.view_change_resend = FOR_EVER,
            Planted::Wait(WaitBug::VotesNeverExpire) => {
                self.votes_expire_at = self.votes_expire_at + FOR_EVER;
            }
            Planted::Wait(
                bug @ (WaitBug::NoBackOff
                | WaitBug::TransferNotRepeated
                | WaitBug::BackOffForgottenAtOnce
                | WaitBug::OldVotesCount
                | WaitBug::RoundTripsIgnored
                | WaitBug::RecordNotAwaited
                | WaitBug::FailedSyncBelieved),
            ) => self.bug = Some(bug),
            Planted::Wait(
                bug @ (WaitBug::LeaseWithoutDrift
                | WaitBug::LeaseFromReceipt
                | WaitBug::PromiseForgotten),
            ) => self.lease.iter_mut().for_each(|lease| lease.plant(bug)),
        }
        self.timeouts = self.configured;
    }
}

/// Longer than anyone will live.
const FOR_EVER: Duration = Duration::from_secs(1_000_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = Planted::all().map(Planted::name).collect();
        assert_eq!(names.len(), Planted::all().count());
    }
}
