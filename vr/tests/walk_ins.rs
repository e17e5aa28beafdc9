//! Clients that never register, in the simulated world: sixty-four of them, as specpaxos' clients
//! behave, across the loss of a primary.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use viewring::StateMachine;
use viewring::cluster::{Cluster, ClusterConfig};
use viewring::specpaxos::Dialect;
use viewring_runtime::time::{Instant, sleep};

const CLIENTS: u64 = 64;
const CALLS: u64 = 50;

/// Counts, for each client, and tells the count: what is lost or executed twice shows. A client's
/// name is the operation.
#[derive(Default)]
struct Counts(BTreeMap<Vec<u8>, u64>);

impl StateMachine for Counts {
    fn apply(&mut self, operation: &[u8], reply: &mut Vec<u8>) {
        let count = self.0.entry(operation.to_vec()).or_default();
        *count += 1;
        reply.extend_from_slice(&count.to_le_bytes());
    }
}

/// What the clients of a run have seen.
#[derive(Default)]
struct Seen {
    calls: u64,
    finished: u64,
    longest: Duration,
    strays: u64,
    resent: u64,
}

impl Seen {
    fn answered(&mut self, waited: Duration) {
        self.calls += 1;
        self.longest = self.longest.max(waited);
    }
}

fn config(dialect: Dialect) -> ClusterConfig {
    ClusterConfig {
        walk_ins: Some(dialect),
        ..ClusterConfig::new(3)
    }
}

/// Starts clients that each make `CALLS` calls.
fn start_clients(cluster: &mut Cluster) -> Rc<RefCell<Seen>> {
    let seen = Rc::<RefCell<Seen>>::default();
    for client_number in 0..CLIENTS {
        let seen = Rc::clone(&seen);
        let checker = Rc::clone(cluster.checker());
        cluster.start_walk_in(move |mut client| async move {
            for expected in 1..=CALLS {
                let asked = Instant::now();
                let operation = client_number.to_le_bytes();
                let answer = client.call(&operation).await;
                let answer = answer.expect("the socket is well");
                assert_eq!(answer.result, expected.to_le_bytes(), "lost, or twice");
                let (id, number) = (client.id(), client.number());
                checker
                    .borrow_mut()
                    .acknowledged((id, 0), number, &operation, &answer.result);
                seen.borrow_mut().answered(Instant::now() - asked);
                sleep(Duration::from_micros(100)).await;
            }
            // What is under way still comes.
            sleep(Duration::from_millis(20)).await;
            let late = client.ask(0, b"", Duration::from_millis(20)).await;
            late.expect("the socket is well");
            let mut seen = seen.borrow_mut();
            (seen.strays, seen.resent) =
                (seen.strays + client.strays(), seen.resent + client.resent());
            seen.finished += 1;
        });
    }
    seen
}

fn finish(cluster: &mut Cluster, seen: &Rc<RefCell<Seen>>) {
    let done = Rc::clone(seen);
    let done = move |_: &_| done.borrow().finished == CLIENTS;
    let in_time = cluster.world.run_until(done, Duration::from_secs(60));
    assert!(in_time.is_ok(), "{} calls", seen.borrow().calls);
    assert_eq!(seen.borrow().calls, CLIENTS * CALLS);
}

#[test]
fn sixty_four_clients_across_a_view_change_lose_nothing_and_wait_less_than_a_second() {
    for (seed, dialect) in [(1, Dialect::Specpaxos), (2, Dialect::Electrode)] {
        let mut cluster = Cluster::new(seed, config(dialect), Counts::default);
        cluster.form();
        let seen = start_clients(&mut cluster);
        cluster.world.run_for(Duration::from_millis(20));
        assert!(seen.borrow().calls > CLIENTS, "they are at work");
        let primary = cluster.primary().expect("there is one");
        cluster.crash(primary);
        finish(&mut cluster, &seen);
        assert!(cluster.checker().borrow().view_changes() >= 1);
        let seen = seen.borrow();
        let (longest, resent) = (seen.longest, seen.resent);
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        // The new primary has kept what the old one left undone.
        assert_eq!(resent, 0, "nobody had to ask again");
    }
}

/// One request, one reply: whoever does not lead is silent.
#[test]
fn without_faults_each_request_is_answered_once() {
    let mut cluster = Cluster::new(3, config(Dialect::Specpaxos), Counts::default);
    cluster.form();
    let seen = start_clients(&mut cluster);
    finish(&mut cluster, &seen);
    let seen = seen.borrow();
    assert_eq!((seen.strays, seen.resent), (0, 0));
}

#[test]
fn every_replica_answers_questions_past_the_log() {
    let mut cluster = Cluster::new(4, config(Dialect::Specpaxos), Counts::default);
    cluster.form();
    let client = cluster.start_walk_in(|mut client| async move {
        for replica in 0..3 {
            let patience = Duration::from_millis(100);
            let answer = client.ask(replica, b"?", patience).await;
            assert_eq!(answer.expect("the socket is well"), Some(Vec::new()));
        }
        assert_eq!(client.strays(), 0);
    });
    let bound = Duration::from_secs(2);
    let done = cluster.world.run_until(|world| !world.is_up(client), bound);
    assert!(done.is_ok());
}

/// More clients than may be in flight: those for whom there is no room wait here, not for their
/// own patience to end.
#[test]
fn a_small_window_keeps_clients_waiting_but_not_for_seven_seconds() {
    let config = ClusterConfig {
        window: 4,
        ..config(Dialect::Specpaxos)
    };
    let mut cluster = Cluster::new(5, config, Counts::default);
    cluster.form();
    let seen = start_clients(&mut cluster);
    finish(&mut cluster, &seen);
    let seen = seen.borrow();
    assert!(
        seen.longest < Duration::from_millis(500),
        "{:?}",
        seen.longest
    );
    assert_eq!(seen.resent, 0);
}
