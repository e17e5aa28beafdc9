//! UDP.
//!
//! The receive belongs to the socket, not to a future: one operation that brings many datagrams,
//! into a queue. [`UdpSocket::recv_from`] waits for the queue only, so dropping it loses no
//! datagram and costs no system call.
//!
//! That one operation ends by itself on a datagram of no bytes, when completions overflow, when no
//! buffer is free, and on a socket error. The socket starts it again, and counts each reason: a
//! socket that stayed silent would be deaf.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::buf::{Buf, BufPool, SharedBuf};
use crate::ops::Sink;
use crate::reactor::{Datagram, Op, OpKey, Outcome, SocketId};
use crate::runtime::{self, Inner, Operation};

/// How to open a [`UdpSocket`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// How many receive buffers the socket has: how many datagrams can be in user space and not
    /// yet dropped. More wait in the kernel. From 1 to 32,768.
    pub recv_buffers: usize,
    /// How many payload bytes fit into one; a longer datagram is truncated.
    pub buffer_len: usize,
    /// How many sends may be in flight before [`post_to`](UdpSocket::post_to) refuses.
    pub sends_in_flight: usize,
    /// The kernel's receive buffer in bytes (`SO_RCVBUF`), silently clamped to its maximum.
    pub kernel_recv_bytes: Option<usize>,
    /// The kernel's send buffer in bytes (`SO_SNDBUF`), silently clamped to its maximum.
    pub kernel_send_bytes: Option<usize>,
    /// Whether several sockets may share the address (`SO_REUSEPORT`).
    pub reuse_port: bool,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self {
            recv_buffers: 256,
            buffer_len: 2048,
            sends_in_flight: 1024,
            kernel_recv_bytes: None,
            kernel_send_bytes: None,
            reuse_port: false,
        }
    }
}

/// A UDP socket of this thread's runtime.
///
/// Dropping it cancels its receive and closes it once its last send is out.
pub struct UdpSocket {
    runtime: Rc<Inner>,
    id: SocketId,
    local_addr: SocketAddr,
    receiver: Rc<Receiver>,
    sender: Rc<Sender>,
}

/// What happened on a [`UdpSocket`], counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpStats {
    /// Datagrams received.
    pub received: u64,
    /// Of them, those that did not fit into a buffer.
    pub truncated: u64,
    /// The receive ended on a datagram of no bytes and was started again.
    pub ended_empty: u64,
    /// … because completions overflowed.
    pub ended_overflow: u64,
    /// … because no buffer was free.
    pub ended_no_buffers: u64,
    /// … on an error of the socket, which one receiver was told.
    pub ended_error: u64,
    /// Posted sends that are out.
    pub posted: u64,
    /// Posted sends that failed.
    pub post_failed: u64,
    /// Posts refused because too many sends were in flight.
    pub post_refused: u64,
}

/// What became of a [`UdpSocket::send_to_many`].
#[derive(Debug, Default)]
pub struct SentMany {
    /// To how many addresses the datagram was sent.
    pub sent: usize,
    /// The others, by their place in the list, with the reason.
    pub failed: Vec<(usize, io::Error)>,
}

