//! Who asks whether the primary leads still, and how long a read takes: trips between nodes that
//! are ten milliseconds apart.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use viewring::cluster::{Cluster, ClusterConfig};
use viewring::protocol::wire::kind;
use viewring::{Client, ConfirmedBy, Null, ReadConsistency};
use viewring_runtime::sim::{Delay, Verdict};
use viewring_runtime::spawn;
use viewring_runtime::time::Instant;

const TRIP: Duration = Duration::from_millis(10);

/// How long each of so many reads takes, one after the other, and how many sessions are at it.
fn reads(cluster: &mut Cluster, count: usize, abreast: usize) -> Rc<RefCell<Vec<Duration>>> {
    let took = Rc::<RefCell<Vec<Duration>>>::default();
    let told = Rc::clone(&took);
    cluster.start_client(move |client| async move {
        let reader = |_| spawn(read_on(client.clone(), count, Rc::clone(&told)));
        let readers: Vec<_> = (0..abreast).map(reader).collect();
        for reader in readers {
            reader.await.expect("it did not panic");
        }
    });
    took
}

async fn read_on(client: Client, count: usize, took: Rc<RefCell<Vec<Duration>>>) {
    for _ in 0..count {
        let begun = Instant::now();
        let read = client.query(b"", ReadConsistency::ReadIndex).await;
        assert!(!read.expect("answered").stale);
        took.borrow_mut().push(Instant::now() - begun);
    }
}

/// A group whose reads are confirmed so.
fn group(replicas: u8, confirmed_by: ConfirmedBy) -> Cluster {
    let config = ClusterConfig {
        confirmed_by: [confirmed_by; 2],
        ..ClusterConfig::new(replicas)
    };
    let mut cluster = Cluster::new(7, config, || Null);
    cluster.form();
    let delay = Delay::fixed(TRIP);
    cluster
        .world
        .update_links(|link| link.delay = delay.clone());
    // Round trips are measured.
    cluster.world.run_for(Duration::from_secs(2));
    cluster
}

/// Trips that each of the reads took, at most.
fn trips(took: &RefCell<Vec<Duration>>) -> u32 {
    let longest = took.borrow().iter().copied().max().expect("some");
    u32::try_from(longest.as_micros() / TRIP.as_micros()).expect("few")
}

#[test]
fn a_reader_that_asks_itself_waits_for_one_round_trip() {
    for replicas in [3, 5] {
        for (confirmed_by, expected) in [(ConfirmedBy::Reader, 2), (ConfirmedBy::Primary, 4)] {
            let mut cluster = group(replicas, confirmed_by);
            let took = reads(&mut cluster, 10, 1);
            cluster.world.run_for(Duration::from_secs(1));
            assert_eq!((took.borrow().len(), trips(&took)), (10, expected));
        }
    }
}

#[test]
fn the_cheaper_way_is_the_primarys_for_a_lone_read_and_the_readers_for_many() {
    for (abreast, expected) in [(1, 4), (4, 2)] {
        let mut cluster = group(3, ConfirmedBy::Cheaper);
        let took = reads(&mut cluster, 10, abreast);
        cluster.world.run_for(Duration::from_secs(1));
        // Of several that begin together the first is still a lone one.
        let behind_first: Vec<_> = took.borrow().iter().copied().skip(abreast).collect();
        assert_eq!(behind_first.len(), 9 * abreast);
        assert_eq!(trips(&RefCell::new(behind_first)), expected, "{abreast}");
    }
}

#[test]
fn many_reads_of_a_turn_are_one_question() {
    let mut cluster = group(3, ConfirmedBy::Reader);
    let asked = Rc::<RefCell<u32>>::default();
    let count = Rc::clone(&asked);
    let _watch = cluster.world.rule(move |packet| {
        *count.borrow_mut() += u32::from(has(packet.payload(), kind::GET_VIEW));
        Verdict::Deliver
    });
    let took = reads(&mut cluster, 5, 32);
    cluster.world.run_for(Duration::from_secs(1));
    assert_eq!((took.borrow().len(), trips(&took)), (5 * 32, 2));
    // Both backups the first time; then the one that was the first to answer.
    assert_eq!(*asked.borrow(), 2 + 4);
}

#[test]
fn a_backup_that_falls_silent_delays_a_reader_once() {
    let mut cluster = group(3, ConfirmedBy::Reader);
    let took = reads(&mut cluster, 40, 1);
    cluster.world.run_for(Duration::from_millis(300));
    assert_eq!(trips(&took), 2);
    // Whichever of the two it asks: one of them is gone for good.
    let primary = cluster.primary().expect("it has formed");
    let gone = cluster.replica_ids().find(|&id| id != primary);
    cluster.crash(gone.expect("a backup"));
    cluster.world.run_for(Duration::from_secs(3));
    let took = took.borrow();
    assert_eq!(took.len(), 40);
    let delayed = took.iter().filter(|&&read| read > TRIP * 3).count();
    assert!(delayed <= 1, "{took:?}");
}

/// Whether the first frame of a datagram is of this kind.
fn has(datagram: &[u8], kind: u8) -> bool {
    datagram.get(7) == Some(&kind)
}
