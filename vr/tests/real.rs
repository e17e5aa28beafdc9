//! A group on loopback, over real sockets and rings: end to end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use viewring::Happening;
use viewring::protocol::ReplicaId;
use viewring::{
    CallError, Client, ClientConfig, Node, NodeConfig, StateMachine, Status, query_status,
};
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{JoinHandle, block_on, spawn};

/// Counts, and tells the count: executing anything twice shows.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, _operation: &[u8], reply: &mut Vec<u8>) {
        self.0 += 1;
        reply.extend_from_slice(&self.0.to_le_bytes());
    }
}

fn addresses(first_port: u16, count: u16) -> Vec<SocketAddr> {
    (0..count)
        .map(|i| ([127, 0, 0, 1], first_port + i).into())
        .collect()
}

async fn start(replicas: &[SocketAddr], id: u8) -> JoinHandle<()> {
    let config = NodeConfig::new(7, ReplicaId(id), replicas.to_vec());
    let mut node = Node::bind(config, Counter::default())
        .await
        .expect("the port is free");
    spawn(async move {
        let _failed = node.run().await;
    })
}

async fn start_all(replicas: &[SocketAddr]) -> Vec<Option<JoinHandle<()>>> {
    let mut nodes = Vec::new();
    for id in 0..replicas.len() as u8 {
        nodes.push(Some(start(replicas, id).await));
    }
    nodes
}

/// A directory of a test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("viewring-real-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn of(&self, id: u8) -> PathBuf {
        let path = self.0.join(id.to_string());
        std::fs::create_dir_all(&path).expect("a folder can be made");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

async fn start_remembering(replicas: &[SocketAddr], id: u8, folder: &Folder) -> JoinHandle<()> {
    let config = NodeConfig {
        data: Some(folder.of(id)),
        ..NodeConfig::new(7, ReplicaId(id), replicas.to_vec())
    };
    let bound = Node::bind(config, Counter::default()).await;
    let mut node = bound.expect("the port is free");
    spawn(async move {
        let _failed = node.run().await;
    })
}

