//! Putting fragments together again, within bounds.
//!
//! What a stranger can make us keep is bounded five ways ([`ReassemblyLimits`]); the oldest
//! message goes first. A peer over its own share loses its own messages, never another's. Memory
//! for a message is set aside whole when its first fragment arrives, so the bounds count what
//! messages will be and not what has come of them.
//!
//! A message is known by the address it comes from, the sender's incarnation and its number. One
//! that was completed or given up is remembered for a while, so that its late or repeated
//! fragments do not open it again.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use viewring_runtime::buf::{Buf, SharedBuf};
use viewring_runtime::time::Instant;

use crate::config::ReassemblyLimits;
use crate::fragment::FragmentHeader;
use crate::frame::Sender;
use crate::stats::Stats;

/// The incomplete messages of all peers.
#[derive(Debug)]
pub(crate) struct Reassembly {
    limits: ReassemblyLimits,
    /// Those with something open.
    peers: BTreeMap<SocketAddr, Peer>,
    /// The sum of the peers' bytes: at most `limits.bytes`.
    bytes: usize,
    /// How many messages were ever opened: the age of the next.
    opened: u64,
    /// Messages that must not be opened again, latest last: at most [`FINISHED_MAX`].
    finished: VecDeque<Key>,
}

/// The incomplete messages of one peer. There is always one.
#[derive(Default, Debug)]
struct Peer {
    /// The sum of the messages' lengths: at most `limits.bytes_per_peer`.
    bytes: usize,
    /// Oldest first; at most `limits.messages_per_peer`.
    open: VecDeque<Partial>,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    /// From its first fragment, which the others must agree with.
    sender: Sender,
    header: FragmentHeader,
    /// How many messages were opened before it.
    order: u64,
    since: Instant,
    /// A bit for each piece that is here.
    have: Box<[u64]>,
    /// How many pieces are not.
    missing: usize,
    body: Buf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    from: SocketAddr,
    incarnation: u64,
    message: u32,
}

/// A fragment as it arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) sender: Sender,
    pub(crate) header: FragmentHeader,
    /// As long as the header says: [`FragmentHeader::decode`] sees to that.
    pub(crate) piece: &'a [u8],
}

impl Reassembly {
    /// `limits` as checked by `EndpointConfig`: any message within `max_message` fits them.
    pub(crate) fn new(limits: ReassemblyLimits) -> Self {
        let peers = BTreeMap::new();
        let finished = VecDeque::with_capacity(FINISHED_MAX);
        Self {
            limits,
            peers,
            bytes: 0,
            opened: 0,
            finished,
        }
    }

    /// Takes a fragment; the message's body, should it be the last one missing.
    pub(crate) fn accept(
        &mut self,
        fragment: Fragment<'_>,
        now: Instant,
        stats: &mut Stats,
    ) -> Option<SharedBuf> {
        let key = fragment.key();
        let at = match self.find(key) {
            Some(at) => at,
            None if self.finished.contains(&key) => {
                stats.fragment_late += 1;
                return None;
            }
            None => self.open(fragment, now, stats),
        };
        let peer = self
            .peers
            .get_mut(&key.from)
            .expect("found or opened above");
        match peer.open[at].put(fragment) {
            Put::Kept => stats.fragments_kept += 1,
            Put::Duplicate => stats.fragment_duplicate += 1,
            Put::Mixed => {
                stats.fragment_mixed += 1;
                self.close(key.from, at);
            }
            Put::Complete => {
                stats.fragments_kept += 1;
                stats.messages_reassembled += 1;
                return Some(self.close(key.from, at).body.share());
            }
        }
        None
    }

    /// Drops what is older than the limit.
    pub(crate) fn expire(&mut self, now: Instant, stats: &mut Stats) {
        let limit = self.limits.age;
        while let Some(from) = self.oldest().filter(|from| {
            let oldest = &self.peers[from].open[0];
            now - oldest.since > limit
        }) {
            self.close(from, 0);
            stats.reassembly_expired += 1;
        }
    }

    /// How many messages are incomplete.
    #[cfg(test)]
    pub(crate) fn open_messages(&self) -> usize {
        self.peers.values().map(|peer| peer.open.len()).sum()
    }

    fn find(&self, key: Key) -> Option<usize> {
        self.peers
            .get(&key.from)?
            .open
            .iter()
            .position(|partial| partial.key == key)
    }

