//! Where clients are.
//!
//! A primary writes the address that a registration came from into the log, so that every replica
//! knows it: a new primary answers what it executes although the client has not asked it yet. That
//! costs a session some bytes once, and an operation nothing. Where a client was heard itself comes
//! first: it may have moved.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use viewring_protocol::{ByClient, ClientId, Incarnation};

/// The address from which each client was last heard. Bounded: beyond that the one that was known
/// for longest is forgotten, and learned anew when that client asks again.
pub(super) struct Addresses {
    known: ByClient<SocketAddr>,
    /// Those that are known, in the order in which they came to be.
    ids: VecDeque<ClientId>,
}

const KNOWN_MAX: usize = 65_536;

impl Addresses {
    /// At a replica in this life of it.
    pub(super) fn new(life: Incarnation) -> Self {
        Self {
            known: ByClient::new(life),
            ids: VecDeque::new(),
        }
    }

    pub(super) fn learn(&mut self, client: ClientId, from: SocketAddr) {
        if let Some(known) = self.known.get_mut(client) {
            *known = from;
            return;
        }
        if self.known.len() == KNOWN_MAX
            && let Some(first) = self.ids.pop_front()
        {
            self.known.remove(first);
        }
        self.known.insert(client, from);
        self.ids.push_back(client);
    }

    pub(super) fn of(&self, client: ClientId) -> Option<SocketAddr> {
        self.known.get(client).copied()
    }
}

/// An address as a registration carries it: port, then four or sixteen bytes.
pub(super) fn to_bytes(address: SocketAddr) -> Rc<[u8]> {
    let mut bytes = address.port().to_le_bytes().to_vec();
    match address.ip() {
        IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
    bytes.into()
}

/// The address that the bytes are, if they are one.
pub(super) fn from_bytes(bytes: &[u8]) -> Option<SocketAddr> {
    let (port, ip) = bytes.split_first_chunk()?;
    let ip = <[u8; 4]>::try_from(ip)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(ip).map(IpAddr::from));
    Some((ip.ok()?, u16::from_le_bytes(*port)).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use viewring_protocol::RETURN_ADDRESS_BYTES_MAX;

    #[test]
    fn an_address_survives_the_log() {
        for text in ["127.0.0.1:7000", "[2001:db8::1]:65535", "0.0.0.0:1"] {
            let address = text.parse().expect("an address");
            let bytes = to_bytes(address);
            assert!(bytes.len() <= RETURN_ADDRESS_BYTES_MAX);
            assert_eq!(from_bytes(&bytes), Some(address), "{text}");
        }
        for bytes in [&[][..], &[1], &[1, 2], &[1, 2, 3, 4, 5], &[0; 19]] {
            assert_eq!(from_bytes(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_flood_of_clients_is_bounded_and_the_newest_is_known() {
        let mut addresses = Addresses::new(Incarnation(5));
        let from: SocketAddr = ([127, 0, 0, 1], 9).into();
        for client in 0..=KNOWN_MAX as u64 {
            addresses.learn(ClientId(client), from);
        }
        assert_eq!(
            (addresses.known.len(), addresses.ids.len()),
            (KNOWN_MAX, KNOWN_MAX)
        );
        assert_eq!(addresses.of(ClientId(0)), None);
        assert_eq!(addresses.of(ClientId(KNOWN_MAX as u64)), Some(from));
    }
}
