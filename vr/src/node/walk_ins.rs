//! The second door: clients that speak specpaxos' format, and never register.
//!
//! Such a client sends each request to every replica, takes the first reply, and asks again after
//! seven seconds at the earliest. So a replica that does not lead says nothing to it, but keeps its
//! last request: when it comes to lead, it takes what it has kept, and nobody waits for a client's
//! patience to end. So does a primary with no room for more.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use viewring_protocol::{
    ClientId, Kind, OpNumber, Progress, Request, RequestNumber, Role, WalkInReply,
};
use viewring_runtime::time::Instant;
use viewring_transport::TooLong;
use viewring_transport::specpaxos::{self, Frame, Message, Reply};

use super::binding::bind;
use super::{ConfigError, MESSAGES_PER_TURN, Node, WalkInConfig};
use crate::state_machine::StateMachine;

/// Sockets for walk-ins, and what is known of those that came.
pub(super) struct Door {
    pub(super) endpoint: specpaxos::Endpoint,
    guests: BTreeMap<ClientId, Guest>,
    /// Guests whose request is kept, longest first. Some may be gone.
    waiting: VecDeque<ClientId>,
    /// Bytes of all requests kept.
    kept_bytes: usize,
}

struct Guest {
    /// Where it was last heard.
    from: SocketAddr,
    kept: Option<Kept>,
}

/// A request that nobody has taken here.
struct Kept {
    number: u64,
    op: Vec<u8>,
    at: Instant,
}

impl Door {
    /// Opens the replica's own address, and the one of all replicas if there is one.
    pub(super) async fn open(
        walk_ins: &WalkInConfig,
        config: specpaxos::EndpointConfig,
    ) -> Result<Self, ConfigError> {
        let open = |addr| specpaxos::Endpoint::bind(addr, config.clone());
        let mut endpoint = bind(walk_ins.addr, open).await?;
        if let Some(group) = walk_ins.multicast {
            let _joined = bind(group, |group| endpoint.join(group)).await?;
        }
        Ok(Self::new(endpoint))
    }

    fn new(endpoint: specpaxos::Endpoint) -> Self {
        Self {
            endpoint,
            guests: BTreeMap::new(),
            waiting: VecDeque::new(),
            kept_bytes: 0,
        }
    }

    /// Learns where a client is.
    fn meet(&mut self, client: ClientId, from: SocketAddr) -> &mut Guest {
        if self.guests.len() == GUESTS_MAX
            && !self.guests.contains_key(&client)
            && let Some((_, gone)) = self.guests.pop_first()
        {
            self.kept_bytes -= gone.kept_bytes();
        }
        let fresh = Guest { from, kept: None };
        let guest = self.guests.entry(client).or_insert(fresh);
        guest.from = from;
        guest
    }

    /// Keeps the last request of a client. The same buffer serves for its next one.
    fn keep(&mut self, request: &specpaxos::Request<'_>, from: SocketAddr, now: Instant) {
        let client = ClientId(request.client);
        let guest = self.meet(client, from);
        let (before, is_new) = (guest.kept_bytes(), guest.kept.is_none());
        let kept = guest.kept.get_or_insert_with(|| Kept {
            number: 0,
            op: Vec::new(),
            at: now,
        });
        (kept.number, kept.at) = (request.number, now);
        kept.op.clear();
        kept.op.extend_from_slice(&request.op);
        self.kept_bytes = self.kept_bytes - before + request.op.len();
        if is_new {
            self.waiting.push_back(client);
        }
        while self.waiting.len() > GUESTS_MAX || self.kept_bytes > KEPT_BYTES_MAX {
            let _forgotten = self.next_kept();
        }
    }

    /// The request that was kept longest, if that one is there still.
    fn next_kept(&mut self) -> Option<(ClientId, Kept)> {
        let client = self.waiting.pop_front()?;
        let kept = self.guests.get_mut(&client)?.kept.take()?;
        self.kept_bytes -= kept.op.len();
        Some((client, kept))
    }

    /// The client has come again, and its request is taken: what was kept of it is out of date.
    fn welcome(&mut self, client: ClientId, from: SocketAddr) {
        if let Some(outdated) = self.meet(client, from).kept.take() {
            self.kept_bytes -= outdated.op.len();
        }
    }

    /// Sends a reply to where the client was last heard, if it ever was.
    pub(super) fn reply(&self, reply: &WalkInReply) -> Result<(), TooLong> {
        let Some(guest) = self.guests.get(&reply.client) else {
            return Ok(());
        };
        let message = Message::Reply(Reply {
            view: reply.view.0,
            op_number: reply.op.0,
            result: (&*reply.result).into(),
            number: reply.number.0,
        });
        self.endpoint.send([guest.from], &message)
    }
}

impl Guest {
    fn kept_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.op.len())
    }
}

