//! One direction between two nodes: a model with knobs.

use std::time::Duration;

use super::random::Random;
use crate::time::Instant;

/// The knobs of one direction of one link. Turn them while the world runs: what was sent before
/// keeps the fate that it has.
///
/// The default is a good local network: 50 µs and some, nothing lost, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// How long packets are under way.
    pub delay: Delay,
    /// The probability that a packet is lost.
    pub loss: f64,
    /// The probability that a packet arrives a second time.
    pub duplication: f64,
    /// How much later, at most, the second copy arrives; any order of magnitude is equally likely.
    pub duplicate_within: Duration,
    /// The probability that a packet takes no notice of those before it. The others arrive in the
    /// order in which they were sent.
    pub reordering: f64,
    /// The probability that one to three bits of a packet are flipped.
    pub bit_flips: f64,
    /// The probability that the end of a packet is missing.
    pub truncation: f64,
    /// How many packets can be under way; what comes on top is lost.
    pub capacity: usize,
}

/// How long packets are under way: `min`, and on top of it an exponentially distributed time.
#[derive(Clone, Debug, PartialEq)]
pub struct Delay {
    /// No packet is faster.
    pub min: Duration,
    /// The mean of what is on top.
    pub mean: Duration,
    /// The probability that what is on top is multiplied by `tail_factor`. Others overtake such a
    /// packet.
    pub tail: f64,
    /// See `tail`.
    pub tail_factor: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Delay::default(),
            loss: 0.0,
            duplication: 0.0,
            duplicate_within: Duration::from_secs(120),
            reordering: 0.0,
            bit_flips: 0.0,
            truncation: 0.0,
            capacity: usize::MAX,
        }
    }
}

impl Default for Delay {
    fn default() -> Self {
        Self {
            min: Duration::from_micros(50),
            mean: Duration::from_micros(20),
            tail: 0.0,
            tail_factor: 100,
        }
    }
}

impl Delay {
    /// Always the same.
    pub fn fixed(delay: Duration) -> Self {
        Self {
            min: delay,
            mean: Duration::ZERO,
            ..Self::default()
        }
    }
}

impl Link {
    /// A link that is bad in ways that `random` decides: each fault is on in some worlds and off in
    /// others, in any strength (*swarm testing*).
    pub fn draw(random: &mut Random) -> Self {
        let (loss, duplication) = (random.strength(0.3), random.strength(0.5));
        let (reordering, tail) = (random.strength(1.0), random.strength(0.01));
        let (bit_flips, truncation) = (random.strength(0.01), random.strength(0.01));
        let mean = random.any_magnitude(Duration::from_millis(100));
        Self {
            delay: Delay {
                min: mean / 10,
                mean,
                tail,
                tail_factor: 100,
            },
            loss,
            duplication,
            reordering,
            bit_flips,
            truncation,
            capacity: if random.chance(0.25) {
                random.between(2..=20) as usize
            } else {
                usize::MAX
            },
            ..Self::default()
        }
    }

    /// Inside one node.
    pub(super) fn loopback() -> Self {
        Self {
            delay: Delay::fixed(Duration::from_micros(5)),
            ..Self::default()
        }
    }
}

/// One direction of one link, with a stream of random numbers for each fault: to switch one on
/// does not reshuffle the others.
#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) knobs: Link,
    pub(super) cut: bool,
    pub(super) in_flight: usize,
    /// When the last packet arrives that keeps to its order.
    last_arrival: Instant,
    loss: Random,
    duplication: Random,
    delay: Random,
    reordering: Random,
    damage: Random,
}

impl LinkState {
    pub(super) fn new(knobs: Link, random: &Random) -> Self {
        Self {
            knobs,
            cut: false,
            in_flight: 0,
            last_arrival: Instant::from_nanos(0),
            loss: random.fork(1),
            duplication: random.fork(2),
            delay: random.fork(3),
            reordering: random.fork(4),
            damage: random.fork(5),
        }
    }

