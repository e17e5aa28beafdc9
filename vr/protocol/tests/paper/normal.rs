//! §4.1 and §6.2: normal operation.

use super::bench::{Bench, FITTED, chain, commit, fit, prepare, request, root, skip, wish};
use viewring_protocol::{
    Checksum, Configuration, Effects, GetCheckpoint, GetState, Ignored, Message, Nonce, OpNumber,
    Options, Outcome, PrepareOk, Progress, Replica, ReplicaId, Summary, View,
};

/// §4.1, step 2: "If the request-number s isn't bigger than the information in the table it drops
/// the request, but it will re-send the response if the request is the most recent one from this
/// client and it has already been executed."
#[test]
fn s4_1_2_a_request_that_is_not_newer_is_dropped_or_answered_again() {
    let mut primary = Bench::of(0, 1);
    primary.ask(7, 0, 0, b"");
    assert_eq!(
        primary.outcome(),
        Some(Outcome::Registered {
            session: OpNumber(1)
        })
    );
    primary.ask(7, 1, 1, b"a");
    assert_eq!(primary.execute(b"A"), 1);
    primary.ask(7, 1, 2, b"b");
    assert_eq!(primary.execute(b"B"), 1);
    primary.replies.clear();
    primary.ask(7, 1, 2, b"b");
    assert_eq!(primary.outcome(), Some(Outcome::Result((*b"B").into())));
    primary.ask(7, 1, 1, b"a");
    assert_eq!(
        (primary.outcome(), primary.ignored(Ignored::OldRequest)),
        (None, 1)
    );
    assert_eq!(
        (primary.replica.op(), primary.execute(b"")),
        (OpNumber(3), 0)
    );
}

/// §4.1, step 3: "The primary advances op-number, adds the request to the end of the log … Then
/// it sends a ⟨PREPARE v, m, n, k⟩ message to the other replicas."
#[test]
fn s4_1_3_the_primary_prepares() {
    let mut primary = Bench::of(0, 3);
    primary.ask(7, 0, 0, b"");
    let prepares = primary.prepared();
    assert_eq!(prepares.len(), 1);
    assert_eq!(
        (prepares[0].view, prepares[0].commit),
        (View(0), OpNumber(0))
    );
    assert_eq!(prepares[0].entries[0].op(), OpNumber(1));
}

/// §6.2: "the primary can … bundle them together", here by nature: all of a turn.
#[test]
fn s6_2_a_turn_is_one_prepare() {
    let mut primary = Bench::of(0, 3);
    let mut effects = Effects::new();
    for client in 1..=5 {
        let progress = primary
            .replica
            .on_request(request(client, 0, 0, b""), &mut effects);
        assert!(progress.is_empty() && effects.is_empty());
    }
    assert_eq!(primary.flush(), Progress::PREPARED);
    let prepares = primary.prepared();
    assert_eq!((prepares.len(), prepares[0].entries.len()), (1, 5));
}

/// §4.1, step 4: "Backups process PREPARE messages in order: a backup won't accept a prepare with
/// op-number n until it has entries for all earlier requests in its log."
#[test]
fn s4_1_4_backups_prepare_in_order() {
    let mut backup = Bench::of(1, 3);
    let entries = chain(1, 0, root(&backup), 2);
    let progress = backup.hear(0, prepare(0, &entries[1..], 0));
    assert!(progress.contains(Progress::HEARD_PRIMARY));
    assert_eq!(backup.replica.op(), OpNumber(0));
    assert!(
        backup
            .said()
            .iter()
            .any(|(_, message)| message.name() == "GetState")
    );
    let progress = backup.hear(0, prepare(0, &entries[..1], 0));
    assert!(progress.contains(Progress::HEARD_PRIMARY));
    assert_eq!(backup.replica.op(), OpNumber(2), "what came early is used");
}

/// §4.1, step 4: "… sends a ⟨PREPAREOK v, n, i⟩ message to the primary to indicate that this
/// operation and all earlier ones have prepared locally": durable first, one for the turn.
#[test]
fn s4_1_4_a_prepare_ok_is_cumulative_and_durable() {
    let mut backup = Bench::of(1, 3);
    let entries = chain(1, 0, root(&backup), 3);
    let mut effects = Effects::new();
    for entry in &entries {
        let message = prepare(0, std::slice::from_ref(entry), 0);
        let message = fit(message, FITTED, backup.root());
        skip(
            backup
                .replica
                .on_message(ReplicaId(0), message, &mut effects),
        );
    }
    backup.perform(effects);
    assert!(backup.flush().is_empty());
    assert!(
        backup.said().is_empty(),
        "nothing is acknowledged before it is durable"
    );
    assert!(backup.write().is_empty());
    let ok = PrepareOk {
        view: View(0),
        op: OpNumber(3),
        checksum: entries[2].checksum(),
    };
    assert_eq!(
        backup.said(),
        [(Some(ReplicaId(0)), Message::PrepareOk(ok))]
    );
}