impl<S: StateMachine> Node<S> {
    /// The next that comes in at the second door; never, if there is none.
    pub(super) async fn next_walk_in(&self) -> io::Result<Frame> {
        match &self.door {
            Some(door) => door.endpoint.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Takes what has come in at the second door, `first` before the rest.
    pub(super) fn take_walk_ins(&mut self, first: Option<Frame>) -> Progress {
        let Some(mut door) = self.door.take() else {
            return Progress::NONE;
        };
        let now = Instant::now();
        let mut next = first;
        let mut progress = Progress::NONE;
        for _ in 0..MESSAGES_PER_TURN {
            let Some(frame) = next.take().or_else(|| door.endpoint.try_recv()) else {
                break;
            };
            progress |= self.take_frame(&frame, &mut door, now);
        }
        self.door = Some(door);
        progress
    }

    fn take_frame(&mut self, frame: &Frame, door: &mut Door, now: Instant) -> Progress {
        match frame.message() {
            Ok(Message::Request(request)) if self.core.takes_requests() => {
                door.welcome(ClientId(request.client), frame.from);
                let request = walk_in(request.client, request.number, request.op[..].into());
                return self.core.on_request(request, &mut self.effects);
            }
            Ok(Message::Request(request)) => door.keep(&request, frame.from, now),
            Ok(Message::UnloggedRequest(question)) => {
                self.answer(&question.op, frame.from, door);
            }
            Ok(Message::Reply(_) | Message::UnloggedReply(_)) | Err(_) => {
                self.drops.malformed += 1;
            }
        }
        Progress::NONE
    }

    /// Answers at once, from the state as it is here, which may be old.
    fn answer(&mut self, question: &[u8], from: SocketAddr, door: &Door) {
        if !matches!(self.core.role(), Role::Primary | Role::Backup) {
            self.drops.unanswered += 1;
            return;
        }
        self.result.clear();
        self.state_machine.query(question, &mut self.result);
        let answer = Message::UnloggedReply((&self.result[..]).into());
        if door.endpoint.send([from], &answer).is_err() {
            self.drops.too_long += 1;
        }
    }

    /// A primary takes what was kept, as far as there is room.
    pub(super) fn take_kept(&mut self) -> Progress {
        let mut progress = Progress::NONE;
        let Some(door) = &mut self.door else {
            return progress;
        };
        if door.waiting.is_empty() {
            return progress;
        }
        let now = Instant::now();
        while self.core.takes_requests() && !door.waiting.is_empty() {
            let Some((client, kept)) = door.next_kept() else {
                continue;
            };
            // Who waits still has asked again since.
            if now - kept.at <= KEPT_FOR {
                let request = walk_in(client.0, kept.number, kept.op.into());
                progress |= self.core.on_request(request, &mut self.effects);
            }
        }
        progress
    }
}

fn walk_in(client: u64, number: u64, body: Rc<[u8]>) -> Request {
    Request {
        client: ClientId(client),
        session: OpNumber::ZERO,
        number: RequestNumber(number),
        kind: Kind::WalkIn,
        body,
    }
}

/// So many clients are known at once; for one more, one is forgotten, and learned anew when it asks
/// again.
const GUESTS_MAX: usize = 65_536;
/// Bytes of requests that are kept; beyond that those kept longest are forgotten.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// A little longer than a client waits before it asks again.
const KEPT_FOR: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use viewring_runtime::block_on;
    use viewring_transport::specpaxos::{Endpoint, EndpointConfig};

    use super::*;

    fn door() -> Door {
        let addr = ([127, 0, 0, 1], 0).into();
        Door::new(Endpoint::bind(addr, EndpointConfig::default()).expect("a free port"))
    }

    fn keep(door: &mut Door, client: u64, number: u64, op: &[u8]) {
        let request = specpaxos::Request {
            op: op.into(),
            client,
            number,
        };
        door.keep(&request, ([127, 0, 0, 1], 9).into(), Instant::now());
    }

    fn next(door: &mut Door) -> Option<(u64, u64, Vec<u8>)> {
        let (client, kept) = door.next_kept()?;
        Some((client.0, kept.number, kept.op))
    }

    #[test]
    fn the_last_request_of_each_client_is_kept() {
        block_on(async {
            let mut door = door();
            keep(&mut door, 1, 1, b"one");
            keep(&mut door, 2, 1, b"other");
            keep(&mut door, 1, 2, b"later");
            assert_eq!(door.kept_bytes, 10);
            assert_eq!(next(&mut door), Some((1, 2, b"later".to_vec())));
            assert_eq!(next(&mut door), Some((2, 1, b"other".to_vec())));
            assert_eq!((next(&mut door), door.kept_bytes), (None, 0));
        })
        .expect("a ring");
    }

    #[test]
    fn what_is_taken_is_not_kept_any_more() {
        block_on(async {
            let mut door = door();
            keep(&mut door, 1, 1, b"one");
            door.welcome(ClientId(1), ([127, 0, 0, 1], 8).into());
            assert_eq!((next(&mut door), door.kept_bytes), (None, 0));
            keep(&mut door, 1, 2, b"two");
            assert_eq!(next(&mut door), Some((1, 2, b"two".to_vec())));
        })
        .expect("a ring");
    }

    #[test]
    fn a_flood_of_clients_and_bytes_is_bounded() {
        block_on(async {
            let mut door = door();
            for client in 0..100_000 {
                keep(&mut door, client, 1, b"flood");
                assert!(door.guests.len() <= GUESTS_MAX && door.waiting.len() <= GUESTS_MAX);
            }
            let long = vec![0; 1 << 20];
            for client in 0..40 {
                keep(&mut door, client, 2, &long);
                assert!(door.kept_bytes <= KEPT_BYTES_MAX);
            }
            let kept: usize = door.guests.values().map(Guest::kept_bytes).sum();
            assert_eq!(kept, door.kept_bytes);
        })
        .expect("a ring");
    }
}
