//! Who is where: the peers of a cluster by number.

use std::net::SocketAddr;

/// The addresses of numbered peers: peer `i` is the `i`th.
///
/// A table for users that name their peers by small integers; an [`Endpoint`](crate::Endpoint)
/// needs none, it takes addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peers {
    addresses: Vec<SocketAddr>,
}

impl Peers {
    /// Peers `0..addresses.len()`, in this order.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Where `peer` is; `None`: no such peer.
    pub fn address(&self, peer: usize) -> Option<SocketAddr> {
        self.addresses.get(peer).copied()
    }

    /// Which peer is at `address`; the first, should several be.
    pub fn find(&self, address: SocketAddr) -> Option<usize> {
        self.addresses.iter().position(|at| *at == address)
    }

    /// Everyone's address but that of `me`, in order: whom to tell when `me` tells all.
    pub fn others(&self, me: usize) -> impl Iterator<Item = SocketAddr> + '_ {
        let others = self
            .addresses
            .iter()
            .enumerate()
            .filter(move |(peer, _)| *peer != me);
        others.map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn a_peer_is_found_by_number_and_by_address() {
        let peers = Peers::new([at(1), at(2), at(3)]);
        assert_eq!((peers.len(), peers.is_empty()), (3, false));
        assert_eq!((peers.address(1), peers.address(3)), (Some(at(2)), None));
        assert_eq!((peers.find(at(3)), peers.find(at(4))), (Some(2), None));
    }

    #[test]
    fn the_others_are_all_but_me() {
        let peers = Peers::new([at(1), at(2), at(3)]);
        assert_eq!(peers.others(1).collect::<Vec<_>>(), [at(1), at(3)]);
        assert_eq!(peers.others(9).count(), 3);
    }
}
