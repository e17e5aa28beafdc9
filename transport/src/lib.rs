//! Messages over datagrams.
//!
//! An [`Endpoint`] is a UDP socket that speaks in messages: a kind, and bytes. Messages to one
//! peer share datagrams; one too long for a datagram is cut up and put together again; what
//! arrives damaged, foreign or garbled is dropped and counted. As with UDP, a message may be lost,
//! overtaken or, rarely, arrive twice: whoever needs more sends again, and recognises what it
//! has seen.
//!
//! ```no_run
//! # viewring_runtime::block_on(async {
//! use viewring_transport::{Endpoint, EndpointConfig, Sender};
//!
//! const GREETING: u8 = 1;
//!
//! let config = EndpointConfig { cluster: 7, sender: Sender(1), ..Default::default() };
//! let endpoint = Endpoint::bind(([127, 0, 0, 1], 0).into(), config)?;
//! endpoint.send(([127, 0, 0, 1], 4000).into(), GREETING, b"hello")?;
//! endpoint.send(([127, 0, 0, 1], 4000).into(), GREETING, b"are you there?")?;
//! endpoint.flush(); // one datagram
//! let answer = endpoint.recv().await?;
//! println!("{} says {:?}", answer.sender, &answer.body[..]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # });
//! ```
//!
//! What is not here: a clock of its own, a resend, an order across peers, pacing, encryption,
//! authentication. A checksum holds off accidents, not people: keep the network private.
//!
//! `WIRE.md` describes the bytes. [`specpaxos`] is another format, which clients of that system
//! speak.

mod config;
mod endpoint;
mod fragment;
mod frame;
mod inbox;
mod outbox;
mod reassembly;
pub mod specpaxos;
mod stats;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod testing;

pub use config::{EndpointConfig, ReassemblyLimits};
pub use endpoint::Endpoint;
pub use frame::{FIRST_RESERVED_KIND, HEADER_LEN, Sender};
pub use inbox::{Foreign, Message};
pub use outbox::TooLong;
pub use stats::Stats;
