//! How much a call and a read allocate: at three replicas and the client together, which share a
//! thread here, on real sockets and a real ring, one call after the other.
//!
//! The transport and the runtime allocate nothing (`transport/tests/allocations.rs`). What is left
//! is the operation's bytes in each log, which stay until the log is cut; the request and the
//! result at the client; and the entries of the Prepare that is written and of those that are read.
//! A result that is as long as the client's last one takes its place in the client tables.
//!
//! Of a read it is the question at the replica that answers, and the answer at the client, whose it
//! is.

use std::net::SocketAddr;

use allocation_counter::measure;
use viewring::protocol::ReplicaId;
use viewring::{
    Client, ClientConfig, ConfirmedBy, Node, NodeConfig, Null, ReadConsistency, Session,
};
use viewring_runtime::{Config, Runtime, Uring, spawn};

const CALLS: usize = 2000;

async fn start(port: u16) -> Client {
    let replicas: Vec<SocketAddr> = (0..3).map(|i| ([127, 0, 0, 1], port + i).into()).collect();
    for id in 0..3 {
        let config = NodeConfig::new(7, ReplicaId(id), replicas.clone());
        let mut node = Node::bind(config, Null).await.expect("the port is free");
        spawn(async move {
            let _failed = node.run().await;
        })
        .detach();
    }
    let mut config = ClientConfig::new(7, replicas);
    config.confirmed_by = ConfirmedBy::Reader;
    Client::new(config).expect("a socket")
}

async fn calls(session: &mut Session, count: usize) {
    for _ in 0..count {
        session.call(b"operation").await.expect("answered");
    }
}

async fn reads(client: &Client, count: usize) {
    for _ in 0..count {
        let read = client.query(b"question", ReadConsistency::ReadIndex);
        read.await.expect("answered");
    }
}

fn runtime() -> Runtime {
    Runtime::new(Uring::new().expect("a ring"), Config::default())
}

fn of_each(many: u64, few: u64) -> f64 {
    (many - few) as f64 / CALLS as f64
}

#[test]
fn a_call_allocates_little_and_keeps_what_the_logs_hold() {
    let runtime = runtime();
    let client = runtime.block_on(start(21_900));
    let mut session = runtime.block_on(client.session()).expect("registered");
    runtime.block_on(calls(&mut session, 3000)); // pools, queues and logs grow
    let few = measure(|| runtime.block_on(calls(&mut session, 10)));
    let many = measure(|| runtime.block_on(calls(&mut session, 10 + CALLS)));
    let allocated = of_each(many.count_total, few.count_total);
    // 7 now; a log's queue and a checkpoint add a little now and then.
    assert!(allocated <= 7.5, "{allocated} a call");
    let kept = of_each(many.count_current as u64, few.count_current as u64);
    assert!(kept <= 3.5, "{kept} a call are kept");
}

#[test]
fn a_read_allocates_its_question_and_its_answer_and_keeps_nothing() {
    let runtime = runtime();
    let client = runtime.block_on(start(21_910));
    runtime.block_on(reads(&client, 3000)); // pools and queues grow
    let few = measure(|| runtime.block_on(reads(&client, 10)));
    let many = measure(|| runtime.block_on(reads(&client, 10 + CALLS)));
    let allocated = of_each(many.count_total, few.count_total);
    assert!(allocated <= 2.1, "{allocated} a read");
    // A timeout that has expired meanwhile may leave something; reads do not.
    let kept = many.count_current - few.count_current;
    assert!(kept <= 10, "{kept} are kept of {CALLS} reads");
}
