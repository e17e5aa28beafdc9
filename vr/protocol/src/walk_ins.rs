//! Clients that never register: walk-ins. Not in VRR; specpaxos' clients are of this kind.
//!
//! A walk-in has an id of its own choice and numbers its requests upwards. Its first request makes
//! it known; from then on the table holds its last executed number with the result, and a request
//! is executed only if its number is higher. So a request is executed at most once for as long as
//! the table remembers its client, and nobody can be told when it does not any more: that is the
//! price of not registering (`DEVIATIONS.md`).
//!
//! As with the sessions, the table is a function of the executed log alone, and what is in the log
//! and not executed yet is found in an index that is rebuilt with the log. Walk-ins have room of
//! their own: they cannot drive out sessions, whatever ids they make up.

use crate::effects::WalkInReply;
use crate::frozen::{Run, Unread};
use crate::ids::{ClientId, OpNumber, RequestNumber, View};
use crate::log::Entry;
use crate::message::Request;
use crate::wire::{self, Input};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// What is remembered of a walk-in.
#[derive(Clone, Debug)]
struct Client {
    number: RequestNumber,
    /// Where its last request is in the log, and of which view.
    op: OpNumber,
    view: View,
    result: Rc<[u8]>,
}

/// Per walk-in, the last executed request and its result.
#[derive(Debug)]
pub(crate) struct WalkIns {
    clients: BTreeMap<ClientId, Client>,
    /// Each client under an op-number of its own that is not above its last one: an old one is
    /// corrected when it is looked at, so that executing costs nothing.
    ages: BTreeMap<OpNumber, ClientId>,
    /// The length of all results that are kept.
    kept_bytes: usize,
    capacity: usize,
}

/// What a walk-in's request is, to a primary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// To be appended.
    New,
    /// In the log, not executed yet: the reply will come.
    InFlight,
    /// The last one: here is its reply again.
    Repeated(WalkInReply),
    /// Older than the last one.
    Old,
    /// No request that a walk-in makes.
    Malformed,
}

impl WalkIns {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            clients: BTreeMap::new(),
            ages: BTreeMap::new(),
            kept_bytes: 0,
            capacity,
        }
    }

    /// VRR §4.1, step 2: compares the request-number with what is known.
    pub(crate) fn look(&self, request: &Request, flying: &Flying) -> Look {
        if request.number == RequestNumber::ZERO || request.session != OpNumber::ZERO {
            return Look::Malformed;
        }
        if let Some(client) = self.clients.get(&request.client) {
            if request.number < client.number {
                return Look::Old;
            }
            if request.number == client.number {
                return Look::Repeated(client.reply(request.client));
            }
        }
        if flying.has(request) {
            return Look::InFlight;
        }
        Look::New
    }

    /// Whether the state machine is to execute this committed entry of a walk-in: it is newer than
    /// the client's last one, or the client is new. The same at every replica.
    pub(crate) fn is_to_execute(&self, entry: &Entry) -> bool {
        let last = self.clients.get(&entry.client());
        let last = last.map_or(RequestNumber::ZERO, |client| client.number);
        entry.session() == OpNumber::ZERO && last < entry.number()
    }

    /// Remembers the result of an entry that was executed, and makes room for it.
    pub(crate) fn record(&mut self, entry: &Entry, result: &[u8]) -> WalkInReply {
        let id = entry.client();
        let client = Client {
            number: entry.number(),
            op: entry.op(),
            view: entry.view(),
            result: result.into(),
        };
        let reply = client.reply(id);
        self.kept_bytes += result.len();
        if let Some(known) = self.clients.get_mut(&id) {
            assert!(
                known.number < entry.number(),
                "requests of a client are executed in order, once"
            );
            self.kept_bytes -= known.result.len();
            *known = client;
        } else {
            if self.clients.len() >= self.capacity {
                self.forget_idlest();
            }
            self.clients.insert(id, client);
            self.ages.insert(entry.op(), id);
        }
        // The client itself is heard last: it is forgotten only if nobody else is left.
        while self.kept_bytes > KEPT_BYTES_MAX {
            self.forget_idlest();
        }
        reply
    }

    /// How a committed entry that was not executed is to be answered: if it is the last one.
    pub(crate) fn answer_unexecuted(&self, entry: &Entry) -> Option<WalkInReply> {
        let client = self.clients.get(&entry.client())?;
        (client.number == entry.number()).then(|| client.reply(entry.client()))
    }

    /// Forgets the client that was silent longest.
    fn forget_idlest(&mut self) {
        while let Some((age, id)) = self.ages.pop_first() {
            let last = self.clients[&id].op;
            if last == age {
                let forgotten = self.clients.remove(&id).expect("it has an age");
                self.kept_bytes -= forgotten.result.len();
                return;
            }
            self.ages.insert(last, id);
        }
    }
}

