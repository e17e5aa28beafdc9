//! §4.3 and §5.2: who is not of the group, or not of this one; answers to nothing.

use super::bench::{
    Bench, FITTED, brings, chain, commit, fit, prepare, root, skip, start, tail, wish,
};
use viewring_protocol::{
    Checksum, Configuration, Hello, Ignored, Incarnation, Message, NewState, Nonce, OpNumber,
    Options, Progress, Replica, ReplicaId, Standing, Status, View, WaitingReason,
};

/// §4.3: "While a replica's status is recovering it does not participate in either the request
/// processing protocol or the view change protocol."
#[test]
fn s4_3_a_recovering_replica_does_not_participate() {
    let group = Configuration::new(3).expect("odd");
    let replica = Replica::new(ReplicaId(1), group, Options::default(), Incarnation(9));
    let mut restarted = Bench::with(replica);
    let entries = chain(1, 0, Checksum(0), 1);
    for message in [
        prepare(0, &entries, 0),
        wish(1, true),
        brings(1, 0, Checksum(0), tail(Checksum(0), 0, &[])),
        start(3, tail(Checksum(0), 0, &[])),
    ] {
        assert!(restarted.hear(0, message).is_empty());
    }
    restarted.ask(7, 0, 0, b"");
    assert!(restarted.said().is_empty() && restarted.replies.is_empty());
    assert_eq!(restarted.ignored(Ignored::NotMember), 5);
}

/// Formation: a group is a set of incarnations that all have promised; who was restarted stays
/// outside, and says so.
#[test]
fn a_restarted_replica_stays_outside() {
    let group = Configuration::new(3).expect("odd");
    let new = |id: u8, life| {
        Bench::with(Replica::new(
            ReplicaId(id),
            group,
            Options::default(),
            Incarnation(life),
        ))
    };
    let mut all = [new(0, 10), new(1, 11), new(2, 12)];
    let waiting = all[0].replica.waiting_reason();
    assert!(matches!(waiting, Some(WaitingReason::WaitingFor(ids)) if ids.len() == 2));
    for bench in &mut all {
        assert!(bench.expire(Replica::announce).is_empty());
    }
    while let Some(from) = all.iter().position(|bench| !bench.sent.is_empty()) {
        for (to, message) in all[from].said() {
            let id = u8::try_from(from).expect("small");
            for one in (0..3).filter(|&one| one != id && to.is_none_or(|to| to.0 == one)) {
                let progress = all[usize::from(one)].hear(id, message.clone());
                skip(progress);
            }
        }
    }
    assert!(
        all.iter()
            .all(|bench| bench.replica.status() == Status::Normal)
    );
    assert_eq!(
        all[0].replica.group_checksum(),
        all[2].replica.group_checksum()
    );

    all[1] = new(1, 21);
    assert!(all[1].expire(Replica::announce).is_empty());
    let hello = all[1].said().remove(0).1;
    assert!(all[0].hear(1, hello).is_empty());
    let (to, answer) = all[0].said().remove(0);
    assert_eq!(to, Some(ReplicaId(1)));
    assert!(all[1].hear(0, answer).is_empty());
    let reason = all[1].replica.waiting_reason();
    assert_eq!(
        reason,
        Some(WaitingReason::GroupRunsWithoutMe { view: View(0) })
    );
    let stale = Hello {
        incarnation: Incarnation(12),
        locked: None,
        standing: Standing::Forming,
        view: View(0),
    };
    assert!(all[1].hear(2, Message::Hello(stale)).is_empty());
    assert_eq!(all[1].replica.status(), Status::Recovering);
}

/// §5.2: "The replica will respond to a GETSTATE message only if its status is normal and it is
/// currently in view v"; and an answer is used only if it was asked for.
#[test]
fn s5_2_an_answer_that_nobody_asked_for_is_ignored() {
    let mut backup = Bench::of(1, 3);
    let entries = chain(1, 0, root(&backup), 2);
    let new = NewState {
        view: View(0),
        nonce: Nonce(0),
        entries,
        op: OpNumber(2),
        commit: OpNumber(2),
    };
    assert!(backup.hear(0, Message::NewState(new)).is_empty());
    assert_eq!(
        (backup.replica.op(), backup.ignored(Ignored::StaleNonce)),
        (OpNumber(0), 1)
    );
}

/// An answer with the right nonce and a view that was not asked about does not end the question.
#[test]
fn s5_2_an_answer_of_another_view_is_ignored() {
    let mut backup = Bench::of(1, 3);
    let root = root(&backup);
    skip(backup.hear(0, commit(0, 2)));
    let said = backup.said();
    let [(Some(ReplicaId(0)), Message::GetState(asked)), _] = said.as_slice() else {
        panic!("it lacks entries: {said:?}");
    };
    let answer = |view| {
        Message::NewState(NewState {
            view: View(view),
            nonce: asked.nonce,
            entries: chain(1, 0, root, 2),
            op: OpNumber(2),
            commit: OpNumber(2),
        })
    };
    assert!(backup.hear(0, answer(7)).is_empty());
    assert!(backup.hear(0, answer(0)).contains(Progress::TRANSFERRED));
    assert_eq!(backup.replica.executed(), OpNumber(2));
}

/// "Messages of a group that died whole fit nowhere in the next": neither entries nor what was
/// committed there, nor its views.
#[test]
fn a_dead_group_is_not_believed() {
    let mut backup = Bench::of(1, 3);
    let dead = Checksum(13);
    let entries = chain(1, 0, dead, 2);
    for message in [
        commit(0, 1000),
        prepare(0, &entries, 1),
        wish(36, true),
        start(36, tail(dead, 0, &entries)),
        brings(37, 0, dead, tail(dead, 0, &entries)),
    ] {
        let from = if matches!(message, Message::DoViewChange(_)) {
            2
        } else {
            0
        };
        assert!(backup.hear(from, fit(message, FITTED, dead)).is_empty());
    }
    assert_eq!(backup.ignored(Ignored::OtherGroup), 5);
    assert_eq!((backup.said().len(), backup.replica.view()), (0, View(0)));
    let entries = chain(1, 0, root(&backup), 1);
    let progress = backup.hear(0, prepare(0, &entries, 0));
    assert!(
        !progress.contains(Progress::COMMITTED),
        "one copy commits nothing"
    );
}
