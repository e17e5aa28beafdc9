//! Replicas whose disks fail, in a simulated group.

use std::time::Duration;

use viewring::cluster::{Cluster, ClusterConfig, Mark};
use viewring::kv::Kv;
use viewring::protocol::{ReplicaId, Role};
use viewring_runtime::sim::DiskFaults;

const PRIMARY: ReplicaId = ReplicaId(0);
const VICTIM: ReplicaId = ReplicaId(3);

fn group(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(seed, ClusterConfig::new(5), Kv::default);
    cluster.form();
    cluster
}

/// All but `without` agree, within ten seconds.
fn agree(cluster: &mut Cluster, without: &[ReplicaId]) {
    let ids = cluster.replica_ids();
    let others: Vec<_> = ids.filter(|id| !without.contains(id)).collect();
    let checker = cluster.checker().clone();
    let agreed = cluster.world.run_until(
        |_| checker.borrow().have_converged(others.iter().copied()),
        Duration::from_secs(10),
    );
    assert!(agreed.is_ok(), "{}", checker.borrow().table());
}

/// A view change, which every replica has to remember.
fn change_view(cluster: &mut Cluster, without: &[ReplicaId]) {
    cluster.crash(PRIMARY);
    cluster.world.run_for(Duration::from_secs(2));
    agree(cluster, &[without, &[PRIMARY]].concat());
    assert!(cluster.checker().borrow().view() > 0);
}

#[test]
fn who_cannot_write_what_it_must_remember_ends_and_comes_back() {
    let errors: [fn(&mut DiskFaults); 2] =
        [|disk| disk.sync_error = 1.0, |disk| disk.write_error = 1.0];
    for (seed, fails) in (0..20).zip(errors.into_iter().cycle()) {
        let mut cluster = group(seed);
        cluster.fail_disk(VICTIM, fails);
        cluster.world.run_for(Duration::from_secs(1));
        assert_eq!(cluster.why_ended(VICTIM), None, "nothing was written");
        change_view(&mut cluster, &[VICTIM]);
        let why = cluster.why_ended(VICTIM).expect("it had to write");
        assert!(
            why.starts_with("the view file cannot be written: "),
            "{why}"
        );
        assert!(cluster.checker().borrow().marks.count(Mark::EndedByDisk) == 1);
        if seed % 4 < 2 {
            // What was in the cache only is gone.
            cluster.crash(VICTIM);
        }
        cluster.repair_disk(VICTIM);
        cluster.restart(VICTIM);
        agree(&mut cluster, &[PRIMARY]);
        assert_eq!(cluster.why_ended(VICTIM), None);
    }
}

#[test]
fn who_cannot_read_what_it_must_remember_says_so_and_takes_no_part() {
    let mut cluster = group(1);
    cluster.crash(VICTIM);
    cluster.fail_disk(VICTIM, |disk| disk.read_error = 1.0);
    cluster.restart(VICTIM);
    change_view(&mut cluster, &[VICTIM]);
    let why = cluster.why_ended(VICTIM).expect("it has to read");
    assert!(why.starts_with("cannot use /data/view: "), "{why}");
    assert_eq!(cluster.checker().borrow().role(VICTIM), Role::Outside);
    cluster.repair_disk(VICTIM);
    cluster.restart(VICTIM);
    agree(&mut cluster, &[PRIMARY]);
}

#[test]
#[should_panic(expected = "ReplicaId(3) has failed: the view file cannot be written")]
fn who_ends_with_a_disk_that_is_to_be_good_is_a_failure() {
    let mut cluster = group(1);
    let node = cluster.node(VICTIM);
    cluster
        .world
        .with_disk(node, |disk| disk.faults().sync_error = 1.0);
    change_view(&mut cluster, &[VICTIM]);
}
