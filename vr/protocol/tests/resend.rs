//! What is sent again is bounded.

use viewring_protocol::{
    ClientId, Configuration, Effect, Effects, Kind, Message, OpNumber, Options, PrepareOk,
    Progress, Replica, ReplicaId, Request, RequestNumber,
};

const LONG: usize = 15_000;

/// Client `id` registers, or asks for something long.
fn request(id: u64, session: OpNumber, kind: Kind) -> Request {
    let body = vec![7; if kind == Kind::Register { 0 } else { LONG }];
    Request {
        client: ClientId(id),
        session,
        number: RequestNumber(u64::from(kind == Kind::Operation)),
        kind,
        body: body.into(),
    }
}

fn prepared(effects: &mut Effects) -> Vec<OpNumber> {
    let of = |effect| match effect {
        Effect::Broadcast(Message::Prepare(prepare)) => prepare.entries,
        Effect::Broadcast(_) | Effect::Send { .. } | Effect::Persist(_) => Vec::new(),
        Effect::Reply(_) | Effect::ReplyWalkIn(_) | Effect::ReadReply(_) => Vec::new(),
        Effect::Remember(_) | Effect::NormalView(_) => Vec::new(),
        Effect::Checkpoint(_) | Effect::Restore(_) => Vec::new(),
    };
    effects
        .drain()
        .flat_map(of)
        .map(|entry| entry.op())
        .collect()
}

/// What timeouts would wait for: there are none here.
fn no_matter(_: Progress) {}

#[test]
fn a_full_window_of_long_entries_is_sent_again_a_page_at_a_time() {
    let group = Configuration::new(3).expect("odd");
    let mut primary = Replica::founding_member(ReplicaId(0), group, Options::default());
    let mut effects = Effects::new();
    let clients = 50;
    for id in 1..=clients {
        let register = request(id, OpNumber::ZERO, Kind::Register);
        no_matter(primary.on_request(register, &mut effects));
    }
    no_matter(primary.flush(&mut effects));
    commit(&mut primary, &mut effects);
    for id in 1..=clients {
        // Registered in the order of their ids.
        let long = request(id, OpNumber(id), Kind::Operation);
        no_matter(primary.on_request(long, &mut effects));
    }
    no_matter(primary.flush(&mut effects));
    assert_eq!(prepared(&mut effects).len() as u64, clients);
    no_matter(primary.resend_prepares(&mut effects));
    let again = prepared(&mut effects);
    assert_eq!(
        again.first(),
        Some(&OpNumber(clients + 1)),
        "from the first uncommitted one on"
    );
    let budget = Options::default().page_budget_bytes;
    assert!((1..=budget / LONG).contains(&again.len()), "{again:?}");
}

/// A backup has all that the primary has, and so has the primary's journal.
fn commit(primary: &mut Replica, effects: &mut Effects) {
    let orders: Vec<_> = effects
        .drain()
        .filter_map(|effect| match effect {
            Effect::Persist(order) => Some(order),
            Effect::Broadcast(_) | Effect::Send { .. } => None,
            Effect::Reply(_) | Effect::ReplyWalkIn(_) | Effect::ReadReply(_) => None,
            Effect::Remember(_) | Effect::NormalView(_) => None,
            Effect::Checkpoint(_) | Effect::Restore(_) => None,
        })
        .collect();
    for order in orders {
        no_matter(primary.on_durable(order.written(), effects));
    }
    let op = primary.op();
    let checksum = primary.entry(op).expect("its last entry").checksum();
    let ok = PrepareOk {
        view: primary.view(),
        op,
        checksum,
    };
    no_matter(primary.on_message(ReplicaId(1), Message::PrepareOk(ok), effects));
    assert_eq!(primary.commit(), op);
    effects.drain().for_each(drop);
}
