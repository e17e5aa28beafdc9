//! The client table (VRR §4) and, apart from it, what is in flight.
//!
//! The table knows committed requests only, so that a view change cannot make it lie: a request
//! that a view change cut off was never in it. What is in the log and not executed yet is found
//! in [`InFlight`], which is rebuilt whenever a log is installed.

use crate::frozen::{Run, Unread};
use crate::ids::{ClientId, OpNumber, RequestNumber};
use crate::log::{Entry, Kind};
use crate::message::{Outcome, Request};
use crate::walk_ins::{self, WalkIns};
use crate::wire::{self, Input};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// What is remembered of a registered client.
#[derive(Clone, Debug)]
struct Client {
    session: OpNumber,
    number: RequestNumber,
    outcome: Outcome,
    last_op: OpNumber,
}

/// Per client, the last committed request and its reply. A function of the executed log alone.
#[derive(Debug)]
pub(crate) struct ClientTable {
    clients: BTreeMap<ClientId, Client>,
    /// Each client under an op-number of its own that is not above its last one: an old one is
    /// corrected when it is looked at, so that executing costs nothing.
    ages: BTreeMap<OpNumber, ClientId>,
    capacity: usize,
    /// Those that never register.
    pub(crate) walk_ins: WalkIns,
}

/// What a request is, to a primary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// To be appended.
    New,
    /// In the log, not executed yet: the reply will come.
    InFlight,
    /// The last one: here is its reply again.
    Repeated(Outcome),
    /// Older than the last one.
    Old,
    /// Of no session that we know.
    NoSession,
}

impl ClientTable {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            clients: BTreeMap::new(),
            ages: BTreeMap::new(),
            capacity,
            walk_ins: WalkIns::new(capacity),
        }
    }

    /// VRR §4.1, step 2: compares the request-number with what is known.
    pub(crate) fn look(&self, request: &Request, in_flight: &InFlight) -> Seen {
        let known = self.clients.get(&request.client);
        let flying = in_flight.clients.get(&request.client);
        if request.kind == Kind::Register {
            return match (known, flying) {
                (Some(client), _) => Seen::Repeated(Outcome::Registered {
                    session: client.session,
                }),
                (None, Some(tail)) if tail.session.is_some() => Seen::InFlight,
                (None, _) => Seen::New,
            };
        }
        let session = known
            .map(|client| client.session)
            .or(flying.and_then(|tail| tail.session));
        if session != Some(request.session) {
            return Seen::NoSession;
        }
        if let Some(client) = known {
            if request.number < client.number {
                return Seen::Old;
            }
            if request.number == client.number {
                return Seen::Repeated(client.outcome.clone());
            }
        }
        if flying.is_some_and(|tail| request.number <= tail.number) {
            return Seen::InFlight;
        }
        Seen::New
    }

    /// Whether the state machine is to execute this committed entry: its session lives, and it
    /// is newer than the client's last one. The same at every replica.
    pub(crate) fn is_to_execute(&self, entry: &Entry) -> bool {
        if entry.kind() == Kind::WalkIn {
            return self.walk_ins.is_to_execute(entry);
        }
        entry.kind() == Kind::Operation
            && self.clients.get(&entry.client()).is_some_and(|client| {
                client.session == entry.session() && client.number < entry.number()
            })
    }

    /// Registers the client of a committed entry. The first registration of several holds.
    pub(crate) fn register(&mut self, entry: &Entry) -> Outcome {
        let id = entry.client();
        if let Some(client) = self.clients.get(&id) {
            return Outcome::Registered {
                session: client.session,
            };
        }
        if self.clients.len() >= self.capacity {
            self.forget_idlest();
        }
        let session = entry.op();
        let outcome = Outcome::Registered { session };
        let client = Client {
            session,
            number: RequestNumber::ZERO,
            outcome: outcome.clone(),
            last_op: session,
        };
        self.clients.insert(id, client);
        self.ages.insert(session, id);
        outcome
    }

    /// Forgets the client that was silent longest.
    fn forget_idlest(&mut self) {
        while let Some((age, id)) = self.ages.pop_first() {
            let last_op = self.clients[&id].last_op;
            if last_op == age {
                self.clients.remove(&id);
                return;
            }
            self.ages.insert(last_op, id);
        }
    }

    /// Remembers the reply of an entry that was executed.
    pub(crate) fn record(&mut self, entry: &Entry, outcome: Outcome) {
        let client = self
            .clients
            .get_mut(&entry.client())
            .expect("an executed entry has a client");
        assert!(
            client.number < entry.number(),
            "requests of a client are executed in order, once"
        );
        client.number = entry.number();
        client.outcome = outcome;
        client.last_op = entry.op();
    }

    /// How a committed entry that was not executed is to be answered.
    pub(crate) fn answer_unexecuted(&self, entry: &Entry) -> Option<Outcome> {
        match self.clients.get(&entry.client()) {
            Some(client) if client.session == entry.session() => {
                (client.number == entry.number()).then(|| client.outcome.clone())
            }
            Some(_) | None => Some(Outcome::NoSession),
        }
    }
}

