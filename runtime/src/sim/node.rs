//! What a node has besides its runtime: its machine. Clock, kernel, disk.

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::clock::Clock;
use super::disk::Disk;
use super::files::Files;
use super::operations::{Held, Operations};
use super::random::Random;
use super::ring::RingState;
use super::socket::{Queued, Socket, Sockets};
use super::timeline::{Happening, Life, Timeline};
use super::trace::{EndReason, Event, EventKind};
use super::{NodeConfig, NodeId};
use crate::buf::{Buf, SharedBuf};
use crate::reactor::{Completion, Datagram, OpKey, Outcome, SocketId, Wait};
use crate::time::Instant;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) life: Life,
    pub(super) phase: Phase,
    pub(super) clock: Clock,
    /// What the node's program draws from. It goes on across restarts.
    pub(super) random: Random,
    pub(super) ring: RingState,
    pub(super) disk: Disk,
    pub(super) files: Files,
    pub(super) sockets: Sockets,
    pub(super) ops: Operations,
    /// Its process was asked to stop.
    pub(super) asked_to_stop: bool,
    /// There is something to do for its reactor.
    pub(super) work: bool,
    pub(super) parked: Parked,
    /// Its core is taken until then, by what it did or by a pause.
    pub(super) busy_until: Instant,
    pub(super) slowdown: u32,
    pub(super) turn_cost: Duration,
    pub(super) poll_cost: Duration,
    starved: Vec<Starved>,
    /// Payloads that were received, to be used again.
    pub(super) spent: Vec<Vec<u8>>,
    /// Sockets that are gone, until they can be dropped.
    gone: Vec<Socket>,
    pub(super) counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Without power: it answers nothing.
    Down,
    /// No process runs on it; its kernel refuses what comes.
    Finished,
    Up,
    /// It shuts down: what it has started it still does.
    Stopping,
    /// It crashes or is killed: nothing that it does reaches the world any more.
    Crashing,
}

/// Whether the node's loop sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parked {
    No,
    /// Until this moment of the world's clock; `None` for ever.
    Until(Option<Instant>),
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) turns: u64,
    pub(super) submitted: u64,
    pub(super) completed: u64,
    pub(super) cancels: u64,
    pub(super) delayed: u64,
}

/// Buffers that were taken away.
#[derive(Debug)]
struct Starved {
    until: Instant,
    bufs: Vec<Buf>,
}

/// What is to be dropped once nothing is borrowed: it may wake tasks.
#[derive(Debug, Default)]
pub(super) struct Released {
    held: Vec<Held>,
    bufs: Vec<Buf>,
    sockets: Vec<Socket>,
}

impl Released {
    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.bufs.clear();
        self.sockets.clear();
    }
}

/// At most so many completions are reaped in a turn, as from the real ring.
const REAP_MAX: usize = 512;

