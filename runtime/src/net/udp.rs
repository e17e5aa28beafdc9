//! UDP.
//!
//! The receive belongs to the socket, not to a future: one operation that brings many datagrams,
//! into a queue. [`UdpSocket::recv_from`] waits for the queue only, so dropping it loses no
//! datagram and costs no system call.
//!
//! See `receive.rs` for how that operation is kept going.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::receive::{Receive, Receiver};
use super::runs::{self, Runs};
use crate::buf::{Buf, BufPool, SharedBuf};
use crate::current::current;
use crate::inner::Inner;
use crate::operation::Operation;
use crate::ops::Sink;
use crate::reactor::{Datagram, Op, Outcome, SocketId};
use crate::waiters::Place;

/// How to open a [`UdpSocket`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// How many receive buffers the socket has: how many datagrams can be in user space and not
    /// yet dropped. More wait in the kernel. From 1 to 32,768.
    pub recv_buffers: usize,
    /// How many payload bytes fit into one; a longer datagram is truncated.
    pub buffer_len: usize,
    /// How many sends may be in flight before [`post_to`](UdpSocket::post_to) refuses. When so many
    /// of the socket's sends wait for room in the kernel's buffer as are a quarter of
    /// [`Config::send_buffers`](crate::Config::send_buffers), a posted one is refused, too: what is
    /// stale in one socket does not take all buffers from the others.
    pub sends_in_flight: usize,
    /// The kernel's receive buffer in bytes (`SO_RCVBUF`). More than its maximum
    /// (`net.core.rmem_max`) takes `CAP_NET_ADMIN`; others get that, and a warning is logged, once.
    pub kernel_recv_bytes: Option<usize>,
    /// The kernel's send buffer in bytes (`SO_SNDBUF`), likewise (`net.core.wmem_max`).
    pub kernel_send_bytes: Option<usize>,
    /// Whether several sockets may share the address (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// What the socket has to do with datagrams for many hosts; by default nothing.
    pub multicast: Option<Multicast>,
}

/// A part in datagrams that are for many hosts at once: those to a multicast address, or to the
/// broadcast address of a network; ip(7). IPv4 only, and not in a simulated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multicast {
    /// The socket may send them. To a multicast address they leave by the interface by which this
    /// host is reached, whatever the routes say of the group, and get as far as the next router;
    /// who listens on this machine gets them, too.
    Send {
        /// Somebody in the group's network.
        towards: Ipv4Addr,
    },
    /// The socket is bound to such an address. So may others be, here and elsewhere: each gets
    /// every datagram.
    Receive {
        /// What is sent to a multicast address is heard by the interface that has this address, and
        /// by no other. A broadcast address has an interface of its own.
        at: Ipv4Addr,
    },
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
            multicast: None,
        }
    }
}

