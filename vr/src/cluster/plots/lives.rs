//! Lives that follow each other under one name (S9, V13): what was said to, or by, an earlier one
//! must not count for the next.

use std::time::Duration;

use viewring_protocol::wire::kind;
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
