//! What the caller must now do, in order.

use crate::checkpoint::{Draft, Restore};
use crate::ids::{ClientId, Incarnation, OpNumber, ReplicaId, RequestNumber, View};
use crate::message::{Message, NormalView, ReadReply, Reply};
use crate::record::Record;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{BitOr, BitOrAssign};

/// One thing to do.
#[derive(Debug)]
pub enum Effect {
    /// Send a message to one replica.
    Send {
        /// Whom to.
        to: ReplicaId,
        /// What.
        message: Message,
    },
    /// Send a message to every other replica.
    Broadcast(Message),
    /// Answer a client. The caller knows where it is.
    Reply(Reply),
    /// Answer a client that never registers, in its own format.
    ReplyWalkIn(WalkInReply),
    /// Tell a client that its read was not taken, or is not answered here.
    ReadReply(ReadReply),
    /// Tell a reader in which view we are.
    NormalView(NormalView),
    /// Write part of the log.
    Persist(Persist),
    /// Take a checkpoint.
    Checkpoint(Draft),
    /// Read a checkpoint into the state machine.
    Restore(Restore),
    /// Keep this, and nothing older, for the replica's next life. **Every effect after this one
    /// may be performed only once it is durable**: they speak for a replica that will not forget
    /// it. If it cannot be made durable, the replica must stop.
    Remember(Record),
}

/// The answer to a walk-in: the result of what it asked, committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkInReply {
    /// The view in which the request was prepared.
    pub view: View,
    /// Its place in the log.
    pub op: OpNumber,
    /// Whom it is for.
    pub client: ClientId,
    /// Which request it answers.
    pub number: RequestNumber,
    /// What came of it.
    pub result: Rc<[u8]>,
}

/// A buffer of effects, to be reused from turn to turn.
#[derive(Debug, Default)]
pub struct Effects {
    queue: Vec<Effect>,
}

impl Effects {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes all effects, in the order in which they must be performed.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.queue.drain(..)
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many effects wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn send(&mut self, to: ReplicaId, message: Message) {
        self.queue.push(Effect::Send { to, message });
    }

    pub(crate) fn broadcast(&mut self, message: Message) {
        self.queue.push(Effect::Broadcast(message));
    }

    pub(crate) fn reply(&mut self, reply: Reply) {
        self.queue.push(Effect::Reply(reply));
    }

    pub(crate) fn reply_walk_in(&mut self, reply: WalkInReply) {
        self.queue.push(Effect::ReplyWalkIn(reply));
    }

    pub(crate) fn checkpoint(&mut self, draft: Draft) {
        self.queue.push(Effect::Checkpoint(draft));
    }

    pub(crate) fn restore(&mut self, restore: Restore) {
        self.queue.push(Effect::Restore(restore));
    }

    pub(crate) fn read_reply(&mut self, reply: ReadReply) {
        self.queue.push(Effect::ReadReply(reply));
    }

    pub(crate) fn normal_view(&mut self, told: NormalView) {
        self.queue.push(Effect::NormalView(told));
    }

    pub(crate) fn persist(&mut self, persist: Persist) {
        self.queue.push(Effect::Persist(persist));
    }

    pub(crate) fn remember(&mut self, record: Record) {
        self.queue.push(Effect::Remember(record));
    }
}

/// An order to the journal: from `first` on, the log now reads as the replica's log does up to
/// `last`, and it is the log of `log_view`. What the journal holds from `first` on is superseded.
/// If `first` does not follow what the journal holds, the log begins there, behind the checkpoint
/// that was last restored. `last` may be `first - 1`: then only the log view changes (and the rest
/// is cut).
///
/// There is one way to acknowledge entries: make them durable, call [`Persist::written`], hand
/// the token to [`Replica::on_durable`](crate::Replica::on_durable). Orders are to be
/// completed in the order of their emission; a token covers all orders of its log view before it.
#[derive(Debug)]
#[must_use = "entries are never acknowledged unless they are written"]
pub struct Persist {
    pub(crate) owner: (ReplicaId, Incarnation),
    pub(crate) first: OpNumber,
    pub(crate) last: OpNumber,
    pub(crate) log_view: View,
}

impl Persist {
    /// The first entry to write.
    pub fn first(&self) -> OpNumber {
        self.first
    }

    /// The last entry to write.
    pub fn last(&self) -> OpNumber {
        self.last
    }

    /// The view whose log this is.
    pub fn log_view(&self) -> View {
        self.log_view
    }

    /// The entries and the log view are durable.
    pub fn written(self) -> Durable {
        Durable {
            owner: self.owner,
            last: self.last,
            log_view: self.log_view,
        }
    }
}

/// Proof that a [`Persist`] was carried out.
#[derive(Debug)]
#[must_use = "entries are never acknowledged unless Replica::on_durable is told"]
pub struct Durable {
    pub(crate) owner: (ReplicaId, Incarnation),
    pub(crate) last: OpNumber,
    pub(crate) log_view: View,
}

/// What happened, of the things that timeouts wait for: a small set.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "timeouts must be told"]
pub struct Progress(u8);

impl Progress {
    /// Nothing that a timeout waits for.
    pub const NONE: Self = Self(0);
    /// The primary of our view was heard.
    pub const HEARD_PRIMARY: Self = Self(1);
    /// The commit-number has risen.
    pub const COMMITTED: Self = Self(1 << 1);
    /// f backups have answered the primary since this was last told.
    pub const HEARD_QUORUM: Self = Self(1 << 2);
    /// A `Prepare` was emitted: no heartbeat is due.
    pub const PREPARED: Self = Self(1 << 3);
    /// A page of entries, or a piece of a checkpoint, that we asked for has arrived and was used.
    pub const TRANSFERRED: Self = Self(1 << 4);
    /// Status, view or role changed: the role's timeouts are void.
    pub const ROLE_CHANGED: Self = Self(1 << 5);
    /// A `RoundOk` with a promise was emitted: it holds for a whole lease from now on.
    pub const PROMISED: Self = Self(1 << 6);

    const NAMES: [(Self, &'static str); 7] = [
        (Self::HEARD_PRIMARY, "HEARD_PRIMARY"),
        (Self::COMMITTED, "COMMITTED"),
        (Self::HEARD_QUORUM, "HEARD_QUORUM"),
        (Self::PREPARED, "PREPARED"),
        (Self::TRANSFERRED, "TRANSFERRED"),
        (Self::ROLE_CHANGED, "ROLE_CHANGED"),
        (Self::PROMISED, "PROMISED"),
    ];

    /// Whether all of `other` happened.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` happened.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing happened.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Progress {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Progress {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES
            .iter()
            .filter(|(one, _)| self.contains(*one))
            .map(|(_, name)| name);
        f.debug_set().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn progress_is_a_set() {
        let both = Progress::COMMITTED | Progress::PREPARED;
        assert!(both.contains(Progress::COMMITTED) && both.intersects(Progress::PREPARED));
        assert!(!both.contains(Progress::COMMITTED | Progress::ROLE_CHANGED));
        assert!(Progress::NONE.is_empty() && !both.is_empty());
        assert_eq!(format!("{both:?}"), r#"{"COMMITTED", "PREPARED"}"#);
    }
}
