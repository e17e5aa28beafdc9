//! What the clients call: operations, keys, and what would be an answer.

use clap::ValueEnum;
use viewring::kv::{Operation, Outcome};
use viewring::{ConfirmedBy, ReadConsistency};
use viewring_runtime::sim::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Op {
    /// Empty operations, whatever the group runs.
    Null,
    /// Puts to the key-value store.
    Put,
    /// Gets from the key-value store.
    Get,
    /// Both.
    Mix,
}

impl Op {
    /// The word on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Put => "put",
            Self::Get => "get",
            Self::Mix => "mix",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Popularity {
    /// Every key as often as any other.
    Uniform,
    /// The n-th key in proportion to n to the power of -0.99, as in YCSB.
    Zipf,
}

/// What all clients of a run call.
#[derive(Debug)]
pub(super) struct Workload {
    op: Op,
    /// Of [`Op::Mix`], how many of a hundred are gets.
    reads: u64,
    keys: Keys,
    key_size: usize,
    value: Vec<u8>,
    /// How fresh the answers to gets must be.
    pub(super) consistency: ReadConsistency,
    /// Who asks whether the primary leads still.
    pub(super) confirmed_by: ConfirmedBy,
}

/// Before the number of a key.
const PREFIX: &str = "bench/";

impl Workload {
    /// # Errors
    /// `key_size` is too short to tell so many keys apart: how long it has to be.
    pub(super) fn new(
        op: Op,
        reads: u64,
        (keys, popularity): (u64, Popularity),
        key_size: usize,
        value_size: usize,
    ) -> Result<Self, usize> {
        let least = PREFIX.len() + (keys - 1).to_string().len();
        if key_size < least {
            return Err(least);
        }
        Ok(Self {
            op,
            reads,
            keys: Keys::new(keys, popularity),
            key_size,
            value: vec![b'v'; value_size],
            consistency: ReadConsistency::default(),
            confirmed_by: ConfirmedBy::default(),
        })
    }

    pub(super) fn op(&self) -> Op {
        self.op
    }

    /// The keys that client `index` of `clients` has to put before anybody gets them.
    pub(super) fn share(&self, index: usize, clients: usize) -> impl Iterator<Item = u64> + use<> {
        let count = match self.op {
            Op::Null | Op::Put => 0,
            Op::Get | Op::Mix => self.keys.count,
        };
        (index as u64..count).step_by(clients)
    }

    /// A put to key number `key`.
    pub(super) fn put(&self, key: u64, operation: &mut Vec<u8>) {
        operation.clear();
        let key = &self.key(key);
        Operation::Put {
            key,
            value: &self.value,
        }
        .encode(operation);
    }

    /// What a client calls next.
    pub(super) fn next(&self, random: &mut Random, operation: &mut Vec<u8>) {
        operation.clear();
        let is_get = match self.op {
            Op::Null => return,
            Op::Put => false,
            Op::Get => true,
            Op::Mix => random.below(100) < self.reads,
        };
        let key = self.keys.pick(random);
        if is_get {
            let key = &self.key(key);
            Operation::Get { key }.encode(operation);
        } else {
            self.put(key, operation);
        }
    }

    /// Whether it only looks.
    pub(super) fn is_read(&self, operation: &[u8]) -> bool {
        let may_be = matches!(self.op, Op::Get | Op::Mix);
        may_be && matches!(Operation::decode(operation), Some(Operation::Get { .. }))
    }

    /// Whether `answer` is one to `operation`. All values are the same.
    pub(super) fn is_answer(&self, operation: &[u8], answer: &[u8]) -> bool {
        match Operation::decode(operation) {
            None => true,
            Some(Operation::Get { .. }) => {
                Outcome::decode(answer) == Some(Outcome::Value(Some(&self.value)))
            }
            Some(_) => Outcome::decode(answer) == Some(Outcome::Stored),
        }
    }

