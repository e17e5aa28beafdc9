//! Clients that never register, which are not in the paper: their requests are executed at most
//! once, and they are told results and nothing else.

use super::bench::{Bench, prepare, skip, walk_in};
use viewring_protocol::{
    Checksum, Entry, Ignored, OpNumber, Progress, Replica, RequestNumber, View, WalkInReply,
};

fn reply(op: u64, client: u64, number: u64, result: &[u8]) -> WalkInReply {
    WalkInReply {
        view: View(0),
        op: OpNumber(op),
        client: viewring_protocol::ClientId(client),
        number: RequestNumber(number),
        result: result.into(),
    }
}

/// A primary that has executed request 7 of walk-in 5.
fn served() -> Bench {
    let mut primary = Bench::of(0, 3);
    primary.take(walk_in(5, 7, b"first"));
    assert!(primary.walked_in.is_empty(), "it is not committed");
    let ok = primary.ok(1);
    skip(primary.hear(1, ok));
    assert_eq!(primary.execute(b"done"), 1);
    assert_eq!(primary.walked_in, [reply(1, 5, 7, b"done")]);
    primary.walked_in.clear();
    primary
}

#[test]
fn the_first_request_makes_a_walk_in_known_whatever_its_number() {
    let mut primary = served();
    primary.take(walk_in(5, 8, b"second"));
    assert_eq!(primary.replica.op(), OpNumber(2));
}

#[test]
fn the_last_request_is_answered_from_the_table_and_older_ones_are_not() {
    let mut primary = served();
    primary.take(walk_in(5, 7, b"first"));
    assert_eq!(primary.walked_in, [reply(1, 5, 7, b"done")]);
    primary.walked_in.clear();
    primary.take(walk_in(5, 6, b"earlier"));
    assert_eq!(primary.ignored(Ignored::OldRequest), 1);
    primary.take(walk_in(5, 8, b"second"));
    primary.take(walk_in(5, 8, b"second"));
    assert_eq!(primary.ignored(Ignored::InFlight), 1);
    assert!(primary.walked_in.is_empty());
    assert_eq!(primary.replica.op(), OpNumber(2));
}

#[test]
fn a_walk_in_and_a_session_of_one_id_are_two_clients() {
    let mut primary = served();
    primary.ask(5, 0, 0, b"");
    let ok = primary.ok(2);
    skip(primary.hear(1, ok));
    assert_eq!(primary.execute(b""), 0);
    primary.ask(5, 2, 1, b"of the session");
    let ok = primary.ok(3);
    skip(primary.hear(1, ok));
    assert_eq!(primary.execute(b"x"), 1);
    primary.take(walk_in(5, 7, b"first"));
    assert_eq!(primary.walked_in, [reply(1, 5, 7, b"done")]);
}

/// What a session would be told (busy, too large, not the primary) is only counted: there are no
/// words for it.
#[test]
fn a_walk_in_is_told_no_refusal() {
    let mut primary = Bench::of(0, 3);
    primary.take(walk_in(5, 1, &[0; 65]));
    assert_eq!(primary.ignored(Ignored::TooLarge), 1);
    primary.take(walk_in(5, 0, b"no number"));
    assert_eq!(primary.ignored(Ignored::Inconsistent), 1);
    assert!(primary.replica.takes_requests());
    for client in 0..8 {
        primary.take(walk_in(client, 1, b""));
    }
    assert!(!primary.replica.takes_requests());
    primary.take(walk_in(9, 1, b""));
    assert_eq!(primary.ignored(Ignored::Busy), 1);
    let mut backup = Bench::of(1, 3);
    assert!(!backup.replica.takes_requests());
    backup.take(walk_in(5, 1, b""));
    assert_eq!(backup.ignored(Ignored::NotPrimary), 1);
    for bench in [&primary, &backup] {
        assert!(bench.replies.is_empty() && bench.walked_in.is_empty());
    }
}

#[test]
fn a_primary_that_hears_nobody_takes_no_walk_ins() {
    let mut primary = Bench::of(0, 3);
    let progress = primary.expire(Replica::abdicate);
    assert!(!progress.contains(Progress::ROLE_CHANGED));
    assert!(!primary.replica.takes_requests());
}

/// A request that got into the log twice, by way of two views, is executed where it comes first.
#[test]
fn a_request_that_is_in_the_log_twice_is_executed_once() {
    let mut backup = Bench::of(1, 3);
    let root = backup.root();
    let mut entries: Vec<Entry> = Vec::new();
    for number in [3, 3, 2, 4] {
        let parent = entries.last().map_or(root, Entry::checksum);
        let op = OpNumber(entries.len() as u64 + 1);
        let request = walk_in(5, number, b"");
        entries.push(Entry::new(op, View(0), parent, &request));
    }
    assert_ne!(root, Checksum(0));
    skip(backup.hear(0, prepare(0, &entries, 4)));
    assert_eq!(backup.execute(b"once"), 2, "numbers 3 and 4");
    assert_eq!(backup.replica.executed(), OpNumber(4));
    assert!(backup.walked_in.is_empty(), "a backup tells nobody");
}
