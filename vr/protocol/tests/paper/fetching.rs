//! §5.2: giving others what they lack, so much of it at once and in a time.

use super::bench::{Bench, root, skip};
use viewring_protocol::{
    Configuration, Effects, GetState, Message, Nonce, OpNumber, Options, Replica, ReplicaId, View,
};

/// A page is two entries of those that the primary has.
const PAGE_BYTES: usize = 200;
const BODY: &[u8] = &[7; 32];

/// A primary with so many entries, and so many bytes for others from one refill to the next.
fn primary(entries: u64, transfer_budget_bytes: usize) -> Bench {
    let options = Options {
        page_budget_bytes: PAGE_BYTES,
        transfer_budget_bytes,
        ..Options::default()
    };
    let group = Configuration::new(3).expect("odd");
    let replica = Replica::founding_member(ReplicaId(0), group, options);
    let mut bench = Bench::with(replica);
    skip(bench.flush());
    for client in 0..entries {
        bench.ask(client, 0, 0, BODY);
    }
    bench.sent.clear();
    bench
}

/// How many entries replica 2 is given, that asks for so many pages.
fn given(primary: &mut Bench, pages: u8) -> usize {
    ask(primary, 2, pages);
    answered(primary)
}

fn ask(primary: &mut Bench, from: u8, pages: u8) {
    let get = GetState {
        view: View(0),
        after: OpNumber(0),
        checksum: root(primary),
        nonce: Nonce(7),
        pages,
    };
    skip(primary.hear(from, Message::GetState(get)));
}

/// How many entries the answers have that the primary has given since.
fn answered(primary: &mut Bench) -> usize {
    answers(primary).iter().map(|(_, entries)| entries).sum()
}

/// To whom they were given, and how many entries.
fn answers(primary: &mut Bench) -> Vec<(ReplicaId, usize)> {
    let said = primary.said().into_iter();
    let answers = said.filter_map(|(to, message)| {
        let Message::NewState(new) = message else {
            return None;
        };
        Some((to?, new.entries.len()))
    });
    answers.collect()
}

/// How many entries it gives after a refill to who had to wait.
fn refill(primary: &mut Bench) -> usize {
    let mut effects = Effects::new();
    primary.replica.refill(&mut effects);
    primary.perform(effects);
    answered(primary)
}

#[test]
fn an_answer_is_as_long_as_so_many_pages() {
    let mut primary = primary(100, 1 << 20);
    let page = given(&mut primary, 1);
    assert!((1..4).contains(&page), "{page}");
    assert_eq!(given(&mut primary, 0), page, "less than a page is a page");
    let three = given(&mut primary, 3);
    assert!(three > page * 2 && three < page * 5, "{three} of {page}");
    let most = given(&mut primary, 8);
    assert!(most > page * 7, "{most} of {page}");
    assert_eq!(given(&mut primary, u8::MAX), most, "whoever asks for more");
}

#[test]
fn an_answer_of_several_pages_is_paid_off() {
    let mut primary = primary(100, PAGE_BYTES);
    let long = given(&mut primary, 4);
    assert!(long > 4, "one answer is given whatever is left: {long}");
    assert_eq!(given(&mut primary, 1), 0, "nothing is left");
    let waited = (0..8).take_while(|_| refill(&mut primary) == 0).count();
    assert!(
        (2..4).contains(&waited),
        "as many refills as it had pages: {waited}"
    );
}

#[test]
fn an_entry_longer_than_the_budget_is_paid_off_by_one_refill() {
    let mut primary = primary(2, 1);
    for _ in 0..3 {
        assert!(given(&mut primary, 1) > 0, "it has another turn");
        assert_eq!(given(&mut primary, 1), 0);
        assert!(refill(&mut primary) > 0);
        assert_eq!(refill(&mut primary), 0, "nobody waits");
    }
}

/// Whoever asks for as much as it can get, again and again, makes others wait until two such
/// answers are paid off: one that is given because something is left, and one in its turn.
#[test]
fn who_asks_without_end_starves_nobody() {
    let mut primary = primary(100, PAGE_BYTES);
    for _ in 0..5 {
        let mut refills = 0;
        ask(&mut primary, 1, 1);
        let is_given = |answers: Vec<_>| answers.iter().any(|(to, _)| *to == ReplicaId(1));
        while !is_given(answers(&mut primary)) {
            refills += 1;
            assert!(refills <= 16, "replica 2 was given more than two answers");
            let mut effects = Effects::new();
            primary.replica.refill(&mut effects);
            primary.perform(effects);
            for _ in 0..3 {
                ask(&mut primary, 2, u8::MAX);
            }
        }
    }
}
