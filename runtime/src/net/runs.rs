//! Runs: many datagrams for one peer in one send; udp(7), `UDP_SEGMENT`.
//!
//! There are ways on which they do not get: where datagrams of that length travel in fragments, or
//! through a device that computes no checksums. The kernel says so at once, and nothing is lost:
//! the datagrams are sent one by one, and that peer gets no runs for a while.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::udp::Sender;
use crate::buf::{Buf, SharedBuf};
use crate::inner::Inner;
use crate::ops::Sink;
use crate::reactor::{Op, Outcome, SocketId};
use crate::time::Instant;

/// A run has at most so many datagrams: the least that any kernel with runs allows.
const RUN_MAX: usize = 64;
/// And so many bytes: what one datagram may have.
const RUN_BYTES_MAX: usize = 65_507;
/// A peer to whom one did not get has none for so long.
const REST: Duration = Duration::from_secs(10);
/// Of so many peers this is remembered. Whoever is forgotten is tried sooner, which loses nothing.
const RESTING_MAX: usize = 16;

/// The runs of one socket.
pub(super) struct Runs {
    runtime: Rc<Inner>,
    sender: Rc<Sender>,
    /// None when it was dropped: the id may be that of another one by then.
    socket: Cell<Option<SocketId>>,
    /// Who has no runs, and until when; those come first whose rest ends first.
    resting: RefCell<Vec<(SocketAddr, Instant)>>,
    in_flight: Cell<usize>,
    /// Kept to be used again: as many as were in flight at once.
    free: RefCell<Vec<Rc<Run>>>,
}

/// It hears of one run after the other.
#[derive(Default)]
struct Run {
    in_flight: Cell<Option<InFlight>>,
}

struct InFlight {
    runs: Rc<Runs>,
    payload: SharedBuf,
    segment: usize,
    to: SocketAddr,
}

impl Runs {
    pub(super) fn new(runtime: &Rc<Inner>, sender: &Rc<Sender>, socket: SocketId) -> Rc<Self> {
        Rc::new(Self {
            runtime: Rc::clone(runtime),
            sender: Rc::clone(sender),
            socket: Cell::new(Some(socket)),
            resting: RefCell::default(),
            in_flight: Cell::new(0),
            free: RefCell::default(),
        })
    }

    /// The socket is dropped.
    pub(super) fn close(&self) {
        self.socket.set(None);
    }

    /// Whether runs are not tried with `to` now.
    pub(super) fn is_resting(&self, to: SocketAddr) -> bool {
        let now = self.runtime.loop_time();
        let resting = self.resting.borrow();
        resting
            .iter()
            .any(|&(peer, until)| peer == to && now < until)
    }

    /// A buffer for one more, if there is a free one for this socket.
    pub(super) fn take_buf(&self) -> Option<Buf> {
        let has_its_part = self.in_flight.get() >= Inner::RUNS_OF_A_SOCKET;
        (!has_its_part).then(|| self.runtime.run_bufs().take())?
    }

    /// Sends a run of which nobody but the counters hears; the sender has admitted it.
    ///
    /// # Panics
    /// Unless it is one; see [`check`].
    pub(super) fn post(
        self: &Rc<Self>,
        socket: SocketId,
        payload: SharedBuf,
        segment: usize,
        to: SocketAddr,
    ) {
        let unawaited = payload.is_of(self.runtime.run_bufs());
        self.in_flight.set(self.in_flight.get() + 1);
        let run = self.free.borrow_mut().pop().unwrap_or_default();
        run.in_flight.set(Some(InFlight {
            runs: Rc::clone(self),
            payload: payload.clone(),
            segment,
            to,
        }));
        let op = Op::SendRun {
            socket,
            to,
            payload,
            segment: u16::try_from(segment).expect("less than that of a run"),
            unawaited,
            line_max: self.runtime.line_max(),
        };
        self.runtime.post(op, run);
    }

    fn rest(&self, peer: SocketAddr) {
        let mut resting = self.resting.borrow_mut();
        resting.retain(|&(other, _)| other != peer);
        if resting.len() == RESTING_MAX {
            resting.remove(0);
        }
        resting.push((peer, self.runtime.loop_time() + REST));
    }
}

impl InFlight {
    /// Sends the datagrams one by one. Those that are not admitted are counted.
    fn post_singly(&self, socket: SocketId) {
        let (runtime, sender) = (&self.runs.runtime, &self.runs.sender);
        let unawaited = self.payload.is_of(runtime.run_bufs());
        let len = self.payload.len();
        for start in (0..len).step_by(self.segment) {
            if !sender.admit() {
                continue;
            }
            let end = len.min(start + self.segment);
            let op = Op::Send {
                socket,
                to: Some(self.to),
                payload: self.payload.slice(start..end),
                unawaited,
                line_max: runtime.line_max(),
            };
            let sink: Rc<Sender> = Rc::clone(sender);
            runtime.post(op, sink);
        }
    }
}

impl Sink for Run {
    fn complete(self: Rc<Self>, result: io::Result<Outcome>, more: bool) {
        let run = self.in_flight.take().expect("it is told once for each run");
        let runs = Rc::clone(&run.runs);
        runs.in_flight.set(runs.in_flight.get() - 1);
        runs.free.borrow_mut().push(self);
        let error = result.as_ref().err().and_then(io::Error::raw_os_error);
        let is_refused = matches!(error, Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE));
        let Some(socket) = runs.socket.get().filter(|_| is_refused) else {
            return Rc::clone(&runs.sender).complete(result, more);
        };
        runs.sender.ended();
        runs.rest(run.to);
        run.post_singly(socket);
    }
}

/// # Panics
/// Unless so many bytes in datagrams of `segment` are a run.
pub(super) fn check(len: usize, segment: usize) {
    let is_run = segment > 0 && segment < len && len <= RUN_BYTES_MAX;
    assert!(
        is_run && len.div_ceil(segment) <= RUN_MAX,
        "{len} bytes in datagrams of {segment} are no run"
    );
}
