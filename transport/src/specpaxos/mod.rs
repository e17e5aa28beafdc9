//! The datagrams of specpaxos and of Electrode, as their clients send and expect them.
//!
//! A datagram is a magic number, the name of a protobuf message and that message; one that would
//! be longer than 9,000 bytes is cut into slices. `SPECPAXOS.md` describes the bytes. Here is what
//! clients and replicas say to each other: a request and its reply, and both once more for what
//! goes past the log. What replicas of those systems say among themselves is known by name only, so
//! that it can be counted as what it is.
//!
//! Where the original aborts the process (a magic number or a name that it does not know, a length
//! that lies, a fragment out of order), the datagram is dropped and counted: see [`Stats`].
//!
//! [`Endpoint`] is a socket that speaks so; [`Client`] behaves as the original's client does.

mod client;
mod endpoint;
mod fragment;
mod frame;
mod message;
mod proto;
mod reassembly;
mod stats;

#[cfg(test)]
mod hostile;

pub use client::{Answer, Client};
pub use endpoint::{Endpoint, EndpointConfig, Frame};
pub use frame::{Dialect, Kind};
pub use message::{Garbled, Message, Reply, Request};
pub use stats::Stats;