impl Node {
    pub(super) fn new(id: NodeId, address: Ipv4Addr, config: &NodeConfig, random: &Random) -> Self {
        Self {
            life: Life {
                node: id,
                incarnation: 0,
            },
            phase: Phase::Down,
            clock: Clock::new(),
            random: random.fork(1),
            ring: RingState::new(&random.fork(2)),
            disk: Disk::new(random.fork(3)),
            files: Files::default(),
            sockets: Sockets::new(address),
            ops: Operations::default(),
            asked_to_stop: false,
            work: false,
            parked: Parked::No,
            busy_until: Instant::from_nanos(0),
            slowdown: 1,
            turn_cost: config.turn_cost,
            poll_cost: config.poll_cost,
            starved: Vec::new(),
            spent: Vec::new(),
            gone: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// When it can have its next turn; `None` if nothing is to come. `ready` says whether it has
    /// tasks to run.
    pub(super) fn runnable_at(&self, ready: bool) -> Option<Instant> {
        if ready || self.work {
            return Some(self.busy_until);
        }
        match self.parked {
            Parked::No => Some(self.busy_until),
            Parked::Until(until) => Some(until?.max(self.busy_until)),
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Stopping | Phase::Crashing)
    }

    /// Has the loop sleep as `wait` allows: until then nobody gives it a turn.
    pub(super) fn park(&mut self, wait: Wait) {
        self.parked = match wait {
            Wait::Poll => Parked::No,
            Wait::Until(deadline) => Parked::Until(self.clock.world_at(deadline)),
            Wait::Forever => Parked::Until(None),
        };
    }

    /// The final completion of an operation.
    pub(super) fn end(&mut self, key: OpKey, result: io::Result<Outcome>) {
        self.work = true;
        let (socket, file) = self.ops.end(key, result);
        if let Some(file) = file {
            self.files.end(file);
        }
        let Some(id) = socket else { return };
        let socket = self.sockets.get(id);
        socket.operations -= 1;
        if socket.armed == Some(key) {
            socket.armed = None;
        }
        self.gone.extend(self.sockets.remove_unused(id));
    }

    /// Ends an operation because it was cancelled, unless it has ended.
    pub(super) fn end_cancelled(&mut self, timeline: &mut Timeline, key: OpKey) {
        let Some(held) = self.ops.held(key) else {
            return;
        };
        if matches!(held, Held::Receive { .. }) {
            let kind = EventKind::ReceiveEnd(EndReason::Cancelled);
            timeline.record(Event::of(self.life.node, kind));
        }
        if held.file().is_some() {
            return self.cancel_file(key);
        }
        self.end(key, Err(io::Error::from_raw_os_error(libc::ECANCELED)));
    }

    pub(super) fn end_all(&mut self, timeline: &mut Timeline) {
        for key in self.ops.keys(|_| true) {
            self.end_cancelled(timeline, key);
        }
    }

    pub(super) fn close(&mut self, id: SocketId) {
        self.sockets.get(id).closing = true;
        let removed = self.sockets.remove_unused(id);
        self.gone.extend(removed);
        self.work = true; // so that it is dropped soon
    }

    /// Brings what has arrived to the receives that wait for it, and hands completions over.
    pub(super) fn reap(
        &mut self,
        timeline: &mut Timeline,
        out: &mut Vec<Completion>,
        released: &mut Released,
    ) {
        self.end_starvations(timeline.now(), released);
        for index in 0..self.sockets.slab.capacity() {
            let socket = self.sockets.slab.get(index);
            if socket.is_some_and(Socket::has_news) {
                self.serve(timeline, SocketId(index as u32));
            }
        }
        let first = out.len();
        while out.len() < first + REAP_MAX
            && let Some((completion, held)) = self.ops.reap()
        {
            out.push(completion);
            if matches!(held, Held::Send { .. }) {
                released.held.push(held);
            }
        }
        self.counters.completed += (out.len() - first) as u64;
        if !self.is_leaving() && self.ring.reorders(&mut out[first..]) {
            timeline.record(Event::of(self.life.node, EventKind::Reorder));
        }
        let more = |(_, socket): (usize, &Socket)| socket.has_news();
        self.work = self.ops.completed() > 0 || self.sockets.slab.iter().any(more);
        released.sockets.append(&mut self.gone);
    }

    fn serve(&mut self, timeline: &mut Timeline, id: SocketId) {
        let socket = self.sockets.get(id);
        let Some(key) = socket.armed else { return };
        if let Some(error) = socket.error.take() {
            return self.end_receive(timeline, key, EndReason::Error, error);
        }
        if self.ring.socket_fails() {
            return self.end_receive(timeline, key, EndReason::Error, libc::ENETDOWN);
        }
        if let Some(away) = self.ring.starves() {
            self.starve(timeline, id, away);
        }
        while self.ops.completed() < REAP_MAX {
            let socket = self.sockets.get(id);
            let Some(from) = socket.queue.front().map(|queued| queued.from) else {
                return;
            };
            let Some(buf) = socket.pool.take() else {
                return self.end_receive(timeline, key, EndReason::NoBuffers, libc::ENOBUFS);
            };
            let empty = if self.ring.brings_empty() {
                Some(Queued {
                    from,
                    payload: Vec::new(),
                })
            } else {
                socket.pop()
            };
            let Some(queued) = empty else { return };
            let outcome = Outcome::Datagram(into_datagram(buf, &queued, socket.buffer_len));
            let end = if queued.payload.is_empty() {
                Some(EndReason::Empty)
            } else {
                self.ring.overflows().then_some(EndReason::Overflow)
            };
            self.spent.push(queued.payload);
            let Some(reason) = end else {
                self.ops.bring(key, outcome);
                continue;
            };
            let event = Event::of(self.life.node, EventKind::ReceiveEnd(reason));
            timeline.record(event);
            return self.end(key, Ok(outcome));
        }
    }

    fn end_receive(&mut self, timeline: &mut Timeline, key: OpKey, why: EndReason, error: i32) {
        timeline.record(Event::of(self.life.node, EventKind::ReceiveEnd(why)));
        self.end(key, Err(io::Error::from_raw_os_error(error)));
    }

    /// Takes every free receive buffer away.
    fn starve(&mut self, timeline: &mut Timeline, id: SocketId, away: Duration) {
        let pool = &self.sockets.get(id).pool;
        let bufs: Vec<Buf> = std::iter::from_fn(|| pool.take()).collect();
        let event = Event::of(self.life.node, EventKind::Starve);
        timeline.record(event.number(bufs.len() as u64));
        self.starved.push(Starved {
            until: timeline.now() + away,
            bufs,
        });
        timeline.after(away, Happening::Wake { life: self.life });
    }

    fn end_starvations(&mut self, now: Instant, released: &mut Released) {
        let is_over = |starved: &Starved| starved.until <= now;
        for over in self.starved.extract_if(.., |starved| is_over(starved)) {
            released.bufs.extend(over.bufs);
        }
    }

    /// Begins a life.
    pub(super) fn begin(&mut self, now: Instant) {
        self.phase = Phase::Up;
        self.parked = Parked::No;
        self.asked_to_stop = false;
        self.counters = Counters::default();
        self.busy_until = self.busy_until.max(now);
    }

    /// Ends a life, after its runtime is gone. What is returned is dropped when nothing is
    /// borrowed.
    #[must_use]
    pub(super) fn finish(&mut self, now: Instant, phase: Phase) -> impl Sized + use<> {
        self.phase = phase;
        self.life.incarnation += 1;
        self.work = false;
        self.busy_until = now;
        (
            mem::take(&mut self.sockets.slab),
            mem::take(&mut self.ops),
            mem::take(&mut self.files),
            mem::take(&mut self.starved),
            mem::take(&mut self.gone),
        )
    }
}

fn into_datagram(mut buf: Buf, queued: &Queued, buffer_len: usize) -> Datagram {
    let len = queued.payload.len().min(buffer_len).min(buf.capacity());
    buf.put_slice(&queued.payload[..len]);
    let payload: SharedBuf = buf.share();
    Datagram {
        payload,
        from: queued.from.into(),
        truncated: len < queued.payload.len(),
    }
}