/// Until replica `id` says that it is normal.
async fn is_normal(replicas: &[SocketAddr], id: u8) -> Status {
    for _ in 0..100 {
        let asked = query_status(7, replicas, Duration::from_millis(500)).await;
        let status = asked.expect("asked").swap_remove(usize::from(id));
        if let Some(status) = status.filter(|status| status.status == "normal") {
            return status;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("replica {id} does not recover");
}

#[test]
fn every_replica_in_turn_loses_its_memory_and_has_it_again() {
    block_on(async {
        let folder = Folder::new("in-turn");
        let replicas = addresses(21_140, 3);
        let mut nodes = Vec::new();
        for id in 0..3 {
            nodes.push(start_remembering(&replicas, id, &folder).await);
        }
        let client = Client::new(ClientConfig::new(7, replicas.clone())).expect("a socket");
        let mut session = client.session().await.expect("registered");
        let mut expected = 0;
        for id in [0, 1, 2, 1, 0] {
            let old = std::mem::replace(&mut nodes[usize::from(id)], spawn(async {}));
            old.cancel().await.expect("it did not panic");
            for _ in 0..20 {
                expected += 1;
                assert_eq!(count(&session.call(b"").await.expect("answered")), expected);
            }
            nodes[usize::from(id)] = start_remembering(&replicas, id, &folder).await;
            let status = is_normal(&replicas, id).await;
            assert!(
                status.op > expected && status.waiting.is_none(),
                "{status:?}"
            );
        }
    })
    .expect("a ring");
}

#[test]
fn who_all_lost_their_memory_say_so() {
    block_on(async {
        let folder = Folder::new("all");
        let replicas = addresses(21_150, 3);
        let mut nodes = Vec::new();
        for id in 0..3 {
            nodes.push(start_remembering(&replicas, id, &folder).await);
        }
        let client = Client::new(ClientConfig::new(7, replicas.clone())).expect("a socket");
        let mut session = client.session().await.expect("registered");
        session.call(b"").await.expect("answered");
        for node in nodes.drain(..) {
            node.cancel().await.expect("it did not panic");
        }
        for id in 0..3 {
            nodes.push(start_remembering(&replicas, id, &folder).await);
        }
        sleep(Duration::from_millis(300)).await;
        let asked = query_status(7, &replicas, Duration::from_millis(500)).await;
        for status in asked.expect("asked").into_iter().flatten() {
            let waiting = status.waiting.expect("it waits");
            assert!(waiting.contains("have lost their memory"), "{waiting}");
        }
    })
    .expect("a ring");
}

#[test]
fn a_data_directory_is_made_and_serves_one_replica_at_a_time() {
    block_on(async {
        let folder = Folder::new("one-at-a-time");
        let data = folder.0.join("not").join("yet");
        let bind = |port| {
            let config = NodeConfig {
                data: Some(data.clone()),
                ..NodeConfig::new(7, ReplicaId(0), addresses(port, 1))
            };
            Node::bind(config, Counter::default())
        };
        let first = bind(21_160).await.expect("it is made");
        let error = bind(21_161).await.expect_err("it is in use");
        let expected = format!(
            "{} is in use by another replica",
            data.join("view").display()
        );
        assert_eq!(error.to_string(), expected);
        drop(first);
        bind(21_161).await.expect("it is free");
    })
    .expect("a ring");
}

fn count(result: &[u8]) -> u64 {
    u64::from_le_bytes(result.try_into().expect("eight bytes"))
}

#[test]
fn three_replicas_count_each_call_once() {
    block_on(async {
        let replicas = addresses(21_100, 3);
        let _nodes = start_all(&replicas).await;
        let client = Client::new(ClientConfig::new(7, replicas)).expect("a socket");
        let mut session = client.session().await.expect("registered");
        for expected in 1..=1_000 {
            assert_eq!(count(&session.call(b"").await.expect("answered")), expected);
        }
    })
    .expect("a ring");
}

#[test]
fn a_dead_primary_is_replaced_and_nothing_is_lost() {
    block_on(async {
        let replicas = addresses(21_110, 3);
        let mut nodes = start_all(&replicas).await;
        let client = Client::new(ClientConfig::new(7, replicas.clone())).expect("a socket");
        let mut session = client.session().await.expect("registered");
        assert_eq!(count(&session.call(b"").await.expect("answered")), 1);
        let primary = nodes[0].take().expect("it runs");
        primary.cancel().await.expect("it did not panic");
        let outage = timeout(Duration::from_secs(1), session.call(b"")).await;
        assert_eq!(
            count(&outage.expect("within a second").expect("answered")),
            2
        );
        for expected in 3..100 {
            assert_eq!(count(&session.call(b"").await.expect("answered")), expected);
        }
        let status = query_status(7, &replicas, Duration::from_millis(500))
            .await
            .expect("asked");
        assert!(status[0].is_none());
        let second = status[1].as_ref().expect("reachable");
        assert!(second.view >= 1 && second.status == "normal", "{second:?}");
    })
    .expect("a ring");
}

#[test]
fn a_replica_that_comes_back_empty_waits_and_harms_nobody() {
    block_on(async {
        let replicas = addresses(21_120, 3);
        let mut nodes = start_all(&replicas).await;
        let client = Client::new(ClientConfig::new(7, replicas.clone())).expect("a socket");
        let mut session = client.session().await.expect("registered");
        assert_eq!(count(&session.call(b"").await.expect("answered")), 1);
        nodes[2]
            .take()
            .expect("it runs")
            .cancel()
            .await
            .expect("it did not panic");
        nodes[2] = Some(start(&replicas, 2).await);
        sleep(Duration::from_millis(500)).await;
        for expected in 2..100 {
            assert_eq!(count(&session.call(b"").await.expect("answered")), expected);
        }
        let status = query_status(7, &replicas, Duration::from_millis(500))
            .await
            .expect("asked");
        let third = status[2].as_ref().expect("reachable");
        assert_eq!((third.status.as_str(), third.op), ("recovering", 0));
        assert!(third.waiting.is_some());
    })
    .expect("a ring");
}

#[test]
fn without_a_group_the_outcome_is_unknown_and_can_be_settled_later() {
    block_on(async {
        let replicas = addresses(21_130, 3);
        let nodes = start_all(&replicas).await;
        let deadline = Duration::from_millis(300);
        let config = ClientConfig {
            deadline,
            ..ClientConfig::new(7, replicas.clone())
        };
        let client = Client::new(config).expect("a socket");
        let mut session = client.session().await.expect("registered");
        assert_eq!(session.settle().await, Err(CallError::NothingToSettle));
        let mut nodes = nodes.into_iter();
        let survivor = nodes.next();
        for node in nodes.flatten() {
            node.cancel().await.expect("it did not panic");
        }
        assert_eq!(
            session.call(b"").await,
            Err(CallError::Unknown { number: 1 })
        );
        assert_eq!(
            session.call(b"").await,
            Err(CallError::Unsettled { number: 1 })
        );
        assert_eq!(
            session.settle().await,
            Err(CallError::Unknown { number: 1 })
        );
        drop(survivor);
    })
    .expect("a ring");
}

#[test]
fn a_session_that_nobody_grants_leaves_no_outcome_open() {
    block_on(async {
        let config = ClientConfig {
            deadline: Duration::from_millis(100),
            ..ClientConfig::new(7, addresses(21_170, 3))
        };
        let client = Client::new(config).expect("a socket");
        let error = client.session().await.expect_err("nobody is there");
        assert_eq!(error, CallError::NoAnswer);
    })
    .expect("a ring");
}

#[test]
fn a_replica_tells_what_happens_to_it() {
    block_on(async {
        let replicas = addresses(21_140, 1);
        let config = NodeConfig::new(7, ReplicaId(0), replicas.clone());
        let mut node = Node::bind(config, Counter::default())
            .await
            .expect("a port");
        let mut events = node.events();
        let node = spawn(async move { node.run().await });
        let client = Client::new(ClientConfig::new(7, replicas)).expect("a socket");
        let mut session = client.session().await.expect("registered");
        session.call(b"").await.expect("answered");
        node.cancel().await.expect("it did not panic");
        let mut told = Vec::new();
        while let Some(event) = events.next().await {
            told.push(event.expect("we are quick enough"));
        }
        let what: Vec<Happening> = told.iter().map(|event| event.what).collect();
        assert_eq!(
            what,
            [
                Happening::Recovered { view: 0 },
                Happening::Primary { view: 0, id: 0 },
                Happening::Commit { op: 1 },
                Happening::Commit { op: 2 },
            ]
        );
        assert!(told.iter().map(|event| event.sequence).eq(0..4));
    })
    .expect("a ring");
}
