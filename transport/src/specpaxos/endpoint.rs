//! A socket that speaks specpaxos' format.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;

use viewring_runtime::buf::SharedBuf;
use viewring_runtime::net::{Datagram as Received, Multicast, UdpOptions, UdpSocket};
use viewring_runtime::time::Instant;
use viewring_runtime::yield_now;

use super::fragment::{DATAGRAM_MAX, FRAGMENT_HEADER_LEN, Fragment, SLICE_LEN, fragments};
use super::frame::{self, Datagram, Dialect, Kind};
use super::message::{Garbled, Message};
use super::reassembly::Reassembly;
use super::stats::Stats;
use crate::endpoint::{ALLOWANCE, BATCH_MAX, is_passing};
use crate::outbox::TooLong;

/// How an [`Endpoint`] speaks.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Which of the two layouts. By default specpaxos'.
    pub dialect: Dialect,
    /// Bytes of the longest message, sent or received, its head included. By default 64 KiB.
    pub max_message: usize,
    /// The socket's own options. Its buffers are made at least as long as the longest datagram.
    pub socket: UdpOptions,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            dialect: Dialect::Specpaxos,
            max_message: 64 * 1024,
            socket: UdpOptions {
                kernel_recv_bytes: Some(4 << 20),
                ..UdpOptions::default()
            },
        }
    }
}

/// Sends and receives messages in specpaxos' format over one UDP socket: one message a datagram,
/// or one in several. What is sent to all of a group may reach it through a second one.
///
/// Sending never waits; what cannot be sent is dropped and counted. Receiving loses nothing that
/// the socket got. Methods take `&self`; an endpoint belongs to one core.
pub struct Endpoint {
    socket: UdpSocket,
    /// Hears what is sent to all, and sends nothing.
    group: Option<UdpSocket>,
    options: UdpOptions,
    dialect: Dialect,
    max_message: usize,
    /// Never borrowed across an await.
    state: RefCell<State>,
}

struct State {
    inbox: Inbox,
    /// Datagrams taken from the sockets and not looked at, first come first.
    arrived: VecDeque<Received>,
    /// Where a socket puts datagrams; empty otherwise.
    batch: Vec<Received>,
    /// Why a socket is of no more use.
    error: Option<io::Error>,
    /// How many more datagrams may be looked at before `recv` lets other tasks run.
    allowance: usize,
    /// Counts the long messages sent.
    fragmented: u64,
    /// The datagram being written.
    encoded: Vec<u8>,
}

/// From datagrams to messages.
pub(super) struct Inbox {
    dialect: Dialect,
    max_message: usize,
    reassembly: Reassembly,
    pub(super) stats: Stats,
    /// When the datagram being read was taken from the socket.
    now: Instant,
}

/// A message that has arrived, its protobuf not read yet.
#[derive(Clone)]
pub struct Frame {
    /// Where it came from.
    pub from: SocketAddr,
    /// Which message it is, by its name.
    pub kind: Kind,
    data: SharedBuf,
}

impl Frame {
    /// Reads the message, where it lies if it can.
    ///
    /// # Errors
    /// As for [`Message::decode`].
    pub fn message(&self) -> Result<Message<'_>, Garbled> {
        Message::decode(self.kind, &self.data)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, kind, data } = self;
        write!(f, "Frame({kind:?} of {} bytes from {from})", data.len())
    }
}