    /// `bench/` and the number, with zeros before it. By hand: of what a client does between two
    /// reads, formatting it would be a tenth.
    fn key(&self, number: u64) -> Vec<u8> {
        let mut key = vec![b'0'; self.key_size];
        let (prefix, digits) = key.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX.as_bytes());
        let (mut digits, mut rest) = (digits.iter_mut().rev(), number);
        while rest > 0
            && let Some(digit) = digits.next()
        {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
        key
    }
}

/// Which key is next.
#[derive(Debug)]
struct Keys {
    count: u64,
    /// For each key the share of it and of all before it. Empty: all the same.
    cumulative: Vec<f64>,
}

const ZIPF_EXPONENT: f64 = 0.99;

impl Keys {
    fn new(count: u64, popularity: Popularity) -> Self {
        let mut cumulative = Vec::new();
        if popularity == Popularity::Zipf {
            let mut sum = 0.0;
            cumulative.extend((1..=count).map(|rank| {
                sum += (rank as f64).powf(-ZIPF_EXPONENT);
                sum
            }));
            cumulative.iter_mut().for_each(|share| *share /= sum);
        }
        Self { count, cumulative }
    }

    fn pick(&self, random: &mut Random) -> u64 {
        if self.cumulative.is_empty() {
            return random.below(self.count);
        }
        let drawn = random.unit();
        let rank = self.cumulative.partition_point(|&share| share <= drawn);
        (rank as u64).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(op: Op, keys: u64, popularity: Popularity) -> Workload {
        Workload::new(op, 75, (keys, popularity), 16, 3).expect("keys of 16 bytes are enough")
    }

    /// How often each key was picked.
    fn picked(popularity: Popularity) -> Vec<u64> {
        let keys = Keys::new(100, popularity);
        let mut random = Random::new(1);
        let mut picked = vec![0; 100];
        for _ in 0..100_000 {
            picked[keys.pick(&mut random) as usize] += 1;
        }
        picked
    }

    #[test]
    fn uniform_keys_are_picked_alike_and_zipf_keys_by_their_rank() {
        assert!(
            picked(Popularity::Uniform)
                .iter()
                .all(|n| (800..1200).contains(n))
        );
        let zipf = picked(Popularity::Zipf);
        // With 100 keys the first has a share of 1 / 5.29, the second of half that.
        assert!((18_000..20_000).contains(&zipf[0]), "{zipf:?}");
        assert!((9_000..10_200).contains(&zipf[1]), "{zipf:?}");
        assert!(zipf[99] > 100, "{zipf:?}");
    }

    #[test]
    fn keys_and_values_have_the_sizes_that_were_asked_for() {
        let workload = workload(Op::Put, 1000, Popularity::Uniform);
        let mut operation = Vec::new();
        workload.put(7, &mut operation);
        let put = Operation::Put {
            key: b"bench/0000000007",
            value: b"vvv",
        };
        assert_eq!(Operation::decode(&operation), Some(put));
        let uniform = (1001, Popularity::Uniform);
        assert_eq!(Workload::new(Op::Put, 0, uniform, 9, 0).err(), Some(10));
    }

    #[test]
    fn a_mix_has_as_many_gets_as_was_asked_for() {
        let workload = workload(Op::Mix, 10, Popularity::Uniform);
        let mut random = Random::new(1);
        let mut operation = Vec::new();
        let gets = (0..10_000).filter(|_| {
            workload.next(&mut random, &mut operation);
            matches!(Operation::decode(&operation), Some(Operation::Get { .. }))
        });
        let gets = gets.count();
        assert!((7_300..7_700).contains(&gets), "{gets}");
    }

    #[test]
    fn what_is_read_is_put_before_and_each_key_once() {
        let workload = workload(Op::Get, 10, Popularity::Uniform);
        let mut all: Vec<u64> = (0..4).flat_map(|index| workload.share(index, 4)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        let null = self::workload(Op::Null, 10, Popularity::Uniform);
        assert_eq!(null.share(0, 1).count(), 0);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let workload = workload(Op::Mix, 10, Popularity::Uniform);
        let get = Operation::Get { key: b"k" }.to_bytes();
        let mut answer = Vec::new();
        Outcome::Value(Some(b"vvv")).encode(&mut answer);
        assert!(workload.is_answer(&get, &answer) && workload.is_answer(b"", &answer));
        let mut put = Vec::new();
        workload.put(1, &mut put);
        assert!(!workload.is_answer(&put, &answer));
        answer.clear();
        Outcome::Value(None).encode(&mut answer);
        assert!(!workload.is_answer(&get, &answer));
    }
}
