//! Sockets.

mod receive;
mod runs;
mod udp;

pub use crate::reactor::Datagram;
pub use udp::{Multicast, SentMany, UdpOptions, UdpSocket, UdpStats};
