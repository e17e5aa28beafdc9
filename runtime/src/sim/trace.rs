//! What happened, one event a line, and the hash of all of it.
//!
//! # Columns
//!
//! ```text
//!      0.000104310  n1    deliver           10.0.0.1:7000       10.0.0.2:7000          64  12
//! ```
//!
//! | column | |
//! |---|---|
//! | virtual time | in seconds, of the world; not the node's own clock |
//! | node | to whom it happened; `-` for the world |
//! | event | [`EventKind`]; a packet that was dropped says why: `drop:cut` |
//! | from, to | addresses of the packet, or `-` |
//! | size | in bytes of the packet; else 0 |
//! | number | of the packet, the same on all its lines; polls of a turn; what was drawn |
//!
//! Every event goes into the hash, also those that are not kept.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddrV4;

use super::NodeId;
use super::random::{GOLDEN, finish};
use crate::time::Instant;

/// One line of the trace; see the module's table of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// When, on the world's clock.
    pub at: Instant,
    /// To whom; `None` for the world.
    pub node: Option<NodeId>,
    /// What.
    pub kind: EventKind,
    /// A packet's sender.
    pub from: Option<SocketAddrV4>,
    /// A packet's receiver.
    pub to: Option<SocketAddrV4>,
    /// Which packet, how many polls, what was drawn.
    pub number: u64,
    /// A packet's length in bytes.
    pub size: usize,
}

/// What an [`Event`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A node began to run.
    Start,
    /// Its main future ended.
    Finish,
    /// It crashed.
    Crash,
    /// One of its tasks panicked.
    Panic,
    /// It was stopped for a while, or slowed down.
    Pause,
    /// A round of its loop.
    Turn(Cause),
    /// It drew a random number.
    Random,
    /// It was asked to stop.
    Signal,
    /// Its clock was changed.
    Clock,
    /// A packet was sent.
    Send,
    /// A packet reached a socket.
    Deliver,
    /// A packet was lost.
    Drop(DropReason),
    /// Another copy of a packet is under way.
    Duplicate,
    /// A bit of a packet was flipped.
    BitFlip,
    /// The end of a packet was cut off.
    Truncate,
    /// A rule holds a packet back.
    Hold,
    /// A held packet goes on.
    Release,
    /// The sender hears that nobody is there.
    Refuse,
    /// A receive ended by itself.
    ReceiveEnd(EndReason),
    /// A socket's free receive buffers were taken away for a while.
    Starve,
    /// A submission waits in a full queue.
    DelaySubmission,
    /// A cancellation takes its time.
    LateCancel,
    /// Completions came in another order.
    Reorder,
    /// A send failed.
    SendError,
    /// A link, a node's connection or a knob was changed.
    Network,
    /// Of what a disk had not synced, so many bytes are lost.
    DiskLoss,
    /// A disk did something that a program had asked for.
    Disk,
    /// It failed.
    DiskError,
    /// A node has got a new disk.
    DiskReplaced,
}

/// Why a node had a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Tasks were ready.
    Ready,
    /// Something arrived or was to be submitted.
    Completion,
    /// A deadline had passed.
    Timer,
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// The link's loss.
    Loss,
    /// The link is cut in this direction.
    Cut,
    /// The sender is mute.
    Mute,
    /// The receiver is deaf.
    Deaf,
    /// The link is full.
    Capacity,
    /// A rule said so.
    Rule,
    /// No node has the address.
    NoNode,
    /// The node is down.
    Down,
    /// No socket has the port.
    NoSocket,
    /// The socket's buffer is full.
    SocketFull,
}

/// Why a receive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// A datagram of no bytes.
    Empty,
    /// Completions overflowed; it brought a datagram.
    Overflow,
    /// No buffer was free.
    NoBuffers,
    /// The socket had an error.
    Error,
    /// It was cancelled.
    Cancelled,
}

impl EventKind {
    /// The word of the trace, and a number for the hash.
    fn word(self) -> (&'static str, u64) {
        match self {
            Self::Start => ("start", 1),
            Self::Finish => ("finish", 2),
            Self::Crash => ("crash", 3),
            Self::Panic => ("panic", 4),
            Self::Pause => ("pause", 5),
            Self::Turn(Cause::Ready) => ("turn:ready", 6),
            Self::Turn(Cause::Completion) => ("turn:completion", 7),
            Self::Turn(Cause::Timer) => ("turn:timer", 8),
            Self::Random => ("random", 9),
            Self::Signal => ("signal", 10),
            Self::Clock => ("clock", 11),
            Self::Send => ("send", 12),
            Self::Deliver => ("deliver", 13),
            Self::Drop(reason) => reason.word(),
            Self::Duplicate => ("duplicate", 14),
            Self::BitFlip => ("bit-flip", 15),
            Self::Truncate => ("truncate", 16),
            Self::Hold => ("hold", 17),
            Self::Release => ("release", 18),
            Self::Refuse => ("refuse", 19),
            Self::ReceiveEnd(EndReason::Empty) => ("end:empty", 20),
            Self::ReceiveEnd(EndReason::Overflow) => ("end:overflow", 21),
            Self::ReceiveEnd(EndReason::NoBuffers) => ("end:no-buffers", 22),
            Self::ReceiveEnd(EndReason::Error) => ("end:error", 23),
            Self::ReceiveEnd(EndReason::Cancelled) => ("end:cancelled", 24),
            Self::Starve => ("starve", 25),
            Self::DelaySubmission => ("delay-submission", 26),
            Self::LateCancel => ("late-cancel", 27),
            Self::Reorder => ("reorder", 28),
            Self::SendError => ("send-error", 29),
            Self::Network => ("network", 30),
            Self::DiskLoss => ("disk-loss", 31),
            Self::Disk => ("disk", 32),
            Self::DiskError => ("disk-error", 33),
            Self::DiskReplaced => ("disk-replaced", 34),
        }
    }
}