/// §4.1, step 5: "The primary waits for f PREPAREOK messages from different backups."
#[test]
fn s4_1_5_backups_are_counted_once() {
    let mut primary = Bench::of(0, 5);
    primary.ask(7, 0, 0, b"");
    for _ in 0..3 {
        let ok = primary.ok(1);
        assert!(!primary.hear(1, ok).contains(Progress::COMMITTED));
    }
    let ok = primary.ok(1);
    let progress = primary.hear(2, ok);
    assert!(progress.contains(Progress::COMMITTED | Progress::HEARD_QUORUM));
    assert_eq!(primary.replica.commit(), OpNumber(1));
}

/// §4.1, step 5: while it waits for acknowledgements, what acknowledges nothing new is no reason to
/// go on leading (V9): all but its Prepares may get through.
#[test]
fn s4_1_5_a_primary_that_waits_is_kept_by_what_brings_it_nearer() {
    let mut primary = Bench::of(0, 3);
    let is_heard = |primary: &mut Bench, op| {
        let ok = primary.ok(op);
        primary.hear(1, ok).contains(Progress::HEARD_QUORUM)
    };
    primary.ask(7, 0, 0, b"");
    assert!(is_heard(&mut primary, 1));
    assert_eq!(primary.replica.commit(), OpNumber(1));
    assert!(is_heard(&mut primary, 1), "it waits for nothing");
    primary.execute(b"");
    primary.ask(7, 1, 1, b"a");
    assert!(!is_heard(&mut primary, 1));
    assert!(is_heard(&mut primary, 2));
}

/// §4.1, step 5: of those who are not needed to have it acknowledged once more, an answer will do;
/// and what is committed late was acknowledged by enough.
#[test]
fn s4_1_5_who_has_all_is_heard_by_any_answer() {
    let mut primary = Bench::of(0, 5);
    primary.ask(7, 0, 0, b"");
    let get = question(&primary);
    let ok = primary.ok(1);
    let mut hear = |from, message: Message| primary.hear(from, message);
    for fetches in [2, 3] {
        assert!(hear(1, ok.clone()).is_empty());
        let progress = hear(fetches, Message::GetState(get));
        assert_eq!(progress, Progress::HEARD_QUORUM, "of 1 and {fetches}");
    }
    assert!(hear(4, ok).contains(Progress::COMMITTED | Progress::HEARD_QUORUM));
}

/// For all of the log that this primary has.
fn question(primary: &Bench) -> GetState {
    GetState {
        view: View(0),
        after: OpNumber(0),
        checksum: root(primary),
        nonce: Nonce(7),
        pages: 1,
    }
}

/// §5.2: who asks for the log of a view has heard of it, and will follow it. Who asks the same
/// again may hear nothing.
#[test]
fn s5_2_the_first_question_in_a_view_is_an_answer() {
    let mut primary = Bench::of(0, 3);
    primary.ask(7, 0, 0, b"");
    let get = question(&primary);
    let mut ask = || primary.hear(2, Message::GetState(get));
    assert!(ask().contains(Progress::HEARD_QUORUM));
    assert!(!ask().contains(Progress::HEARD_QUORUM));
}

/// §5.1: a primary that has taken a checkpoint, and waits for one more to be acknowledged.
fn waits_behind_a_checkpoint() -> (Bench, Summary) {
    let group = Configuration::new(3).expect("odd");
    let options = Options {
        checkpoint_interval: 2,
        checkpoint_keep: 0,
        ..Options::default()
    };
    let mut primary = Bench::with(Replica::founding_member(ReplicaId(0), group, options));
    for number in 0..2 {
        primary.ask(7, number.min(1), number, b"");
        let ok = primary.ok(number + 1);
        skip(primary.hear(1, ok));
        primary.execute(b"");
    }
    let summary = primary.take_checkpoint();
    primary.ask(7, 1, 2, b"");
    assert!(
        primary.replica.entry(OpNumber(1)).is_none(),
        "it is cut off"
    );
    (primary, summary)
}

