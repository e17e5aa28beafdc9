//! Fetching what was missed, from replicas that are far away.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use viewring::Null;
use viewring::cluster::{Cluster, ClusterConfig, Planted, WaitBug};
use viewring::protocol::ReplicaId;
use viewring::protocol::wire::kind;
use viewring_runtime::sim::{Delay, NodeId, Packet, RuleGuard, Verdict};

const TRIP: Duration = Duration::from_millis(150);
/// So many operations are missed, of a thousand bytes each.
const MISSED: u64 = 300;

/// A group as far apart, that has measured it.
fn far_apart(config: ClusterConfig, trip: Duration) -> Cluster {
    let mut cluster = Cluster::new(7, config, || Null);
    cluster.form();
    cluster
        .world
        .update_links(|link| link.delay = Delay::fixed(trip));
    cluster.world.run_for(Duration::from_secs(4));
    cluster
}

/// The replica that misses something, and its node.
fn away(cluster: &Cluster) -> (ReplicaId, NodeId) {
    let away = cluster.replica_ids().last().expect("three");
    (away, cluster.node(away))
}

/// Has a client make so many calls.
fn call(cluster: &mut Cluster, calls: u64, body: &'static [u8]) -> NodeId {
    cluster.start_client(move |client| async move {
        let mut session = client.session().await.expect("registered");
        for _ in 0..calls {
            session.call(body).await.expect("executed");
        }
    })
}

/// Drops what comes to `node` and has `is_lost`, until the rule is dropped.
fn lose(
    cluster: &mut Cluster,
    node: NodeId,
    is_lost: impl Fn(&Packet) -> bool + 'static,
) -> RuleGuard {
    cluster.world.rule(move |packet| {
        if packet.to_node() == Some(node) && is_lost(packet) {
            Verdict::Drop
        } else {
            Verdict::Deliver
        }
    })
}

/// Counts how often `node` asks for entries, until the rule is dropped.
fn count_questions(cluster: &mut Cluster, node: NodeId) -> (Rc<Cell<u32>>, RuleGuard) {
    let asked = Rc::<Cell<u32>>::default();
    let count = Rc::clone(&asked);
    let watch = cluster.world.rule(move |packet| {
        let is_one = packet.from_node() == node && is_first(packet, kind::GET_STATE);
        count.set(count.get() + u32::from(is_one));
        Verdict::Deliver
    });
    (asked, watch)
}

/// Whether the first frame of a datagram is of this kind.
fn is_first(packet: &Packet, kind: u8) -> bool {
    packet.payload().get(7) == Some(&kind)
}

/// Runs until `replica` has so many entries; so many seconds at most.
fn run_until_there(cluster: &mut Cluster, replica: ReplicaId, entries: u64, seconds: u64) {
    let give_up_at = cluster.world.now() + Duration::from_secs(seconds);
    while cluster.checker().borrow().op(replica).0 < entries {
        cluster.world.run_for(Duration::from_millis(10));
        assert!(cluster.world.now() < give_up_at);
    }
}

/// How many questions a replica asks that has missed them, until it has them all.
fn questions(bug: Option<Planted>) -> u32 {
    let mut config = ClusterConfig::new(3);
    config.checkpoints.page_bytes = 10_000;
    config.bug = bug;
    let mut cluster = far_apart(config, TRIP);
    let (away, node) = away(&cluster);
    let cut = lose(&mut cluster, node, |_| true);
    let _client = call(&mut cluster, MISSED, &[7; 1_000]);
    let primary = cluster.primary().expect("formed");
    run_until_there(&mut cluster, primary, MISSED + 1, 600);
    drop(cut);
    let (asked, _watch) = count_questions(&mut cluster, node);
    run_until_there(&mut cluster, away, MISSED + 1, 60);
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

#[test]
fn the_patience_with_an_answer_begins_with_its_question() {
    let mut cluster = far_apart(ClusterConfig::new(3), TRIP);
    let (away, node) = away(&cluster);
    let (asked, _watch) = count_questions(&mut cluster, node);
    let gaps = 12;
    for gap in 0..gaps {
        let _cut = lose(&mut cluster, node, |packet| is_first(packet, kind::PREPARE));
        let client = call(&mut cluster, 1, &[7; 100]);
        let a_while = Duration::from_secs(10);
        let done = cluster
            .world
            .run_until(|world| !world.is_up(client), a_while);
        done.expect("the others are enough");
        // It is idle, in any moment between two upkeeps.
        cluster
            .world
            .run_for(Duration::from_millis(3_000 + 37 * gap));
    }
    let has = |of| cluster.checker().borrow().op(of);
    assert_eq!(has(away), has(cluster.primary().expect("it leads on")));
    assert_eq!(
        u64::from(asked.get()),
        gaps,
        "what is missing is asked for once"
    );
}

/// How long it takes to fetch what was missed, over a link on which a page fits, but no two of
/// them: so many bytes get through, and as many per millisecond as `per_ms`.
fn over_a_narrow_link(queue_bytes: u64, per_ms: u64) -> Duration {
    let mut cluster = far_apart(ClusterConfig::new(3), Duration::from_millis(20));
    let (away, node) = away(&cluster);
    let cut = lose(&mut cluster, node, |_| true);
    for _ in 0..10 {
        let _client = call(&mut cluster, MISSED / 10, &[7; 8_000]);
    }
    let primary = cluster.primary().expect("formed");
    run_until_there(&mut cluster, primary, MISSED + 10, 60);
    drop(cut);
    let mut free_at = cluster.world.now();
    let _narrow = cluster.world.rule(move |packet| {
        if packet.to_node() != Some(node) {
            return Verdict::Deliver;
        }
        let takes = |bytes: u64| Duration::from_nanos(bytes * 1_000_000 / per_ms);
        let begins_at = free_at.max(packet.sent_at());
        let waits = begins_at - packet.sent_at();
        if waits > takes(queue_bytes) {
            return Verdict::Drop;
        }
        free_at = begins_at + takes(packet.payload().len() as u64);
        Verdict::Delay(free_at - packet.sent_at())
    });
    let began_at = cluster.world.now();
    run_until_there(&mut cluster, away, MISSED + 10, 60);
    cluster.world.now() - began_at
}

#[test]
fn what_does_not_fit_a_link_is_not_tried_for_ever() {
    // A page in a round trip of 40 ms, and what it takes: 2.3 s at least.
    let (narrow, wide) = (
        over_a_narrow_link(64_000, 12_500),
        over_a_narrow_link(1 << 20, 125_000),
    );
    assert!(narrow < Duration::from_millis(3_500), "{narrow:?}");
    assert!(wide < narrow / 2, "{wide:?}");
}
