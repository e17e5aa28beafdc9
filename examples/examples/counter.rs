//! Your own state machine, replicated: a counter service that loses its primary and goes on.
//!
//! ```text
//! cargo run -p viewring-examples --example counter
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use viewring::protocol::ReplicaId;
use viewring::runtime::time::Instant;
use viewring::runtime::{JoinHandle, block_on, spawn};
use viewring::{Client, ClientConfig, Node, NodeConfig, StateMachine};

/// Adds up. That is all there is to write: order, copies, failures and repeated requests are the
/// library's business.
#[derive(Default)]
struct Counter {
    total: u64,
}

impl StateMachine for Counter {
    /// The operation is a little-endian number; the reply is the new total.
    fn apply(&mut self, operation: &[u8], reply: &mut Vec<u8>) {
        // Whatever bytes a client sends, every replica must do the same with them.
        let amount = operation
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        self.total = self.total.wrapping_add(amount);
        reply.extend_from_slice(&self.total.to_le_bytes());
    }
}

const CLUSTER: u64 = 42;

fn main() -> Result<(), Box<dyn Error>> {
    block_on(async {
        // Three replicas in one process, to begin with. Usually each has a machine of its own.
        let replicas: Vec<SocketAddr> = (0..3)
            .map(|i| SocketAddr::from(([127, 0, 0, 1], 7_400 + i)))
            .collect();
        let mut nodes = Vec::new();
        for id in 0..3 {
            nodes.push(start(id, &replicas).await?);
        }

        let client = Client::new(ClientConfig::new(CLUSTER, replicas))?;
        let mut session = client.session().await?;
        for amount in 1..=100u64 {
            session.call(&amount.to_le_bytes()).await?;
        }
        println!(
            "the first hundred numbers add up to {}",
            total(&session.call(&[]).await?)
        );

        let primary = nodes.remove(0);
        primary.cancel().await?;
        let begun = Instant::now();
        let after = total(&session.call(&1u64.to_le_bytes()).await?);
        let outage = begun.elapsed();
        println!(
            "the primary is gone; {outage:?} later the total is {after}, in view {}",
            client.view()
        );
        assert_eq!(after, 5_051);
        assert!(outage < Duration::from_secs(2));
        Ok(())
    })?
}

/// Starts one replica as a task. Dropping or cancelling the task stops it as a crash would.
async fn start(id: u8, replicas: &[SocketAddr]) -> Result<JoinHandle<()>, Box<dyn Error>> {
    let config = NodeConfig::new(CLUSTER, ReplicaId(id), replicas.to_vec());
    let mut node = Node::bind(config, Counter::default()).await?;
    Ok(spawn(async move {
        let Err(error) = node.run().await;
        eprintln!("replica {id} has failed: {error}");
    }))
}

fn total(reply: &[u8]) -> u64 {
    reply
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
