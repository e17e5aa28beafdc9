//! Viewstamped Replication: replicate your own state machine.
//!
//! Write a [`StateMachine`], give it to a [`Node`] on each of three (or five, or seven) machines,
//! and call it through a [`Client`]: every operation is executed exactly once, in the same order,
//! everywhere, and survives the loss of one machine (two, three).
//!
//! ```
//! use viewring::{Client, ClientConfig, Node, NodeConfig, StateMachine};
//! use viewring::protocol::ReplicaId;
//!
//! #[derive(Default)]
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     fn apply(&mut self, _operation: &[u8], reply: &mut Vec<u8>) {
//!         self.0 += 1;
//!         reply.extend_from_slice(&self.0.to_le_bytes());
//!     }
//! }
//!
//! # viewring::runtime::block_on(async {
//! // Three replicas on one core, to begin with. Usually each has a machine of its own.
//! let replicas: Vec<_> = (0..3).map(|i| ([127, 0, 0, 1], 7300 + i).into()).collect();
//! for id in 0..3 {
//!     let config = NodeConfig::new(1, ReplicaId(id), replicas.clone());
//!     let mut node = Node::bind(config, Counter::default()).await?;
//!     viewring::runtime::spawn(async move { node.run().await }).detach();
//! }
//! let client = Client::new(ClientConfig::new(1, replicas))?;
//! let mut session = client.session().await?;
//! assert_eq!(session.call(b"")
//!     .await?[..], 1u64.to_le_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap().unwrap();
//! ```
//!
//! **What it survives.** The log is in memory. A group of 2f+1 replicas goes on while f+1 of them
//! live. A replica that is started again with its [data directory](NodeConfig::data) fetches what
//! it has lost from the others; without, it takes part in nothing. If more than f have lost their
//! memory at once, what they held is lost, and they say so: nothing starts fresh by itself.
//!
//! **What it says.** A replica tells what happens through [`tracing`], and nowhere else: without a
//! subscriber it is silent, also when it takes part in nothing. [`Node::events`] are for programs,
//! and [`query_status`] asks any replica how it is, from elsewhere; so does `viewring status`, by a
//! file with the group's number and addresses (`cluster = 1`, `replicas = ["127.0.0.1:7300", …]`).

mod client;
pub mod cluster;
mod journal;
mod node;
mod reads;
mod state_machine;
mod status;

pub mod kv;

pub use client::{CallError, Client, ClientConfig, Session};
pub use journal::ViewFileError;
pub use node::{
    Checkpoints, ConfigError, LeaseConfig, Never, Node, NodeConfig, Observer, Timeouts,
    WalkInConfig,
};
pub use node::{Event, Events, Happening, Missed};
pub use reads::{ConfirmedBy, Reading};
pub use state_machine::{Null, Piece, RestoreError, StateMachine};
pub use status::{Status, query_status};
/// The decisions underneath.
pub use viewring_protocol as protocol;
pub use viewring_protocol::ReadConsistency;
/// The runtime, on which everything here runs.
pub use viewring_runtime as runtime;
/// Another format of datagrams, and a client that speaks it.
pub use viewring_transport::specpaxos;
