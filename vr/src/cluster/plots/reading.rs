//! Reads that nobody else is asked for (V14), and the first reads of a view (B.7.10).

use std::time::Duration;

use viewring_protocol::wire::kind;
use viewring_runtime::sim::Verdict;

use super::scene::{About, PATIENCE, Scene};
use crate::cluster::Mark;
use crate::cluster::stage::Held;

/// The primary's clock is slow and those of the others are fast, as far as leases bear; or
/// promises are long under way. Then the primary is split off, and the readers with it. What it
/// believes of the promises that it was given must end before they do.
pub(super) fn lease_at_its_limits(scene: &mut Scene<'_>) -> Held {
    let (view, primary) = (scene.stage.view(), scene.primary());
    let most = scene.faults.drift_ppm as i32;
    for id in scene.backups().into_iter().chain([primary]) {
        let extreme = if id == primary { -most } else { most };
        let is_extreme = scene.random.chance(0.9);
        let node = scene.node(id);
        if most > 0 && is_extreme {
            scene.cluster().world.set_drift(node, extreme);
        }
    }
    let lease = scene.faults.lease.expect("leases are on");
    let to = scene.node(primary);
    let late = (most == 0 || scene.random.chance(0.2)).then(|| {
        let by = lease.mul_f64(0.2 + 1.2 * scene.random.unit());
        scene.rule(About::kind(kind::ROUND_OK).to(to), Verdict::Delay(by))
    });
    scene.wait(300, 1_200);
    drop(late);
    scene.wait(0, 3);
    be_alone_with_readers(scene, view);
    Ok(())
}

/// f backups hear the primary and have promised; the others hear nothing of it, and have voted.
/// One of the first is restarted, and has its memory back at once, but for what it has promised.
/// Then the primary is split off, and the readers with it, before the promise ends.
pub(super) fn promise_of_an_earlier_life(scene: &mut Scene<'_>) -> Held {
    let (view, primary) = (scene.stage.view(), scene.primary());
    let from = scene.node(primary);
    let (backups, failures) = (scene.backups(), scene.failures());
    let (promised, estranged) = backups.split_at(failures);
    let silent: Vec<_> = estranged
        .iter()
        .map(|&id| {
            let to = scene.node(id);
            scene.rule(About::anything().from(from).to(to), Verdict::Drop)
        })
        .collect();
    let lease = scene.faults.lease.expect("leases are on");
    scene.run(lease);
    scene.wait(400, 1_000);
    let forgetful = promised[0];
    let to = scene.node(forgetful);
    let rounds = scene.rule(About::kind(kind::ROUND).from(from).to(to), Verdict::Drop);
    scene.restart(forgetful);
    scene.until_normal(forgetful, Duration::from_millis(200));
    be_alone_with_readers(scene, view);
    drop((rounds, silent));
    Ok(())
}

/// Answers to rounds come a second time, much later. By then the primary is split off, and the
/// readers with it, and others write. What was answered then says nothing of who leads now.
pub(super) fn rounds_of_the_past(scene: &mut Scene<'_>) -> Held {
    let (view, primary) = (scene.stage.view(), scene.primary());
    let to = scene.node(primary);
    let again = scene.between(500, 2_500);
    let copied = scene.rule(
        About::kind(kind::ROUND_OK).to(to),
        Verdict::Duplicate(again),
    );
    scene.wait(200, 1_500);
    drop(copied);
    be_alone_with_readers(scene, view);
    Ok(())
}

/// Until a while after another view than this one has begun.
fn be_alone_with_readers(scene: &mut Scene<'_>, view: u64) {
    let mut apart = scene.readers().to_vec();
    apart.push(scene.node(scene.primary()));
    let split = scene.split_off(apart);
    if scene.until_view_after(view, PATIENCE) {
        scene.mark(Mark::AloneWithReaders);
    }
    scene.wait(50, 800);
    drop(split);
    scene.until_agreed(PATIENCE);
}

/// The last calls are committed and answered, and before the primary can tell the others it is
/// gone. The next one has all of them, and does not know that they are committed: what would tell
/// it is held back. It is asked to read at once.
pub(super) fn new_primary_knows_less(scene: &mut Scene<'_>) -> Held {
    for _ in 0..scene.random.between(1..=2) {
        scene.wait(50, 800);
        let (view, primary) = (scene.stage.view(), scene.primary());
        let node = scene.node(primary);
        let requests = scene.rule(About::kind(kind::REQUEST), Verdict::Drop);
        let commits = scene.rule(About::kind(kind::COMMIT).from(node), Verdict::Drop);
        scene.wait(2, 40);
        let acks = scene.rule(About::kind(kind::PREPARE_OK), Verdict::Hold);
        let gone = scene.split_off(vec![node]);
        if scene.until_view_after(view, PATIENCE) {
            scene.mark(Mark::PrimaryKnewLess);
        }
        scene.wait(20, 500);
        drop((requests, commits, acks));
        scene.release();
        scene.wait(0, 100);
        drop(gone);
        scene.until_agreed(PATIENCE);
    }
    Ok(())
}

/// The primary is cut off from the other replicas, not from clients, and stands still. The others
/// have another view, and what is called for in it is answered. Then the cut heals. The primary
/// goes on, and takes in one turn reads of who knows of no other view, and word of the next one:
/// what it would have answered in the view that it leaves it must not answer in the next.
pub(super) fn left_in_the_same_turn(scene: &mut Scene<'_>) -> Held {
    scene.wait(50, 800);
    let (view, primary) = (scene.stage.view(), scene.primary());
    let node = scene.node(primary);
    // Whoever calls while there is no primary hears of the next one.
    scene.permit(Some(0));
    scene.wait(150, 300);
    let others: Vec<_> = { scene.backups() }
        .iter()
        .map(|&id| scene.node(id))
        .collect();
    let cuts: Vec<_> = others
        .iter()
        .flat_map(|&other| {
            let (out, back) = (About::anything().from(node), About::anything().to(node));
            [out.to(other), back.from(other)]
        })
        .map(|about| scene.rule(about, Verdict::Drop))
        .collect();
    let id = scene.random.next_u64();
    scene.stage.start_visit(id, 3, PATIENCE);
    let has_begun = scene.until_view_after(view, PATIENCE);
    scene.wait(160, 350);
    let pause = scene.between(30, 90);
    scene.cluster().world.pause(node, pause);
    scene.permit(None);
    scene.wait(2, 25);
    drop(cuts);
    scene.run(pause);
    if has_begun {
        scene.mark(Mark::ReadAndLeft);
    }
    scene.until_agreed(PATIENCE);
    Ok(())
}
