//! What the workers of the demo do: fixed by the number of the operation, so that nobody has to
//! write down what was done.

/// How many keys each worker has.
pub(super) const KEYS: u64 = 16;

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Put,
    Get,
    Swap,
}

impl Action {
    /// Every eighth is a get, every eighth a swap; shifted, so that each key sees all of them.
    pub(super) fn nth(number: u64) -> Self {
        match (number + number / KEYS) % 8 {
            3 => Self::Get,
            7 => Self::Swap,
            _ => Self::Put,
        }
    }
}

/// Which of a worker's keys its operation `number` is about.
pub(super) fn key_of(number: u64) -> u64 {
    number % KEYS
}

/// Whether it writes: its own number, into its key.
pub(super) fn is_write(number: u64) -> bool {
    Action::nth(number) != Action::Get
}

/// The writes to a key that come after operation `after`, up to operation `last`; growing.
pub(super) fn writes(key: u64, after: u64, last: u64) -> impl Iterator<Item = u64> {
    let offset = (key + KEYS - (after + 1) % KEYS) % KEYS;
    let to_the_key = (after + 1..=last)
        .skip(offset as usize)
        .step_by(KEYS as usize);
    to_the_key.filter(|&number| is_write(number))
}

/// The operations before this one that are about the same key, the last one first.
pub(super) fn before(number: u64) -> impl Iterator<Item = u64> {
    let earlier = (1..number).rev();
    earlier.skip(KEYS as usize - 1).step_by(KEYS as usize)
}

/// The bytes of a worker's key.
pub(super) fn key_bytes(tag: u32, key: u64) -> Vec<u8> {
    format!("{tag}/{key}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_put_got_and_swapped() {
        for key in 0..KEYS {
            for action in [Action::Put, Action::Get, Action::Swap] {
                let numbers = (1..=KEYS * 64).filter(|&number| key_of(number) == key);
                let hits = numbers.filter(|&number| Action::nth(number) == action);
                assert!(hits.count() >= 7, "key {key}, {action:?}");
            }
        }
    }

    #[test]
    fn the_writes_to_a_key_are_found_from_both_sides() {
        for key in 0..KEYS {
            for after in 0..300 {
                let plain = (after + 1..=700).filter(|&number| key_of(number) == key);
                let plain = plain.filter(|&number| Action::nth(number) != Action::Get);
                assert!(writes(key, after, 700).eq(plain), "key {key} after {after}");
            }
        }
        for number in 1..300 {
            let plain = (1..number).filter(|&other| key_of(other) == key_of(number));
            assert!(before(number).eq(plain.rev()), "before {number}");
        }
        assert_eq!(
            writes(1, 0, 100).collect::<Vec<_>>(),
            [1, 17, 49, 65, 81, 97]
        );
    }
}
