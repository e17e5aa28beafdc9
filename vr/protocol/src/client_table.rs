//! The client table (VRR §4).
//!
//! The table knows committed requests only, so that a view change cannot make it lie: a request
//! that a view change cut off was never in it. What is in the log and not executed yet is found
//! in `InFlight`, which is rebuilt whenever a log is installed.

use crate::bug::Bug;
use crate::configuration::Configuration;
use crate::frozen::{Run, Unread};
use crate::ids::{ClientId, OpNumber, ReplicaId, RequestNumber};
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

/// Per client, the last committed request and its reply. A function of the executed log alone, and
/// so is who is forgotten when clients are too many, or their results too long: who was silent
/// longest, in the order of the log.
#[derive(Debug)]
pub(crate) struct ClientTable {
    clients: BTreeMap<ClientId, Client>,
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
    pub(crate) fn new(group: &Configuration) -> Self {
        Self {
            clients: BTreeMap::new(),
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
        let client = self.clients.get(&client)?;
        Some(&client.return_address)
    }

    /// VRR §4.1, step 2: compares the request-number with what is known, having executed the log
    /// up to `executed`.
    pub(crate) fn look(&self, request: &Request, in_flight: &InFlight, executed: OpNumber) -> Seen {
        let known = self.clients.get(&request.client);
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
        self.clients.get(&entry.client()).is_some_and(|client| {
            client.session == entry.session() && client.number < entry.number()
        })
    }

    /// Registers the client of a committed entry. Of several registrations of one life the first
    /// holds; that of another life ends the session.
    pub(crate) fn register(&mut self, entry: &Entry) -> Outcome {
        let (id, session) = (entry.client(), entry.op());
        match self.clients.get(&id) {
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
        let client = self.clients.remove(&id).expect("it is registered");
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
            let client = self.clients.get_mut(&id).expect("it has an age");
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
        let outcome = if result.len() > self.max_reply_bytes {
            Outcome::ResultTooLarge
        } else {
            Outcome::Result(result.into())
        };
        let client = self
            .clients
            .get_mut(&entry.client())
            .expect("an executed entry has a client");
        assert!(
            client.number < entry.number(),
            "requests of a client are executed in order, once"
        );
        self.kept_bytes -= bytes_of(&client.outcome);
        self.kept_bytes += bytes_of(&outcome);
        client.number = entry.number();
        client.outcome = outcome.clone();
        client.last_op = entry.op();
        // Never the client itself: it was heard last, and alone it has room.
        while self.kept_bytes > self.max_kept_bytes {
            self.forget_idlest();
        }
        outcome
    }

    /// How a committed entry that was not executed is to be answered.
    pub(crate) fn answer_unexecuted(&self, entry: &Entry) -> Option<Outcome> {
        match self.clients.get(&entry.client()) {
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
        if entry.kind() == Kind::Operation && !self.clients.contains_key(&entry.client()) {
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
        let clients = self.clients.iter();
        Frozen {
            sessions: clients.map(|(&id, client)| (id, client.clone())).collect(),
            walk_ins: self.walk_ins.freeze(),
        }
    }

    /// The table that these bytes begin with, and where it ends; none if they do not, or if it
    /// knows of anything behind `last_op`: nobody else would have an age that a later one needs.
    pub(crate) fn thaw<'a>(
        read: impl Fn(u64, usize) -> &'a [u8],
        group: &Configuration,
        last_op: OpNumber,
    ) -> Option<(Self, u64)> {
        let mut bytes = Unread::new(read);
        let mut table = Self::new(group);
        for _ in 0..bytes.count()? {
            let (id, client) = bytes.parse(get_client)?;
            let last = table.clients.last_key_value();
            let in_order = last.is_none_or(|(last, _)| *last < id);
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

    fn close(op: u64, client: u64, session: u64, number: u64) -> Entry {
        let kind = Kind::Close;
        let request = request(client, session, number);
        entry(op, &Request { kind, ..request })
    }

    fn table(max_clients: u32) -> ClientTable {
        let group = Configuration::new(3).expect("odd");
        let group = group.with_reply_bytes(10, 20).expect("room for two");
        ClientTable::new(&group.with_max_clients(max_clients).expect("room"))
    }

    /// What a request is, to who has executed everything and has nothing in flight.
    fn seen(table: &ClientTable, request: &Request) -> Seen {
        table.look(request, &InFlight::default(), OpNumber(u64::MAX))
    }

    fn result() -> Outcome {
        Outcome::Result([1].into())
    }

    #[test]
    fn a_request_goes_through_its_life() {
        let mut table = table(8);
        let mut flying = InFlight::default();
        let none = OpNumber(0);
        let register = request(1, 0, 0);
        assert_eq!(table.look(&register, &flying, none), Seen::New);
        flying.add(&entry(1, &register));
        assert_eq!(table.look(&register, &flying, none), Seen::InFlight);
        assert_eq!(
            table.look(&request(1, 1, 1), &flying, none),
            Seen::New,
            "its session is in flight"
        );
        flying.remove(&entry(1, &register));
        let registered = table.register(&entry(1, &register));
        assert_eq!(seen(&table, &register), Seen::Repeated(registered));

        let first = request(1, 1, 1);
        flying.add(&entry(2, &first));
        assert_eq!(table.look(&first, &flying, OpNumber(1)), Seen::InFlight);
        assert!(table.is_to_execute(&entry(2, &first)));
        flying.remove(&entry(2, &first));
        assert_eq!(table.record(&entry(2, &first), &[1]), result());
        assert_eq!(seen(&table, &first), Seen::Repeated(result()));
        assert!(
            !table.is_to_execute(&entry(3, &first)),
            "a duplicate in the log is not executed"
        );
        assert_eq!(seen(&table, &request(1, 1, 2)), Seen::New);
    }

    #[test]
    fn a_session_that_was_is_told_from_one_that_never_was() {
        let mut table = table(8);
        table.register(&entry(5, &request(1, 0, 0)));
        let flying = InFlight::default();
        let look = |session| table.look(&request(1, session, 1), &flying, OpNumber(7));
        assert_eq!(look(5), Seen::New);
        assert_eq!((look(3), look(7)), (Seen::Ended, Seen::Ended));
        assert_eq!((look(0), look(8)), (Seen::NoSession, Seen::NoSession));
        let late = entry(7, &request(1, 9, 1));
        assert_eq!(table.answer_unexecuted(&late), Some(Outcome::NoSession));
    }

    #[test]
    fn the_first_of_several_registrations_of_a_life_holds() {
        let mut table = table(8);
        let first = table.register(&entry(4, &request(1, 9, 0)));
        let session = OpNumber(4);
        assert_eq!(first, Outcome::Registered { session });
        assert_eq!(table.register(&entry(6, &request(1, 9, 0))), first);
    }

    #[test]
    fn the_next_life_of_a_client_ends_the_session_of_the_last() {
        let mut table = table(8);
        table.register(&entry(1, &request(1, 70, 0)));
        table.record(&entry(2, &request(1, 1, 1)), &[1]);
        let next = request(1, 71, 0);
        assert_eq!(seen(&table, &next), Seen::New);
        let session = OpNumber(3);
        assert_eq!(
            table.register(&entry(3, &next)),
            Outcome::Registered { session }
        );
        let late = request(1, 1, 2);
        assert_eq!(seen(&table, &late), Seen::Ended);
        assert!(!table.is_to_execute(&entry(4, &late)), "V13");
        assert_eq!(seen(&table, &request(1, 3, 1)), Seen::New);
        assert_eq!((table.len(), table.ages.len()), (1, 1));
    }

    #[test]
    fn two_lives_in_flight_are_not_mixed_up() {
        let mut flying = InFlight::default();
        let table = table(8);
        for (op, request) in [
            request(1, 70, 0),
            request(1, 1, 5),
            request(1, 71, 0),
            request(1, 3, 1),
        ]
        .iter()
        .enumerate()
        {
            flying.add(&entry(op as u64 + 1, request));
        }
        let look = |request| table.look(&request, &flying, OpNumber(0));
        assert_eq!(look(request(1, 70, 0)), Seen::InFlight);
        assert_eq!(look(request(1, 71, 0)), Seen::InFlight);
        assert_eq!(look(request(1, 72, 0)), Seen::New);
        assert_eq!(look(request(1, 3, 1)), Seen::InFlight);
        assert_eq!(look(request(1, 3, 2)), Seen::New);
        assert_eq!(look(request(1, 2, 1)), Seen::NoSession);
    }

    #[test]
    fn who_closes_its_session_leaves_its_place() {
        let mut table = table(1);
        table.register(&entry(1, &request(1, 0, 0)));
        table.record(&entry(2, &request(1, 1, 1)), &[1, 2]);
        assert_eq!(table.close(&close(3, 1, 9, 2)), Some(Outcome::NoSession));
        assert_eq!(
            table.close(&close(4, 1, 1, 1)),
            Some(Outcome::Result([1, 2].into()))
        );
        assert_eq!(table.len(), 1, "an old number closes nothing");
        assert_eq!(table.close(&close(5, 1, 1, 2)), Some(Outcome::Evicted));
        assert_eq!(table.close(&close(6, 1, 1, 2)), Some(Outcome::Evicted));
        assert_eq!((table.len(), table.ages.len(), table.kept_bytes), (0, 0, 0));
        table.register(&entry(7, &request(2, 0, 0)));
        assert_eq!(table.forgotten(), 0, "there was room");
    }

    #[test]
    fn a_result_that_is_too_long_is_not_kept_and_that_is_told_again() {
        let mut table = table(8);
        table.register(&entry(1, &request(1, 0, 0)));
        let call = request(1, 1, 1);
        let told = table.record(&entry(2, &call), &[0; 11]);
        assert_eq!(told, Outcome::ResultTooLarge);
        assert_eq!(seen(&table, &call), Seen::Repeated(told));
        assert_eq!(table.kept_bytes, 0);
        let told = table.record(&entry(3, &request(1, 1, 2)), &[0; 10]);
        assert_eq!(told, Outcome::Result([0; 10].into()));
    }

    #[test]
    fn when_results_are_too_long_together_the_silent_are_forgotten() {
        let mut table = table(8);
        for client in 1..=4 {
            table.register(&entry(client, &request(client, 0, 0)));
        }
        table.record(&entry(5, &request(1, 1, 1)), &[0; 10]);
        table.record(&entry(6, &request(2, 2, 1)), &[0; 9]);
        table.record(&entry(7, &request(3, 3, 1)), &[0; 10]);
        let left = |table: &ClientTable| table.clients.keys().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!((left(&table), table.kept_bytes), ([2, 3].into(), 19));
        // Shorter ones make room again.
        table.record(&entry(8, &request(3, 3, 2)), &[]);
        table.register(&entry(9, &request(4, 9, 0)));
        table.record(&entry(10, &request(4, 9, 1)), &[0; 10]);
        assert_eq!((left(&table), table.kept_bytes), ([2, 3, 4].into(), 19));
        assert_eq!(
            table.forgotten(),
            2,
            "client 4 had no result to give up, and went, too"
        );
    }

    #[test]
    fn a_return_address_is_short_or_unknown() {
        let mut table = table(8);
        for (op, bytes) in [
            (1, RETURN_ADDRESS_BYTES_MAX),
            (2, RETURN_ADDRESS_BYTES_MAX + 1),
        ] {
            let body = std::vec![7; bytes].into();
            let request = request(op, 0, 0);
            table.register(&entry(op, &Request { body, ..request }));
        }
        let known = table.return_address(ClientId(1)).map(<[u8]>::len);
        assert_eq!(known, Some(RETURN_ADDRESS_BYTES_MAX));
        assert_eq!(table.return_address(ClientId(2)), Some(&[][..]));
        assert_eq!(table.return_address(ClientId(3)), None);
    }

    #[test]
    fn a_flood_of_registrations_is_bounded_and_forgets_in_order_of_age() {
        let mut table = table(64);
        let mut last_heard = BTreeMap::new();
        let mut op = 0;
        for client in 0..1000 {
            op += 1;
            table.register(&entry(op, &request(client, 0, 0)));
            last_heard.insert(client, (op, 0, op));
            if last_heard.len() > 64 {
                let (idlest, _) = last_heard
                    .iter()
                    .min_by_key(|(_, (.., last))| *last)
                    .unwrap();
                let idlest = *idlest;
                last_heard.remove(&idlest);
            }
            let busy = client / 2;
            if let Some((session, number, last)) = last_heard.get_mut(&busy) {
                (op, *number) = (op + 1, *number + 1);
                let call = entry(op, &request(busy, *session, *number));
                if table.is_to_execute(&call) {
                    table.record(&call, &[]);
                    *last = op;
                }
            }
            if client % 7 == 0
                && let Some((session, number, _)) = last_heard.remove(&(client / 3))
            {
                op += 1;
                table.close(&close(op, client / 3, session, number + 1));
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
        let mut table = table(2);
        table.register(&entry(1, &request(1, 0, 0)));
        table.register(&entry(2, &request(2, 0, 0)));
        table.record(&entry(3, &request(1, 1, 1)), &[1]);
        table.register(&entry(4, &request(3, 0, 0)));
        assert_eq!(seen(&table, &request(2, 2, 1)), Seen::Ended);
        assert_eq!(seen(&table, &request(1, 1, 2)), Seen::New);
        let late = entry(5, &request(2, 2, 1));
        assert!(!table.is_to_execute(&late));
        assert_eq!(table.answer_unexecuted(&late), Some(Outcome::Evicted));
    }

    #[test]
    fn a_table_of_a_checkpoint_knows_nothing_of_what_comes_later() {
        let group = Configuration::new(3).expect("odd");
        let mut table = ClientTable::new(&group);
        let bytes_of = |table: &ClientTable| {
            let (mut frozen, mut out) = (table.freeze(), Vec::new());
            while frozen.write(1024, &mut out) {}
            out
        };
        let is_of = |bytes: &[u8], last| {
            let read = |at, _| &bytes[usize::try_from(at).expect("small").min(bytes.len())..];
            ClientTable::thaw(read, &group, OpNumber(last)).is_some()
        };
        table.register(&entry(4, &request(1, 0, 0)));
        let bytes = bytes_of(&table);
        assert!(is_of(&bytes, 4) && !is_of(&bytes, 3));
        table.walk_ins.record(&entry(6, &request(2, 0, 1)), &[]);
        let bytes = bytes_of(&table);
        assert!(is_of(&bytes, 6) && !is_of(&bytes, 5));
    }
}
