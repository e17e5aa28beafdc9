//! The ring's own bad days: what io_uring may do, seldom does, and a program must survive.

use std::time::Duration;

use super::random::Random;
use crate::reactor::{Completion, OpKey};

/// The knobs of one node's ring, turned by [`World::update_ring`](super::World::update_ring). All
/// off by default. Every fault is something that the real one does now and then.
#[derive(Clone, Debug, PartialEq)]
pub struct RingFaults {
    /// Per datagram: the receive ends with it because completions overflowed.
    pub overflow: f64,
    /// Per datagram: one of no bytes comes before it, which ends the receive.
    pub empty: f64,
    /// Per turn in which a socket has datagrams: it has an error (`ENETDOWN`), which ends the
    /// receive.
    pub socket_error: f64,
    /// Per turn in which a socket has datagrams: all its free receive buffers are taken away for a
    /// while, so that the receive ends with `ENOBUFS` and cannot start again at once.
    pub starve: f64,
    /// For how long on average.
    pub starve_for: Duration,
    /// Per cancellation: it takes a while, in which the operation goes on and may succeed.
    pub late_cancel: f64,
    /// Per operation: it is submitted later, because the queue was full.
    pub delay_submission: f64,
    /// How late on average: of submissions and of cancellations.
    pub late_by: Duration,
    /// Per turn: completions of different operations come in any order.
    pub reorder: f64,
    /// Per send: it fails, with `ENOBUFS`, `ENOMEM`, `EPERM` or `ENETUNREACH`.
    pub send_error: f64,
    /// Per durable write: its sync is cut off from it, and not done.
    pub cut_link: f64,
}

impl Default for RingFaults {
    fn default() -> Self {
        Self {
            overflow: 0.0,
            empty: 0.0,
            socket_error: 0.0,
            starve: 0.0,
            starve_for: Duration::from_millis(5),
            late_cancel: 0.0,
            delay_submission: 0.0,
            late_by: Duration::from_micros(200),
            reorder: 0.0,
            send_error: 0.0,
            cut_link: 0.0,
        }
    }
}

impl RingFaults {
    /// Faults as `random` decides: each is on in some worlds and off in others, in any strength.
    pub fn draw(random: &mut Random) -> Self {
        let mut drawn = Self {
            overflow: random.strength(0.05),
            empty: random.strength(0.02),
            socket_error: random.strength(0.01),
            starve: random.strength(0.01),
            late_cancel: random.strength(0.5),
            delay_submission: random.strength(0.1),
            reorder: random.strength(0.5),
            send_error: random.strength(0.02),
            ..Self::default()
        };
        // A kernel in need does both.
        drawn.cut_link = drawn.delay_submission;
        drawn
    }
}

/// The faults of one ring, with a stream of random numbers for each.
#[derive(Debug)]
pub(super) struct RingState {
    pub(super) knobs: RingFaults,
    overflow: Random,
    empty: Random,
    socket_error: Random,
    starve: Random,
    late_cancel: Random,
    delay_submission: Random,
    reorder: Random,
    send_error: Random,
    cut_link: Random,
}

impl RingState {
    pub(super) fn new(random: &Random) -> Self {
        Self {
            knobs: RingFaults::default(),
            overflow: random.fork(1),
            empty: random.fork(2),
            socket_error: random.fork(3),
            starve: random.fork(4),
            late_cancel: random.fork(5),
            delay_submission: random.fork(6),
            reorder: random.fork(7),
            send_error: random.fork(8),
            cut_link: random.fork(9),
        }
    }

    pub(super) fn overflows(&mut self) -> bool {
        self.overflow.chance(self.knobs.overflow)
    }

    pub(super) fn brings_empty(&mut self) -> bool {
        self.empty.chance(self.knobs.empty)
    }

    pub(super) fn socket_fails(&mut self) -> bool {
        self.socket_error.chance(self.knobs.socket_error)
    }

    /// For how long the buffers are away.
    pub(super) fn starves(&mut self) -> Option<Duration> {
        let (chance, mean) = (self.knobs.starve, self.knobs.starve_for);
        late(&mut self.starve, chance, mean)
    }

    pub(super) fn cancels_late(&mut self) -> Option<Duration> {
        let (chance, mean) = (self.knobs.late_cancel, self.knobs.late_by);
        late(&mut self.late_cancel, chance, mean)
    }

    pub(super) fn submits_late(&mut self) -> Option<Duration> {
        let (chance, mean) = (self.knobs.delay_submission, self.knobs.late_by);
        late(&mut self.delay_submission, chance, mean)
    }

    pub(super) fn cuts_link(&mut self) -> bool {
        self.cut_link.chance(self.knobs.cut_link)
    }

    /// The error of a send that fails.
    pub(super) fn send_fails(&mut self) -> Option<i32> {
        const ERRORS: [i32; 4] = [libc::ENOBUFS, libc::ENOMEM, libc::EPERM, libc::ENETUNREACH];
        let fails = self.send_error.chance(self.knobs.send_error);
        fails.then(|| ERRORS[self.send_error.index(ERRORS.len())])
    }

    /// Puts completions into another order, those of one operation excepted: the kernel posts
    /// them one after the other. False if it leaves them alone.
    pub(super) fn reorders(&mut self, completions: &mut [Completion]) -> bool {
        if completions.len() < 2 || !self.reorder.chance(self.knobs.reorder) {
            return false;
        }
        let mut order: Vec<(OpKey, usize)> = completions
            .iter()
            .enumerate()
            .map(|(place, completion)| (completion.key, place))
            .collect();
        self.reorder.shuffle(&mut order);
        // The places that an operation was dealt stay its own; it fills them in its old order.
        let mut dealt: Vec<(OpKey, usize)> = (order.iter().enumerate())
            .map(|(to, &(key, _))| (key, to))
            .collect();
        dealt.sort_unstable();
        order.sort_unstable();
        let mut target = vec![0; completions.len()];
        for (&(_, from), &(_, to)) in order.iter().zip(&dealt) {
            target[from] = to;
        }
        permute(completions, &mut target);
        true
    }
}

/// Moves each item to its target.
fn permute<T>(items: &mut [T], target: &mut [usize]) {
    for place in 0..items.len() {
        while target[place] != place {
            let to = target[place];
            items.swap(place, to);
            target.swap(place, to);
        }
    }
}

fn late(random: &mut Random, chance: f64, mean: Duration) -> Option<Duration> {
    let late = random.chance(chance);
    late.then(|| random.exponential(mean).max(Duration::from_nanos(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Outcome;

    #[test]
    fn completions_of_one_operation_keep_their_order() {
        let mut ring = RingState::new(&Random::new(1));
        ring.knobs.reorder = 1.0;
        let mut moved = false;
        for _ in 0..50 {
            let mut completions: Vec<Completion> = (0..20)
                .map(|n| Completion {
                    key: OpKey {
                        index: n % 3,
                        generation: 1,
                    },
                    result: Ok(Outcome::Bytes(n as usize)),
                    more: true,
                })
                .collect();
            assert!(ring.reorders(&mut completions));
            let number = |completion: &Completion| {
                let Ok(Outcome::Bytes(n)) = completion.result else {
                    unreachable!("made above")
                };
                n
            };
            let all: Vec<usize> = completions.iter().map(number).collect();
            moved |= !all.is_sorted();
            for index in 0..3 {
                let of_one = completions.iter().filter(|c| c.key.index == index);
                assert!(of_one.map(number).is_sorted());
            }
            let mut sorted = all;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        }
        assert!(moved);
    }
}
