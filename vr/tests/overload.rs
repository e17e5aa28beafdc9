//! One slow replica, and crowds of clients: what a group serves must not fall.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use viewring::cluster::{Cluster, ClusterConfig, Mark};
use viewring::protocol::{OpNumber, ReplicaId};
use viewring::{Client, Null};
use viewring_runtime::sim::Delay;
use viewring_runtime::spawn;

/// Calls for ever, and counts the answers.
async fn call_on(client: Client, answers: Rc<Cell<u64>>) {
    // The outcome of what a crowd asks may be unknown: it is asked again.
    let mut session = loop {
        if let Ok(session) = client.session().await {
            break session;
        }
    };
    loop {
        let mut answer = session.call(b"").await;
        while answer.is_err() {
            answer = session.settle().await;
        }
        answers.set(answers.get() + 1);
    }
}

/// A group with so many sessions on each of so many client nodes, that has run for a while.
struct Crowd {
    cluster: Cluster,
    answers: Rc<Cell<u64>>,
}

impl Crowd {
    /// Some distance apart: what is in flight counts, and not how quick a simulated core is.
    fn new(config: ClusterConfig, distance: Duration, nodes: usize, sessions: usize) -> Self {
        let mut cluster = Cluster::new(7, config, || Null);
        cluster.form();
        let delay = Delay::fixed(distance);
        cluster
            .world
            .update_links(|link| link.delay = delay.clone());
        let answers = Rc::<Cell<u64>>::default();
        for _ in 0..nodes {
            let answers = Rc::clone(&answers);
            cluster.start_client(move |client| async move {
                for _ in 1..sessions {
                    spawn(call_on(client.clone(), Rc::clone(&answers))).detach();
                }
                call_on(client, answers).await;
            });
        }
        let mut crowd = Self { cluster, answers };
        crowd.served(Duration::from_millis(300));
        crowd
    }

    /// How many calls are answered in so long.
    fn served(&mut self, span: Duration) -> u64 {
        let before = self.answers.get();
        self.cluster.world.run_for(span);
        self.answers.get() - before
    }

    fn executed(&self, id: u8) -> OpNumber {
        self.cluster.checker().borrow().executed(ReplicaId(id))
    }
}

const NEAR: Duration = Duration::from_micros(500);
const FAR: Duration = Duration::from_millis(5);

#[test]
fn a_slow_backup_slows_nobody_but_itself() {
    let span = Duration::from_millis(200);
    let mut crowd = Crowd::new(ClusterConfig::new(3), NEAR, 4, 4);
    let usual = crowd.served(span);
    for factor in [10, 100] {
        let node = crowd.cluster.node(ReplicaId(2));
        crowd.cluster.world.slow_down(node, factor);
        let served = crowd.served(span);
        println!("{factor} times slower: {served} calls, usually {usual}");
        assert!(served * 10 >= usual * 9, "{served} of {usual}");
    }
    assert_eq!(crowd.cluster.checker().borrow().view(), 0);
    let node = crowd.cluster.node(ReplicaId(2));
    crowd.cluster.world.slow_down(node, 1);
    let served_by_then = crowd.executed(0);
    crowd.served(span);
    assert!(crowd.executed(2) >= served_by_then, "it has caught up");
}

#[test]
fn a_crowd_that_is_refused_does_not_keep_the_group_from_working() {
    let config = ClusterConfig {
        window: 16,
        retry: Duration::from_millis(20),
        ..ClusterConfig::new(3)
    };
    let span = Duration::from_millis(200);
    let few = Crowd::new(config.clone(), NEAR, 4, 4).served(span);
    let mut crowd = Crowd::new(config, NEAR, 16, 32);
    let many = crowd.served(span);
    println!("16 sessions: {few} calls; 512 sessions: {many}");
    assert!(many * 10 >= few * 8, "{many} of {few}");
    let told = crowd.cluster.checker().borrow().marks.count(Mark::ToldBusy);
    assert!(told > 0, "there was no room for all");
    assert_eq!(crowd.cluster.checker().borrow().view(), 0);
}

#[test]
fn a_group_comes_back_to_a_crowd_that_has_asked_for_long() {
    let config = ClusterConfig {
        window: 16,
        retry: Duration::from_millis(50),
        ..ClusterConfig::new(3)
    };
    let span = Duration::from_millis(500);
    let mut crowd = Crowd::new(config, FAR, 8, 8);
    let before = crowd.served(span);
    // Nobody hears a quorum; all clients ask, and ask again.
    for id in 0..3 {
        let node = crowd.cluster.node(ReplicaId(id));
        crowd.cluster.world.set_mute(node, true);
    }
    crowd.served(Duration::from_secs(1));
    crowd.cluster.world.heal_all();
    crowd.served(Duration::from_secs(2));
    let after = crowd.served(span);
    println!("before: {before} calls; after: {after}");
    assert!(after * 10 >= before * 8, "{after} of {before}");
}
