//! A client that behaves as specpaxos' does.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use viewring_runtime::net::{Multicast, UdpOptions};
use viewring_runtime::random;
use viewring_runtime::time::{Instant, timeout_at};

use super::endpoint::{Endpoint, EndpointConfig};
use super::frame::Dialect;
use super::message::{Message, Reply, Request};
use super::stats::Stats;

/// A closed-loop client with a socket and a random id of its own.
///
/// It sends each request to all replicas, one by one or at one address, takes the first reply with
/// the request's number, and sends the same request again, for ever, when none comes.
pub struct Client {
    endpoint: Endpoint,
    replicas: Vec<SocketAddr>,
    /// What is sent to all replicas goes there.
    all: Vec<SocketAddr>,
    id: u64,
    number: u64,
    retry: Duration,
    resent: u64,
    strays: u64,
}

/// What a call brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The view in which the operation was prepared.
    pub view: u64,
    /// Its place in the log.
    pub op_number: u64,
    /// What came of it.
    pub result: Vec<u8>,
}

impl Client {
    /// How long it waits before it sends a request again.
    pub const RETRY: Duration = Duration::from_secs(7);

    /// Opens a socket towards `replicas`. Talks to nobody yet.
    ///
    /// # Errors
    /// When no socket can be had.
    ///
    /// # Panics
    /// Outside a runtime, and when there are no replicas.
    pub fn bind(replicas: Vec<SocketAddr>, dialect: Dialect) -> io::Result<Self> {
        let all = replicas.clone();
        Self::open(replicas, all, None, dialect)
    }

    /// Like [`bind`](Self::bind), towards replicas all of which get what is sent to `group`: a
    /// request is one datagram, for all of them. To a multicast address it leaves by the interface
    /// by which the first replica is reached.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind), and when the first replica's address is not one of IPv4, or
    /// there is no route to it.
    ///
    /// # Panics
    /// As for [`bind`](Self::bind).
    pub fn bind_to_group(
        replicas: Vec<SocketAddr>,
        group: SocketAddr,
        dialect: Dialect,
    ) -> io::Result<Self> {
        let SocketAddr::V4(first) = replicas.first().expect("a group has replicas") else {
            let what = "multicast is for IPv4, and the first replica's address is not";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        };
        let towards = *first.ip();
        let part = Multicast::Send { towards };
        Self::open(replicas, vec![group], Some(part), dialect)
    }

    fn open(
        replicas: Vec<SocketAddr>,
        all: Vec<SocketAddr>,
        multicast: Option<Multicast>,
        dialect: Dialect,
    ) -> io::Result<Self> {
        let config = EndpointConfig {
            dialect,
            socket: UdpOptions {
                // One answer at a time: a process may have hundreds of clients.
                recv_buffers: RECEIVE_BUFFERS,
                multicast,
                ..UdpOptions::default()
            },
            ..EndpointConfig::default()
        };
        let local: SocketAddr = match replicas.first().expect("a group has replicas") {
            first if first.ip().is_loopback() => SocketAddr::new(first.ip(), 0),
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        Ok(Self {
            endpoint: Endpoint::bind(local, config)?,
            replicas,
            all,
            id: random().max(1),
            number: 0,
            retry: Self::RETRY,
            resent: 0,
            strays: 0,
        })
    }

    /// Waits so long before it sends a request again, instead of [`RETRY`](Self::RETRY).
    #[must_use]
    pub fn with_retry(self, retry: Duration) -> Self {
        Self { retry, ..self }
    }

    /// Has the group execute `operation` and waits for the first reply, however long that takes.
    ///
    /// # Cancel safety
    /// Dropping it leaves open whether the operation is executed. The next call has the next
    /// number; once that is executed, this one cannot be any more.
    ///
    /// # Errors
    /// When the socket is of no more use, or the operation is too long to be sent.
    pub async fn call(&mut self, operation: &[u8]) -> io::Result<Answer> {
        self.number += 1;
        let request = self.request(operation);
        let message = Message::Request(request);
        loop {
            let sent = self.endpoint.send(self.all.iter().copied(), &message);
            sent.map_err(io::Error::other)?;
            let give_up_at = Instant::now() + self.retry;
            match timeout_at(give_up_at, self.reply()).await {
                Ok(answer) => return answer,
                Err(_elapsed) => self.resent += 1,
            }
        }
    }

    /// Asks replica `index` alone, past the log, and waits at most `patience` for its answer;
    /// `None`: there was none.
    ///
    /// An answer does not say which question it answers: one that was given up may be answered
    /// late, and be taken for the answer to the next one. The original has the same flaw.
    ///
    /// # Cancel safety
    /// Dropping it gives the question up.
    ///
    /// # Errors
    /// When the socket is of no more use, or the question is too long to be sent.
    ///
    /// # Panics
    /// When there is no such replica.
    pub async fn ask(
        &mut self,
        index: usize,
        question: &[u8],
        patience: Duration,
    ) -> io::Result<Option<Vec<u8>>> {
        self.number += 1;
        let message = Message::UnloggedRequest(self.request(question));
        let sent = self.endpoint.send([self.replicas[index]], &message);
        sent.map_err(io::Error::other)?;
        let give_up_at = Instant::now() + patience;
        let answer = timeout_at(give_up_at, self.unlogged_reply()).await;
        answer.map_or(Ok(None), |answer| answer.map(Some))
    }

    fn request<'a>(&self, operation: &'a [u8]) -> Request<'a> {
        Request {
            op: operation.into(),
            client: self.id,
            number: self.number,
        }
    }

    async fn reply(&mut self) -> io::Result<Answer> {
        loop {
            let frame = self.endpoint.recv().await?;
            match frame.message() {
                Ok(Message::Reply(reply)) if reply.number == self.number => {
                    return Ok(Answer::of(reply));
                }
                _ => self.strays += 1,
            }
        }
    }

    async fn unlogged_reply(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let frame = self.endpoint.recv().await?;
            match frame.message() {
                Ok(Message::UnloggedReply(answer)) => return Ok(answer.into_owned()),
                _ => self.strays += 1,
            }
        }
    }

    /// Where its socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    /// Its random id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The number of its last request.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How often it has sent a request again.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// What its socket has counted.
    pub fn stats(&self) -> Stats {
        self.endpoint.stats()
    }

    /// How many messages came that answered nothing it was waiting for.
    pub fn strays(&self) -> u64 {
        self.strays
    }
}

impl Answer {
    fn of(reply: Reply<'_>) -> Self {
        Self {
            view: reply.view,
            op_number: reply.op_number,
            result: reply.result.into_owned(),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("number", &self.number)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

const RECEIVE_BUFFERS: usize = 8;
