//! Lives that follow each other under one name (S9, V13): what was said to, or by, an earlier one
//! must not count for the next.

use std::time::Duration;

use viewring_protocol::wire::kind;
use viewring_protocol::{ReplicaId, Role};
use viewring_runtime::sim::Verdict;

use super::scene::{About, PATIENCE, Scene};
use crate::cluster::Mark;
use crate::cluster::stage::Held;

/// A replica is restarted and told its memory, and the answers are copied. It acknowledges more,
/// and is restarted again. Its questions are lost; what it hears are the copies.
pub(super) fn of_a_replica(scene: &mut Scene<'_>) -> Held {
    scene.wait(50, 1_000);
    let any = scene.random.chance(0.2);
    let victim = if any {
        scene.primary()
    } else {
        scene.backups()[0]
    };
    let node = scene.node(victim);
    let again = scene.between(200, 3_000);
    let kinds = [
        kind::RECOVERY_RESPONSE,
        kind::NEW_STATE,
        kind::CHECKPOINT_CHUNK,
    ];
    let copied: Vec<_> = kinds
        .iter()
        .map(|&kind| scene.rule(About::kind(kind).to(node), Verdict::Duplicate(again)))
        .collect();
    let begins = scene.cluster().world.now();
    scene.restart(victim);
    let is_told = scene.until_normal(victim, again / 2);
    drop(copied);
    let before = scene.between(1, 60);
    let passed = scene.cluster().world.now() - begins;
    scene.run(again.saturating_sub(passed + before));
    let questions = scene.rule(About::kind(kind::RECOVERY).from(node), Verdict::Drop);
    scene.restart(victim);
    if is_told {
        scene.mark(Mark::RestartedBeforeCopies);
    }
    scene.run(before);
    scene.wait(10, 300);
    drop(questions);
    scene.until_normal(victim, PATIENCE);
    Ok(())
}

/// All are on their way into a view whose primary lacks what others have committed, and what they
/// bring it is held back. One of them is restarted: nobody can tell it the log of that view, as
/// there is none yet.
pub(super) fn of_a_replica_between_views(scene: &mut Scene<'_>) -> Held {
    scene.wait(50, 1_000);
    let old = scene.primary();
    let next = ReplicaId((old.0 + 1) % scene.stage.cluster.replicas());
    let to = scene.node(next);
    let lacks = [kind::PREPARE, kind::NEW_STATE]
        .map(|kind| scene.rule(About::kind(kind).to(to), Verdict::Drop));
    scene.wait(5, 150);
    let brought = scene.rule(About::kind(kind::DO_VIEW_CHANGE).to(to), Verdict::Hold);
    let apart = scene.split_off(vec![scene.node(old)]);
    let others = scene.backups();
    let are_changing = scene.until(PATIENCE, |checker| {
        others
            .iter()
            .all(|&id| checker.role(id) == Role::ViewChange)
    });
    drop(apart);
    scene.wait(0, 150);
    if let Some(&victim) = others.iter().find(|&&id| id != next) {
        scene.restart(victim);
    }
    if are_changing {
        scene.mark(Mark::RestartedBetweenViews);
    }
    scene.wait(10, 300);
    drop((lacks, brought));
    scene.release();
    scene.until_agreed(PATIENCE);
    Ok(())
}

/// A client leaves in the middle of its calls and comes back under its id, as another life. One of
/// the first life's requests comes late, before or after those of the second: it must not be
/// executed, and what the second life asks for must be.
pub(super) fn of_a_client(scene: &mut Scene<'_>) -> Held {
    for _ in 0..scene.random.between(1..=3) {
        scene.wait(50, 500);
        let (id, calls) = (scene.random.next_u64(), scene.random.between(1..=4) as u32);
        // Gone before it asks again.
        let stay = scene.between(5, 90);
        let visitor = scene.stage.start_visit(id, calls, stay);
        let about = About::kind(kind::REQUEST).from(visitor);
        let nth = scene.random.between(2..=1 + u64::from(calls));
        let (late, seen) = scene.nth(about, nth, Verdict::Hold);
        scene.run(stay + Duration::from_millis(1));
        drop(late);
        if scene.random.chance(0.5) {
            scene.release();
        }
        let calls = scene.random.between(1..=4) as u32;
        scene.stage.start_visit(id, calls, Duration::from_secs(60));
        if seen.yet() {
            scene.mark(Mark::RequestOfLastLife);
        }
        // As long as a few calls take; or much longer.
        let meanwhile = scene.random.any_magnitude(Duration::from_millis(500));
        scene.run(meanwhile);
        scene.release();
        scene.wait(10, 500);
    }
    Ok(())
}