/// A UDP socket of this thread's runtime.
///
/// Dropping it cancels its receive and closes it once its last send is out. On io_uring its address
/// can be bound again at once, unless a send is stuck.
pub struct UdpSocket {
    runtime: Rc<Inner>,
    id: SocketId,
    local_addr: SocketAddr,
    receiver: Rc<Receiver>,
    sender: Rc<Sender>,
    runs: Rc<Runs>,
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
    /// Posts refused because too many sends were in flight, or waited for room in the kernel's
    /// buffer.
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
    /// out of range, or for an address of one host where one of many is needed. What [`Multicast`]
    /// asks for may not be had: no interface (`ENODEV`), no route, or, in a simulated world,
    /// nothing of it ([`Unsupported`](io::ErrorKind::Unsupported)).
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn bind_with(addr: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        options.validate()?;
        let runtime = current();
        let room = runtime.reactor().datagram_overhead();
        let pool = BufPool::new(options.buffer_len + room, options.recv_buffers);
        let (id, local_addr) = runtime.reactor().bind_udp(addr, options, &pool)?;
        let receiver = Receiver::new(&runtime, id, pool);
        let sender = Sender {
            limit: options.sends_in_flight,
            in_flight: Cell::new(0),
            is_line_full: Cell::new(false),
            stats: Cell::default(),
        };
        let sender = Rc::new(sender);
        let runs = Runs::new(&runtime, &sender, id);
        Ok(Self {
            runtime,
            id,
            local_addr,
            receiver,
            sender,
            runs,
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
        let (received, sent) = (self.receiver.stats(), self.sender.stats.get());
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
    /// closed. The socket goes on. And [`Gone`](crate::Gone), in an [`io::Error`], when the
    /// socket's runtime was dropped.
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
        Receive::new(&self.receiver).await
    }

    /// Waits for at least one datagram and adds all that are in hand, at most `max` (but at least
    /// the one), to `out`. Says how many.
    ///
    /// # Cancel safety
    /// Strict: datagrams are taken in the poll that returns them.
    ///
    /// # Errors
    /// As for [`recv_from`](Self::recv_from); then `out` is as before.
    pub async fn recv_many(&self, out: &mut Vec<Datagram>, max: usize) -> io::Result<usize> {
        let first = self.recv_datagram().await?;
        out.push(first);
        Ok(1 + self.receiver.take(out, max.saturating_sub(1)))
    }

    /// Adds the datagrams that are in hand, at most `max`, to `out`, without waiting. Says how
    /// many, perhaps none. Begins to receive if nobody did before.
    ///
    /// # Errors
    /// As for [`recv_from`](Self::recv_from).
    pub fn try_recv_many(&self, out: &mut Vec<Datagram>, max: usize) -> io::Result<usize> {
        self.receiver.arm_if_possible();
        match self.receiver.take(out, max) {
            0 => self.receiver.take_error().map_or(Ok(0), Err),
            taken => Ok(taken),
        }
    }

    /// Sends a copy of `payload` to `to` as one datagram and waits until the kernel has taken it.
    ///
    /// Sends of one socket are not ordered among each other. If all send buffers are in flight it
    /// waits for one, behind the sends that waited before it; so one that waits and is not polled
    /// any more keeps a buffer from others until it is dropped.
    ///
    /// # Cancel safety
    /// Dropping it before it is done leaves open whether the datagram is sent.
    ///
    /// # Errors
    /// What `sendto(2)` says: message too long, network unreachable … And
    /// [`Gone`](crate::Gone), in an [`io::Error`], when the socket's runtime was dropped.
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

    /// Waits for a send buffer if all are in flight, or others wait.
    async fn copy(&self, payload: &[u8]) -> SharedBuf {
        let (pool, place) = (self.runtime.send_bufs(), Place::default());
        let mut buf = if payload.len() <= pool.buf_len() {
            SendBuf { pool, place }.await
        } else {
            Buf::with_capacity(payload.len())
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
                unawaited: false,
                line_max: usize::MAX,
            },
        )
    }

    /// An empty send buffer for at least `len` bytes; `None` when all are in flight, or awaited by
    /// sends that were here first.
    pub fn take_buf(&self, len: usize) -> Option<Buf> {
        self.runtime.send_bufs().take_beside(len)
    }

    /// Queues a send and forgets it: it goes out with the next turn of the loop, whatever happens
    /// to the caller. A failure is counted in [`stats`](Self::stats). So is a refusal that comes
    /// late: too many of the sends that were posted with it found no room in the kernel's buffer.
    ///
    /// # Errors
    /// Gives the payload back when too many sends are in flight, or wait for room in the kernel's
    /// buffer (see [`UdpOptions::sends_in_flight`]), or when the socket's runtime was dropped.
    pub fn post_to(&self, payload: SharedBuf, to: SocketAddr) -> Result<(), SharedBuf> {
        if self.runtime.is_closed() || !self.sender.admit() {
            return Err(payload);
        }
        // Somebody may wait for a buffer of any other pool, such as one that this was received in.
        let unawaited = payload.is_of(self.runtime.send_bufs());
        let op = Op::Send {
            socket: self.id,
            to: Some(to),
            payload,
            unawaited,
            line_max: self.runtime.line_max(),
        };
        let sink: Rc<Sender> = Rc::clone(&self.sender);
        self.runtime.post(op, sink);
        Ok(())
    }

    /// An empty buffer for a [run](Self::post_run_to) to `to`; `None` when all are in flight, or
    /// this socket's part of them, a quarter, or when a run did not get to that peer a while ago.
    /// Then send datagrams one by one.
    pub fn take_run_buf(&self, to: SocketAddr) -> Option<Buf> {
        if self.runs.is_resting(to) {
            return None;
        }
        self.runs.take_buf()
    }

    /// Like [`post_to`](Self::post_to) for each `segment` bytes of `payload`, the last time perhaps
    /// fewer: many datagrams for little more than the price of one (udp(7), `UDP_SEGMENT`). They
    /// arrive like others, each on its own.
    ///
    /// Counts as one send, unless the kernel cannot: there are networks that bear no runs, for
    /// instance where datagrams of that length travel in fragments. Then they are sent, and count,
    /// one by one, and [`take_run_buf`](Self::take_run_buf) gives no buffers for this peer for ten
    /// seconds. If the socket was dropped meanwhile, they are lost, and that is one failure.
    ///
    /// # Errors
    /// As for [`post_to`](Self::post_to).
    ///
    /// # Panics
    /// Unless `segment` is at least 1 and less than the length of `payload`, which is at most
    /// 65,507 bytes and 64 datagrams.
    pub fn post_run_to(
        &self,
        payload: SharedBuf,
        segment: usize,
        to: SocketAddr,
    ) -> Result<(), SharedBuf> {
        runs::check(payload.len(), segment);
        if self.runtime.is_closed() || !self.sender.admit() {
            return Err(payload);
        }
        self.runs.post(self.id, payload, segment, to);
        Ok(())
    }
}

fn bytes(outcome: Outcome) -> io::Result<usize> {
    let Outcome::Bytes(sent) = outcome else {
        unreachable!("a send transfers bytes")
    };
    Ok(sent)
}

/// Waits for a pooled send buffer, behind those who do already.
struct SendBuf<'a> {
    pool: &'a BufPool,
    place: Place,
}