/// The walk-ins as they were at some moment, to be written into a checkpoint.
pub(crate) struct Frozen(Run<(ClientId, Client)>);

impl Frozen {
    /// Appends about so many bytes; whether there are more.
    pub(crate) fn write(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> bool {
        self.0.write(budget_bytes, out, put_client)
    }
}

impl WalkIns {
    pub(crate) fn freeze(&self) -> Frozen {
        let clients = self.clients.iter();
        Frozen(clients.map(|(&id, client)| (id, client.clone())).collect())
    }

    /// What was frozen; none if these bytes are not that.
    pub(crate) fn thaw<'a, F: Fn(u64, usize) -> &'a [u8]>(
        bytes: &mut Unread<F>,
        capacity: usize,
        last_op: OpNumber,
    ) -> Option<Self> {
        let mut table = Self::new(capacity);
        for _ in 0..bytes.count()? {
            let (id, client) = bytes.parse(get_client)?;
            let last = table.clients.last_key_value();
            let in_order = last.is_none_or(|(last, _)| *last < id);
            let fresh = table.ages.insert(client.op, id).is_none();
            if !in_order || !fresh || client.op > last_op {
                return None;
            }
            table.kept_bytes += client.result.len();
            table.clients.insert(id, client);
            if table.clients.len() > capacity || table.kept_bytes > KEPT_BYTES_MAX {
                return None;
            }
        }
        Some(table)
    }
}

fn put_client((id, client): &(ClientId, Client), out: &mut Vec<u8>) {
    let numbers = [id.0, client.number.0, client.op.0, client.view.0];
    wire::put_numbers(out, &numbers);
    wire::put_bytes(out, &client.result);
}

fn get_client(input: &mut Input<'_>) -> Option<(ClientId, Client)> {
    let id = ClientId(input.number().ok()?);
    let client = Client {
        number: RequestNumber(input.number().ok()?),
        op: input.op().ok()?,
        view: input.view().ok()?,
        result: input.bytes().ok()?,
    };
    Some((id, client))
}

impl Client {
    fn reply(&self, client: ClientId) -> WalkInReply {
        WalkInReply {
            view: self.view,
            op: self.op,
            client,
            number: self.number,
            result: Rc::clone(&self.result),
        }
    }
}

/// Results are kept up to so many bytes. The same at every replica, since it decides who is
/// forgotten.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// The walk-ins' part of the log's unexecuted tail.
#[derive(Debug, Default)]
pub(crate) struct Flying {
    /// How many entries each has, and the highest number of them.
    clients: BTreeMap<ClientId, (u64, RequestNumber)>,
}

impl Flying {
    /// An entry was appended.
    pub(crate) fn add(&mut self, entry: &Entry) {
        let (entries, number) = self.clients.entry(entry.client()).or_default();
        *entries += 1;
        *number = entry.number().max(*number);
    }

    /// The oldest entry was executed.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        let id = entry.client();
        let (entries, _) = self
            .clients
            .get_mut(&id)
            .expect("executed entries were in flight");
        *entries -= 1;
        if *entries == 0 {
            self.clients.remove(&id);
        }
    }