impl DropReason {
    fn word(self) -> (&'static str, u64) {
        match self {
            Self::Loss => ("drop:loss", 101),
            Self::Cut => ("drop:cut", 102),
            Self::Mute => ("drop:mute", 103),
            Self::Deaf => ("drop:deaf", 104),
            Self::Capacity => ("drop:capacity", 105),
            Self::Rule => ("drop:rule", 106),
            Self::NoNode => ("drop:no-node", 107),
            Self::Down => ("drop:down", 108),
            Self::NoSocket => ("drop:no-socket", 109),
            Self::SocketFull => ("drop:full", 110),
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word().0)
    }
}

impl Event {
    pub(super) fn of(node: NodeId, kind: EventKind) -> Self {
        Self {
            node: Some(node),
            ..Self::world(kind)
        }
    }

    pub(super) fn world(kind: EventKind) -> Self {
        Self {
            at: Instant::from_nanos(0),
            node: None,
            kind,
            from: None,
            to: None,
            number: 0,
            size: 0,
        }
    }

    pub(super) fn number(self, number: u64) -> Self {
        Self { number, ..self }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |thing: Option<String>| thing.unwrap_or_else(|| "-".to_owned());
        let at_ns = self.at.as_nanos();
        write!(
            f,
            "{:>6}.{:09}  {:<4}  {:<16}  {:<18}  {:<18}  {:>5}  {}",
            at_ns / 1_000_000_000,
            at_ns % 1_000_000_000,
            or_dash(self.node.map(|node| node.to_string())),
            self.kind,
            or_dash(self.from.map(|addr| addr.to_string())),
            or_dash(self.to.map(|addr| addr.to_string())),
            self.size,
            self.number,
        )
    }
}

/// Which events are kept for reading. The hash is of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The last so many, without turns.
    Last(usize),
    /// All, without turns.
    All,
    /// All, with every turn.
    Everything,
}

impl Default for Keep {
    fn default() -> Self {
        Self::Last(200)
    }
}

#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    keep: Keep,
    kept: VecDeque<Event>,
    count: u64,
}

impl Trace {
    /// Adds an event; `now` is the world's time.
    pub(super) fn record(&mut self, now: Instant, event: Event) {
        let event = Event { at: now, ..event };
        self.count += 1;
        let node = event.node.map_or(u64::MAX, |node| node.index() as u64);
        self.absorb(now.as_nanos());
        self.absorb(event.kind.word().1 << 48 ^ node << 32 ^ event.size as u64);
        self.absorb(event.number);
        let is_turn = matches!(event.kind, EventKind::Turn(_));
        if is_turn && self.keep != Keep::Everything {
            return;
        }
        if let Keep::Last(most) = self.keep {
            if most == 0 {
                return;
            }
            while self.kept.len() >= most {
                self.kept.pop_front();
            }
        }
        self.kept.push_back(event);
    }

    /// Makes bytes that are not in an event part of the hash.
    pub(super) fn absorb_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.absorb(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.absorb(u64::from_le_bytes(last) ^ (bytes.len() as u64).rotate_left(56));
    }

    pub(super) fn absorb_addresses(&mut self, from: SocketAddrV4, to: SocketAddrV4) {
        let word =
            |addr: SocketAddrV4| u64::from(addr.ip().to_bits()) << 16 | u64::from(addr.port());
        self.absorb(word(from));
        self.absorb(word(to));
    }

    fn absorb(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(23) ^ word).wrapping_mul(GOLDEN);
    }

    pub(super) fn hash(&self) -> u64 {
        finish(self.hash ^ self.count)
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn set_keep(&mut self, keep: Keep) {
        self.keep = keep;
    }

    pub(super) fn kept(&self) -> impl DoubleEndedIterator<Item = &Event> + ExactSizeIterator {
        self.kept.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn event(number: u64) -> Event {
        Event::of(NodeId::new(1), EventKind::Deliver).number(number)
    }

    #[test]
    fn the_columns_stay_where_they_are() {
        let addr = |last| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), 7000);
        let event = Event {
            at: Instant::from_nanos(1_000_104_310),
            from: Some(addr(1)),
            to: Some(addr(2)),
            size: 64,
            ..event(12)
        };
        let line = concat!(
            "     1.000104310  n1    deliver           ",
            "10.0.0.1:7000       10.0.0.2:7000          64  12",
        );
        assert_eq!(event.to_string(), line);
    }

    #[test]
    fn only_the_last_are_kept_and_all_are_hashed() {
        let (mut few, mut all) = (Trace::default(), Trace::default());
        few.set_keep(Keep::Last(2));
        all.set_keep(Keep::Everything);
        for number in 0..5 {
            few.record(Instant::from_nanos(number), event(number));
            all.record(Instant::from_nanos(number), event(number));
        }
        let numbers: Vec<u64> = few.kept().map(|event| event.number).collect();
        assert_eq!(numbers, [3, 4]);
        assert_eq!(all.kept().len(), 5);
        assert_eq!(few.hash(), all.hash());
    }

    #[test]
    fn the_hash_knows_order_bytes_and_length() {
        let hash = |chunks: &[&[u8]]| {
            let mut trace = Trace::default();
            chunks.iter().for_each(|bytes| trace.absorb_bytes(bytes));
            trace.hash()
        };
        assert_ne!(hash(&[b"a", b"b"]), hash(&[b"b", b"a"]));
        assert_ne!(hash(&[b"a"]), hash(&[b"a\0"]));
        assert_ne!(hash(&[b"12345678"]), hash(&[b"12345679"]));
    }
}
