//! How much a call allocates: at three replicas and the client together, which share a thread here,
//! on real sockets and a real ring, one call after the other.
//!
//! The transport and the runtime allocate nothing (`transport/tests/allocations.rs`). What is left
//! is the operation's bytes in each log, which stay until the log is cut; the request and the
//! result at the client; and the entries of the Prepare that is written and of those that are read.
//! A result that is as long as the client's last one takes its place in the client tables.

use std::net::SocketAddr;

use allocation_counter::measure;
use viewring::protocol::ReplicaId;
use viewring::{Client, ClientConfig, Node, NodeConfig, Null, Session};
use viewring_runtime::{Config, Runtime, Uring, spawn};

const CALLS: usize = 2000;

async fn start() -> Session {
    let replicas: Vec<SocketAddr> = (0..3)
        .map(|i| ([127, 0, 0, 1], 21_900 + i).into())
        .collect();
    for id in 0..3 {
        let config = NodeConfig::new(7, ReplicaId(id), replicas.clone());
        let mut node = Node::bind(config, Null).await.expect("the port is free");
        spawn(async move {
            let _failed = node.run().await;
        })
        .detach();
    }
    let client = Client::new(ClientConfig::new(7, replicas)).expect("a socket");
    client.session().await.expect("registered")
}

async fn calls(session: &mut Session, count: usize) {
    for _ in 0..count {
        session.call(b"operation").await.expect("answered");
    }
}

#[test]
fn a_call_allocates_little_and_keeps_what_the_logs_hold() {
    let runtime = Runtime::new(Uring::new().expect("a ring"), Config::default());
    let mut session = runtime.block_on(start());
    runtime.block_on(calls(&mut session, 3000)); // pools, queues and logs grow
    let few = measure(|| runtime.block_on(calls(&mut session, 10)));
    let many = measure(|| runtime.block_on(calls(&mut session, 10 + CALLS)));
    let of_a_call = |many: u64, few: u64| (many - few) as f64 / CALLS as f64;
    let allocated = of_a_call(many.count_total, few.count_total);
    // 7 now; a log's queue and a checkpoint add a little now and then.
    assert!(allocated <= 7.5, "{allocated} a call");
    let kept = of_a_call(many.count_current as u64, few.count_current as u64);
    assert!(kept <= 3.5, "{kept} a call are kept");
}
