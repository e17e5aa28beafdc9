//! Entries that come in another order than they were sent (S10), or to nobody (V9).

use std::rc::Rc;
use std::time::Duration;

use viewring_protocol::{ReplicaId, wire::kind};
use viewring_runtime::sim::Verdict;

use super::scene::{About, PATIENCE, Scene};
use crate::cluster::Mark;
use crate::cluster::stage::Held;

/// Everything that is under way by now has come within so long, and has been taken.
const ARRIVES_WITHIN: Duration = Duration::from_millis(5);

/// A Prepare is late at one backup, others are not, and nobody answers the backup's questions. What
/// came early must be there as soon as the late one is: a Prepare that is only late costs no fetch.
pub(super) fn overtaken(scene: &mut Scene<'_>) -> Held {
    scene.wait(50, 1_000);
    for _ in 0..scene.random.between(1..=3) {
        let backup = scene.backups()[0];
        let (from, to) = (scene.node(scene.primary()), scene.node(backup));
        let questions = scene.rule(About::kind(kind::GET_STATE).from(to), Verdict::Drop);
        let late = scene.between(40, 400);
        let about = About::kind(kind::PREPARE).from(from).to(to);
        let (rule, seen) = scene.nth(about, 1, Verdict::Delay(late));
        let has_come = seen.clone();
        let world = &mut scene.cluster().world;
        let comes = world.run_until(|_| has_come.yet(), PATIENCE).is_ok();
        drop(rule);
        if comes {
            scene.mark(Mark::EntryOvertaken);
            is_there_when_it_comes(scene, backup, late)?;
        }
        drop(questions);
        scene.until_agreed(PATIENCE);
    }
    Ok(())
}

/// What the backup was sent until shortly before the late one came, it has shortly after that.
fn is_there_when_it_comes(scene: &mut Scene<'_>, backup: ReplicaId, late: Duration) -> Held {
    let primary = scene.primary();
    let checker = Rc::clone(scene.cluster().checker());
    scene.run(late.saturating_sub(ARRIVES_WITHIN));
    let sent = checker.borrow().op(primary);
    scene.run(ARRIVES_WITHIN * 2);
    let has = checker.borrow().op(backup);
    if has >= sent {
        return Ok(());
    }
    scene.stage.failed(&format!(
        "{backup:?} lacks entries that came early: it has {has:?} of {sent:?}"
    ))
}

/// From here on no entry of the primary gets through. All else does: rounds for its lease are
/// heard, and answered. It commits nothing, so it must make way for one that does.
pub(super) fn lost(scene: &mut Scene<'_>) -> Held {
    scene.wait(50, 1_500);
    let (view, primary) = (scene.stage.view(), scene.primary());
    let from = scene.node(primary);
    let lost = scene.rule(About::kind(kind::PREPARE).from(from), Verdict::Drop);
    scene.passes(view, "its primary commits nothing")?;
    scene.mark(Mark::MadeWay);
    scene.wait(50, 800);
    drop(lost);
    scene.until_agreed(PATIENCE);
    Ok(())
}
