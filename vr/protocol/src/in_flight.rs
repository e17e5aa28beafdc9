//! What is in the log and not executed yet, by client.

use crate::by_client::ByClient;
use crate::ids::{ClientId, Incarnation, OpNumber, RequestNumber};
use crate::log::{Entry, Kind};
use crate::message::Request;
use crate::walk_ins;
use alloc::vec::Vec;

/// A client's part of the log's unexecuted tail.
#[derive(Debug, Default)]
struct Flying {
    entries: u64,
    /// The latest session of which there are operations, and the highest number in it.
    last: (OpNumber, RequestNumber),
    /// Its registrations: position and life.
    registrations: Vec<(OpNumber, OpNumber)>,
}

/// An index over the entries that are in the log and not executed.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) walk_ins: walk_ins::Flying,
    clients: ByClient<Flying>,
}

impl InFlight {
    /// That of nothing, at a replica in this life of it.
    pub(crate) fn new(life: Incarnation) -> Self {
        Self {
            walk_ins: walk_ins::Flying::default(),
            clients: ByClient::new(life),
        }
    }

    /// The index of this tail.
    pub(crate) fn of<'a>(life: Incarnation, tail: impl Iterator<Item = &'a Entry>) -> Self {
        let mut index = Self::new(life);
        for entry in tail {
            index.add(entry);
        }
        index
    }

    /// An entry was appended.
    pub(crate) fn add(&mut self, entry: &Entry) {
        if entry.kind() == Kind::WalkIn {
            return self.walk_ins.add(entry);
        }
        if entry.kind() == Kind::Query {
            return; // of no session
        }
        let flying = self.clients.entry(entry.client());
        flying.entries += 1;
        if entry.kind() == Kind::Register {
            flying.registrations.push((entry.op(), entry.session()));
        } else {
            flying.last = flying.last.max((entry.session(), entry.number()));
        }
    }

    /// Whether this registration is there.
    pub(crate) fn registers(&self, request: &Request) -> bool {
        self.of_client(request.client, |flying| {
            let mut lives = flying.registrations.iter().map(|(_, life)| *life);
            lives.any(|life| life == request.session)
        })
    }

    /// Whether the registration that begins this session is there.
    pub(crate) fn begins(&self, client: ClientId, session: OpNumber) -> bool {
        self.of_client(client, |flying| {
            flying.registrations.iter().any(|(op, _)| *op == session)
        })
    }

    /// Whether this request, or a later one of its session, is there.
    pub(crate) fn has(&self, request: &Request) -> bool {
        self.of_client(request.client, |flying| {
            let (session, number) = flying.last;
            session == request.session && request.number <= number
        })
    }

    fn of_client(&self, client: ClientId, is_so: impl FnOnce(&Flying) -> bool) -> bool {
        self.clients.get(client).is_some_and(is_so)
    }

    /// [`Bug::TableUpdatedOnAccept`]: what was in flight stays so.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (client, flying) in other.clients.sorted() {
            let merged = self.clients.entry(client);
            merged.entries += flying.entries;
            merged.last = merged.last.max(flying.last);
        }
    }

    /// The oldest entry was executed.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        if entry.kind() == Kind::WalkIn {
            return self.walk_ins.remove(entry);
        }
        if entry.kind() == Kind::Query {
            return;
        }
        let flying = self
            .clients
            .get_mut(entry.client())
            .expect("executed entries were in flight");
        flying.entries -= 1;
        flying.registrations.retain(|(op, _)| *op != entry.op());
        if flying.entries == 0 {
            self.clients.remove(entry.client());
        }
    }
}