    /// Whether this request, or a later one of its client, is there.
    fn has(&self, request: &Request) -> bool {
        let flying = self.clients.get(&request.client);
        flying.is_some_and(|(_, number)| request.number <= *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Checksum;
    use crate::log::Kind;

    fn request(client: u64, number: u64) -> Request {
        Request {
            client: ClientId(client),
            session: OpNumber::ZERO,
            number: RequestNumber(number),
            kind: Kind::WalkIn,
            body: [].into(),
        }
    }

    fn entry(op: u64, client: u64, number: u64) -> Entry {
        Entry::new(OpNumber(op), View(3), Checksum(0), &request(client, number))
    }

    fn execute(table: &mut WalkIns, op: u64, client: u64, number: u64) -> WalkInReply {
        let entry = entry(op, client, number);
        assert!(table.is_to_execute(&entry));
        table.record(&entry, &[u8::try_from(op).expect("small")])
    }

    #[test]
    fn a_request_goes_through_its_life() {
        let (mut table, mut flying) = (WalkIns::new(8), Flying::default());
        assert_eq!(table.look(&request(1, 5), &flying), Look::New);
        flying.add(&entry(1, 1, 5));
        assert_eq!(table.look(&request(1, 5), &flying), Look::InFlight);
        assert_eq!(table.look(&request(1, 4), &flying), Look::InFlight);
        assert_eq!(table.look(&request(1, 6), &flying), Look::New);
        flying.remove(&entry(1, 1, 5));
        let reply = execute(&mut table, 1, 1, 5);
        let told = (reply.view, reply.op, reply.number);
        assert_eq!(told, (View(3), OpNumber(1), RequestNumber(5)));
        assert_eq!(
            table.look(&request(1, 5), &flying),
            Look::Repeated(reply.clone()),
        );
        assert_eq!(table.look(&request(1, 4), &flying), Look::Old);
        assert_eq!(table.look(&request(1, 6), &flying), Look::New);
        let again = entry(2, 1, 5);
        assert!(
            !table.is_to_execute(&again),
            "a duplicate in the log is not executed"
        );
        assert_eq!(table.answer_unexecuted(&again), Some(reply));
        assert_eq!(table.answer_unexecuted(&entry(2, 1, 4)), None);
    }

    /// The table knows executed requests only (VRR §4.1; the rule that a view change needs).
    #[test]
    fn a_request_that_a_view_change_cut_off_is_new_again() {
        let table = WalkIns::new(8);
        let mut flying = Flying::default();
        flying.add(&entry(1, 1, 1));
        assert_eq!(table.look(&request(1, 1), &flying), Look::InFlight);
        let rebuilt = Flying::default();
        assert_eq!(table.look(&request(1, 1), &rebuilt), Look::New);
    }

    #[test]
    fn what_no_walk_in_asks_is_malformed() {
        let (table, flying) = (WalkIns::new(8), Flying::default());
        assert_eq!(table.look(&request(1, 0), &flying), Look::Malformed);
        let mut with_session = request(1, 1);
        with_session.session = OpNumber(1);
        assert_eq!(table.look(&with_session, &flying), Look::Malformed);
        assert!(!table.is_to_execute(&entry(1, 1, 0)));
        let in_log = Entry::new(OpNumber(1), View(0), Checksum(0), &with_session);
        assert!(!table.is_to_execute(&in_log));
    }

    #[test]
    fn a_full_table_forgets_the_client_that_was_silent_longest() {
        let (mut table, flying) = (WalkIns::new(2), Flying::default());
        execute(&mut table, 1, 1, 1);
        execute(&mut table, 2, 2, 1);
        execute(&mut table, 3, 1, 2);
        execute(&mut table, 4, 3, 1);
        assert_eq!(table.clients.len(), 2);
        assert_eq!(table.ages.len(), 2);
        assert_eq!(table.kept_bytes, 2);
        assert_eq!(table.look(&request(1, 1), &flying), Look::Old);
        // Honest about the price: nothing is known of client 2 any more.
        assert_eq!(table.look(&request(2, 1), &flying), Look::New);
    }

    #[test]
    fn the_results_kept_are_bounded() {
        let mut table = WalkIns::new(1000);
        let long = alloc::vec![7; 1 << 20];
        for client in 1..=70 {
            table.record(&entry(client, client, 1), &long);
            assert!(table.kept_bytes <= KEPT_BYTES_MAX);
        }
        assert_eq!((table.clients.len(), table.ages.len()), (64, 64));
        assert!(table.clients.contains_key(&ClientId(70)));
    }
}