impl UdpSocket {
    /// Opens a socket on `addr`, port 0 for any.
    ///
    /// # Errors
    /// What `socket(2)` and `bind(2)` say: address in use, not available, not permitted …
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        Self::bind_with(addr, &UdpOptions::default())
    }

    /// Opens a socket on `addr` with options.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind), and [`InvalidInput`](io::ErrorKind::InvalidInput) for options
    /// out of range.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn bind_with(addr: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        options.validate()?;
        let runtime = runtime::current();
        let room = runtime.reactor().datagram_overhead();
        let pool = BufPool::new(options.buffer_len + room, options.recv_buffers);
        let (id, local_addr) = runtime.reactor().bind_udp(addr, options, &pool)?;
        let receiver = Receiver {
            runtime: Rc::clone(&runtime),
            id,
            pool,
            armed: Cell::new(None),
            starved: Cell::new(false),
            queue: RefCell::default(),
            error: RefCell::default(),
            waiting: RefCell::default(),
            stats: Cell::default(),
        };
        let sender = Sender {
            limit: options.sends_in_flight,
            in_flight: Cell::new(0),
            stats: Cell::default(),
        };
        Ok(Self {
            runtime,
            id,
            local_addr,
            receiver: Rc::new(receiver),
            sender: Rc::new(sender),
        })
    }

    /// Fixes the peer: from now on only its datagrams are received, and [`send`](Self::send) works.
    ///
    /// # Errors
    /// What `connect(2)` says.
    pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.runtime.reactor().connect_udp(self.id, peer)
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What happened so far.
    pub fn stats(&self) -> UdpStats {
        let (received, sent) = (self.receiver.stats.get(), self.sender.stats.get());
        UdpStats {
            posted: sent.posted,
            post_failed: sent.post_failed,
            post_refused: sent.post_refused,
            ..received
        }
    }

    /// Receives one datagram into `buf`: its length and sender. What does not fit is cut off.
    ///
    /// # Cancel safety
    /// Strict: a datagram is taken in the poll that returns it.
    ///
    /// # Errors
    /// A pending error of the socket, such as `ECONNREFUSED` when a connected peer's port is
    /// closed. The socket goes on.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let datagram = self.recv_datagram().await?;
        let len = datagram.payload().len().min(buf.len());
        buf[..len].copy_from_slice(&datagram.payload()[..len]);
        Ok((len, datagram.from()))
    }

    /// Like [`recv_from`](Self::recv_from), without the sender.
    ///
    /// # Cancel safety
    /// Strict.
    ///
    /// # Errors
    /// As for [`recv_from`](Self::recv_from).
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.recv_from(buf).await.map(|(len, _)| len)
    }

    /// Receives one datagram where it lies, without a copy.
    ///
    /// # Cancel safety
    /// Strict.
    ///
    /// # Errors
    /// As for [`recv_from`](Self::recv_from).
    pub async fn recv_datagram(&self) -> io::Result<Datagram> {
        poll_fn(|cx| self.receiver.poll_recv(cx)).await
    }

    /// Waits for at least one datagram and adds all that are in hand, at most `max`, to `out`. Says
    /// how many.
    ///
    /// # Cancel safety
    /// Strict: datagrams are taken in the poll that returns them.
    ///
    /// # Errors
    /// As for [`recv_from`](Self::recv_from); then `out` is as before.
    pub async fn recv_many(&self, out: &mut Vec<Datagram>, max: usize) -> io::Result<usize> {
        let first = self.recv_datagram().await?;
        out.push(first);
        Ok(1 + self.take_queued(out, max.saturating_sub(1)))
    }

    /// Adds the datagrams that are in hand, at most `max`, to `out`, without waiting. Says how
    /// many, perhaps none. Begins to receive if nobody did before.
    ///
    /// # Errors
    /// As for [`recv_from`](Self::recv_from).
    pub fn try_recv_many(&self, out: &mut Vec<Datagram>, max: usize) -> io::Result<usize> {
        self.receiver.arm_if_possible();
        match self.take_queued(out, max) {
            0 => self.receiver.take_error().map_or(Ok(0), Err),
            taken => Ok(taken),
        }
    }

    fn take_queued(&self, out: &mut Vec<Datagram>, max: usize) -> usize {
        let mut queue = self.receiver.queue.borrow_mut();
        let taken = queue.len().min(max);
        out.extend(queue.drain(..taken));
        taken
    }

    /// Sends a copy of `payload` to `to` as one datagram and waits until the kernel has taken it.
    ///
    /// Sends of one socket are not ordered among each other.
    ///
    /// # Cancel safety
    /// Dropping it before it is done leaves open whether the datagram is sent.
    ///
    /// # Errors
    /// What `sendto(2)` says: message too long, network unreachable …
    pub async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.send_copy(payload, Some(to)).await
    }

    /// Like [`send_to`](Self::send_to), to the connected peer.
    ///
    /// # Cancel safety
    /// As for [`send_to`](Self::send_to).
    ///
    /// # Errors
    /// As for [`send_to`](Self::send_to), and when the socket is not connected.
    pub async fn send(&self, payload: &[u8]) -> io::Result<usize> {
        self.send_copy(payload, None).await
    }

    async fn send_copy(&self, payload: &[u8], to: Option<SocketAddr>) -> io::Result<usize> {
        let payload = self.copy(payload).await;
        self.operation(payload, to).await.and_then(bytes)
    }

    /// Sends one copy of `payload` to each of `to`: one buffer, one submission.
    ///
    /// # Cancel safety
    /// Dropping it before it is done leaves open to whom the datagram is sent.
    pub async fn send_to_many(&self, payload: &[u8], to: &[SocketAddr]) -> SentMany {
        let payload = self.copy(payload).await;
        let operations: Vec<Operation> = to
            .iter()
            .map(|&to| self.operation(payload.clone(), Some(to)))
            .collect();
        let mut result = SentMany::default();
        for (place, operation) in operations.into_iter().enumerate() {
            match operation.await {
                Ok(_) => result.sent += 1,
                Err(error) => result.failed.push((place, error)),
            }
        }
        result
    }

    /// Waits for a send buffer if all are in flight.
    async fn copy(&self, payload: &[u8]) -> SharedBuf {
        let pool = self.runtime.send_bufs();
        let mut buf = loop {
            match pool.take_for(payload.len()) {
                Some(buf) => break buf,
                None => poll_fn(|cx| pool.poll_available(1, cx)).await,
            }
        };
        buf.put_slice(payload);
        buf.share()
    }

    fn operation(&self, payload: SharedBuf, to: Option<SocketAddr>) -> Operation {
        Operation::start(
            &self.runtime,
            Op::Send {
                socket: self.id,
                to,
                payload,
            },
        )
    }

    /// An empty send buffer for at least `len` bytes; `None` when all are in flight.
    pub fn take_buf(&self, len: usize) -> Option<Buf> {
        self.runtime.send_bufs().take_for(len)
    }

    /// Queues a send and forgets it: it goes out with the next turn of the loop, whatever happens
    /// to the caller. A failure is counted in [`stats`](Self::stats).
    ///
    /// # Errors
    /// Gives the payload back when too many sends are in flight.
    pub fn post_to(&self, payload: SharedBuf, to: SocketAddr) -> Result<(), SharedBuf> {
        if !self.sender.admit() {
            return Err(payload);
        }
        let op = Op::Send {
            socket: self.id,
            to: Some(to),
            payload,
        };
        let sink: Rc<Sender> = Rc::clone(&self.sender);
        self.runtime.post(op, sink);
        Ok(())
    }
}