fn is_heard(primary: &mut Bench, message: Message) -> bool {
    primary.hear(2, message).contains(Progress::HEARD_QUORUM)
}

/// From one that has nothing of the log.
fn far_behind(primary: &Bench) -> Message {
    Message::PrepareOk(PrepareOk {
        view: View(0),
        op: OpNumber(0),
        checksum: root(primary),
    })
}

fn piece(summary: Summary, offset: u64) -> Message {
    let (view, nonce) = (View(0), Nonce(8));
    Message::GetCheckpoint(GetCheckpoint {
        view,
        nonce,
        summary,
        offset,
        pages: 1,
    })
}

/// §5.1: who is so far behind that it must read a checkpoint has nothing else to say meanwhile, and
/// no Prepare would help it. A large one is read for long.
#[test]
fn s5_1_who_reads_a_checkpoint_is_heard() {
    let (mut primary, summary) = waits_behind_a_checkpoint();
    let ok = far_behind(&primary);
    assert!(is_heard(&mut primary, piece(summary, 0)));
    for _ in 0..3 {
        assert!(is_heard(&mut primary, ok.clone()));
    }
}

/// §5.1: who gets no piece would keep a primary for ever that commits nothing (V9).
#[test]
fn s5_1_who_fetches_a_checkpoint_in_vain_is_not_heard() {
    let (mut primary, summary) = waits_behind_a_checkpoint();
    let ok = far_behind(&primary);
    assert!(!is_heard(&mut primary, ok.clone()), "it does not fetch");
    let first = Message::GetState(question(&primary));
    for (question, next) in [(first, 0), (piece(summary, 1), 2)] {
        assert!(is_heard(&mut primary, question.clone()));
        for _ in 0..4 {
            let heard = is_heard(&mut primary, question.clone());
            assert!(!heard, "it has no answer");
        }
        assert!(!is_heard(&mut primary, ok.clone()));
        assert!(is_heard(&mut primary, piece(summary, next)), "it has one");
        assert!(is_heard(&mut primary, ok.clone()));
    }
}

/// §5.1: nor does anyone get on who cannot use what it has fetched, and begins again for ever.
#[test]
fn s5_1_who_fetches_a_checkpoint_again_is_not_heard() {
    let (mut primary, summary) = waits_behind_a_checkpoint();
    let mut fetch = || {
        let (get, ok) = (question(&primary), far_behind(&primary));
        let said = [Message::GetState(get), piece(summary, 0), ok];
        said.map(|message| is_heard(&mut primary, message))
    };
    assert_eq!(fetch(), [true; 3]);
    assert_eq!(fetch(), [false, false, true], "it may have lost its memory");
    assert_eq!(fetch(), [false; 3]);
}

/// §5.1: the network may send its last question twice, or lose the answer once; it reads the
/// checkpoint now, for long, and asks no more.
#[test]
fn s5_1_who_had_to_ask_twice_reads_a_checkpoint_all_the_same() {
    let (mut primary, summary) = waits_behind_a_checkpoint();
    let ok = far_behind(&primary);
    assert!(is_heard(&mut primary, piece(summary, 1)));
    for _ in 0..2 {
        assert!(!is_heard(&mut primary, piece(summary, 1)));
        assert!(is_heard(&mut primary, ok.clone()));
    }
    for _ in 0..100 {
        assert!(!is_heard(&mut primary, piece(summary, 0)), "it is late");
    }
    assert!(is_heard(&mut primary, ok));
}

/// §5.2: what follows a checkpoint is further on than any piece of it.
#[test]
fn s5_2_who_asks_for_what_follows_a_checkpoint_gets_on() {
    let (mut primary, summary) = waits_behind_a_checkpoint();
    assert!(is_heard(&mut primary, piece(summary, 1)));
    let behind = GetState {
        after: summary.op,
        checksum: summary.header.checksum,
        ..question(&primary)
    };
    assert!(is_heard(&mut primary, Message::GetState(behind)));
}

/// §4.1, step 5, with a disk: the primary's own copy counts when it is durable, as any other.
#[test]
fn s4_1_5_the_primarys_own_copy_is_counted_when_durable() {
    let mut primary = Bench::of(0, 3);
    let mut effects = Effects::new();
    let progress = primary
        .replica
        .on_request(request(7, 0, 0, b""), &mut effects);
    assert!(progress.is_empty());
    assert_eq!(primary.flush(), Progress::PREPARED);
    let ok = primary.ok(1);
    let progress = primary.replica.on_message(ReplicaId(1), ok, &mut effects);
    assert!(
        !progress.contains(Progress::COMMITTED),
        "one durable copy of three"
    );
    assert!(primary.write().contains(Progress::COMMITTED));
}

