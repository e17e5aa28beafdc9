//! When each timeout expires, and what restarts it.

use viewring_protocol::{Effects, Progress, Replica, Role};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    ResendPrepares,
    TellOthers,
    Heartbeat,
    Abdicate,
    SuspectPrimary,
    ResendViewChange,
    GiveUpView,
    ResendGetState,
    ExpireVotes,
    Announce,
    Refill,
    BeginRecovery,
}

/// A backup waits so long for its primary.
pub(crate) const SILENCE: u64 = 40;
/// A view that has not started is given up after so long.
pub(crate) const GIVE_UP: u64 = 100;

pub(crate) const TIMEOUTS: [(Timeout, u64); 12] = [
    (Timeout::ResendPrepares, 12),
    (Timeout::TellOthers, 3),
    (Timeout::Heartbeat, 8),
    (Timeout::Abdicate, 60),
    (Timeout::SuspectPrimary, SILENCE),
    (Timeout::ResendViewChange, 15),
    (Timeout::GiveUpView, GIVE_UP),
    (Timeout::ResendGetState, 12),
    (Timeout::ExpireVotes, 120),
    (Timeout::Announce, 10),
    (Timeout::Refill, 4),
    (Timeout::BeginRecovery, 60),
];

pub(crate) fn applies(timeout: Timeout, role: Role) -> bool {
    match timeout {
        Timeout::ResendPrepares | Timeout::TellOthers => role == Role::Primary,
        Timeout::Heartbeat | Timeout::Abdicate => role == Role::Primary,
        Timeout::SuspectPrimary => role == Role::Backup,
        Timeout::ResendViewChange => role == Role::ViewChange,
        Timeout::GiveUpView => matches!(role, Role::ViewChange | Role::CatchingUp),
        Timeout::ResendGetState => {
            matches!(role, Role::Backup | Role::CatchingUp | Role::Recovering)
        }
        Timeout::ExpireVotes => !matches!(role, Role::Recovering | Role::Outside),
        Timeout::Announce => matches!(role, Role::Recovering | Role::Outside),
        Timeout::BeginRecovery => role == Role::Recovering,
        Timeout::Refill => true,
    }
}

/// What restarts a timeout.
pub(crate) fn restarts(timeout: Timeout) -> Progress {
    Progress::ROLE_CHANGED
        | match timeout {
            Timeout::ResendPrepares => Progress::COMMITTED,
            Timeout::Heartbeat => Progress::PREPARED,
            Timeout::Abdicate => Progress::HEARD_QUORUM,
            Timeout::SuspectPrimary => Progress::HEARD_PRIMARY,
            Timeout::GiveUpView => Progress::TRANSFERRED,
            Timeout::ResendGetState | Timeout::BeginRecovery => Progress::TRANSFERRED,
            Timeout::ResendViewChange | Timeout::ExpireVotes => Progress::NONE,
            Timeout::Announce | Timeout::Refill | Timeout::TellOthers => Progress::NONE,
        }
}

pub(crate) fn expire(replica: &mut Replica, timeout: Timeout, effects: &mut Effects) -> Progress {
    match timeout {
        Timeout::ResendPrepares => replica.resend_prepares(effects),
        Timeout::TellOthers if replica.first_kept_back().is_none() => Progress::NONE,
        Timeout::TellOthers => replica.tell_others(effects),
        Timeout::Heartbeat => replica.heartbeat(effects),
        Timeout::Abdicate => replica.abdicate(effects),
        Timeout::SuspectPrimary => replica.suspect_primary(effects),
        Timeout::ResendViewChange => replica.resend_view_change(effects),
        Timeout::GiveUpView => replica.give_up_view(effects),
        Timeout::ResendGetState => {
            replica.renew_vote(effects);
            replica.resend_get_state(effects)
        }
        Timeout::ExpireVotes => {
            replica.expire_votes();
            Progress::NONE
        }
        Timeout::Announce => replica.announce(effects),
        Timeout::Refill => {
            replica.refill(effects);
            // The further on in the group, the farther away.
            for id in replica.configuration().replicas() {
                replica.allow_pages(id, id.0 * 3);
            }
            Progress::NONE
        }
        Timeout::BeginRecovery => replica.begin_recovery(effects),
    }
}
