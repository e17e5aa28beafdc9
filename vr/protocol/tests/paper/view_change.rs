//! §4.2: view changes.

use super::bench::{
    Bench, FITTED, brings, chain, commit, fit, prepare, root, skip, start, tail, wish,
};
use viewring_protocol::{
    Effects, Ignored, Message, NewState, Nonce, OpNumber, PrepareOk, Progress, Recovery, Replica,
    ReplicaId, Role, Status, View,
};

/// §4.2, step 1, corrected: a replica leaves its view when a quorum wants to, not alone.
#[test]
fn s4_2_1_a_quorum_leaves_a_view() {
    let mut backup = Bench::of(1, 3);
    assert!(backup.expire(Replica::suspect_primary).is_empty());
    assert_eq!(backup.said(), [(None, wish(1, false))]);
    assert_eq!(
        (backup.replica.role(), backup.replica.view()),
        (Role::Backup, View(0))
    );
    assert!(
        backup
            .hear(2, wish(1, false))
            .contains(Progress::ROLE_CHANGED)
    );
    assert_eq!(backup.replica.status(), Status::ViewChange);
    assert_eq!(backup.said(), [(None, wish(1, true))]);
}

/// §4.2, step 1: the suspicion ends when the primary is heard.
#[test]
fn s4_2_1_a_suspicion_is_withdrawn() {
    let mut backup = Bench::of(1, 3);
    assert!(backup.expire(Replica::suspect_primary).is_empty());
    assert_eq!(backup.hear(0, commit(0, 0)), Progress::HEARD_PRIMARY);
    assert!(backup.hear(2, wish(1, false)).is_empty());
    assert_eq!(backup.replica.view(), View(0));
}

/// §4.2, step 3: "selects as the new log the one contained in the message with the largest v';
/// if several messages have the same v' it selects the one among them with the largest n. It
/// sets its op-number to that of the topmost entry in the new log, sets its commit-number to the
/// largest such number it received."
#[test]
fn s4_2_3_the_log_of_the_highest_last_normal_view_is_chosen() {
    let mut primary = Bench::of(4, 5);
    let root = root(&primary);
    let long = chain(1, 0, root, 3);
    let short = chain(1, 2, root, 1);
    assert!(
        primary
            .hear(0, wish(4, true))
            .contains(Progress::ROLE_CHANGED)
    );
    assert!(
        primary
            .hear(0, brings(4, 0, root, tail(root, 0, &long)))
            .is_empty()
    );
    primary.said();
    let progress = primary.hear(1, brings(4, 2, root, tail(root, 0, &short)));
    assert!(progress.contains(Progress::ROLE_CHANGED));
    assert_eq!(primary.replica.role(), Role::CatchingUp);
    let said = primary.said();
    let [(Some(ReplicaId(1)), Message::GetState(get))] = said.as_slice() else {
        panic!("the shorter log is fetched: {said:?}");
    };
    let new = NewState {
        view: View(4),
        nonce: get.nonce,
        entries: short.clone(),
        op: OpNumber(1),
        commit: OpNumber(0),
    };
    let progress = primary.hear(1, Message::NewState(new));
    assert!(progress.contains(Progress::ROLE_CHANGED | Progress::TRANSFERRED));
    assert_eq!(primary.replica.role(), Role::Primary);
    assert_eq!(primary.replica.entry(OpNumber(1)), short.first());
    let start = start(4, tail(root, 0, &short));
    assert_eq!(primary.said(), [(None, start)]);
}

/// §4.2, step 3: "When the new primary receives f + 1 DOVIEWCHANGE messages from different
/// replicas (including itself)".
#[test]
fn s4_2_3_a_replica_is_counted_once() {
    let mut primary = Bench::of(4, 5);
    let root = root(&primary);
    let nothing = || brings(4, 0, root, tail(root, 0, &[]));
    assert!(primary.hear(0, nothing()).contains(Progress::ROLE_CHANGED));
    assert!(primary.hear(0, nothing()).is_empty());
    assert_eq!(primary.replica.role(), Role::ViewChange);
    assert!(primary.hear(1, nothing()).contains(Progress::ROLE_CHANGED));
    assert_eq!(primary.replica.role(), Role::Primary);
}

/// §4.2, step 5: "When other replicas receive the STARTVIEW message, they replace their log with
/// the one in the message … If there are non-committed operations in the log, they send a
/// ⟨PREPAREOK v, n, i⟩ message to the primary."
#[test]
fn s4_2_5_backups_adopt_the_log_and_acknowledge() {
    let mut backup = Bench::of(2, 3);
    let root = root(&backup);
    let entries = chain(1, 0, root, 2);
    assert!(!backup.hear(0, prepare(0, &entries, 0)).is_empty());
    backup.said();
    let start = start(1, tail(root, 0, &entries[..1]));
    assert!(backup.hear(1, start).contains(Progress::ROLE_CHANGED));
    assert_eq!(
        (backup.replica.op(), backup.replica.log_view()),
        (OpNumber(1), View(1))
    );
    let ok = PrepareOk {
        view: View(1),
        op: OpNumber(1),
        checksum: entries[0].checksum(),
    };
    assert_eq!(
        backup.said(),
        [(Some(ReplicaId(1)), Message::PrepareOk(ok))]
    );
}

