//! The client table (VRR §4).
//!
//! The table knows committed requests only, so that a view change cannot make it lie: a request
//! that a view change cut off was never in it. What is in the log and not executed yet is found
//! in `InFlight`, which is rebuilt whenever a log is installed.

use crate::bug::Bug;
use crate::by_client::ByClient;
use crate::configuration::Configuration;
use crate::frozen::{Run, Unread};
use crate::ids::{ClientId, Incarnation, OpNumber, ReplicaId, RequestNumber};
use crate::in_flight::InFlight;
use crate::log::{Entry, Kind};
use crate::message::{Outcome, Request};
use crate::walk_ins::{self, WalkIns};
use crate::wire::{self, Input};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// So many bytes at most say where a client's replies go; a longer address is not remembered.
pub const RETURN_ADDRESS_BYTES_MAX: usize = 32;

/// What is remembered of a registered client.
#[derive(Clone, Debug)]
struct Client {
    session: OpNumber,
    /// What its registration carried for a session.
    life: OpNumber,
    return_address: Rc<[u8]>,
    number: RequestNumber,
    outcome: Outcome,
    last_op: OpNumber,
    /// Where it stands in `ages`.
    age: OpNumber,
}

impl Client {
    /// Keeps a result: in the memory of the last one if that was as long, and nobody else has it
    /// any more, neither a reply nor a checkpoint.
    fn keep(&mut self, result: &[u8]) {
        if let Outcome::Result(last) = &mut self.outcome
            && last.len() == result.len()
            && let Some(last) = Rc::get_mut(last)
        {
            last.copy_from_slice(result);
        } else {
            self.outcome = Outcome::Result(result.into());
        }
    }
}

/// Per client, the last committed request and its reply. A function of the executed log alone, and
/// so is who is forgotten when clients are too many, or their results too long: who was silent
/// longest, in the order of the log.
#[derive(Debug)]
pub(crate) struct ClientTable {
    clients: ByClient<Client>,
    /// Each client under an op-number of its own that is not above its last one: an old one is
    /// corrected when it is looked at, so that executing costs nothing.
    ages: BTreeMap<OpNumber, ClientId>,
    /// Those that never register.
    pub(crate) walk_ins: WalkIns,
    /// The length of all results that are kept.
    kept_bytes: usize,
    forgotten: u64,
    max_clients: usize,
    max_reply_bytes: usize,
    max_kept_bytes: usize,
    /// Always none, but in tests of tests.
    bug: Option<Bug>,
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
    /// Of a session that has ended.
    Ended,
    /// Of no session that ever was.
    NoSession,
}

impl ClientTable {
    /// An empty table, at a replica in this life of it.
    pub(crate) fn new(group: &Configuration, life: Incarnation) -> Self {
        Self {
            clients: ByClient::new(life),
            ages: BTreeMap::new(),
            walk_ins: WalkIns::new(group.max_clients()),
            kept_bytes: 0,
            forgotten: 0,
            max_clients: group.max_clients(),
            max_reply_bytes: group.max_reply_bytes(),
            max_kept_bytes: group.max_kept_bytes(),
            bug: None,
        }
    }

    /// How many clients are registered.
    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// How many bytes their results take.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// How many clients were forgotten to make room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Where replies go, as the client's registration said.
    pub(crate) fn return_address(&self, client: ClientId) -> Option<&[u8]> {
        let client = self.clients.get(client)?;
        Some(&client.return_address)
    }

    /// VRR §4.1, step 2: compares the request-number with what is known, having executed the log
    /// up to `executed`.
    pub(crate) fn look(&self, request: &Request, in_flight: &InFlight, executed: OpNumber) -> Seen {
        let known = self.clients.get(request.client);
        if request.kind == Kind::Register {
            return match known {
                Some(client) if self.is_of_life(client, request.session) => {
                    Seen::Repeated(Outcome::Registered {
                        session: client.session,
                    })
                }
                _ if in_flight.registers(request) => Seen::InFlight,
                _ => Seen::New,
            };
        }
        match known {
            Some(client) if client.session == request.session => {
                if request.number < client.number {
                    return Seen::Old;
                }
                if request.number == client.number {
                    return Seen::Repeated(client.outcome.clone());
                }
            }
            _ if in_flight.begins(request.client, request.session) => {}
            _ if has_been(request.session, executed) => return Seen::Ended,
            _ => return Seen::NoSession,
        }
        if in_flight.has(request) {
            return Seen::InFlight;
        }
        Seen::New
    }

