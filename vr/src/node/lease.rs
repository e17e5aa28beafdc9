//! The clocks of a lease: when what we asked was sent, and when what we promised ends.
//!
//! A primary counts a promise from when it *sent* the round that the promise answers, and takes off
//! what two clocks may drift apart; a backup counts it from when it made it. So the primary's count
//! ends first, however long the answer was under way, and whatever the offset of the two clocks.
//! Both count on `CLOCK_BOOTTIME`: a machine that was suspended has not kept its promise waiting.
//!
//! A replica that is restarted does not know what it has promised, so it takes itself for one that
//! has promised just now: whatever the life before has promised ends no later. It may ask for its
//! memory, follow and acknowledge meanwhile, but leave the view for nobody. That the wait is by a
//! clock that may be fast is allowed for already, as for every promise.

use std::collections::VecDeque;
use std::time::Duration;

use viewring_protocol::{Replica, RoundNumber};
use viewring_runtime::time::BootInstant;

use super::bug::WaitBug;

/// Leases, with which a primary answers reads alone. All replicas of a group must have the same,
/// and a group that is to have a shorter one, or none, must stop whole for as long as the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// For how long a backup promises to take part in no other view. A view change waits for the
    /// end of the promises: no longer than the silence that it waits for anyway, if shorter.
    pub duration: Duration,
    /// How fast or slow any clock may be, in millionths. If one is worse, a read may be stale.
    pub max_clock_drift_ppm: u32,
}

impl Default for LeaseConfig {
    /// 200 ms; one millisecond in a second.
    fn default() -> Self {
        Self {
            duration: Duration::from_millis(200),
            max_clock_drift_ppm: 1_000,
        }
    }
}

impl LeaseConfig {
    /// The first thing that is wrong with it, if any.
    pub(super) fn fault(&self, upkeep: Duration) -> Option<&'static str> {
        if self.duration < upkeep * 4 {
            return Some("a lease must be at least four times the upkeep, which renews it");
        }
        if self.duration > LONGEST {
            return Some(
                "a lease of more than a minute: the group would be without primary as long",
            );
        }
        if self.max_clock_drift_ppm >= MILLION / 2 {
            return Some("a clock that drifts by a half is no clock");
        }
        None
    }

    /// What the protocol is told.
    pub(super) fn promise_us(&self) -> u32 {
        u32::try_from(self.duration.as_micros()).expect("a lease is at most a minute")
    }
}

const LONGEST: Duration = Duration::from_secs(60);
const MILLION: u32 = 1_000_000;
/// So many moments are kept of each promise's length.
const STAMPS: u32 = 32;

/// One replica's part in leases: as a primary, and as a backup.
#[derive(Debug)]
pub(super) struct Lease {
    config: LeaseConfig,
    /// Rounds that we began, with the moment before they were sent.
    sent: VecDeque<(RoundNumber, BootInstant)>,
    seen: RoundNumber,
    /// When our last promise ends, or what an earlier life may have promised.
    bound_until: BootInstant,
    bug: Option<WaitBug>,
    /// [`WaitBug::LeaseFromReceipt`]: answers, with the moment when they came.
    received: Vec<(RoundNumber, BootInstant)>,
}

impl Lease {
    /// A life begins now. What the one before has promised, if there was one, was promised before.
    pub(super) fn new(config: LeaseConfig) -> Self {
        Self {
            config,
            sent: VecDeque::new(),
            seen: RoundNumber::default(),
            bound_until: BootInstant::now() + config.duration,
            bug: None,
            received: Vec::new(),
        }
    }

    pub(super) fn plant(&mut self, bug: WaitBug) {
        self.bug = Some(bug);
        if bug == WaitBug::PromiseForgotten {
            self.bound_until = BootInstant::now();
        }
    }

    /// To be called before what the protocol wants to be sent is sent.
    pub(super) fn before_sending(&mut self, core: &Replica) {
        if self.bug == Some(WaitBug::LeaseFromReceipt) {
            self.note_receipts(core, BootInstant::now());
        }
        let round = core.round();
        if round == self.seen {
            return;
        }
        self.seen = round;
        let now = BootInstant::now();
        let spacing = self.config.duration / STAMPS;
        if self
            .sent
            .back()
            .is_some_and(|&(_, last)| now - last < spacing)
        {
            return; // it counts from the moment of an earlier one
        }
        if self.sent.len() > 2 * STAMPS as usize {
            self.sent.pop_front();
        }
        self.sent.push_back((round, now));
    }

    /// Whether f backups are bound to us at this moment, by our clock.
    pub(super) fn holds(&self, core: &Replica) -> bool {
        let needed = usize::from(core.configuration().failures());
        if needed == 0 {
            return true;
        }
        let now = BootInstant::now();
        let in_force = core
            .promises()
            .enumerate()
            .filter(|&(backup, (round, us))| {
                let from = match self.received.get(backup) {
                    Some(&(_, received)) => Some(received),
                    None => self.sent_at(round),
                };
                us > 0 && from.is_some_and(|from| now < from + self.counted(us))
            });
        in_force.count() >= needed
    }

    /// The moment from which on a round may have been heard, or an earlier one.
    fn sent_at(&self, round: RoundNumber) -> Option<BootInstant> {
        let earlier = self.sent.iter().rev().find(|(sent, _)| *sent <= round);
        earlier.map(|&(_, at)| at)
    }

    /// For how long a promise counts by our clock: if ours is slow and theirs is fast, it must have
    /// ended here before it ends there.
    fn counted(&self, promise_us: u32) -> Duration {
        let drift = match self.bug {
            Some(WaitBug::LeaseWithoutDrift) => 0,
            _ => u64::from(self.config.max_clock_drift_ppm),
        };
        let million = u64::from(MILLION);
        Duration::from_micros(u64::from(promise_us) * (million - drift) / (million + drift))
    }

    /// We have promised, just now.
    pub(super) fn promised(&mut self) {
        self.bound_until = BootInstant::now() + self.config.duration;
    }

    /// To be called before the protocol is handed anything.
    pub(super) fn release(&self, core: &mut Replica) {
        if core.is_bound() && BootInstant::now() >= self.bound_until {
            core.promise_expired();
        }
    }

    fn note_receipts(&mut self, core: &Replica, now: BootInstant) {
        for (backup, (round, _)) in core.promises().enumerate() {
            match self.received.get_mut(backup) {
                None => self.received.push((round, now)),
                Some(known) if known.0 != round => *known = (round, now),
                Some(_) => {}
            }
        }
    }
}