    /// Begins a message, making room first. Its place among its peer's.
    fn open(&mut self, first: Fragment<'_>, now: Instant, stats: &mut Stats) -> usize {
        let from = first.from;
        let total = first.header.total as usize;
        self.make_room(from, total, stats);
        let partial = Partial::new(first, self.opened, now);
        self.opened += 1;
        stats.reassembly_opened += 1;
        self.bytes += total;
        let peer = self.peers.entry(from).or_default();
        peer.bytes += total;
        peer.open.push_back(partial);
        let at = peer.open.len() - 1;
        debug_assert!(self.bytes <= self.limits.bytes);
        debug_assert!(self.peers.len() <= self.limits.peers);
        at
    }

    /// Closes the oldest messages until `from` may open another of `total` bytes.
    fn make_room(&mut self, from: SocketAddr, total: usize, stats: &mut Stats) {
        let ReassemblyLimits {
            bytes,
            bytes_per_peer,
            messages_per_peer,
            peers,
            ..
        } = self.limits;
        while let Some(peer) = self.peers.get(&from) {
            if peer.open.len() >= messages_per_peer {
                stats.reassembly_peer_messages += 1;
            } else if peer.bytes + total > bytes_per_peer {
                stats.reassembly_peer_bytes += 1;
            } else {
                break;
            }
            self.close(from, 0);
        }
        while !self.peers.contains_key(&from) && self.peers.len() >= peers {
            self.close_oldest();
            stats.reassembly_peers += 1;
        }
        while self.bytes + total > bytes {
            self.close_oldest();
            stats.reassembly_bytes += 1;
        }
    }

    fn close_oldest(&mut self) {
        let from = self.oldest().expect("over a limit, so something is open");
        self.close(from, 0);
    }

    /// Whose oldest message is the oldest of all.
    fn oldest(&self) -> Option<SocketAddr> {
        let by_age = |(_, peer): &(&SocketAddr, &Peer)| peer.open[0].order;
        self.peers.iter().min_by_key(by_age).map(|(from, _)| *from)
    }

    /// Takes a message out, complete or not.
    fn close(&mut self, from: SocketAddr, at: usize) -> Partial {
        let peer = self
            .peers
            .get_mut(&from)
            .expect("a peer with an open message");
        let partial = peer.open.remove(at).expect("an open message");
        let total = partial.header.total as usize;
        peer.bytes -= total;
        self.bytes -= total;
        if peer.open.is_empty() {
            self.peers.remove(&from);
        }
        if self.finished.len() == FINISHED_MAX {
            self.finished.pop_front();
        }
        self.finished.push_back(partial.key);
        partial
    }
}

impl Partial {
    fn new(first: Fragment<'_>, order: u64, since: Instant) -> Self {
        let header = first.header;
        let mut body = Buf::with_capacity(header.total as usize);
        body.set_len(header.total as usize);
        let missing = header.count();
        let have = vec![0; missing.div_ceil(64)].into_boxed_slice();
        Self {
            key: first.key(),
            sender: first.sender,
            header,
            order,
            since,
            have,
            missing,
            body,
        }
    }

    fn put(&mut self, fragment: Fragment<'_>) -> Put {
        let Fragment { header, piece, .. } = fragment;
        if fragment.sender != self.sender
            || (FragmentHeader {
                index: self.header.index,
                ..header
            }) != self.header
        {
            return Put::Mixed;
        }
        let (word, bit) = (usize::from(header.index) / 64, 1 << (header.index % 64));
        let place = &mut self.body[header.range()];
        if self.have[word] & bit != 0 {
            return if place == piece {
                Put::Duplicate
            } else {
                Put::Mixed
            };
        }
        place.copy_from_slice(piece);
        self.have[word] |= bit;
        self.missing -= 1;
        if self.missing == 0 {
            Put::Complete
        } else {
            Put::Kept
        }
    }
}

/// What a fragment was to its message.
enum Put {
    Kept,
    Complete,
    Duplicate,
    /// It contradicts what is there.
    Mixed,
}

impl Fragment<'_> {
    fn key(&self) -> Key {
        let FragmentHeader {
            incarnation,
            message,
            ..
        } = self.header;
        Key {
            from: self.from,
            incarnation,
            message,
        }
    }
}

/// How many finished messages are remembered.
const FINISHED_MAX: usize = 64;

#[cfg(test)]
mod tests;