impl Endpoint {
    /// Binds a socket to `addr`; port 0 lets the system choose.
    ///
    /// # Errors
    /// What binding gives, for instance `AddrInUse`.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn bind(addr: SocketAddr, config: EndpointConfig) -> io::Result<Self> {
        let options = UdpOptions {
            buffer_len: config.socket.buffer_len.max(RECEIVE_LEN),
            ..config.socket
        };
        Ok(Self {
            socket: UdpSocket::bind_with(addr, &options)?,
            group: None,
            options,
            dialect: config.dialect,
            max_message: config.max_message,
            state: RefCell::new(State::new(config.dialect, config.max_message)),
        })
    }

    /// Receives from now on what is sent to `group`, too: a multicast address, which is heard by
    /// the interface of this endpoint's own address, or a network's broadcast address. Others may
    /// receive it as well. A group that was joined before is left. Says where it is: port 0 lets
    /// the system choose. So does an own address of 0.0.0.0: the interface is the kernel's choice,
    /// that of its route to the group.
    ///
    /// # Errors
    /// `group`, or the endpoint's own address, is none that this can be done with
    /// ([`InvalidInput`](io::ErrorKind::InvalidInput)), or what binding gives.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn join(&mut self, group: SocketAddr) -> io::Result<SocketAddr> {
        let SocketAddr::V4(own) = self.local_addr() else {
            let what = "multicast is for IPv4, and this endpoint's address is not";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        };
        let options = UdpOptions {
            multicast: Some(Multicast::Receive { at: *own.ip() }),
            ..self.options.clone()
        };
        let group = UdpSocket::bind_with(group, &options)?;
        let addr = group.local_addr();
        self.group = Some(group);
        Ok(addr)
    }

    /// Where the socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Which of the two layouts it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Sends `message` to each of `to`. Never waits; it may be lost on the way or here, which is
    /// counted.
    ///
    /// # Errors
    /// The message is longer than `max_message`. Nothing was sent.
    ///
    /// # Panics
    /// When the iterator `to` itself uses this endpoint.
    pub fn send(
        &self,
        to: impl IntoIterator<Item = SocketAddr>,
        message: &Message<'_>,
    ) -> Result<(), TooLong> {
        let state = &mut *self.state.borrow_mut();
        state.encoded.clear();
        message.encode(self.dialect, &mut state.encoded);
        let len = state.encoded.len();
        if len > self.max_message {
            state.inbox.stats.send_too_long += 1;
            let max = self.max_message;
            return Err(TooLong { len, max });
        }
        if len > DATAGRAM_MAX {
            self.send_fragments(to, state);
            return Ok(());
        }
        let Some(mut buf) = self.socket.take_buf(len) else {
            state.inbox.stats.send_no_buffer += 1;
            return Ok(());
        };
        buf.put_slice(&state.encoded);
        let payload = buf.share();
        for to in to {
            self.post(payload.clone(), to, &mut state.inbox.stats);
        }
        Ok(())
    }

    fn send_fragments(&self, to: impl IntoIterator<Item = SocketAddr>, state: &mut State) {
        state.fragmented += 1;
        let message = state.fragmented;
        for to in to {
            state.inbox.stats.messages_fragmented += 1;
            for fragment in fragments(message, &state.encoded) {
                let len = FRAGMENT_HEADER_LEN + fragment.slice.len();
                let Some(mut buf) = self.socket.take_buf(len) else {
                    // Slices are taken in order: the rest of them would only be in the way.
                    state.inbox.stats.send_no_buffer += 1;
                    break;
                };
                buf.put_slice(&fragment.head());
                buf.put_slice(fragment.slice);
                self.post(buf.share(), to, &mut state.inbox.stats);
            }
        }
    }

    fn post(&self, payload: SharedBuf, to: SocketAddr, stats: &mut Stats) {
        match self.socket.post_to(payload, to) {
            Ok(()) => stats.datagrams_sent += 1,
            Err(_dropped) => stats.send_in_flight += 1,
        }
    }

    /// The next message; waits for one. Lets other tasks run now and then, even if there is always
    /// one in hand.
    ///
    /// # Cancel safety
    /// Strict: dropping it loses nothing.
    ///
    /// # Errors
    /// When the socket is of no more use.
    pub async fn recv(&self) -> io::Result<Frame> {
        loop {
            if self.state.borrow().allowance == 0 {
                self.state.borrow_mut().allowance = ALLOWANCE;
                yield_now().await;
            }
            if let Some(frame) = self.try_recv() {
                return Ok(frame);
            }
            if let Some(error) = self.state.borrow_mut().error.take() {
                return Err(error);
            }
            // Nothing is held across this await: a socket keeps what it has until it says so.
            let first = self.next_datagram().await;
            let mut state = self.state.borrow_mut();
            match first {
                Ok(datagram) => {
                    state.inbox.set_now(Instant::now());
                    state.arrived.push_back(datagram);
                }
                Err(error) => state.on_error(error),
            }
        }
    }

    /// The next message in hand, without waiting; `None`: there is none for now. Bound how many you
    /// take in a turn.
    ///
    /// An error of the socket is counted, if it concerns one datagram or peer, or else left for
    /// [`recv`](Self::recv) to run into.
    pub fn try_recv(&self) -> Option<Frame> {
        let mut state = self.state.borrow_mut();
        loop {
            while let Some(datagram) = state.arrived.pop_front() {
                state.allowance = state.allowance.saturating_sub(1);
                let (from, is_truncated) = (datagram.from(), datagram.is_truncated());
                let payload = datagram.into_payload();
                if let Some(frame) = state.inbox.accept(from, payload, is_truncated) {
                    return Some(frame);
                }
            }
            if !state.refill(std::iter::once(&self.socket).chain(&self.group)) {
                return None;
            }
        }
    }

    /// Waits for the next datagram of either socket.
    async fn next_datagram(&self) -> io::Result<Received> {
        let Some(group) = &self.group else {
            return self.socket.recv_datagram().await;
        };
        let mut to_us = pin!(self.socket.recv_datagram());
        let mut to_all = pin!(group.recv_datagram());
        poll_fn(|cx| match to_us.as_mut().poll(cx) {
            Poll::Ready(datagram) => Poll::Ready(datagram),
            Poll::Pending => to_all.as_mut().poll(cx),
        })
        .await
    }

    /// What was counted since `bind`.
    pub fn stats(&self) -> Stats {
        self.state.borrow().inbox.stats
    }
}

