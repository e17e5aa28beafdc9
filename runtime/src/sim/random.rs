//! Random numbers that only the seed decides.
//!
//! A [`Random`] is xoshiro256\*\* (Blackman and Vigna, 2018): four words of state, filled from its
//! *key* by SplitMix64. It is small, fast, and the same on every machine: the arithmetic is that of
//! integers and of single IEEE operations, no library function is called.
//!
//! **Independent streams.** [`Random::fork`] makes a stream from the key and a label, not from the
//! state. So a stream does not depend on how much was drawn from another one: to switch one fault
//! on, or to add a node, does not reshuffle the rest of the world.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A stream of random numbers.
///
/// ```
/// use viewring_runtime::sim::Random;
///
/// let mut one = Random::new(7).fork(1);
/// let mut parent = Random::new(7);
/// parent.next_u64(); // what is drawn here does not matter there
/// assert_eq!(parent.fork(1).next_u64(), one.next_u64());
/// assert_ne!(parent.fork(2).next_u64(), one.next_u64());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    key: u64,
    state: [u64; 4],
}

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut split = seed;
        let state = std::array::from_fn(|_| {
            split = split.wrapping_add(GOLDEN);
            finish(split)
        });
        Self { key: seed, state }
    }

    /// The stream of this label: always the same one, whatever was drawn before.
    #[must_use]
    pub fn fork(&self, label: u64) -> Self {
        Self::new(finish(
            self.key ^ finish(label.wrapping_add(GOLDEN)).rotate_left(17),
        ))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let state = &mut self.state;
        let result = state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// When `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below zero");
        // The bias is below bound / 2^64.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A place in a sequence of `len`.
    ///
    /// # Panics
    /// When `len` is zero.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number of the range.
    ///
    /// # Panics
    /// When the range is empty.
    pub fn between(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (start, end) = range.into_inner();
        assert!(start <= end, "the range is empty");
        match (end - start).checked_add(1) {
            Some(width) => start + self.below(width),
            None => self.next_u64(),
        }
    }

    /// A number from 0 to just below 1.
    pub fn unit(&mut self) -> f64 {
        const SCALE: f64 = 1.0 / (1u64 << 53) as f64;
        (self.next_u64() >> 11) as f64 * SCALE
    }

    /// True with this probability; of 0 or less nothing is drawn.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// How strong a fault is in this world: not at all in every other one, else up to `most`
    /// (*swarm testing*).
    pub fn strength(&mut self, most: f64) -> f64 {
        if self.chance(0.5) {
            self.unit() * most
        } else {
            0.0
        }
    }

    /// An exponentially distributed duration, at most some 37 times its mean.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        if mean.is_zero() {
            return Duration::ZERO;
        }
        let ns = mean.as_nanos() as f64 * self.exponential_unit();
        Duration::from_nanos(ns as u64) // `as` saturates
    }

    /// A duration up to `max` of which every order of magnitude from a microsecond up is equally
    /// likely.
    pub fn any_magnitude(&mut self, max: Duration) -> Duration {
        let max_ns = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        let doublings = u64::BITS - (max_ns / 1000).leading_zeros();
        let ceiling = 1000u64 << self.below(u64::from(doublings) + 1).min(44);
        Duration::from_nanos(self.below(ceiling.min(max_ns).saturating_add(1)))
    }

    /// Puts the items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }

    /// Exponentially distributed of mean 1: the negative logarithm of a number in (0, 1].
    fn exponential_unit(&mut self) -> f64 {
        // An integer from 1 to 2^53 is 2^exponent * mantissa, the mantissa from 1 to below 2.
        let number = (self.next_u64() >> 11) + 1;
        let exponent = number.ilog2();
        let mantissa = number as f64 / (1u64 << exponent) as f64;
        // ln(m) = 2 artanh(t) for t = (m - 1) / (m + 1), here at most 1/3.
        let t = (mantissa - 1.0) / (mantissa + 1.0);
        let square = t * t;
        let mut series = 0.0;
        for odd in (0..8).rev() {
            series = series * square + 1.0 / f64::from(2 * odd + 1);
        }
        f64::from(53 - exponent) * std::f64::consts::LN_2 - 2.0 * t * series
    }
}

/// Stirs a word: the output function of SplitMix64.
pub(super) const fn finish(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// 2^64 divided by the golden ratio.
pub(super) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_is_the_same_for_ever() {
        let mut random = Random::new(0);
        let drawn = [random.next_u64(), random.next_u64(), random.next_u64()];
        // Recorded: a change here makes every recorded seed mean something else.
        assert_eq!(
            drawn,
            [
                0x99EC_5F36_CB75_F2B4,
                0xBF6E_1F78_4956_452A,
                0x1A5F_849D_4933_E6E0
            ]
        );
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_both_ends() {
        let mut random = Random::new(3);
        let drawn: Vec<u64> = (0..200).map(|_| random.between(5..=8)).collect();
        assert_eq!(drawn.iter().min(), Some(&5));
        assert_eq!(drawn.iter().max(), Some(&8));
        assert!((0..1000).all(|_| random.unit() < 1.0));
    }

    #[test]
    fn an_exponential_delay_has_its_mean() {
        let mut random = Random::new(4);
        let mean = Duration::from_micros(100);
        let sum: Duration = (0..20_000).map(|_| random.exponential(mean)).sum();
        let mean_ns = sum.as_nanos() / 20_000;
        assert!((98_000..102_000).contains(&mean_ns), "{mean_ns}");
    }

    #[test]
    fn a_chance_is_taken_as_often_as_it_says_and_never_at_zero() {
        let mut random = Random::new(5);
        let before = random.clone();
        assert!(!random.chance(0.0));
        assert_eq!(random, before);
        let taken = (0..10_000).filter(|_| random.chance(0.3)).count();
        assert!((2_800..3_200).contains(&taken), "{taken}");
    }

    #[test]
    fn every_magnitude_comes_and_none_beyond_the_maximum() {
        let mut random = Random::new(6);
        let max = Duration::from_secs(120);
        let drawn: Vec<Duration> = (0..1000).map(|_| random.any_magnitude(max)).collect();
        assert!(drawn.iter().all(|&d| d <= max));
        assert!(drawn.iter().any(|&d| d > Duration::from_secs(30)));
        assert!(drawn.iter().any(|&d| d < Duration::from_millis(1)));
    }
}
