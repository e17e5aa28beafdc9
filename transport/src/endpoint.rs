//! The endpoint: an inbox and an outbox on a socket.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::iter;
use std::net::SocketAddr;

use viewring_runtime::buf::{Buf, SharedBuf};
use viewring_runtime::net::{Datagram, UdpOptions, UdpSocket};
use viewring_runtime::time::Instant;
use viewring_runtime::yield_now;

use crate::config::EndpointConfig;
use crate::inbox::{Foreign, Inbox, Message};
use crate::outbox::{Outbox, TooLong, Wire};
use crate::stats::Stats;

/// Sends and receives messages over one UDP socket.
///
/// **Sending** never waits. [`send`](Self::send) writes a frame into the datagram being built for
/// that peer, [`flush`](Self::flush) posts what is being built: call it at the end of each turn.
/// Messages to one peer are posted in the order in which they were sent. When send buffers run
/// out, or too many sends are in flight, messages are dropped and counted
/// ([`Stats::send_no_buffer`], [`Stats::send_in_flight`]). Nothing else holds back the fragments
/// of a long message: one that needs more datagrams than the socket may have in flight is never
/// sent whole, however often it is tried.
///
/// **Receiving** loses nothing that the socket got: datagrams belong to the endpoint until they
/// are read to their end, whatever happens to the futures that wait for them.
///
/// Methods take `&self`; an endpoint belongs to one core. Dropping it closes the socket; what was
/// not flushed is not sent.
pub struct Endpoint {
    socket: UdpSocket,
    /// Never borrowed across an await.
    state: RefCell<State>,
}

struct State {
    inbox: Inbox,
    outbox: Outbox,
    stats: Stats,
    /// Datagrams taken from the socket and not yet read, first come first.
    arrived: VecDeque<Datagram>,
    /// Where the socket puts datagrams; empty otherwise.
    batch: Vec<Datagram>,
    /// Why the socket is of no more use: for `recv` to return, once nothing is in hand.
    error: Option<io::Error>,
    /// How many more datagrams and messages may be read before `recv` lets other tasks run.
    allowance: usize,
}

impl Endpoint {
    /// Binds a socket to `addr`; port 0 lets the system choose.
    ///
    /// # Errors
    /// `InvalidInput` when `config` contradicts itself; else what binding gives, for instance
    /// `AddrInUse`.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn bind(addr: SocketAddr, config: EndpointConfig) -> io::Result<Self> {
        config.check()?;
        let buffer_len = config.budget.max(EndpointConfig::DEFAULT_BUDGET);
        let options = UdpOptions {
            buffer_len: config.socket.buffer_len.max(buffer_len),
            ..config.socket.clone()
        };
        let socket = UdpSocket::bind_with(addr, &options)?;
        let state = State {
            inbox: Inbox::new(&config),
            outbox: Outbox::new(&config, viewring_runtime::random()),
            stats: Stats::default(),
            arrived: VecDeque::with_capacity(BATCH_MAX),
            batch: Vec::with_capacity(BATCH_MAX),
            error: None,
            allowance: ALLOWANCE,
        };
        Ok(Self {
            socket,
            state: RefCell::new(state),
        })
    }

    /// Where the socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// The socket underneath, for what it has counted.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends `body` to `to`, with the next [`flush`](Self::flush) or before. Never waits; the
    /// message may be lost on the way or here, which is counted.
    ///
    /// # Errors
    /// The message is longer than `max_message`. Nothing was sent.
    ///
    /// # Panics
    /// When `kind` is not below [`FIRST_RESERVED_KIND`](crate::FIRST_RESERVED_KIND).
    pub fn send(&self, to: SocketAddr, kind: u8, body: &[u8]) -> Result<(), TooLong> {
        self.send_to_many(iter::once(to), kind, body)
    }

    /// [`send`](Self::send)s `body` to each of `to`. If it fits a datagram, its checksum is made
    /// but once.
    ///
    /// # Errors
    /// The message is longer than `max_message`. Nothing was sent.
    ///
    /// # Panics
    /// When `kind` is not below [`FIRST_RESERVED_KIND`](crate::FIRST_RESERVED_KIND), or when the
    /// iterator `to` itself uses this endpoint.
    pub fn send_to_many(
        &self,
        to: impl IntoIterator<Item = SocketAddr>,
        kind: u8,
        body: &[u8],
    ) -> Result<(), TooLong> {
        let State { outbox, stats, .. } = &mut *self.state.borrow_mut();
        outbox.send(&self.socket, to, kind, body, stats)
    }

    /// Posts every datagram being built. Does not wait for them to leave.
    pub fn flush(&self) {
        let State { outbox, stats, .. } = &mut *self.state.borrow_mut();
        outbox.flush(&self.socket, stats);
    }

    /// The next message; waits for one.
    ///
    /// Lets other tasks run now and then, even if there is always a message in hand. For one task:
    /// what one has taken in hand does not wake another that waits.
    ///
    /// # Cancel safety
    /// Strict. A message is taken only when it is returned.
    ///
    /// # Errors
    /// The socket is of no more use. Errors that concern one datagram or one peer, such as a
    /// refused connection, are counted ([`Stats::socket_errors`]) and waited through.
    pub async fn recv(&self) -> io::Result<Message> {
        loop {
            self.rest().await;
            if let Some(message) = self.state.borrow_mut().next() {
                return Ok(message);
            }
            if let Some(error) = self.state.borrow_mut().error.take() {
                return Err(error);
            }
            // Nothing is held across this await: the socket keeps what it has until it says so.
            let first = self.socket.recv_datagram().await;
            let mut state = self.state.borrow_mut();
            match first {
                Ok(datagram) => state.arrived.push_back(datagram),
                Err(error) => state.on_error(error),
            }
            state.refill(&self.socket);
        }
    }

    /// The next message in hand, without waiting; `None`: there is none for now.
    ///
    /// Unlike [`recv`](Self::recv) it never makes way for other tasks: bound how many you take in
    /// a turn.
    ///
    /// An error of the socket is counted, if it concerns one datagram or peer, or else left for
    /// [`recv`](Self::recv) to run into.
    pub fn try_recv(&self) -> Option<Message> {
        let mut state = self.state.borrow_mut();
        loop {
            if let Some(message) = state.next() {
                return Some(message);
            }
            state.refill(&self.socket);
            if state.arrived.is_empty() {
                return None;
            }
        }
    }

    /// What was counted since `bind`.
    pub fn stats(&self) -> Stats {
        self.state.borrow().stats
    }

    /// From where the last datagram of another cluster came, if there was one since this was asked
    /// last: what was dropped is counted, and this is for who wants to say of whom it was.
    pub fn take_foreign(&self) -> Option<Foreign> {
        self.state.borrow_mut().inbox.take_foreign()
    }

    /// Lets other tasks run once the allowance is used up.
    async fn rest(&self) {
        if self.state.borrow().allowance == 0 {
            self.state.borrow_mut().allowance = ALLOWANCE;
            yield_now().await;
        }
    }
}

