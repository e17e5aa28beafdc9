//! Sockets.

mod receive;
mod udp;

pub use crate::reactor::Datagram;
pub use udp::{SentMany, UdpOptions, UdpSocket, UdpStats};