fn bytes(outcome: Outcome) -> io::Result<usize> {
    let Outcome::Bytes(sent) = outcome else {
        unreachable!("a send transfers bytes")
    };
    Ok(sent)
}

impl UdpOptions {
    fn validate(&self) -> io::Result<()> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if !(1..=32_768).contains(&self.recv_buffers) {
            return invalid("recv_buffers must be from 1 to 32768");
        }
        if !(1..=65_536).contains(&self.buffer_len) {
            return invalid("buffer_len must be from 1 to 65536");
        }
        Ok(())
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        if let Some(key) = self.receiver.armed.take() {
            self.runtime.orphan(key);
        }
        self.runtime.reactor().close(self.id);
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

/// The receiving half: the queue, and the operation that fills it.
struct Receiver {
    runtime: Rc<Inner>,
    id: SocketId,
    pool: BufPool,
    /// The operation in flight. None: before the first receive, after an error, while starved.
    armed: Cell<Option<OpKey>>,
    /// It ended for want of buffers.
    starved: Cell<bool>,
    /// At most as many as there are buffers.
    queue: RefCell<VecDeque<Datagram>>,
    error: RefCell<Option<io::Error>>,
    waiting: RefCell<Vec<Waker>>,
    stats: Cell<UdpStats>,
}

impl Receiver {
    fn poll_recv(self: &Rc<Self>, cx: &Context<'_>) -> Poll<io::Result<Datagram>> {
        if let Some(datagram) = self.queue.borrow_mut().pop_front() {
            return Poll::Ready(Ok(datagram));
        }
        if let Some(error) = self.take_error() {
            return Poll::Ready(Err(error));
        }
        if !self.arm_if_possible() {
            // Starved, and the queue is empty: others hold the buffers. Wait for some.
            if self.pool.poll_available(self.enough(), cx).is_ready() {
                self.arm();
            }
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn take_error(&self) -> Option<io::Error> {
        self.error.borrow_mut().take()
    }

    /// Makes sure that the operation is in flight; false while there are too few buffers.
    fn arm_if_possible(self: &Rc<Self>) -> bool {
        if self.armed.get().is_none() {
            if self.starved.get() && self.pool.available() < self.enough() {
                return false;
            }
            self.arm();
        }
        true
    }

    /// So many free buffers are worth a new start: with fewer it would soon end again.
    fn enough(&self) -> usize {
        self.pool.limit().div_ceil(4)
    }

    fn arm(self: &Rc<Self>) {
        self.starved.set(false);
        let sink: Rc<Self> = Rc::clone(self);
        let key = self
            .runtime
            .start_stream(Op::ReceiveMany { socket: self.id }, sink);
        self.armed.set(Some(key));
    }

    fn count(&self, count: impl FnOnce(&mut UdpStats)) {
        let mut stats = self.stats.get();
        count(&mut stats);
        self.stats.set(stats);
    }

    fn wake(&self) {
        // Usually there is one, and its place is kept. Nothing is borrowed while it is woken.
        let waiting = self.waiting.borrow().len();
        for _ in 0..waiting {
            let waker = self.waiting.borrow_mut().pop();
            waker.into_iter().for_each(Waker::wake);
        }
    }

    fn enqueue(&self, datagram: Datagram) {
        self.count(|stats| {
            stats.received += 1;
            stats.truncated += u64::from(datagram.truncated);
        });
        self.queue.borrow_mut().push_back(datagram);
    }
}

impl Sink for Receiver {
    fn complete(self: Rc<Self>, result: io::Result<Outcome>, more: bool) {
        if !more {
            self.armed.set(None);
        }
        match result {
            Ok(Outcome::Datagram(datagram)) => {
                let empty = datagram.payload.is_empty();
                self.enqueue(datagram);
                if !more {
                    self.count(|stats| {
                        stats.ended_empty += u64::from(empty);
                        stats.ended_overflow += u64::from(!empty);
                    });
                    // It brought something, so this cannot spin.
                    self.arm();
                }
            }
            Ok(_) => unreachable!("a receive brings datagrams"),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.starved.set(true);
                self.count(|stats| stats.ended_no_buffers += 1);
            }
            Err(error) => {
                // The next receive is told, and the one after that starts anew.
                self.count(|stats| stats.ended_error += 1);
                *self.error.borrow_mut() = Some(error);
            }
        }
        self.wake();
    }
}

/// The sending half: how many posted sends are in flight.
struct Sender {
    limit: usize,
    in_flight: Cell<usize>,
    stats: Cell<UdpStats>,
}

impl Sender {
    fn admit(&self) -> bool {
        let admitted = self.in_flight.get() < self.limit;
        let mut stats = self.stats.get();
        if admitted {
            self.in_flight.set(self.in_flight.get() + 1);
        } else {
            stats.post_refused += 1;
        }
        self.stats.set(stats);
        admitted
    }
}

impl Sink for Sender {
    fn complete(self: Rc<Self>, result: io::Result<Outcome>, _more: bool) {
        self.in_flight.set(self.in_flight.get() - 1);
        let mut stats = self.stats.get();
        match result {
            Ok(_) => stats.posted += 1,
            Err(_) => stats.post_failed += 1,
        }
        self.stats.set(stats);
    }
}
