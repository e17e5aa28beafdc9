//! How far away the others are: what timeouts are scaled by.
//!
//! A replica asks each of the others for an echo now and then. What counts is the round trip within
//! which a *quorum* answers: the f-th nearest of the others. Of each the median of the latest few
//! is taken, so that neither one slow answer nor one slow replica makes the group wait.

use std::collections::VecDeque;
use std::time::Duration;

use viewring_protocol::{Progress, ReplicaId};
use viewring_runtime::random;
use viewring_runtime::time::Instant;
use viewring_transport::Message as Datum;

use super::{Node, WaitBug};
use crate::state_machine::StateMachine;

/// Frame kind: asks for an echo of its body.
pub(super) const PING_KIND: u8 = 0xE2;
/// Frame kind: the echo.
pub(super) const PONG_KIND: u8 = 0xE3;

/// A ping carries so many bytes, and so does its echo.
pub(super) const PING_BYTES: usize = 8;
/// How often the others are asked.
const PING_EVERY: Duration = Duration::from_millis(500);
/// Of so many answers the median is taken.
const SAMPLES: usize = 7;
/// So many pings may be under way; an answer to an earlier one says nothing any more.
const UNDER_WAY: usize = 8;

/// A page for so much of a round trip is asked for at once: with the default of 48 KiB a page that
/// is 10 MB/s, until an answer is as long as it may be.
const PER_PAGE: Duration = Duration::from_millis(5);
/// No answer is waited for any longer, whatever was measured.
const PATIENCE_MAX: Duration = Duration::from_secs(4);

/// A question that may be answered still, once by each.
#[derive(Debug)]
struct Ping {
    token: u64,
    asked_at: Instant,
    answered: Vec<ReplicaId>,
}

/// The round trips to the other replicas, as measured.
#[derive(Debug)]
pub(super) struct RoundTrips {
    samples: Vec<VecDeque<Duration>>,
    pings: VecDeque<Ping>,
    next_at: Instant,
    /// f: how many of the others a replica needs.
    needed: usize,
}

impl RoundTrips {
    /// Nothing is known yet of a group of so many.
    pub(super) fn new(replicas: usize, now: Instant) -> Self {
        Self {
            samples: vec![VecDeque::new(); replicas],
            pings: VecDeque::new(),
            next_at: now,
            needed: replicas / 2,
        }
    }

    /// Whether the others are to be asked again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next_at
    }

    /// They are asked now, with this token, which nobody can guess.
    pub(super) fn asked(&mut self, token: u64, now: Instant) {
        self.next_at = now + PING_EVERY;
        if self.pings.len() == UNDER_WAY {
            self.pings.pop_front();
        }
        self.pings.push_back(Ping {
            token,
            asked_at: now,
            answered: Vec::new(),
        });
    }

    /// One of them has answered. Whether it was asked that, and had not answered yet.
    pub(super) fn answered(&mut self, from: ReplicaId, body: &[u8], now: Instant) -> bool {
        let Ok(token) = body.try_into().map(u64::from_le_bytes) else {
            return false;
        };
        let Some(ping) = self.pings.iter_mut().find(|ping| ping.token == token) else {
            return false;
        };
        let Some(samples) = self.samples.get_mut(from.index()) else {
            return false;
        };
        if ping.answered.contains(&from) {
            return false;
        }
        ping.answered.push(from);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(now - ping.asked_at);
        true
    }

    /// How far away this one is; zero while it has not answered.
    fn to(&self, replica: ReplicaId) -> Duration {
        let samples = self.samples.get(replica.index());
        samples.and_then(median).unwrap_or_default()
    }

    /// Within how long a quorum answers; None while too few have answered.
    pub(super) fn of_quorum(&self) -> Option<Duration> {
        let mut medians: Vec<Duration> = self.samples.iter().filter_map(median).collect();
        medians.sort_unstable();
        medians.get(self.needed.checked_sub(1)?).copied()
    }
}