    /// Whether this registration is the one that began the client's session.
    fn is_of_life(&self, client: &Client, life: OpNumber) -> bool {
        client.life == life || self.bug == Some(Bug::SessionOutlivesClient)
    }

    /// Whether the state machine is to execute this committed entry: its session lives, and it
    /// is newer than the client's last one. The same at every replica.
    pub(crate) fn is_to_execute(&self, entry: &Entry) -> bool {
        if entry.kind() == Kind::WalkIn {
            return self.walk_ins.is_to_execute(entry);
        }
        entry.kind() == Kind::Operation && self.is_new(entry)
    }

    fn is_new(&self, entry: &Entry) -> bool {
        self.clients.get(entry.client()).is_some_and(|client| {
            client.session == entry.session() && client.number < entry.number()
        })
    }

    /// Registers the client of a committed entry. Of several registrations of one life the first
    /// holds; that of another life ends the session.
    pub(crate) fn register(&mut self, entry: &Entry) -> Outcome {
        let (id, session) = (entry.client(), entry.op());
        match self.clients.get(id) {
            Some(client) if self.is_of_life(client, entry.session()) => {
                return Outcome::Registered {
                    session: client.session,
                };
            }
            Some(_) => self.remove(id),
            None => {}
        }
        if self.clients.len() >= self.max_clients {
            self.forget_idlest();
        }
        let address = Rc::clone(entry.body());
        let fits = address.len() <= RETURN_ADDRESS_BYTES_MAX;
        let outcome = Outcome::Registered { session };
        let client = Client {
            session,
            life: entry.session(),
            return_address: if fits { address } else { Rc::default() },
            number: RequestNumber::ZERO,
            outcome: outcome.clone(),
            last_op: session,
            age: session,
        };
        self.clients.insert(id, client);
        self.ages.insert(session, id);
        outcome
    }

    /// Ends the session of a committed entry, if it lives.
    pub(crate) fn close(&mut self, entry: &Entry) -> Option<Outcome> {
        if self.is_new(entry) {
            self.remove(entry.client());
        }
        self.answer_unexecuted(entry)
    }

    fn remove(&mut self, id: ClientId) {
        let client = self.clients.remove(id).expect("it is registered");
        self.ages.remove(&client.age);
        self.kept_bytes -= bytes_of(&client.outcome);
    }

    /// Forgets the client that was silent longest.
    fn forget_idlest(&mut self) {
        self.forgotten += 1;
        if self.bug == Some(Bug::EvictionDiffers)
            && let Some((_, &id)) = self.ages.last_key_value()
        {
            return self.remove(id);
        }
        while let Some((age, id)) = self.ages.pop_first() {
            let client = self.clients.get_mut(id).expect("it has an age");
            if client.last_op == age {
                return self.remove(id);
            }
            client.age = client.last_op;
            self.ages.insert(client.last_op, id);
        }
    }

    /// Remembers the result of an entry that was executed, and makes room for it; what the client
    /// is told.
    pub(crate) fn record(&mut self, entry: &Entry, result: &[u8]) -> Outcome {
        let client = self
            .clients
            .get_mut(entry.client())
            .expect("an executed entry has a client");
        assert!(
            client.number < entry.number(),
            "requests of a client are executed in order, once"
        );
        self.kept_bytes -= bytes_of(&client.outcome);
        if result.len() > self.max_reply_bytes {
            client.outcome = Outcome::ResultTooLarge;
        } else {
            client.keep(result);
        }
        self.kept_bytes += bytes_of(&client.outcome);
        client.number = entry.number();
        client.last_op = entry.op();
        let outcome = client.outcome.clone();
        // Never the client itself: it was heard last, and alone it has room.
        while self.kept_bytes > self.max_kept_bytes {
            self.forget_idlest();
        }
        outcome
    }

    /// How a committed entry that was not executed is to be answered.
    pub(crate) fn answer_unexecuted(&self, entry: &Entry) -> Option<Outcome> {
        match self.clients.get(entry.client()) {
            Some(client) if client.session == entry.session() => {
                (client.number == entry.number()).then(|| client.outcome.clone())
            }
            _ if has_been(entry.session(), entry.op()) => Some(Outcome::Evicted),
            _ => Some(Outcome::NoSession),
        }
    }