/// The table as it was at some moment, to be written into a checkpoint. Outcomes are shared.
///
/// As bytes: the number of sessions, then each in the order of their clients' ids; and the same of
/// walk-ins.
pub(crate) struct Frozen {
    sessions: Run<(ClientId, Client)>,
    walk_ins: walk_ins::Frozen,
}

impl Frozen {
    /// Appends about so many bytes; whether there are more.
    pub(crate) fn write(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> bool {
        self.sessions.write(budget_bytes, out, put_client) || self.walk_ins.write(budget_bytes, out)
    }
}

impl ClientTable {
    /// The table as it is now.
    pub(crate) fn freeze(&self) -> Frozen {
        let clients = self.clients.iter();
        Frozen {
            sessions: clients.map(|(&id, client)| (id, client.clone())).collect(),
            walk_ins: self.walk_ins.freeze(),
        }
    }

    /// The table that these bytes begin with, and where it ends; none if they do not.
    pub(crate) fn thaw<'a>(
        read: impl Fn(u64, usize) -> &'a [u8],
        capacity: usize,
    ) -> Option<(Self, u64)> {
        let mut bytes = Unread::new(read);
        let mut table = Self::new(capacity);
        for _ in 0..bytes.count()? {
            let (id, client) = bytes.parse(get_client)?;
            let last = table.clients.last_key_value();
            let in_order = last.is_none_or(|(last, _)| *last < id);
            let fresh = table.ages.insert(client.last_op, id).is_none();
            if !in_order || !fresh || client.session > client.last_op {
                return None;
            }
            table.clients.insert(id, client);
        }
        table.walk_ins = WalkIns::thaw(&mut bytes, capacity)?;
        Some((table, bytes.at()))
    }
}

fn put_client((id, client): &(ClientId, Client), out: &mut Vec<u8>) {
    let numbers = [id.0, client.session.0, client.number.0, client.last_op.0];
    wire::put_numbers(out, &numbers);
    wire::put_outcome(out, &client.outcome);
}

fn get_client(input: &mut Input<'_>) -> Option<(ClientId, Client)> {
    let id = ClientId(input.number().ok()?);
    let client = Client {
        session: input.op().ok()?,
        number: RequestNumber(input.number().ok()?),
        last_op: input.op().ok()?,
        outcome: wire::get_outcome(input).ok()?,
    };
    let is_executed = matches!(
        client.outcome,
        Outcome::Result(_) | Outcome::Registered { .. }
    );
    is_executed.then_some((id, client))
}

/// A client's part of the log's unexecuted tail.
#[derive(Debug)]
struct Flying {
    entries: u64,
    number: RequestNumber,
    session: Option<OpNumber>,
}

/// An index over the entries that are in the log and not executed.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    pub(crate) walk_ins: walk_ins::Flying,
    clients: BTreeMap<ClientId, Flying>,
}

