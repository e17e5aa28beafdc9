//! A set of numbers that takes little room when few are missing.

/// A set of numbers, as the runs of it that have no gap: a worker numbers its operations from 1, so
/// that what it has done is one run, however long it works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// The first and the last number of each run. They grow, and between two runs a number is
    /// missing.
    runs: Vec<(u64, u64)>,
}

impl Numbers {
    /// Puts a number in. False if it was there.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let at = self.run_from(number);
        let after = self.runs.get(at).map(|&(first, _)| first);
        if after.is_some_and(|first| first <= number) {
            return false;
        }
        // The run before ends below the number, the one after begins above: neither overflows.
        let joins_before = at > 0 && self.runs[at - 1].1 + 1 == number;
        let joins_after = after.is_some_and(|first| number + 1 == first);
        match (joins_before, joins_after) {
            (true, true) => {
                self.runs[at - 1].1 = self.runs[at].1;
                self.runs.remove(at);
            }
            (true, false) => self.runs[at - 1].1 = number,
            (false, true) => self.runs[at].0 = number,
            (false, false) => self.runs.insert(at, (number, number)),
        }
        true
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let run = self.runs.get(self.run_from(number));
        run.is_some_and(|&(first, _)| first <= number)
    }

    /// Takes out all that `other` has.
    pub(super) fn remove_all(&mut self, other: &Self) {
        let mut left = Vec::new();
        for &(first, last) in &self.runs {
            let mut rest = Some(first);
            for &(from, to) in &other.runs[other.run_from(first)..] {
                let Some(first) = rest.filter(|_| from <= last) else {
                    break;
                };
                if first < from {
                    left.push((first, from - 1));
                }
                rest = to.checked_add(1).filter(|&next| next <= last);
            }
            left.extend(rest.map(|first| (first, last)));
        }
        self.runs = left;
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        let lens = self.runs.iter().map(|&(first, last)| last - first + 1);
        lens.sum()
    }

    /// Whether `longer` has all of these, and besides them only what comes behind the last.
    pub(super) fn is_prefix_of(&self, longer: &Self) -> bool {
        let (mut missing, mut more) = (self.clone(), longer.clone());
        missing.remove_all(longer);
        more.remove_all(self);
        let last = self.runs.last().map(|&(_, last)| last);
        missing.runs.is_empty() && more.iter().next().is_none_or(|next| last < Some(next))
    }

    /// All of them, growing.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().flat_map(|&(first, last)| first..=last)
    }

    /// The first run that ends at `number` or above.
    fn run_from(&self, number: u64) -> usize {
        self.runs.partition_point(|&(_, last)| last < number)
    }

    /// Appends its bytes: how many runs, then the first and the last number of each.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let words = self.runs.iter().flat_map(|&(first, last)| [first, last]);
        for word in std::iter::once(self.runs.len() as u64).chain(words) {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Reads a set from the front of `bytes`. `None` if they are none.
    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for _ in 0..word(bytes)? {
            let (first, last) = (word(bytes)?, word(bytes)?);
            let before = runs.last().map(|&(_, last)| last);
            let is_apart = before.is_none_or(|last| last < first && last + 1 < first);
            if first > last || !is_apart {
                return None;
            }
            runs.push((first, last));
        }
        Some(Self { runs })
    }
}

/// Takes a number of eight bytes from the front of `bytes`.
pub(super) fn word(bytes: &mut &[u8]) -> Option<u64> {
    let (word, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*word))
}

#[cfg(test)]
impl<const N: usize> From<[u64; N]> for Numbers {
    fn from(all: [u64; N]) -> Self {
        let mut numbers = Self::default();
        for number in all {
            numbers.insert(number);
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Numbers that look like chance, from 0 to 40 and at the upper end.
    fn some(seed: u64) -> impl Iterator<Item = u64> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let number = (state >> 33) % 48;
            if number < 41 {
                number
            } else {
                u64::MAX - (number - 41)
            }
        })
    }

    fn pair(seed: u64) -> (Numbers, BTreeSet<u64>) {
        let (mut numbers, mut model) = (Numbers::default(), BTreeSet::new());
        for number in some(seed).take((seed % 60) as usize) {
            assert_eq!(numbers.insert(number), model.insert(number), "{number}");
        }
        (numbers, model)
    }

    #[test]
    fn it_holds_what_a_set_would_hold() {
        for seed in 0..500 {
            let (mut numbers, mut model) = pair(seed);
            assert!(numbers.iter().eq(model.iter().copied()), "{numbers:?}");
            assert_eq!(numbers.len(), model.len() as u64);
            for number in some(seed + 1).take(60) {
                assert_eq!(numbers.contains(number), model.contains(&number));
            }
            let (other, others) = pair(seed * 7 + 3);
            numbers.remove_all(&other);
            model.retain(|number| !others.contains(number));
            assert!(numbers.iter().eq(model.iter().copied()), "{numbers:?}");
        }
    }

    #[test]
    fn a_prefix_is_all_of_the_longer_one_up_to_somewhere() {
        let longer = Numbers::from([1, 2, 3, 5, 6]);
        let prefixes = [vec![], vec![1], vec![1, 2, 3], vec![1, 2, 3, 5, 6]];
        let others = [vec![2], vec![1, 3], vec![1, 4], vec![1, 2, 3, 6], vec![7]];
        let of = |all: &Vec<u64>| {
            let mut numbers = Numbers::default();
            all.iter()
                .for_each(|&number| assert!(numbers.insert(number)));
            numbers
        };
        for prefix in &prefixes {
            assert!(of(prefix).is_prefix_of(&longer), "{prefix:?}");
        }
        for other in &others {
            assert!(!of(other).is_prefix_of(&longer), "{other:?}");
        }
        assert!(!longer.is_prefix_of(&Numbers::from([1, 2, 3, 5])));
    }

    #[test]
    fn what_has_no_gap_is_one_run_in_whatever_order_it_comes() {
        for order in [[1, 2, 3, 4], [4, 3, 2, 1], [1, 4, 2, 3], [2, 4, 1, 3]] {
            assert_eq!(Numbers::from(order).runs, [(1, 4)], "{order:?}");
        }
        let mut long = Numbers::default();
        assert!((1..100_000).all(|number| long.insert(number)));
        assert_eq!(long.runs, [(1, 99_999)]);
    }

    #[test]
    fn its_bytes_are_read_again_and_others_are_not() {
        for seed in 0..200 {
            let (numbers, _) = pair(seed);
            let mut bytes = Vec::new();
            numbers.encode(&mut bytes);
            for len in 0..bytes.len() {
                assert_eq!(Numbers::decode(&mut &bytes[..len]), None);
            }
            bytes.push(7);
            let mut unread = &bytes[..];
            assert_eq!(Numbers::decode(&mut unread), Some(numbers));
            assert_eq!(unread, [7]);
        }
        let wrong = [
            vec![1, 3, 2],
            vec![2, 1, 3, 4, 5],
            vec![2, 4, 5, 1, 2],
            vec![2, 1, u64::MAX, 0, 1],
            vec![u64::MAX, 1, 2],
        ];
        for words in wrong {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert_eq!(Numbers::decode(&mut &bytes[..]), None, "{words:?}");
        }
    }
}
