//! The one kernel timer, armed for the earliest deadline, lazily.
//!
//! A restart is free: a timer that is armed for an earlier moment stays, and finds nothing then.

use std::cell::UnsafeCell;

use io_uring::{opcode, squeue, types};

use super::ring::Ring;
use super::user_data::UserData;
use crate::time::Instant;

pub(super) struct DeadlineTimer {
    spec: Box<UnsafeCell<types::Timespec>>,
    armed: Option<Instant>,
    /// Tells one arming from the next: a completion of an earlier one is inert.
    generation: u32,
}

impl DeadlineTimer {
    pub(super) fn new() -> Self {
        Self {
            spec: Box::new(UnsafeCell::new(types::Timespec::new())),
            armed: None,
            generation: 0,
        }
    }

    /// Has the ring wake up at `deadline` or before. Says whether that took an entry.
    pub(super) fn arm(&mut self, ring: &mut Ring, deadline: Instant) -> bool {
        let update = match self.armed {
            Some(armed) if armed <= deadline => return false,
            Some(_) => true,
            None => false,
        };
        self.armed = Some(deadline);
        let nanos = deadline.as_nanos();
        let spec = types::Timespec::new()
            .sec(nanos / 1_000_000_000)
            .nsec((nanos % 1_000_000_000) as u32);
        let pointer = self.spec.get();
        // SAFETY: `pointer` is valid for writes, and nothing else accesses it at this moment: the
        // kernel reads it only within an enter of this thread, when it consumes an entry.
        unsafe { pointer.write(spec) };
        let flags = types::TimeoutFlags::ABS;
        let entry = if update {
            let target = UserData::Timer(self.generation);
            opcode::TimeoutUpdate::new(target.encode(), pointer)
                .flags(flags)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(UserData::TimerUpdate(self.generation).encode())
        } else {
            self.generation = (self.generation + 1) & UserData::GENERATION_MASK;
            opcode::Timeout::new(pointer)
                .flags(flags)
                .build()
                .user_data(UserData::Timer(self.generation).encode())
        };
        // SAFETY: io_uring_prep_timeout(3): the timespec is read when the entry is consumed; it
        // lives as long as the ring, and holds the latest deadline whenever it is read.
        unsafe { ring.push(entry) };
        true
    }

    /// It fired, or could not be changed because it had fired: it has to be armed anew. False if
    /// that is said of an earlier arming.
    pub(super) fn ended(&mut self, generation: u32) -> bool {
        let current = generation == self.generation;
        if current {
            self.armed = None;
        }
        current
    }
}

#[cfg(test)]
mod tests {
    use io_uring::cqueue;

    use super::*;

    /// The generation in a completion's user data has fewer bits than a counter.
    #[test]
    fn the_timer_still_fires_when_its_generation_has_gone_round() {
        let mut ring = Ring::new(2, 4).expect("a ring");
        let mut timer = DeadlineTimer::new();
        timer.generation = UserData::GENERATION_MASK - 2;
        for round in 0..6 {
            assert!(
                timer.arm(&mut ring, Instant::from_nanos(1 + round)),
                "armed anew"
            );
            let mut reaped: Vec<cqueue::Entry> = Vec::new();
            while reaped.is_empty() {
                ring.enter(1).expect("entered");
                ring.reap(&mut reaped);
            }
            let fired = UserData::decode(reaped[0].user_data());
            assert_eq!(fired, UserData::Timer(timer.generation));
            assert!(timer.ended(timer.generation));
        }
        assert!(timer.generation < 9);
    }
}