impl State {
    fn new(dialect: Dialect, max_message: usize) -> Self {
        Self {
            inbox: Inbox::new(dialect, max_message),
            arrived: VecDeque::with_capacity(BATCH_MAX),
            batch: Vec::with_capacity(BATCH_MAX),
            error: None,
            allowance: ALLOWANCE,
            fragmented: 0,
            encoded: Vec::new(),
        }
    }

    /// Takes what the sockets have in hand, a batch of each: a flood at one does not silence the
    /// other. Whether there was anything.
    fn refill<'a>(&mut self, sockets: impl Iterator<Item = &'a UdpSocket>) -> bool {
        for socket in sockets {
            if let Err(error) = socket.try_recv_many(&mut self.batch, BATCH_MAX) {
                self.on_error(error);
            }
            self.arrived.extend(self.batch.drain(..));
        }
        if self.arrived.is_empty() {
            return false;
        }
        self.inbox.set_now(Instant::now());
        true
    }

    fn on_error(&mut self, error: io::Error) {
        if is_passing(&error) {
            self.inbox.stats.socket_errors += 1;
            self.allowance = self.allowance.saturating_sub(1);
        } else {
            self.error.get_or_insert(error);
        }
    }
}

impl Inbox {
    pub(super) fn new(dialect: Dialect, max_message: usize) -> Self {
        Self {
            dialect,
            max_message,
            reassembly: Reassembly::default(),
            stats: Stats::default(),
            now: Instant::from_nanos(0),
        }
    }

    /// Says what time it is, and drops incomplete messages that are too old.
    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
        self.reassembly.expire(now, &mut self.stats);
    }

    /// The message that a datagram is or completes.
    pub(super) fn accept(
        &mut self,
        from: SocketAddr,
        payload: SharedBuf,
        is_truncated: bool,
    ) -> Option<Frame> {
        self.stats.datagrams_received += 1;
        if is_truncated {
            self.stats.datagram_truncated += 1;
            return None;
        }
        match frame::decode(&payload, self.dialect) {
            Ok(Datagram::Whole(kind, data)) => {
                self.stats.frames_received += 1;
                let data = payload.slice(data);
                Some(Frame { from, kind, data })
            }
            Ok(Datagram::Fragment) => self.on_fragment(from, &payload),
            Err(error) => {
                self.stats.count_frame(error);
                None
            }
        }
    }

    fn on_fragment(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<Frame> {
        let fragment = Fragment::decode(datagram, self.max_message)
            .inspect_err(|error| self.stats.count_fragment(*error))
            .ok()?;
        self.stats.fragments_received += 1;
        let stats = &mut self.stats;
        let body = self.reassembly.accept(from, fragment, self.now, stats)?;
        match frame::decode_body(&body, self.dialect) {
            Ok((kind, data)) => {
                let data = SharedBuf::copy_from(&body[data]);
                Some(Frame { from, kind, data })
            }
            Err(_error) => {
                self.stats.reassembled_garbled += 1;
                None
            }
        }
    }

    /// How many messages are incomplete.
    #[cfg(test)]
    pub(super) fn open_messages(&self) -> usize {
        self.reassembly.open_messages()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("local_addr", &self.local_addr())
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

/// The longest datagram that the format has is a fragment.
const RECEIVE_LEN: usize = FRAGMENT_HEADER_LEN + SLICE_LEN;
const _: () = assert!(RECEIVE_LEN >= DATAGRAM_MAX);
