//! Where clients are.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use viewring_protocol::ClientId;

/// The address from which each client was last heard. Bounded: beyond that one is forgotten, and
/// learned anew when that client asks again.
pub(super) struct Addresses {
    known: BTreeMap<ClientId, SocketAddr>,
}

const KNOWN_MAX: usize = 65_536;

impl Addresses {
    pub(super) fn new() -> Self {
        Self {
            known: BTreeMap::new(),
        }
    }

    pub(super) fn learn(&mut self, client: ClientId, from: SocketAddr) {
        if let Some(known) = self.known.get_mut(&client) {
            *known = from;
            return;
        }
        if self.known.len() == KNOWN_MAX {
            self.known.pop_first();
        }
        self.known.insert(client, from);
    }

    pub(super) fn of(&self, client: ClientId) -> Option<SocketAddr> {
        self.known.get(&client).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_clients_is_bounded_and_the_newest_is_known() {
        let mut addresses = Addresses::new();
        let from: SocketAddr = ([127, 0, 0, 1], 9).into();
        for client in 0..=KNOWN_MAX as u64 {
            addresses.learn(ClientId(client), from);
        }
        assert_eq!(addresses.known.len(), KNOWN_MAX);
        assert_eq!(addresses.of(ClientId(KNOWN_MAX as u64)), Some(from));
    }
}