    pub(super) fn loses(&mut self) -> bool {
        self.loss.chance(self.knobs.loss)
    }

    /// How much later a second copy arrives, if there is one.
    pub(super) fn duplicates(&mut self) -> Option<Duration> {
        let duplicated = self.duplication.chance(self.knobs.duplication);
        duplicated.then(|| self.duplication.any_magnitude(self.knobs.duplicate_within))
    }

    /// When a packet arrives that is sent now and held up for `extra`.
    pub(super) fn arrival(&mut self, now: Instant, extra: Duration) -> Instant {
        let Delay {
            min,
            mean,
            tail,
            tail_factor,
        } = self.knobs.delay;
        let mut above = self.delay.exponential(mean);
        let straggles = self.delay.chance(tail);
        if straggles {
            above = above.saturating_mul(tail_factor);
        }
        let arrival = now + min.saturating_add(above).saturating_add(extra);
        // What is held up is overtaken: else one packet would stop a link for minutes.
        if straggles || !extra.is_zero() || self.reordering.chance(self.knobs.reordering) {
            return arrival;
        }
        self.last_arrival = self.last_arrival.max(arrival);
        self.last_arrival
    }

    /// Flips bits; false if it leaves the packet alone.
    pub(super) fn flips_bits(&mut self, payload: &mut [u8]) -> bool {
        if payload.is_empty() || !self.damage.chance(self.knobs.bit_flips) {
            return false;
        }
        for _ in 0..self.damage.between(1..=3) {
            let bit = self.damage.below(payload.len() as u64 * 8);
            payload[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        true
    }

    /// Cuts the end off; false if it leaves the packet alone.
    pub(super) fn truncates(&mut self, payload: &mut Vec<u8>) -> bool {
        if payload.is_empty() || !self.damage.chance(self.knobs.truncation) {
            return false;
        }
        payload.truncate(self.damage.index(payload.len()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(knobs: Link) -> Vec<Instant> {
        let mut link = LinkState::new(knobs, &Random::new(1));
        let sent = |n: u64| Instant::from_nanos(n * 1000);
        (0..500)
            .map(|n| link.arrival(sent(n), Duration::ZERO))
            .collect()
    }

    #[test]
    fn packets_keep_their_order_unless_reordering_is_on() {
        let delay = Delay {
            mean: Duration::from_millis(1),
            ..Delay::default()
        };
        let ordered = Link {
            delay,
            ..Link::default()
        };
        assert!(arrivals(ordered.clone()).is_sorted());
        let reordering = Link {
            reordering: 1.0,
            ..ordered
        };
        assert!(!arrivals(reordering).is_sorted());
    }

    #[test]
    fn to_switch_one_fault_on_does_not_change_what_the_others_draw() {
        let quiet = Link::default();
        let noisy = Link {
            loss: 0.5,
            duplication: 0.5,
            bit_flips: 0.5,
            ..Link::default()
        };
        let delays = |knobs: Link| {
            let mut link = LinkState::new(knobs, &Random::new(2));
            let mut payload = vec![0; 8];
            let mut delays = Vec::new();
            for n in 0..50 {
                let now = Instant::from_nanos(n * 1_000_000);
                let _ = (
                    link.loses(),
                    link.duplicates(),
                    link.flips_bits(&mut payload),
                );
                delays.push(link.arrival(now, Duration::ZERO) - now);
            }
            delays
        };
        assert_eq!(delays(quiet), delays(noisy));
    }

    #[test]
    fn a_tail_makes_some_packets_much_later() {
        let delay = Delay {
            tail: 0.05,
            ..Delay::default()
        };
        let knobs = Link {
            delay,
            reordering: 1.0,
            ..Link::default()
        };
        let late = Instant::from_nanos(1_000_000);
        let slow = arrivals(knobs).iter().filter(|&&at| at > late).count();
        assert!((5..100).contains(&slow), "{slow}");
    }
}
