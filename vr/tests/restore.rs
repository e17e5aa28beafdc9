//! What becomes of a replica whose state machine cannot read the checkpoints of the others.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use viewring::cluster::{Cluster, ClusterConfig};
use viewring::kv::{Kv, Operation};
use viewring::protocol::ReplicaId;
use viewring::{Checkpoints, Piece, RestoreError, StateMachine};
use viewring_runtime::sim::Verdict;
use viewring_runtime::time::Instant;

/// When a checkpoint was begun to be read, on any replica.
type Tried = Rc<RefCell<Vec<Instant>>>;

/// A key-value store that can read no checkpoint until so many were tried.
struct Reluctant {
    store: Kv,
    tried: Tried,
    failures: usize,
}

impl StateMachine for Reluctant {
    fn apply(&mut self, operation: &[u8], reply: &mut Vec<u8>) {
        self.store.apply(operation, reply);
    }

    fn freeze(&mut self) -> bool {
        self.store.freeze()
    }

    fn write_frozen(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> bool {
        self.store.write_frozen(budget_bytes, out)
    }

    fn restore(&mut self, piece: Piece<'_>) -> Result<(), RestoreError> {
        if piece.is_first {
            self.tried.borrow_mut().push(Instant::now());
        }
        if self.tried.borrow().len() <= self.failures {
            return Err(RestoreError);
        }
        self.store.restore(piece)
    }
}

const LAST: ReplicaId = ReplicaId(2);

/// A group with checkpoints and without the log before them, in which one that has been away comes
/// back and cannot read so many of them.
fn group(failures: usize) -> (Cluster, Tried) {
    let tried = Tried::default();
    let config = ClusterConfig {
        checkpoints: Checkpoints {
            interval: 10,
            interval_bytes: 1,
            keep: 0,
            ..Checkpoints::default()
        },
        ..ClusterConfig::new(3)
    };
    let tries = Rc::clone(&tried);
    let mut cluster = Cluster::new(5, config, move || Reluctant {
        store: Kv::default(),
        tried: Rc::clone(&tries),
        failures,
    });
    cluster.form();
    cluster.crash(LAST);
    fill(&mut cluster);
    call(&mut cluster, 40);
    cluster.restart(LAST);
    (cluster, tried)
}

/// So much is in each checkpoint, or a little more.
const STATE_BYTES: usize = 100_000;

fn fill(cluster: &mut Cluster) {
    let keys = (0..100).map(|key: u32| key.to_le_bytes().to_vec());
    put(cluster, keys.collect(), &[7; STATE_BYTES / 100]);
}

fn call(cluster: &mut Cluster, calls: usize) {
    put(cluster, vec![b"key".to_vec(); calls], b"value");
}

fn put(cluster: &mut Cluster, keys: Vec<Vec<u8>>, value: &'static [u8]) {
    let client = cluster.start_client(move |client| async move {
        let mut session = client.session().await.expect("registered");
        for key in &keys {
            let put = Operation::Put { key, value };
            session.call(&put.to_bytes()).await.expect("answered");
        }
    });
    let a_while = Duration::from_secs(10);
    let done = cluster
        .world
        .run_until(|world| !world.is_up(client), a_while);
    done.expect("the group answers");
}

#[test]
fn who_can_read_no_checkpoint_fetches_one_more_and_more_rarely() {
    let (mut cluster, tried) = group(usize::MAX);
    cluster.world.run_for(Duration::from_secs(600));
    let tried = tried.borrow();
    let waits: Vec<Duration> = tried.windows(2).map(|two| two[1] - two[0]).collect();
    let mut least = Duration::from_millis(250);
    for (index, wait) in waits.iter().enumerate() {
        assert!(*wait >= least, "wait {index}: {waits:?}");
        least = (least * 2).min(Duration::from_secs(64));
    }
    // The first eight come within 64 s, then one about every 64 s: it never gives up.
    assert!((14..=17).contains(&tried.len()), "{waits:?}");
    assert!(!cluster.checker().borrow().has_restored(LAST));
}

#[test]
fn who_can_read_a_checkpoint_in_the_end_is_a_member_again() {
    let (mut cluster, tried) = group(3);
    cluster.world.run_for(Duration::from_secs(5));
    assert_eq!(tried.borrow().len(), 4);
    assert!(cluster.checker().borrow().has_restored(LAST));
    let ids: Vec<ReplicaId> = cluster.replica_ids().collect();
    assert!(cluster.checker().borrow().have_converged(ids.into_iter()));
}

/// Although the others take one after the other, and each might be the one that it can read.
#[test]
fn who_can_read_no_checkpoint_fetches_no_more_than_it_reads() {
    let (mut cluster, tried) = group(usize::MAX);
    let (bytes, last) = (Rc::new(Cell::new(0)), cluster.node(LAST));
    let sum = Rc::clone(&bytes);
    let rule = cluster.world.rule(move |packet| {
        let is_piece = packet.to_node() == Some(last) && packet.payload().len() > 1_000;
        sum.set(sum.get() + if is_piece { packet.payload().len() } else { 0 });
        Verdict::Deliver
    });
    for _ in 0..60 {
        call(&mut cluster, 20);
        cluster.world.run_for(Duration::from_secs(1));
    }
    drop(rule);
    let (tried, most) = (tried.borrow().len(), 3 * STATE_BYTES / 2);
    assert!((7..=10).contains(&tried), "{tried}");
    assert!(bytes.get() > tried * STATE_BYTES, "{bytes:?} in {tried}");
    assert!(bytes.get() < (tried + 1) * most, "{bytes:?} in {tried}");
    assert_eq!(cluster.checker().borrow().view(), 0, "it disturbs nobody");
}
