//! Fetching what was missed, from replicas that are far away.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use viewring::Null;
use viewring::cluster::{Cluster, ClusterConfig, Planted, WaitBug};
use viewring::protocol::wire::kind;
use viewring_runtime::sim::{Delay, Verdict};

const TRIP: Duration = Duration::from_millis(150);
/// So many operations are missed, of a thousand bytes each.
const MISSED: u64 = 300;

/// How many questions a replica asks that has missed them, until it has them all.
fn questions(bug: Option<Planted>) -> u32 {
    let mut config = ClusterConfig::new(3);
    config.checkpoints.page_bytes = 10_000;
    config.bug = bug;
    let mut cluster = Cluster::new(7, config, || Null);
    cluster.form();
    cluster
        .world
        .update_links(|link| link.delay = Delay::fixed(TRIP));
    // Round trips are measured.
    cluster.world.run_for(Duration::from_secs(4));
    let away = cluster.replica_ids().last().expect("three");
    let node = cluster.node(away);
    let cut = cluster.world.rule(move |packet| {
        if packet.to_node() == Some(node) {
            Verdict::Drop
        } else {
            Verdict::Deliver
        }
    });
    cluster.start_client(|client| async move {
        let mut session = client.session().await.expect("registered");
        for _ in 0..MISSED {
            session.call(&[7; 1_000]).await.expect("executed");
        }
    });
    let has_all = move |cluster: &Cluster, of| cluster.checker().borrow().op(of).0 > MISSED;
    while !has_all(&cluster, cluster.primary().expect("formed")) {
        cluster.world.run_for(Duration::from_millis(10));
    }
    drop(cut);
    let asked = Rc::<Cell<u32>>::default();
    let count = Rc::clone(&asked);
    let _watch = cluster.world.rule(move |packet| {
        let is_one = packet.payload().get(7) == Some(&kind::GET_STATE);
        count.set(count.get() + u32::from(is_one));
        Verdict::Deliver
    });
    while !has_all(&cluster, away) {
        cluster.world.run_for(Duration::from_millis(10));
    }
    asked.get()
}

#[test]
fn what_is_on_its_way_is_not_asked_for_again() {
    let pages = 31;
    let asked = questions(None);
    assert!(asked < pages / 2, "several pages at once: {asked}");
    let hurried = questions(Some(Planted::Wait(WaitBug::RoundTripsIgnored)));
    assert!(hurried > pages * 3, "{hurried}");
}
