//! Calls from another runtime, such as tokio: a [`Client`] stays on a thread of its own, calls go
//! there through one channel, and each answer comes back through another.
//!
//! ```text
//! cargo run -p viewring-examples --example service
//! ```

use std::cell::RefCell;
use std::error::Error;
use std::net::SocketAddr;
use std::thread;

use futures::channel::{mpsc, oneshot};
use futures::future::{join_all, try_join_all};
use futures::{SinkExt, StreamExt};
use viewring::kv::{Kv, Operation, Outcome};
use viewring::protocol::ReplicaId;
use viewring::runtime::{block_on, spawn};
use viewring::{CallError, Client, ClientConfig, Node, NodeConfig};

type Failure = Box<dyn Error + Send + Sync>;
type Answer = Result<Vec<u8>, CallError>;
/// An operation, and who waits for its answer.
type Call = (Vec<u8>, oneshot::Sender<Answer>);

/// Has `operation` executed, from any thread and any runtime. None: the group's thread has ended.
async fn call(mut group: mpsc::Sender<Call>, operation: Vec<u8>) -> Option<Answer> {
    let (answer, answered) = oneshot::channel();
    group.send((operation, answer)).await.ok()?;
    answered.await.ok()
}

/// So many calls are under way at once, one a session. Later ones wait in the channel.
const SESSIONS: usize = 8;

/// The life of the group's thread. It ends when nobody can call any more.
async fn serve(replicas: Vec<SocketAddr>, calls: mpsc::Receiver<Call>) -> Result<(), Failure> {
    // The group itself, to have one to talk to. Usually it is elsewhere.
    for id in 0..3 {
        let config = NodeConfig::new(43, ReplicaId(id), replicas.clone());
        let mut node = Node::bind(config, Kv::default()).await?;
        spawn(async move { node.run().await }).detach();
    }
    let client = Client::new(ClientConfig::new(43, replicas))?;
    let sessions = try_join_all((0..SESSIONS).map(|_| client.session())).await?;
    let free = RefCell::new(sessions);
    let perform = async |(operation, answer): Call| {
        let session = free.borrow_mut().pop();
        let mut session = session.expect("one for each call");
        let mut result = session.call(&operation).await;
        while let Err(CallError::Unknown { .. }) = result {
            result = session.settle().await;
        }
        free.borrow_mut().push(session);
        let _nobody_waits = answer.send(result.map(|result| result.to_vec()));
    };
    calls.for_each_concurrent(SESSIONS, perform).await;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let replicas = (0..3).map(|i| ([127, 0, 0, 1], 7_410 + i).into()).collect();
    let (group, calls) = mpsc::channel(SESSIONS);
    let thread = thread::spawn(|| block_on(serve(replicas, calls))?);
    let (key, value) = (b"greeting", b"hello");
    let put = || Operation::Put { key, value }.to_bytes();
    // Any executor does here.
    let answers = block_on(join_all((0..100).map(|_| call(group.clone(), put()))))?;
    for answer in answers {
        let answer = answer.ok_or("the group's thread has ended")??;
        assert_eq!(Outcome::decode(&answer), Some(Outcome::Stored));
    }
    println!("a hundred calls from another thread were answered");
    drop(group);
    thread.join().expect("it does not panic")
}