impl InFlight {
    /// The index of this tail.
    pub(crate) fn of<'a>(tail: impl Iterator<Item = &'a Entry>) -> Self {
        let mut index = Self::default();
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
        let fresh = Flying {
            entries: 0,
            number: RequestNumber::ZERO,
            session: None,
        };
        let flying = self.clients.entry(entry.client()).or_insert(fresh);
        flying.entries += 1;
        flying.number = flying.number.max(entry.number());
        if entry.kind() == Kind::Register {
            flying.session.get_or_insert(entry.op());
        }
    }

    /// [`Bug::TableUpdatedOnAccept`](crate::Bug::TableUpdatedOnAccept): what was in flight stays
    /// so.
    pub(crate) fn merge(&mut self, other: Self) {
        for (client, flying) in other.clients {
            let Flying {
                entries, number, ..
            } = flying;
            let fresh = Flying {
                entries: 0,
                number,
                session: None,
            };
            let merged = self.clients.entry(client).or_insert(fresh);
            merged.entries += entries;
            merged.number = merged.number.max(number);
        }
    }

    /// The oldest entry was executed.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        if entry.kind() == Kind::WalkIn {
            return self.walk_ins.remove(entry);
        }
        let flying = self
            .clients
            .get_mut(&entry.client())
            .expect("executed entries were in flight");
        flying.entries -= 1;
        if flying.session == Some(entry.op()) {
            flying.session = None;
        }
        if flying.entries == 0 {
            self.clients.remove(&entry.client());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Checksum, View};

    fn request(client: u64, session: u64, number: u64) -> Request {
        Request {
            client: ClientId(client),
            session: OpNumber(session),
            number: RequestNumber(number),
            kind: if number == 0 {
                Kind::Register
            } else {
                Kind::Operation
            },
            body: [].into(),
        }
    }

    fn entry(op: u64, request: &Request) -> Entry {
        Entry::new(OpNumber(op), View(0), Checksum(0), request)
    }

    fn result() -> Outcome {
        Outcome::Result([1].into())
    }

    #[test]
    fn a_request_goes_through_its_life() {
        let mut table = ClientTable::new(8);
        let mut flying = InFlight::default();
        let register = request(1, 0, 0);
        assert_eq!(table.look(&register, &flying), Seen::New);
        flying.add(&entry(1, &register));
        assert_eq!(table.look(&register, &flying), Seen::InFlight);
        assert_eq!(
            table.look(&request(1, 1, 1), &flying),
            Seen::New,
            "its session is in flight"
        );
        flying.remove(&entry(1, &register));
        let registered = table.register(&entry(1, &register));
        assert_eq!(table.look(&register, &flying), Seen::Repeated(registered));

        let first = request(1, 1, 1);
        flying.add(&entry(2, &first));
        assert_eq!(table.look(&first, &flying), Seen::InFlight);
        assert!(table.is_to_execute(&entry(2, &first)));
        flying.remove(&entry(2, &first));
        table.record(&entry(2, &first), result());
        assert_eq!(table.look(&first, &flying), Seen::Repeated(result()));
        assert!(
            !table.is_to_execute(&entry(3, &first)),
            "a duplicate in the log is not executed"
        );
        assert_eq!(table.look(&request(1, 1, 2), &flying), Seen::New);
        assert_eq!(table.look(&request(1, 9, 2), &flying), Seen::NoSession);
    }

    #[test]
    fn the_first_of_several_registrations_holds() {
        let mut table = ClientTable::new(8);
        let first = table.register(&entry(4, &request(1, 0, 0)));
        assert_eq!(
            first,
            Outcome::Registered {
                session: OpNumber(4)
            }
        );
        assert_eq!(table.register(&entry(6, &request(1, 0, 0))), first);
    }

    #[test]
    fn a_flood_of_registrations_is_bounded_and_forgets_in_order_of_age() {
        let mut table = ClientTable::new(64);
        let mut last_heard = BTreeMap::new();
        let mut op = 0;
        for client in 0..1000 {
            op += 1;
            table.register(&entry(op, &request(client, 0, 0)));
            last_heard.insert(client, (op, 0, op));
            let busy = client / 2;
            if let Some((session, number, last)) = last_heard.get_mut(&busy) {
                (op, *number) = (op + 1, *number + 1);
                let call = entry(op, &request(busy, *session, *number));
                if table.is_to_execute(&call) {
                    table.record(&call, result());
                    *last = op;
                }
            }
            if last_heard.len() > 64 {
                let (idlest, _) = last_heard
                    .iter()
                    .min_by_key(|(_, (.., last))| *last)
                    .unwrap();
                let idlest = *idlest;
                last_heard.remove(&idlest);
            }
            assert!(
                table
                    .clients
                    .keys()
                    .map(|id| id.0)
                    .eq(last_heard.keys().copied())
            );
            assert_eq!(table.ages.len(), table.clients.len());
        }
    }

    #[test]
    fn a_full_table_forgets_the_client_that_was_silent_longest() {
        let mut table = ClientTable::new(2);
        table.register(&entry(1, &request(1, 0, 0)));
        table.register(&entry(2, &request(2, 0, 0)));
        table.record(&entry(3, &request(1, 1, 1)), result());
        table.register(&entry(4, &request(3, 0, 0)));
        let flying = InFlight::default();
        assert_eq!(table.look(&request(2, 2, 1), &flying), Seen::NoSession);
        assert_eq!(table.look(&request(1, 1, 2), &flying), Seen::New);
        let late = entry(5, &request(2, 2, 1));
        assert!(!table.is_to_execute(&late));
        assert_eq!(table.answer_unexecuted(&late), Some(Outcome::NoSession));
    }
}
