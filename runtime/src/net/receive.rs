//! The receiving half of a socket: the queue, and the operation that fills it.
//!
//! That one operation ends by itself on a datagram of no bytes, when completions overflow, when no
//! buffer is free, and on a socket error. It is started again, and each reason is counted: a socket
//! that stayed silent would be deaf.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::UdpStats;
use crate::buf::BufPool;
use crate::handle::Gone;
use crate::inner::Inner;
use crate::ops::Sink;
use crate::reactor::{Datagram, Op, OpKey, Outcome, SocketId};
use crate::waiters::{Place, Waiters};

pub(super) struct Receiver {
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
    waiting: Waiters,
    stats: Cell<UdpStats>,
}

impl Receiver {
    pub(super) fn new(runtime: &Rc<Inner>, id: SocketId, pool: BufPool) -> Rc<Self> {
        Rc::new(Self {
            runtime: Rc::clone(runtime),
            id,
            pool,
            armed: Cell::new(None),
            starved: Cell::new(false),
            queue: RefCell::default(),
            error: RefCell::default(),
            waiting: Waiters::default(),
            stats: Cell::default(),
        })
    }

    pub(super) fn stats(&self) -> UdpStats {
        self.stats.get()
    }

    /// Moves what is in hand, at most `max`, to the end of `out`. Says how many.
    pub(super) fn take(&self, out: &mut Vec<Datagram>, max: usize) -> usize {
        let mut queue = self.queue.borrow_mut();
        let taken = queue.len().min(max);
        out.extend(queue.drain(..taken));
        taken
    }

    /// An error of the socket that nobody was told yet.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        if self.runtime.is_closed() {
            return Some(io::Error::other(Gone));
        }
        self.error.borrow_mut().take()
    }

    /// Makes sure that the operation is in flight; false while there are too few buffers.
    pub(super) fn arm_if_possible(self: &Rc<Self>) -> bool {
        if self.armed.get().is_none() {
            if self.starved.get() && self.pool.unheld() < self.enough() {
                return false;
            }
            self.arm();
        }
        true
    }

    /// Ends the operation for good: the socket is going.
    pub(super) fn disarm(&self) {
        if let Some(key) = self.armed.take() {
            self.runtime.orphan(key);
        }
    }

    /// So many buffers that nobody holds are worth a new start: with fewer it would soon end again.
    fn enough(&self) -> usize {
        self.pool.limit().div_ceil(4)
    }

    fn arm(self: &Rc<Self>) {
        if self.runtime.is_closed() {
            return;
        }
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
                // What it was lent is used up; if there is more, it goes on with that.
                self.arm_if_possible();
            }
            Err(error) => {
                // The next receive is told, and the one after that starts anew.
                self.count(|stats| stats.ended_error += 1);
                *self.error.borrow_mut() = Some(error);
            }
        }
        self.runtime.wake_soon(&self.waiting, usize::MAX);
    }
}

/// Waits for one datagram of the queue.
pub(super) struct Receive<'a> {
    receiver: &'a Rc<Receiver>,
    datagram: Place,
    /// While the receiver is starved.
    buffers: Place,
}

impl<'a> Receive<'a> {
    pub(super) fn new(receiver: &'a Rc<Receiver>) -> Self {
        Self {
            receiver,
            datagram: Place::default(),
            buffers: Place::default(),
        }
    }
}

impl Future for Receive<'_> {
    type Output = io::Result<Datagram>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        let this = self.get_mut();
        let receiver = this.receiver;
        if let Some(datagram) = receiver.queue.borrow_mut().pop_front() {
            return Poll::Ready(Ok(datagram));
        }
        if let Some(error) = receiver.take_error() {
            return Poll::Ready(Err(error));
        }
        if !receiver.arm_if_possible() {
            // Starved, and the queue is empty: others hold the buffers. Wait for some.
            let (pool, enough) = (&receiver.pool, receiver.enough());
            if pool.poll_unheld(enough, &mut this.buffers, cx).is_ready() {
                pool.leave(&mut this.buffers);
                receiver.arm();
            }
        }
        receiver.waiting.wait(&mut this.datagram, 1, cx);
        Poll::Pending
    }
}

impl Drop for Receive<'_> {
    fn drop(&mut self) {
        self.receiver.waiting.leave(&mut self.datagram);
        self.receiver.pool.leave(&mut self.buffers);
    }
}
