//! Virtual time: the present, what is due when, and the trace of what was.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::SocketAddrV4;
use std::time::Duration;

use super::NodeId;
use super::trace::{Event, Trace};
use crate::reactor::OpKey;
use crate::time::Instant;

/// The only clock of a world, and the list of what is going to happen.
///
/// What is due at the same moment happens in the order in which it was planned.
#[derive(Debug)]
pub(super) struct Timeline {
    now: Instant,
    due: BinaryHeap<Due>,
    sequence: u64,
    pub(super) trace: Trace,
}

/// What is going to happen. What names a node's life means nothing to its later lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// A packet in flight arrives.
    Arrive { packet: usize },
    /// The sender hears that `peer` refused.
    Refuse {
        life: Life,
        from: SocketAddrV4,
        peer: SocketAddrV4,
    },
    /// A delayed submission reaches the kernel.
    Submit { life: Life, key: OpKey },
    /// A slow cancellation takes effect.
    Cancel { life: Life, key: OpKey },
    /// Its disk has done something.
    Disk { life: Life },
    /// There is something for the node to do.
    Wake { life: Life },
}

/// One life of a node, from its start to its crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) node: NodeId,
    pub(super) incarnation: u32,
}

#[derive(Debug, PartialEq, Eq)]
struct Due {
    at: Instant,
    sequence: u64,
    happening: Happening,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self {
            now: Instant::from_nanos(0),
            due: BinaryHeap::new(),
            sequence: 0,
            trace: Trace::default(),
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// Moves the present on.
    pub(super) fn jump(&mut self, to: Instant) {
        assert!(to >= self.now, "time does not go back");
        self.now = to;
    }

    pub(super) fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    pub(super) fn at(&mut self, at: Instant, happening: Happening) {
        self.sequence += 1;
        self.due.push(Due {
            at,
            sequence: self.sequence,
            happening,
        });
    }

    /// When the next thing is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.peek().map(|due| due.at)
    }

    /// Takes what is due now.
    pub(super) fn take_due(&mut self) -> Option<Happening> {
        if self.due.peek()?.at > self.now {
            return None;
        }
        self.due.pop().map(|due| due.happening)
    }

    pub(super) fn record(&mut self, event: Event) {
        self.trace.record(self.now, event);
    }
}

impl Ord for Due {
    /// The greatest is the first: the heap gives it out first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