/// A token for the log of an old view acknowledges nothing of the new one.
#[test]
fn a_late_token_does_not_acknowledge_a_newer_log() {
    let mut backup = Bench::of(2, 3);
    let root = root(&backup);
    let entries = chain(1, 0, root, 2);
    let mut effects = Effects::new();
    let message = fit(prepare(0, &entries, 0), FITTED, root);
    skip(
        backup
            .replica
            .on_message(ReplicaId(0), message, &mut effects),
    );
    assert!(backup.flush().is_empty());
    let late = std::mem::take(&mut backup.journal);
    let start = fit(start(1, tail(root, 0, &entries)), FITTED, root);
    skip(backup.replica.on_message(ReplicaId(1), start, &mut effects));
    assert!(backup.flush().is_empty());
    for durable in late {
        assert!(backup.replica.on_durable(durable, &mut effects).is_empty());
    }
    backup.perform(effects);
    assert_eq!(
        (backup.said().len(), backup.ignored(Ignored::StaleDurable)),
        (0, 1)
    );
    assert!(backup.write().is_empty());
    assert_eq!(backup.said().len(), 1);
}

/// Two that have given their view up at different times meet nevertheless: a vote is renewed until
/// the view starts.
#[test]
fn s13_who_has_given_up_says_so_until_the_view_starts() {
    let mut waiting = Bench::of(0, 3);
    skip(waiting.hear(2, wish(1, true)));
    assert!(waiting.expire(Replica::give_up_view).is_empty());
    waiting.said();
    for _ in 0..9 {
        assert!(waiting.expire(Replica::resend_view_change).is_empty());
        assert!(waiting.said().contains(&(None, wish(2, false))));
        waiting.replica.expire_votes();
    }
    let progress = waiting.hear(2, wish(2, false));
    assert!(progress.contains(Progress::ROLE_CHANGED));
    assert_eq!(waiting.replica.view(), View(2));
}

/// However often a late replica says that it is on its way, a turn answers it once.
#[test]
fn a_late_comer_is_answered_once_a_turn() {
    let mut primary = Bench::of(1, 3);
    let root = root(&primary);
    skip(primary.hear(2, brings(1, 0, root, tail(root, 0, &[]))));
    assert_eq!(primary.replica.role(), Role::Primary);
    primary.said();
    let mut effects = Effects::new();
    for _ in 0..100 {
        let wish = fit(wish(1, true), FITTED, root);
        let progress = primary.replica.on_message(ReplicaId(0), wish, &mut effects);
        assert!(progress.is_empty() && effects.is_empty());
        let brought = brings(1, 0, root, tail(root, 0, &[]));
        let progress = primary
            .replica
            .on_message(ReplicaId(0), brought, &mut effects);
        assert!(progress.is_empty() && effects.is_empty());
    }
    assert!(primary.flush().is_empty());
    let start = start(1, tail(root, 0, &[]));
    assert_eq!(primary.said(), [(Some(ReplicaId(0)), start)]);
}

/// §4.2, step 5: what the primary says to be committed while the log is fetched is not forgotten.
/// A window bounds what is uncommitted, of what a replica brings into the next view, too.
#[test]
fn s4_2_5_what_is_committed_meanwhile_is_known_with_the_log() {
    let mut backup = Bench::of(2, 3);
    let root = root(&backup);
    let entries = chain(1, 0, root, 3);
    skip(backup.hear(1, start(1, tail(root, 0, &entries[..2]))));
    let said = backup.said();
    let [(Some(ReplicaId(1)), Message::GetState(get))] = said.as_slice() else {
        panic!("the log is fetched: {said:?}");
    };
    skip(backup.hear(1, prepare(1, &entries[2..], 1)));
    skip(backup.hear(1, commit(1, 2)));
    let new = NewState {
        view: View(1),
        nonce: get.nonce,
        entries: entries[..2].to_vec(),
        op: OpNumber(3),
        commit: OpNumber(0),
    };
    skip(backup.hear(1, Message::NewState(new)));
    assert_eq!(backup.replica.role(), Role::Backup);
    let known = (backup.replica.op(), backup.replica.commit());
    assert_eq!(known, (OpNumber(3), OpNumber(2)));
}

/// §4.2: but of the log of a view that was left it says nothing.
#[test]
fn s4_2_5_what_is_committed_in_a_view_that_was_left_is_forgotten() {
    let mut backup = Bench::of(2, 5);
    let root = root(&backup);
    let (old, new) = (chain(1, 0, root, 2), chain(1, 0, root, 3));
    skip(backup.hear(1, start(1, tail(root, 0, &old))));
    skip(backup.hear(1, commit(1, 2)));
    skip(backup.hear(3, start(3, tail(root, 0, &new))));
    let said = backup.said();
    let Some((Some(ReplicaId(3)), Message::GetState(get))) = said.last() else {
        panic!("the log is fetched: {said:?}");
    };
    let page = NewState {
        view: View(3),
        nonce: get.nonce,
        entries: new,
        op: OpNumber(3),
        commit: OpNumber(0),
    };
    skip(backup.hear(3, Message::NewState(page)));
    let known = (backup.replica.op(), backup.replica.commit());
    assert_eq!(known, (OpNumber(3), OpNumber(0)));
}

/// §4.2, §4.3: who has lost its memory cannot lead before another has: a view that it is to lead is
/// not waited for. One word of it may be that of a life that has ended.
#[test]
fn s4_3_a_view_of_who_has_lost_its_memory_is_not_waited_for() {
    let mut replica = Bench::of(2, 5);
    for from in [3, 4] {
        skip(replica.hear(from, wish(1, true)));
    }
    assert_eq!(replica.replica.role(), Role::ViewChange);
    replica.said();
    let recovery = || {
        Message::Recovery(Recovery {
            view: View(0),
            root: FITTED,
            nonce: Nonce(5),
        })
    };
    let mut votes = |from| {
        skip(replica.hear(from, recovery()));
        let said = replica.said();
        said.contains(&(None, wish(2, false)))
    };
    assert!(!votes(0) && !votes(0), "it is not to lead");
    assert!(!votes(1), "once");
    assert!(votes(1));
    assert!(!votes(1), "it has voted");
}
