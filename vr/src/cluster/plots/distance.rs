//! Replicas that are far apart (X7, X8): a view change is given the time that its messages take.

use std::time::Duration;

use viewring_runtime::sim::Random;

use super::scene::Scene;
use crate::cluster::Mark;
use crate::cluster::adversary::far;
use crate::cluster::stage::Held;

/// As far as timeouts are scaled for: a view change takes three trips, and is given eight.
const SCALED_FOR: Duration = Duration::from_millis(110);

/// Many are within what timeouts are scaled for, most far beyond that: but near enough that a view
/// starts within the longest time that one is given, eight seconds, also where its primary has to
/// fetch what it lacks: five trips, of which some take half as long again. A primary whose backups
/// have to fetch the log is silent by the time that they have it, and goes on when their next
/// answers come.
pub(super) fn draw(random: &mut Random) -> Duration {
    let ms = if random.chance(0.4) {
        random.between(60..=SCALED_FOR.as_millis() as u64)
    } else {
        random.between(1_000..=1_500)
    };
    Duration::from_millis(ms)
}

/// Once round trips are measured, the primary stands still for a while. Where timeouts are scaled
/// for the distance the first view change must succeed. Where they are not, views may fail, but
/// each is given more time than the last one, until one rests.
pub(super) fn far_apart(scene: &mut Scene<'_>) -> Held {
    let apart = scene.faults.distance.expect("they are far apart");
    scene.cluster().set_links(&far(apart));
    scene.run(apart * 8);
    scene.wait(3_000, 4_000);
    for _ in 0..3 {
        let view = scene.stage.view();
        let primary = scene.node(scene.primary());
        let pause = scene.between(2_000, 4_000);
        scene.cluster().world.pause(primary, pause);
        scene.run(pause + apart * 8);
        if apart <= SCALED_FOR {
            scene.run(RESTS_FOR);
            scene.stays(view + 1, "the first was not the last")?;
        } else {
            scene.run(apart * 24);
            let last = scene.stage.view();
            if last > view {
                scene.mark(Mark::BeganFarApart);
            }
            scene.run(apart * 8);
            scene.stays(last, "it was given no more time than the last one")?;
        }
    }
    Ok(())
}

/// Whoever has a vote left has cast it after so long.
const RESTS_FOR: Duration = Duration::from_secs(2);