impl Future for SendBuf<'_> {
    type Output = Buf;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Buf> {
        let this = self.get_mut();
        this.pool.poll_take(&mut this.place, cx)
    }
}

impl Drop for SendBuf<'_> {
    fn drop(&mut self) {
        self.pool.give_way(&mut self.place);
    }
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
        self.receiver.disarm();
        self.runs.close();
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

/// The sending half: how many posted sends are in flight.
pub(super) struct Sender {
    limit: usize,
    in_flight: Cell<usize>,
    /// What ended last was refused a place among those that wait for room in the kernel's buffer.
    is_line_full: Cell<bool>,
    stats: Cell<UdpStats>,
}

impl Sender {
    /// Whether one more may be in flight, which it is then.
    pub(super) fn admit(&self) -> bool {
        let in_flight = self.in_flight.get();
        // If one is, its end tells whether there is a place again; else nothing would.
        let is_line_full = self.is_line_full.get() && in_flight > 0;
        let admitted = in_flight < self.limit && !is_line_full;
        let mut stats = self.stats.get();
        if admitted {
            self.in_flight.set(in_flight + 1);
        } else {
            stats.post_refused += 1;
        }
        self.stats.set(stats);
        admitted
    }

    /// One is no longer in flight.
    pub(super) fn ended(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

impl Sink for Sender {
    fn complete(self: Rc<Self>, result: io::Result<Outcome>, _more: bool) {
        self.ended();
        let mut stats = self.stats.get();
        let is_refused = matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.is_line_full.set(is_refused);
        match result {
            Ok(_) => stats.posted += 1,
            Err(_) if is_refused => stats.post_refused += 1,
            Err(_) => stats.post_failed += 1,
        }
        self.stats.set(stats);
    }
}