impl State {
    fn next(&mut self) -> Option<Message> {
        loop {
            let message = self.inbox.next(&mut self.stats);
            if message.is_some() {
                self.allowance = self.allowance.saturating_sub(1);
                return message;
            }
            let datagram = self.arrived.pop_front()?;
            self.allowance = self.allowance.saturating_sub(1);
            let (from, is_truncated) = (datagram.from(), datagram.is_truncated());
            self.inbox
                .begin(from, datagram.into_payload(), is_truncated, &mut self.stats);
        }
    }

    /// Takes what the socket has in hand.
    fn refill(&mut self, socket: &UdpSocket) {
        if let Err(error) = socket.try_recv_many(&mut self.batch, BATCH_MAX) {
            self.on_error(error);
        }
        self.arrived.extend(self.batch.drain(..));
        if !self.arrived.is_empty() {
            self.inbox.set_now(Instant::now(), &mut self.stats);
        }
    }

    fn on_error(&mut self, error: io::Error) {
        if is_passing(&error) {
            self.stats.socket_errors += 1;
            self.allowance = self.allowance.saturating_sub(1);
        } else {
            self.error.get_or_insert(error);
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("local_addr", &self.local_addr())
            .finish_non_exhaustive()
    }
}

impl Wire for UdpSocket {
    fn take(&self, len: usize) -> Option<Buf> {
        self.take_buf(len)
    }

    fn post(&self, payload: SharedBuf, to: SocketAddr) -> bool {
        self.post_to(payload, to).is_ok()
    }

    fn take_run(&self, to: SocketAddr) -> Option<Buf> {
        self.take_run_buf(to)
    }

    fn post_run(&self, payload: SharedBuf, segment: usize, to: SocketAddr) -> bool {
        self.post_run_to(payload, segment, to).is_ok()
    }
}

/// Whether an error says something about one datagram or one peer, and nothing about the socket.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::Interrupted
            | Kind::WouldBlock
    )
}

/// Datagrams taken from the socket at a time.
pub(crate) const BATCH_MAX: usize = 64;

/// Datagrams and messages read before `recv` lets other tasks run, or else a flood would starve the
/// timeouts around it.
pub(crate) const ALLOWANCE: usize = 512;
