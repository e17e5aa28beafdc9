//! Slices put together again.
//!
//! As in the original there is one place for each sender, and slices are taken in order only: a
//! sender posts them as one burst. What is bounded here and not there: senders, bytes, age.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use viewring_runtime::time::Instant;

use super::fragment::Fragment;
use super::stats::Stats;

/// Messages of which slices are missing.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    partial: BTreeMap<SocketAddr, Partial>,
}

/// One of them.
#[derive(Debug)]
struct Partial {
    message: u64,
    total: usize,
    /// From the beginning, without a gap. Grows with what arrives, not with what is promised.
    bytes: Vec<u8>,
    begun: Instant,
}

impl Reassembly {
    /// Adds a slice; returns the whole, once it is there.
    pub(crate) fn accept(
        &mut self,
        from: SocketAddr,
        fragment: Fragment<'_>,
        now: Instant,
        stats: &mut Stats,
    ) -> Option<Vec<u8>> {
        if fragment.start == 0 {
            self.begin(from, fragment, now, stats);
            return self.finish(from, stats);
        }
        let Some(partial) = self.partial.get_mut(&from) else {
            stats.fragment_gap += 1;
            return None;
        };
        if (partial.message, partial.total) != (fragment.message, fragment.total) {
            // One of an older message is late; one of a newer shows that the rest is lost.
            stats.fragment_gap += 1;
            if fragment.message > partial.message {
                stats.reassembly_superseded += 1;
                self.partial.remove(&from);
            }
            return None;
        }
        if fragment.start != partial.bytes.len() {
            stats.fragment_gap += 1;
            return None;
        }
        stats.fragments_kept += 1;
        partial.bytes.extend_from_slice(fragment.slice);
        self.finish(from, stats)
    }

    /// The sender's message, if it is whole.
    fn finish(&mut self, from: SocketAddr, stats: &mut Stats) -> Option<Vec<u8>> {
        let partial = &self.partial[&from];
        if partial.bytes.len() < partial.total {
            return None;
        }
        stats.messages_reassembled += 1;
        self.partial.remove(&from).map(|partial| partial.bytes)
    }

    /// The first slice of a message. What its sender had begun before it will not end: a process
    /// that was started again counts from 1 again.
    fn begin(&mut self, from: SocketAddr, fragment: Fragment<'_>, now: Instant, stats: &mut Stats) {
        if self.partial.remove(&from).is_some() {
            stats.reassembly_superseded += 1;
        }
        if self.partial.len() == SENDERS_MAX {
            let oldest = self.partial.iter().min_by_key(|(_, partial)| partial.begun);
            let oldest = oldest.map(|(&from, _)| from).expect("it is full");
            self.partial.remove(&oldest);
            stats.reassembly_senders += 1;
        }
        stats.fragments_kept += 1;
        stats.reassembly_opened += 1;
        let partial = Partial {
            message: fragment.message,
            total: fragment.total,
            bytes: fragment.slice.to_vec(),
            begun: now,
        };
        self.partial.insert(from, partial);
    }

    /// Drops what was begun too long ago.
    pub(crate) fn expire(&mut self, now: Instant, stats: &mut Stats) {
        if self.partial.is_empty() {
            return;
        }
        let before = self.partial.len();
        self.partial
            .retain(|_, partial| now < partial.begun + AGE_MAX);
        stats.reassembly_expired += (before - self.partial.len()) as u64;
    }

    /// How many messages are incomplete.
    #[cfg(test)]
    pub(crate) fn open_messages(&self) -> usize {
        self.partial.len()
    }
}