    /// Makes the table err, as that of this replica: see [`Bug`].
    pub(crate) fn plant(&mut self, bug: Bug, id: ReplicaId) {
        let errs = bug != Bug::EvictionDiffers || !id.0.is_multiple_of(2);
        self.bug = errs.then_some(bug);
    }

    /// [`Bug::EvictedExecuted`]: a client that is not known is made known, and heard.
    pub(crate) fn revive(&mut self, entry: &Entry) -> bool {
        if entry.kind() == Kind::Operation && self.clients.get(entry.client()).is_none() {
            let mut client = Client {
                session: entry.session(),
                life: OpNumber::ZERO,
                return_address: Rc::default(),
                number: RequestNumber::ZERO,
                outcome: Outcome::Evicted,
                last_op: entry.op(),
                age: entry.op(),
            };
            client.number.0 = entry.number().0.saturating_sub(1);
            self.clients.insert(entry.client(), client);
            self.ages.insert(entry.op(), entry.client());
        }
        self.is_to_execute(entry)
    }
}

/// Whether a session that is not known has ended, to who has executed the log up to `executed`:
/// sessions are op-numbers, and are told when they are committed.
fn has_been(session: OpNumber, executed: OpNumber) -> bool {
    session > OpNumber::ZERO && session <= executed
}

fn bytes_of(outcome: &Outcome) -> usize {
    if let Outcome::Result(result) = outcome {
        result.len()
    } else {
        0
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
        let clients = self.clients.sorted().into_iter();
        Frozen {
            sessions: clients.map(|(id, client)| (id, client.clone())).collect(),
            walk_ins: self.walk_ins.freeze(),
        }
    }

    /// The table that these bytes begin with, and where it ends; none if they do not, or if it
    /// knows of anything behind `last_op`: nobody else would have an age that a later one needs.
    pub(crate) fn thaw<'a>(
        read: impl Fn(u64, usize) -> &'a [u8],
        group: &Configuration,
        life: Incarnation,
        last_op: OpNumber,
    ) -> Option<(Self, u64)> {
        let mut bytes = Unread::new(read);
        let mut table = Self::new(group, life);
        let mut last_id = None;
        for _ in 0..bytes.count()? {
            let (id, client) = bytes.parse(get_client)?;
            let in_order = last_id.replace(id).is_none_or(|last| last < id);
            let fresh = table.ages.insert(client.last_op, id).is_none();
            let in_past = client.session <= client.last_op && client.last_op <= last_op;
            if !in_order || !fresh || !in_past {
                return None;
            }
            table.kept_bytes += bytes_of(&client.outcome);
            table.clients.insert(id, client);
            if table.len() > table.max_clients || table.kept_bytes > table.max_kept_bytes {
                return None;
            }
        }
        table.walk_ins = WalkIns::thaw(&mut bytes, table.max_clients, last_op)?;
        Some((table, bytes.at()))
    }
}

fn put_client((id, client): &(ClientId, Client), out: &mut Vec<u8>) {
    let (life, last_op) = (client.life.0, client.last_op.0);
    wire::put_numbers(
        out,
        &[id.0, client.session.0, life, client.number.0, last_op],
    );
    wire::put_bytes(out, &client.return_address);
    wire::put_outcome(out, &client.outcome);
}

fn get_client(input: &mut Input<'_>) -> Option<(ClientId, Client)> {
    let id = ClientId(input.number().ok()?);
    let (session, life) = (input.op().ok()?, input.op().ok()?);
    let (number, last_op) = (RequestNumber(input.number().ok()?), input.op().ok()?);
    let client = Client {
        session,
        life,
        return_address: input.bytes().ok()?,
        number,
        outcome: wire::get_outcome(input).ok()?,
        last_op,
        age: last_op,
    };
    let is_executed = matches!(
        client.outcome,
        Outcome::Result(_) | Outcome::ResultTooLarge | Outcome::Registered { .. }
    );
    let is_short = client.return_address.len() <= RETURN_ADDRESS_BYTES_MAX;
    (is_executed && is_short).then_some((id, client))
}

#[cfg(test)]
mod tests;
