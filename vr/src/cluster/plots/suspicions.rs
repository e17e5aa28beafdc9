//! Suspicions that must not add up (V9, X6): only f+1 who suspect a primary *now* end its view. And
//! those that must (X1): of who waits for a view that does not start.

use std::time::Duration;

use viewring_protocol::ReplicaId;
use viewring_protocol::wire::kind;
use viewring_runtime::sim::{RuleGuard, Verdict};

use super::scene::{About, PATIENCE, Scene};
use crate::cluster::Mark;
use crate::cluster::stage::Held;

/// What was not repeated for so long is forgotten: four times the silence, and a little.
const FORGOTTEN_AFTER_MS: u64 = 1_100;

/// One backup after the other hears nothing of the primary for a moment, and says so; long enough
/// after each other that nobody remembers the last one. As often as it takes for a quorum of them.
pub(super) fn scattered(scene: &mut Scene<'_>) -> Held {
    let view = scene.stage.view();
    scene.wait(50, 1_000);
    for _ in 0..scene.random.between(1..=2) {
        for backup in scene.backups() {
            let silence = be_silent_to(scene, backup);
            scene.wait(400, 1_500);
            drop(silence);
            scene.cluster().world.heal_all();
            scene.wait(FORGOTTEN_AFTER_MS, FORGOTTEN_AFTER_MS + 900);
            scene.stays(view, "suspicions of different times were added up")?;
        }
        scene.mark(Mark::SuspicionsScattered);
    }
    Ok(())
}

/// The backup hears nobody, or not the primary.
fn be_silent_to(scene: &mut Scene<'_>, backup: ReplicaId) -> Option<RuleGuard> {
    let node = scene.node(backup);
    if scene.random.chance(0.5) {
        scene.cluster().world.set_deaf(node, true);
        return None;
    }
    let primary = scene.node(scene.primary());
    let about = About::anything().from(primary).to(node);
    Some(scene.rule(about, Verdict::Drop))
}

/// A backup stands still. Meanwhile f others suspect the primary for a moment, one after the
/// other, and think better of it; what they said waits in its socket. When it goes on it hears
/// nothing new, and has a suspicion of its own.
pub(super) fn that_waited(scene: &mut Scene<'_>) -> Held {
    let view = scene.stage.view();
    scene.wait(50, 1_000);
    let mut backups = scene.backups();
    let still = backups.pop().expect("a group has backups");
    let others = &backups[..scene.failures()];
    let pause = Duration::from_millis(1_200) * others.len() as u32 + scene.between(1_200, 2_500);
    let node = scene.node(still);
    scene.cluster().world.pause(node, pause);
    let goes_on_at = scene.cluster().world.now() + pause;
    for &other in others {
        let other = scene.node(other);
        scene.cluster().world.set_deaf(other, true);
        scene.wait(400, 900);
        scene.cluster().world.set_deaf(other, false);
        scene.wait(50, 250);
    }
    scene.cluster().world.set_deaf(node, true);
    let still_left = goes_on_at - scene.cluster().world.now();
    scene.run(still_left);
    scene.wait(400, 1_500);
    scene.cluster().world.set_deaf(node, false);
    scene.mark(Mark::SuspicionsWaited);
    scene.wait(300, 600);
    scene.stays(view, "suspicions that had waited were counted")
}

/// So many have stopped that all others are needed, and no view starts: what is brought into it
/// gets lost. The others give up at different moments, as each waits for another time; who votes
/// first must be heard still when the last one does. So they all come to the next view, again and
/// again.
pub(super) fn of_all_that_are_left(scene: &mut Scene<'_>) -> Held {
    scene.wait(50, 1_000);
    let (view, gone) = (scene.stage.view(), scene.primary());
    let failures = scene.failures();
    let mut left = scene.backups();
    let others = left.split_off(failures + 1);
    let gone: Vec<_> = others.into_iter().chain([gone]).collect();
    gone.iter().for_each(|&id| scene.cluster().crash(id));
    let lost = scene.rule(About::kind(kind::DO_VIEW_CHANGE), Verdict::Drop);
    let mut joined = view;
    for _ in 0..scene.random.between(3..=8) {
        let before = joined;
        let voted = scene.until(ALL_HAVE_VOTED, |checker| {
            left.iter().all(|&id| checker.joined(id) > before)
        });
        if !voted {
            return scene
                .stage
                .failed("all that are left have voted, each for itself");
        }
        let checker = scene.cluster().checker().borrow();
        joined = left
            .iter()
            .map(|&id| checker.joined(id))
            .max()
            .unwrap_or(view);
    }
    scene.mark(Mark::AllWereNeeded);
    drop(lost);
    gone.iter().for_each(|&id| scene.cluster().restart(id));
    scene.until_agreed(PATIENCE);
    Ok(())
}

/// Whoever is between views votes for the next one within so long: a view is given two seconds at
/// most, and half of that by chance.
const ALL_HAVE_VOTED: Duration = Duration::from_millis(3_300);