/// §4.1, step 6: "if the primary does not receive a new client request in a timely way, it instead
/// informs the backups of the latest commit by sending them a ⟨COMMIT v, k⟩ message".
#[test]
fn s4_1_6_an_idle_primary_tells_the_commit_number() {
    let mut primary = Bench::of(0, 3);
    assert!(primary.expire(Replica::heartbeat).is_empty());
    assert_eq!(primary.said(), [(None, commit(0, 0))]);
}

/// §4.1, step 7: "When a backup learns of a commit, it waits until it has the request in its log
/// and until it has executed all earlier operations. Then it executes … but does not send the
/// reply to the client."
#[test]
fn s4_1_7_backups_execute_and_do_not_reply() {
    let mut backup = Bench::of(1, 3);
    let entries = chain(1, 0, root(&backup), 1);
    assert!(!backup.hear(0, commit(0, 1)).contains(Progress::COMMITTED));
    assert!(
        backup
            .hear(0, prepare(0, &entries, 0))
            .contains(Progress::COMMITTED)
    );
    assert_eq!(backup.replica.executed(), OpNumber(1));
    assert!(backup.replies.is_empty());
}

/// §4.1: "replicas … only process normal protocol messages containing a view-number that matches
/// the view-number they know. If the sender is behind, the receiver drops the message."
#[test]
fn s4_1_messages_of_old_views_are_dropped() {
    let mut backup = Bench::of(1, 3);
    assert!(
        backup
            .hear(2, wish(2, true))
            .contains(Progress::ROLE_CHANGED)
    );
    let entries = chain(1, 0, root(&backup), 1);
    assert!(backup.hear(0, prepare(0, &entries, 0)).is_empty());
    assert_eq!(
        (backup.ignored(Ignored::OldView), backup.replica.op()),
        (1, OpNumber(0))
    );
}

/// What a primary does not take, it says so.
#[test]
fn refusals() {
    let mut primary = Bench::of(0, 3);
    primary.ask(7, 4, 1, b"a");
    assert_eq!(primary.outcome(), Some(Outcome::NoSession));
    primary.ask(7, 0, 0, &[0; 33]);
    assert_eq!(primary.outcome(), Some(Outcome::TooLarge));
    for client in 0..8 {
        primary.ask(client, 0, 0, b"");
        assert_eq!(primary.outcome(), None);
    }
    primary.ask(9, 0, 0, b"");
    assert_eq!(primary.outcome(), Some(Outcome::Busy { retry_after_ms: 2 }));
    assert_eq!(primary.ignored(Ignored::Busy), 1);
    let mut backup = Bench::of(1, 3);
    backup.ask(7, 0, 0, b"");
    assert_eq!(backup.outcome(), Some(Outcome::NotPrimary));
}

/// A primary that has refused more than it has committed asks for more patience.
#[test]
fn a_busy_primary_asks_for_patience() {
    let mut primary = Bench::of(0, 3);
    for client in 0..9 {
        primary.ask(client, 0, 0, b"");
    }
    assert_eq!(primary.outcome(), Some(Outcome::Busy { retry_after_ms: 2 }));
    primary.replica.ease();
    primary.ask(9, 0, 0, b"");
    assert_eq!(primary.outcome(), Some(Outcome::Busy { retry_after_ms: 4 }));
    primary.replica.ease();
    skip(primary.hear(1, primary.ok(8)));
    primary.replica.ease();
    for client in 10..19 {
        primary.ask(client, 0, 0, b"");
    }
    assert_eq!(primary.outcome(), Some(Outcome::Busy { retry_after_ms: 4 }));
}

/// An acknowledgement of what the primary does not have, or has otherwise, is not counted (S3).
#[test]
fn s3_an_acknowledgement_must_match_the_log() {
    let mut primary = Bench::of(0, 3);
    primary.ask(7, 0, 0, b"");
    let lie = |op, checksum| {
        Message::PrepareOk(PrepareOk {
            view: View(0),
            op,
            checksum,
        })
    };
    assert!(primary.hear(1, lie(OpNumber(10), Checksum(1))).is_empty());
    assert!(primary.hear(1, lie(OpNumber(1), Checksum(1))).is_empty());
    assert_eq!(primary.replica.commit(), OpNumber(0));
    assert_eq!(primary.ignored(Ignored::BeyondLog), 1);
    assert_eq!(primary.ignored(Ignored::Diverged), 1);
}
