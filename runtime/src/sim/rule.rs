//! Rules: what happens to a packet, said by a closure.
//!
//! A rule is asked about every packet when it is sent. The first rule, in the order of their
//! making, whose verdict is not [`Verdict::Deliver`] decides; then the link's own faults follow.

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;

use super::NodeId;
use crate::time::Instant;

/// A datagram on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    pub(super) number: u64,
    pub(super) from_node: NodeId,
    pub(super) to_node: Option<NodeId>,
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) sent_at: Instant,
    /// Whether it counts against its link's capacity.
    pub(super) fills_link: bool,
    pub(super) payload: Vec<u8>,
}

impl Packet {
    /// Its number in this world: as in the trace.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The node that sent it.
    pub fn from_node(&self) -> NodeId {
        self.from_node
    }

    /// The node that has the address to which it was sent, if any.
    pub fn to_node(&self) -> Option<NodeId> {
        self.to_node
    }

    /// Whether it goes from `from` to `to`.
    pub fn is_between(&self, from: NodeId, to: NodeId) -> bool {
        self.from_node == from && self.to_node == Some(to)
    }

    /// The sender's address.
    pub fn from(&self) -> SocketAddrV4 {
        self.from
    }

    /// The receiver's address.
    pub fn to(&self) -> SocketAddrV4 {
        self.to
    }

    /// When it was sent, on the world's clock.
    pub fn sent_at(&self) -> Instant {
        self.sent_at
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// What a rule says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// This rule has no objection: ask the next one.
    Deliver,
    /// It is lost.
    Drop,
    /// It takes so much longer.
    Delay(Duration),
    /// It is sent twice, the second time so much later.
    Duplicate(Duration),
    /// It waits until it is [released](super::World::release).
    Hold,
    /// It arrives with another payload.
    Replace(Vec<u8>),
    /// It goes to another address.
    Redirect(SocketAddrV4),
}

/// Keeps a rule in force; dropping it removes the rule.
#[must_use = "a rule ends when its guard is dropped"]
pub struct RuleGuard {
    /// None: forgotten.
    in_force: Option<Rc<Cell<bool>>>,
}

impl RuleGuard {
    /// Leaves the rule in force for as long as the world lives.
    pub fn forget(mut self) {
        self.in_force = None;
    }
}

impl Drop for RuleGuard {
    fn drop(&mut self) {
        if let Some(in_force) = &self.in_force {
            in_force.set(false);
        }
    }
}

impl fmt::Debug for RuleGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleGuard").finish_non_exhaustive()
    }
}

/// The rules of one world.
#[derive(Default)]
pub(super) struct Rules {
    rules: Vec<Rule>,
}

struct Rule {
    in_force: Rc<Cell<bool>>,
    judge: Box<dyn FnMut(&Packet) -> Verdict>,
}

impl Rules {
    pub(super) fn add(&mut self, judge: Box<dyn FnMut(&Packet) -> Verdict>) -> RuleGuard {
        let in_force = Rc::new(Cell::new(true));
        self.rules.push(Rule {
            in_force: Rc::clone(&in_force),
            judge,
        });
        RuleGuard {
            in_force: Some(in_force),
        }
    }

    pub(super) fn judge(&mut self, packet: &Packet) -> Verdict {
        self.rules.retain(|rule| rule.in_force.get());
        for rule in &mut self.rules {
            let verdict = (rule.judge)(packet);
            if verdict != Verdict::Deliver {
                return verdict;
            }
        }
        Verdict::Deliver
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("count", &self.rules.len())
            .finish()
    }
}
