//! The decisions of Viewstamped Replication, and nothing else.
//!
//! This crate holds one replica of *Viewstamped Replication Revisited* (Liskov and Cowling,
//! 2012; cited as VRR) as a deterministic state machine. It has no clock, no randomness, no
//! I/O and no async: what happens comes in as a call, what must be done leaves as [`Effects`].
//! The same calls give the same effects, always.
//!
//! # How to drive it
//!
//! A *turn* takes everything that has arrived and then lets the core speak once:
//!
//! 1. [`Replica::on_message`] for each message of another replica, [`Replica::on_request`] for
//!    each request of a client. They change state; most of what they cause is only collected.
//! 2. [`Replica::flush`] emits what was collected: one `Prepare` for all entries that were
//!    appended, or one cumulative `PrepareOk`, and a [`Persist`] if the log has grown.
//! 3. Perform the effects in order. When the entries named by a [`Persist`] are durable, hand
//!    [`Persist::written`] to [`Replica::on_durable`]: nothing is acknowledged before. What
//!    comes after an [`Effect::Remember`] waits until that is durable.
//! 4. While [`Replica::next_to_apply`] returns an entry, execute it and hand the result to
//!    [`Replica::applied`].
//! 5. A [`Draft`] is an order to take a checkpoint: freeze the state machine, tell
//!    [`Replica::checkpoint_begun`], write the draft in the background, hand it to
//!    [`Replica::on_checkpoint`]. A [`Restore`] is the way back.
//! 6. While [`Replica::next_read`] returns a read, have the state machine answer it. Reads come in
//!    through [`Replica::on_read`].
//!
//! Each timeout that expires is one method (`heartbeat`, `suspect_primary`, …; see [`Replica`]);
//! it is followed by a flush, as a message is. What restarts or ends a timeout is told by
//! [`Progress`].
//!
//! Every remote byte is hostile: a message that does not fit is counted by its reason
//! ([`Ignored`]) and dropped. Assertions guard our own invariants only, and stay on in release.
//!
//! Still to come: reconfiguration (`reconfiguration.rs` under `replica/`). Conscious differences
//! from the paper are listed in `DEVIATIONS.md`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod blocks;
mod bug;
mod by_client;
mod checkpoint;
mod client;
mod client_table;
mod configuration;
mod confirming;
mod counters;
mod effects;
mod frozen;
mod ids;
mod in_flight;
mod log;
mod message;
mod quorum;
mod reading;
mod record;
mod replica;
mod walk_ins;
pub mod wire;

pub use bug::Bug;
pub use by_client::ByClient;
pub use checkpoint::{Checkpoint, Digest, Draft, Restore, Summary};
pub use client::{Answer, Session, SessionError, Target};
pub use client_table::RETURN_ADDRESS_BYTES_MAX;
pub use configuration::{Configuration, ConfigurationError, Options};
pub use confirming::Confirming;
pub use counters::{Counters, Ignored};
pub use effects::{Durable, Effect, Effects, Persist, Progress, WalkInReply};
pub use ids::{
    Checksum, ClientId, Incarnation, Nonce, OpNumber, ReplicaId, RequestNumber, RoundNumber, View,
};
pub use log::{Entry, Header, Kind, Tail};
pub use message::{
    CheckpointChunk, Commit, DoViewChange, GetCheckpoint, GetState, GetView, Hello, Message,
    NewState, NormalView, Outcome, Prepare, PrepareOk, Read, ReadConsistency, ReadOutcome,
    ReadReply, Recovery, RecoveryResponse, Reply, Request, Round, RoundOk, Standing, StartView,
    StartViewChange,
};
pub use quorum::ReplicaSet;
pub use reading::{ReadAnswer, Reading};
pub use record::Record;
pub use replica::{
    Answerable, CheckpointCounts, ReadCounters, Replica, Role, Status, WaitingReason,
};