impl<S: StateMachine> Node<S> {
    /// Asks the others for an echo, when that is due, and waits from now on as long as the echoes
    /// of before say.
    pub(super) fn measure(&mut self, now: Instant) {
        if !self.round_trips.is_due(now) {
            return;
        }
        let ignored = self.bug == Some(WaitBug::RoundTripsIgnored);
        if let Some(round_trip) = self.round_trips.of_quorum().filter(|_| !ignored) {
            self.timeouts = self.configured.scaled(round_trip);
            for id in self.core.configuration().replicas() {
                self.core
                    .allow_pages(id, pages_worth(self.round_trips.to(id)));
            }
        }
        let token = random();
        self.round_trips.asked(token, now);
        let own = self.core.id().index();
        for to in (0..self.replicas.len()).filter(|&id| id != own) {
            self.send_bytes(self.replicas[to], PING_KIND, &token.to_le_bytes());
        }
    }

    /// For how long to wait for what this replica was asked for. Whoever asks again sooner is sent
    /// the same several times.
    pub(super) fn patience_with(&self, replica: ReplicaId) -> Duration {
        if self.bug == Some(WaitBug::RoundTripsIgnored) {
            return self.timeouts.upkeep;
        }
        let answer = self.round_trips.to(replica) * 2;
        answer.clamp(self.timeouts.upkeep, PATIENCE_MAX.max(self.timeouts.upkeep))
    }

    /// A ping is answered with what it carries; an answer is measured.
    pub(super) fn echo(&mut self, datum: &Datum) -> Progress {
        let Some(from) = self.replica_at(datum.sender, datum.from) else {
            return self.drop_impostor(datum.sender, datum.from);
        };
        if datum.kind == PONG_KIND {
            let answers = self.round_trips.answered(from, &datum.body, Instant::now());
            self.drops.late_echo += u64::from(!answers);
        } else if datum.body.len() == PING_BYTES {
            self.send_bytes(datum.from, PONG_KIND, &datum.body);
        } else {
            self.drops.malformed += 1;
        }
        Progress::NONE
    }
}

/// How many pages are asked for at once where a round trip takes so long.
fn pages_worth(round_trip: Duration) -> u8 {
    let more = round_trip.as_nanos() / PER_PAGE.as_nanos();
    u8::try_from(more).unwrap_or(u8::MAX).saturating_add(1)
}

fn median(samples: &VecDeque<Duration>) -> Option<Duration> {
    let mut sorted: Vec<Duration> = samples.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// The quorum's round trip in ms, when these answers came, each to a ping of its own.
    fn measured(replicas: usize, answers: &[(u8, u64)]) -> Option<u128> {
        let mut trips = RoundTrips::new(replicas, at(0));
        for (token, &(from, ms)) in (0u64..).zip(answers) {
            trips.asked(token, at(0));
            assert!(trips.answered(ReplicaId(from), &token.to_le_bytes(), at(ms)));
        }
        trips.of_quorum().map(|trip| trip.as_millis())
    }

    #[test]
    fn the_nearest_quorum_counts() {
        assert_eq!(measured(3, &[]), None);
        assert_eq!(measured(3, &[(2, 80)]), Some(80));
        assert_eq!(measured(3, &[(2, 80), (1, 3)]), Some(3));
        assert_eq!(measured(5, &[(2, 80)]), None);
        assert_eq!(measured(5, &[(2, 80), (1, 3), (4, 200)]), Some(80));
        assert_eq!(measured(1, &[]), None, "alone there is nobody to wait for");
    }

    #[test]
    fn one_slow_answer_says_nothing() {
        assert_eq!(measured(3, &[(1, 3), (1, 4), (1, 5_000)]), Some(4));
        let mut many = [(1, 4); SAMPLES + 1];
        many[0] = (1, 5_000);
        assert_eq!(measured(3, &many), Some(4));
    }

    #[test]
    fn what_was_not_asked_is_no_answer() {
        let mut trips = RoundTrips::new(3, at(0));
        assert!(!trips.answered(ReplicaId(1), &7u64.to_le_bytes(), at(1)));
        for token in 0..=8 {
            trips.asked(token, at(token));
        }
        let last = 8u64.to_le_bytes();
        assert!(
            !trips.answered(ReplicaId(1), &0u64.to_le_bytes(), at(9)),
            "long ago"
        );
        assert!(!trips.answered(ReplicaId(1), b"short", at(9)));
        assert!(!trips.answered(ReplicaId(7), &last, at(9)), "nobody");
        assert_eq!(trips.of_quorum(), None);
        assert!(trips.answered(ReplicaId(1), &last, at(9)));
        assert!(!trips.answered(ReplicaId(1), &last, at(99)), "twice");
        assert_eq!(trips.of_quorum(), Some(Duration::from_millis(1)));
    }
}
