//! The end of a log that a view change cuts off (S9, V12): as if it had never been.

use viewring_protocol::wire::kind;
use viewring_runtime::sim::Verdict;

use super::scene::{About, PATIENCE, Scene};
use crate::cluster::Mark;
use crate::cluster::stage::Held;

/// The primary is alone with the clients, and takes a few calls that nobody else hears of, but for
/// one backup that hears of the later ones only, and asks for the rest. The answer is held back.
/// The others go on without the primary: what it took is cut off. When it leads again the clients
/// ask it again: it must not take their calls for those that it had. Then the backup misses
/// something again, asks, and hears the old answer: it must not take that for an answer to this
/// question.
pub(super) fn cut_off(scene: &mut Scene<'_>) -> Held {
    scene.wait(50, 500);
    scene.permit(Some(0));
    scene.until_agreed(PATIENCE);
    let view = scene.stage.view();
    let first = scene.primary();
    let asker = scene.backups()[0];
    let (from, to) = (scene.node(first), scene.node(asker));

    let mut beside = scene.clients();
    beside.push(from);
    let mut kept = beside.clone();
    kept.push(to);
    // The backup that asks is on the primary's side, at first; it hears no client.
    let others = scene.split_off(kept);
    let requests = scene.rule(About::kind(kind::REQUEST).to(to), Verdict::Drop);
    let held = old_word(scene);
    let words = scene.rule(About::kind(held).from(from).to(to), Verdict::Hold);
    let about = About::kind(kind::PREPARE).from(from).to(to);
    let (first_prepare, _) = scene.nth(about.clone(), 1, Verdict::Drop);
    let calls = scene.random.between(1..=2) as u32;
    scene.permit(Some(calls));
    scene.wait(2, 8);
    scene.permit(Some(4 - calls));
    scene.wait(3, 15);
    let alone = scene.split_off(beside);
    drop((others, words, first_prepare, requests));
    let mut leads = scene.until_view_after(view, PATIENCE);
    let requests = scene.rule(About::kind(kind::REQUEST), Verdict::Drop);
    drop(alone);
    leads &= scene.until_normal(first, PATIENCE);

    let mut views = u32::from(scene.cluster().replicas());
    while leads && scene.primary() != first && views > 0 {
        leads = scene.depose();
        views -= 1;
    }
    if leads && scene.primary() == first {
        scene.mark(Mark::PrimaryLedAgain);
    }
    let again = scene.rule(About::kind(held).from(from).to(to), Verdict::Hold);
    let (missed, _) = scene.nth(about, 1, Verdict::Drop);
    drop(requests);
    scene.permit(None);
    // A client that has not been answered asks again after a while.
    scene.wait(5, 250);
    drop(again);
    scene.release();
    scene.wait(50, 300);
    drop(missed);
    Ok(())
}

/// What of the primary comes to the backup much later: most often the answer to its question.
fn old_word(scene: &mut Scene<'_>) -> u8 {
    let others = [kind::PREPARE, kind::COMMIT, kind::START_VIEW];
    if scene.random.chance(0.8) {
        kind::NEW_STATE
    } else {
        others[scene.random.index(others.len())]
    }
}