/// Senders at once; for one more, the message that was begun first is dropped.
const SENDERS_MAX: usize = 64;
/// How long after its first slice a message may be completed.
const AGE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specpaxos::fragment::fragments;
    use crate::testing::peer;

    /// The slices of message `number`: its magic number and `len` bytes.
    fn datagram(number: u8, len: usize) -> Vec<u8> {
        vec![number; 4 + len]
    }

    struct Bench {
        reassembly: Reassembly,
        stats: Stats,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                reassembly: Reassembly::default(),
                stats: Stats::default(),
                now: Instant::from_nanos(0),
            }
        }

        fn accept(&mut self, port: u16, number: u64, len: usize, slice: usize) -> Option<usize> {
            let datagram = datagram(number as u8, len);
            let fragment = fragments(number, &datagram).nth(slice).expect("there");
            let whole = self
                .reassembly
                .accept(peer(port), fragment, self.now, &mut self.stats)?;
            assert!(whole.iter().all(|&byte| byte == number as u8));
            Some(whole.len())
        }
    }

    #[test]
    fn slices_in_order_make_the_whole() {
        let mut bench = Bench::new();
        assert_eq!(bench.accept(1, 1, 20_000, 0), None);
        assert_eq!(
            bench.accept(2, 1, 10_000, 0),
            None,
            "another sender's is apart"
        );
        assert_eq!(bench.accept(1, 1, 20_000, 1), None);
        assert_eq!(bench.accept(1, 1, 20_000, 2), Some(20_000));
        assert_eq!(bench.accept(2, 1, 10_000, 1), Some(10_000));
        assert_eq!(bench.reassembly.open_messages(), 0);
    }

    /// The magic number counts when it is decided whether to cut, and not when it is cut.
    #[test]
    fn a_message_may_be_a_single_slice() {
        for len in [8_997, 9_000] {
            let mut bench = Bench::new();
            assert_eq!(bench.accept(1, 1, 9_500, 0), None);
            assert_eq!(bench.accept(1, 2, len, 0), Some(len));
            assert_eq!(bench.reassembly.open_messages(), 0);
            assert_eq!(bench.stats.reassembly_superseded, 1);
        }
    }

    #[test]
    fn a_gap_is_dropped_and_counted() {
        let mut bench = Bench::new();
        assert_eq!(bench.accept(1, 1, 20_000, 1), None);
        assert_eq!(bench.accept(1, 1, 20_000, 0), None);
        assert_eq!(bench.accept(1, 1, 20_000, 2), None);
        assert_eq!(bench.stats.fragment_gap, 2);
        assert_eq!(bench.accept(1, 1, 20_000, 1), None);
        assert_eq!(
            bench.accept(1, 1, 20_000, 2),
            Some(20_000),
            "it came after all"
        );
    }

    #[test]
    fn a_newer_message_supersedes_an_older_one_which_then_is_late() {
        let mut bench = Bench::new();
        assert_eq!(bench.accept(1, 1, 20_000, 0), None);
        assert_eq!(bench.accept(1, 2, 20_000, 0), None);
        assert_eq!(bench.accept(1, 1, 20_000, 1), None);
        assert_eq!(bench.accept(1, 2, 20_000, 1), None);
        assert_eq!(bench.accept(1, 2, 20_000, 2), Some(20_000));
        let stats = bench.stats;
        assert_eq!((stats.reassembly_superseded, stats.fragment_gap), (1, 1));
    }

    /// Where the original aborts.
    #[test]
    fn a_sender_that_was_started_again_counts_from_one_again() {
        let mut bench = Bench::new();
        assert_eq!(bench.accept(1, 9, 20_000, 0), None);
        assert_eq!(bench.accept(1, 1, 10_000, 0), None);
        assert_eq!(bench.accept(1, 1, 10_000, 1), Some(10_000));
    }

    #[test]
    fn senders_and_age_are_bounded() {
        let mut bench = Bench::new();
        for port in 0..=SENDERS_MAX as u16 {
            bench.now = Instant::from_nanos(u64::from(port));
            assert_eq!(bench.accept(port, 1, 20_000, 0), None);
        }
        assert_eq!(bench.reassembly.open_messages(), SENDERS_MAX);
        assert_eq!(
            bench.accept(0, 1, 20_000, 1),
            None,
            "the first one was dropped"
        );
        let later = bench.now + AGE_MAX;
        bench.reassembly.expire(later, &mut bench.stats);
        assert_eq!(bench.reassembly.open_messages(), 0);
        assert_eq!(bench.stats.reassembly_expired, SENDERS_MAX as u64);
    }
}
