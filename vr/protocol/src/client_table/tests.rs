use super::*;
use crate::ids::{Checksum, View};

const LIFE: Incarnation = Incarnation(5);

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
    ClientTable::new(&group.with_max_clients(max_clients).expect("room"), LIFE)
}

/// What a request is, to who has executed everything and has nothing in flight.
fn seen(table: &ClientTable, request: &Request) -> Seen {
    table.look(request, &InFlight::new(LIFE), OpNumber(u64::MAX))
}

fn result() -> Outcome {
    Outcome::Result([1].into())
}

#[test]
fn a_request_goes_through_its_life() {
    let mut table = table(8);
    let mut flying = InFlight::new(LIFE);
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
    let flying = InFlight::new(LIFE);
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
    let mut flying = InFlight::new(LIFE);
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
    let left = |table: &ClientTable| {
        let clients = table.clients.sorted().into_iter();
        clients.map(|(id, _)| id.0).collect::<Vec<_>>()
    };
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
fn a_result_that_somebody_holds_is_not_written_over_by_the_next() {
    let mut table = table(8);
    table.register(&entry(1, &request(1, 0, 0)));
    let told = table.record(&entry(2, &request(1, 1, 1)), &[1]);
    table.record(&entry(3, &request(1, 1, 2)), &[2]);
    assert_eq!(
        told,
        Outcome::Result([1].into()),
        "a reply is still to be sent"
    );
    let mut frozen = table.freeze();
    table.record(&entry(4, &request(1, 1, 3)), &[3]);
    let mut bytes = Vec::new();
    while frozen.write(1024, &mut bytes) {}
    let kept = [1, 0, 0, 0, 2]; // its length, and what it is
    assert!(
        bytes.windows(5).any(|at| at == kept),
        "a checkpoint is still to be written"
    );
    assert_eq!(
        seen(&table, &request(1, 1, 3)),
        Seen::Repeated(Outcome::Result([3].into()))
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
                .sorted()
                .iter()
                .map(|(id, _)| id.0)
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
    let mut table = ClientTable::new(&group, LIFE);
    let bytes_of = |table: &ClientTable| {
        let (mut frozen, mut out) = (table.freeze(), Vec::new());
        while frozen.write(1024, &mut out) {}
        out
    };
    let is_of = |bytes: &[u8], last| {
        let read = |at, _| &bytes[usize::try_from(at).expect("small").min(bytes.len())..];
        ClientTable::thaw(read, &group, LIFE, OpNumber(last)).is_some()
    };
    table.register(&entry(4, &request(1, 0, 0)));
    let bytes = bytes_of(&table);
    assert!(is_of(&bytes, 4) && !is_of(&bytes, 3));
    table.walk_ins.record(&entry(6, &request(2, 0, 1)), &[]);
    let bytes = bytes_of(&table);
    assert!(is_of(&bytes, 6) && !is_of(&bytes, 5));
}
