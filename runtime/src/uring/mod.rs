//! The reactor on Linux: io_uring. The only module with `unsafe`.
//!
//! **Slot invariant.** From [`start`](Reactor::start) to its final completion an operation has a
//! slot, at its key's index, that owns everything the kernel may reach through it: the payload, the
//! address, the descriptor (so that its number is not reused), the buffer group. Nothing in the
//! slot is written or freed meanwhile. Slots never move: their kernel-visible part is boxed.
//!
//! **Shutdown.** Closing a ring does not stop its operations: a file read goes on writing after
//! `close(2)` has returned. So dropping [`Uring`] cancels everything, turns until nothing is in
//! flight, and only then closes and frees. If that takes longer than a second it leaks instead.
#![expect(
    unsafe_code,
    reason = "the kernel's side of the seam; see the invariants above"
)]

mod address;
pub(crate) mod affinity;
mod files;
mod multicast;
mod pair;
mod provided;
mod ring;
mod room;
mod run;
mod sends;
mod setup;
mod signals;
mod slots;
mod sockets;
mod timer;
mod unpark;
mod user_data;
mod waiting;

use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{cqueue, opcode, squeue, types};
use slab::Slab;

use self::files::Files;
use self::ring::Ring;
use self::slots::{Held, Slots};
use self::sockets::{DATAGRAM_OVERHEAD, Sockets};
use self::timer::DeadlineTimer;
use self::unpark::{Unparker, WakeRead};
use self::user_data::UserData;
use self::waiting::Waiting;
use crate::buf::BufPool;
use crate::net::UdpOptions;
use crate::reactor::{Completion, FileId, Op, OpKey, Outcome, Reactor, SocketId, Unpark, Wait};
use crate::time::{BootInstant, Instant};

pub use self::setup::{Capabilities, SetupError};

/// How large the ring is, and how it behaves.
#[derive(Clone, Debug)]
pub struct UringConfig {
    /// Submission queue entries: how many operations one system call can start. At least 1, which
    /// counts as 2; the kernel rounds it up to a power of two and clamps it to its maximum.
    pub submission_entries: u32,
    /// Completion queue entries, likewise; at least `submission_entries`. More than are ever in
    /// flight, or multishot receives end early.
    pub completion_entries: u32,
}

impl Default for UringConfig {
    fn default() -> Self {
        Self {
            submission_entries: 1024,
            completion_entries: 8192,
        }
    }
}

/// The reactor on io_uring.
///
/// It belongs to the thread that made it.
pub struct Uring {
    ring: Ring,
    slots: Slots,
    sockets: Sockets,
    files: Files,
    /// Read by the kernel with every receive; see [`sockets::receive_header`]. Some until leaked.
    header: Option<Box<libc::msghdr>>,
    timer: DeadlineTimer,
    wake: WakeRead,
    /// Peers to whom a message is under way.
    messages: Slab<Arc<dyn Unpark>>,
    reaped: Vec<cqueue::Entry>,
    /// What ended outside a turn; the next one tells of it.
    early: Vec<Completion>,
    /// Random numbers that nobody was given yet.
    drawn: Vec<u64>,
    counters: Counters,
    /// Sends of this turn that are tried at once, and for whose end nobody waits.
    unawaited: u32,
    /// Sends that found no room.
    waiting: Waiting,
    /// When those of them that were called are tried again. The timer is armed for it, or for
    /// something earlier, whenever completions have been reaped.
    retry_at: Option<Instant>,
    /// Everything is being cancelled: nothing begins any more.
    is_draining: bool,
}

#[derive(Default)]
struct Counters {
    cancels: u64,
    timer_armed: u64,
    timer_fired: u64,
    wakes: u64,
    messages_sent: u64,
    messages_failed: u64,
    unknown: u64,
    sends_blocked: u64,
}

/// How many random numbers one system call draws: 256 bytes, all that is sure to come at once.
const DRAWN_AT_ONCE: usize = 32;
/// How long a dropped ring waits for its operations.
const DRAIN_BOUND: Duration = Duration::from_secs(1);
/// A send that found no room is tried again so soon.
const RETRY_AFTER: Duration = Duration::from_millis(1);
/// How often a bind that finds its address in use looks whether a closing socket held it.
const BIND_ATTEMPTS: u32 = 3;

impl Uring {
    /// A ring of the default size for this thread.
    ///
    /// # Errors
    /// [`SetupError`] says what is missing and what to do about it.
    pub fn new() -> Result<Self, SetupError> {
        Self::with_config(&UringConfig::default())
    }

    /// A ring for this thread.
    ///
    /// # Errors
    /// [`SetupError`] says what is missing and what to do about it.
    pub fn with_config(config: &UringConfig) -> Result<Self, SetupError> {
        let ring = Ring::new(config.submission_entries, config.completion_entries)?;
        let duplicate = ring
            .capabilities()
            .message_ring
            .then(|| ring.duplicate())
            .transpose();
        let unparker = duplicate.and_then(Unparker::new).map_err(SetupError::of)?;
        Ok(Self {
            ring,
            slots: Slots::default(),
            sockets: Sockets::default(),
            files: Files::default(),
            header: Some(Box::new(sockets::receive_header())),
            timer: DeadlineTimer::new(),
            wake: WakeRead::new(unparker),
            messages: Slab::new(),
            reaped: Vec::new(),
            early: Vec::new(),
            drawn: Vec::with_capacity(DRAWN_AT_ONCE),
            counters: Counters::default(),
            unawaited: 0,
            waiting: Waiting::default(),
            retry_at: None,
            is_draining: false,
        })
    }

    /// What the kernel granted.
    pub fn capabilities(&self) -> Capabilities {
        self.ring.capabilities()
    }

    fn header(&self) -> &libc::msghdr {
        self.header.as_ref().expect("leaked only by `drop`")
    }

    fn start_receive(&mut self, key: OpKey, socket: SocketId) -> squeue::Entry {
        self.sockets.using(socket);
        let fd = self.sockets.descriptor(socket);
        self.slots.occupy(key, Held::Receive { socket });
        let header: *const libc::msghdr = self.header();
        let provided = self.sockets.provided(socket);
        provided.refill();
        opcode::RecvMsgMulti::new(types::Fd(fd), header, provided.group()).build()
    }

    fn start_signal(&mut self, key: OpKey) -> squeue::Entry {
        match signals::Waiting::begin() {
            Ok((waiting, fd)) => {
                let held = Held::Signal { _waiting: waiting };
                let shared = self.slots.occupy(key, held);
                // SAFETY: `shared` points to a live value; only an address within it is taken.
                let word = unsafe { &raw mut (*shared).word };
                opcode::Read::new(types::Fd(fd), word.cast(), size_of::<u64>() as u32).build()
            }
            Err(error) => {
                self.slots.occupy(key, Held::Failed(Some(error)));
                opcode::Nop::new().build()
            }
        }
    }

    /// Has an operation end that stands before this in the queue, or in flight.
    fn push_cancel(&mut self, target: UserData) {
        let cancel = opcode::AsyncCancel::new(target.encode())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(UserData::Cancel.encode());
        // SAFETY: it names no memory. It stands behind its target in the queue, so it finds it.
        unsafe { self.ring.push(cancel) };
    }

    fn arm_timer(&mut self, deadline: Instant) {
        self.counters.timer_armed += u64::from(self.timer.arm(&mut self.ring, deadline));
    }

    /// When a sleep ends, whatever happens: sends that found no room stand in line then.
    fn wake_up_at(&self, wait: Wait, expected: u32) -> Option<Instant> {
        let deadline = match wait {
            Wait::Until(deadline) => Some(deadline),
            Wait::Forever | Wait::Poll => None,
        };
        if expected == 0 {
            return deadline;
        }
        let retry = self.now() + RETRY_AFTER;
        Some(deadline.map_or(retry, |deadline| deadline.min(retry)))
    }

    fn arm_wake(&mut self) {
        if !self.wake.armed {
            self.wake.armed = true;
            // SAFETY: the eventfd and the eight bytes live in `self.wake`, which lives until the
            // read has completed: see `Drop`. Nobody accesses the bytes.
            unsafe { self.ring.push(self.wake.sqe()) };
        }
    }

    fn dispatch(&mut self, cqe: &cqueue::Entry, completions: &mut Vec<Completion>) {
        match UserData::decode(cqe.user_data()) {
            UserData::Op(key) if self.send_goes_on(key, cqe) => {}
            UserData::Op(key) => self.complete(key, cqe, completions),
            UserData::Sync(key) => self.complete_sync(key, cqe, completions),
            UserData::Timer(generation) => {
                self.counters.timer_fired += u64::from(self.timer.ended(generation));
            }
            // It had fired already: its completion has come or comes; arm a new one.
            UserData::TimerUpdate(generation) => {
                self.timer.ended(generation);
            }
            UserData::Cancel => {}
            UserData::Close => self.files.closed(transferred(cqe)),
            UserData::Wake => {
                self.wake.armed = false;
                self.counters.wakes += 1;
            }
            UserData::MessageSent(index) => {
                let peer = self.messages.try_remove(index as usize);
                if cqe.result() < 0 {
                    self.counters.messages_failed += 1;
                    peer.into_iter().for_each(|peer| peer.unpark());
                }
            }
            UserData::MessageReceived => self.counters.wakes += 1,
            UserData::Unknown(_) => self.counters.unknown += 1,
        }
    }

    fn complete(&mut self, key: OpKey, cqe: &cqueue::Entry, completions: &mut Vec<Completion>) {
        let Some(held) = self.slots.held(key) else {
            self.counters.unknown += 1;
            return;
        };
        let more = cqueue::more(cqe.flags());
        let result = match held {
            Held::Receive { socket } => {
                let (socket, header) = (*socket, self.header.as_ref());
                let header = header.expect("leaked only by `drop`");
                self.sockets.received(socket, cqe, header)
            }
            Held::Open { file, .. } => {
                let file = *file;
                self.files.opened(file, cqe)
            }
            Held::WriteSync { pair, .. } => {
                pair.write_ended(transferred(cqe));
                return self.complete_pair(key, completions);
            }
            Held::Read { .. } | Held::Write { .. } | Held::Sync { .. } | Held::Size { .. } => {
                return self.complete_file(key, cqe, completions);
            }
            Held::Failed(error) => Err(error.take().unwrap_or_else(|| io::ErrorKind::Other.into())),
            Held::Send { .. } => transferred(cqe).map(Outcome::Bytes),
            Held::Nop | Held::Signal { .. } | Held::Nothing => {
                transferred(cqe).map(|_| Outcome::Done)
            }
        };
        if !more {
            let held = self.slots.vacate(key);
            if let Held::Send { socket, way, .. } = held {
                self.send_ended(key, socket, way);
            }
            self.release(&held);
        }
        completions.push(Completion { key, result, more });
    }

    /// What an operation used is no longer used by it.
    fn release(&mut self, held: &Held) {
        if let Held::Send { socket, .. } | Held::Receive { socket } = held {
            self.sockets.release(self.ring.inner(), *socket);
        } else if let Some(file) = held.file() {
            let unused = self.files.release(file);
            self.close_descriptor(unused);
        }
    }

    /// Gives sockets that are closing a chance to be closed: what ends them needs the kernel.
    fn finish_closing(&mut self) -> io::Result<()> {
        self.unawaited = 0; // they are done when it returns
        self.ring.enter(0)?;
        let mut completions = Vec::new();
        self.dispatch_reaped(&mut completions);
        self.early.append(&mut completions);
        self.retry_sends();
        Ok(())
    }

    /// Cancels everything and waits until the kernel has let go. False if it has not, in time.
    fn drain(&mut self) -> bool {
        self.is_draining = true;
        self.drop_waiting();
        let bound = self.now() + DRAIN_BOUND;
        // A close that is cancelled leaves its descriptor open: those under way come first.
        self.turn_while(bound, |uring| uring.files.closing > 0);
        let everything = types::CancelBuilder::any().all();
        let cancel = opcode::AsyncCancel2::new(everything).build();
        // SAFETY: it names no memory.
        unsafe { self.ring.push(cancel.user_data(UserData::Cancel.encode())) };
        self.turn_while(bound, |uring| {
            uring.is_used_by_the_kernel() || !uring.ring.is_submitted()
        });
        !self.is_used_by_the_kernel()
    }

    fn is_used_by_the_kernel(&self) -> bool {
        self.slots.in_flight() > 0 || self.wake.armed || self.files.closing > 0
    }

    fn turn_while(&mut self, bound: Instant, is_awaited: impl Fn(&mut Self) -> bool) {
        while is_awaited(self) {
            self.arm_timer(bound);
            if self.ring.enter(1).is_err() {
                return;
            }
            let mut dropped = Vec::new();
            self.dispatch_reaped(&mut dropped);
            if self.now() >= bound {
                return;
            }
        }
    }

    fn dispatch_reaped(&mut self, completions: &mut Vec<Completion>) {
        let mut reaped = mem::take(&mut self.reaped);
        self.ring.reap(&mut reaped);
        for cqe in reaped.drain(..) {
            self.dispatch(&cqe, completions);
        }
        self.reaped = reaped;
    }
}

fn transferred(cqe: &cqueue::Entry) -> io::Result<usize> {
    usize::try_from(cqe.result()).map_err(|_| io::Error::from_raw_os_error(-cqe.result()))
}

/// What a clock of the kernel shows.
fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut spec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) writes one timespec, which `spec` is.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut spec) };
    assert_eq!(failed, 0, "every Linux with io_uring has this clock");
    spec.tv_sec as u64 * 1_000_000_000 + spec.tv_nsec as u64
}

impl Reactor for Uring {
    fn now(&self) -> Instant {
        Instant::from_nanos(clock_ns(libc::CLOCK_MONOTONIC))
    }

    fn boot_now(&self) -> BootInstant {
        BootInstant::from_nanos(clock_ns(libc::CLOCK_BOOTTIME))
    }

    fn random(&mut self) -> u64 {
        if let Some(drawn) = self.drawn.pop() {
            return drawn;
        }
        // A system call for each would be dear: a client draws one for every call.
        let mut words = [0u64; DRAWN_AT_ONCE];
        let len = size_of_val(&words);
        // SAFETY: getrandom(2) writes at most that many bytes to `words`, of which all values are
        // sound.
        let got = unsafe { libc::getrandom(words.as_mut_ptr().cast(), len, 0) };
        let whole = usize::try_from(got) == Ok(len);
        assert!(whole, "getrandom(2) gives up to 256 bytes without fail");
        let [first, rest @ ..] = words;
        self.drawn.extend_from_slice(&rest);
        first
    }

    fn datagram_overhead(&self) -> usize {
        DATAGRAM_OVERHEAD
    }

    /// An address that only a socket which is [closing](Reactor::close) still holds is free: that
    /// socket is closed first.
    fn bind_udp(
        &mut self,
        addr: SocketAddr,
        options: &UdpOptions,
        pool: &BufPool,
    ) -> io::Result<(SocketId, SocketAddr)> {
        for _ in 0..BIND_ATTEMPTS {
            let bound = self.sockets.bind(self.ring.inner(), addr, options, pool);
            match bound {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && self.sockets.is_closing() =>
                {
                    self.finish_closing()?;
                }
                Ok(_) | Err(_) => return bound,
            }
        }
        self.sockets.bind(self.ring.inner(), addr, options, pool)
    }

    fn connect_udp(&mut self, socket: SocketId, peer: SocketAddr) -> io::Result<()> {
        self.sockets.connect(socket, peer)
    }

    fn close(&mut self, socket: SocketId) {
        self.sockets.close(self.ring.inner(), socket);
    }

    fn new_file(&mut self) -> FileId {
        self.files.add()
    }

    fn close_file(&mut self, file: FileId) {
        let unused = self.files.close(file);
        self.close_descriptor(unused);
    }

    fn lock_file(&mut self, file: FileId) -> io::Result<()> {
        self.files.lock(file)
    }

    fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn start(&mut self, key: OpKey, op: Op) {
        let entry = match op {
            Op::Nop => {
                self.slots.occupy(key, Held::Nop);
                opcode::Nop::new().build()
            }
            Op::Send {
                socket,
                to,
                payload,
                unawaited,
                line_max,
            } => return self.start_send(key, socket, to, payload, unawaited, line_max),
            Op::SendRun {
                socket,
                to,
                payload,
                segment,
                unawaited,
                line_max,
            } => {
                let run = (payload, segment);
                return self.start_send_run(key, socket, to, run, unawaited, line_max);
            }
            Op::ReceiveMany { socket } => self.start_receive(key, socket),
            Op::ShutdownSignal => self.start_signal(key),
            Op::WriteSync { file, offset, data } => {
                return self.start_write_sync(key, file, offset, data);
            }
            Op::Open {
                file,
                path,
                options,
            } => self.start_open(key, file, path, &options),
            Op::Read { file, offset, buf } => self.start_read(key, file, offset, buf),
            Op::Write { file, offset, data } => self.start_write(key, file, offset, data),
            Op::Sync { file, data_only } => self.start_sync(key, file, data_only),
            Op::Size { file } => self.start_size(key, file),
        };
        // SAFETY: the slot invariant: what the entry names is owned by the slot that was just
        // occupied, or (the receive header) lives as long as the ring, until the final completion.
        unsafe { self.ring.push(entry.user_data(UserData::Op(key).encode())) };
    }

    fn cancel(&mut self, key: OpKey) {
        let Some(held) = self.slots.held(key) else {
            return;
        };
        let is_pair = matches!(held, Held::WriteSync { .. });
        self.counters.cancels += 1;
        self.cancel_send(key);
        if self.slots.held(key).is_none() {
            return; // that was its end
        }
        self.push_cancel(UserData::Op(key));
        if is_pair {
            self.push_cancel(UserData::Sync(key));
        }
    }

    fn is_idle(&mut self) -> bool {
        self.early.is_empty() && self.ring.is_idle()
    }

    fn shows_work(&self) -> bool {
        let capabilities = self.ring.capabilities();
        capabilities.task_run_flag || !capabilities.deferred_task_run
    }

    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        completions.append(&mut self.early);
        let sleep = wait != Wait::Poll && completions.is_empty();
        if sleep {
            self.arm_wake();
        }
        // A send is done, or has failed, while its entry is consumed (`MSG_DONTWAIT`): its
        // completion is there before the sleep begins. If nobody awaits it, it is not to end the
        // sleep, once in every turn: that waits for one completion more than there are of these,
        // and a millisecond at most, in case one found no room.
        let unawaited = mem::take(&mut self.unawaited);
        let expected = if self.sockets.is_closing() {
            0 // the last one of a socket closes it
        } else {
            unawaited
        };
        if sleep && let Some(deadline) = self.wake_up_at(wait, expected) {
            self.arm_timer(deadline);
        }
        self.ring.enter(if sleep { 1 + expected } else { 0 })?;
        self.dispatch_reaped(completions);
        self.retry_sends();
        Ok(())
    }

    fn unparker(&self) -> Arc<dyn Unpark> {
        let unparker: Arc<Unparker> = Arc::clone(self.wake.unparker());
        unparker
    }

    fn unpark_peer(&mut self, peer: &Arc<dyn Unpark>) -> bool {
        if !self.ring.capabilities().message_ring {
            return false;
        }
        let Some(ring) = peer.ring().map(|ring| types::Fd(ring.as_raw_fd())) else {
            return false;
        };
        let index = self.messages.insert(Arc::clone(peer)) as u32;
        self.counters.messages_sent += 1;
        let message = UserData::MessageReceived.encode();
        let entry = opcode::MsgRingData::new(ring, 0, message, None)
            .build()
            .user_data(UserData::MessageSent(index).encode());
        // SAFETY: it names no memory; the descriptor is borrowed of the peer, and so stays open
        // while `messages` holds that.
        unsafe { self.ring.push(entry) };
        true
    }

    fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("enters", self.ring.enters),
            ("submitted", self.ring.submitted),
            ("completed", self.ring.completed),
            ("submissions_delayed", self.ring.delayed),
            ("completions_overflowed", self.ring.overflows),
            ("cancels", self.counters.cancels),
            ("timer_armed", self.counters.timer_armed),
            ("timer_fired", self.counters.timer_fired),
            ("wakes", self.counters.wakes),
            ("messages_sent", self.counters.messages_sent),
            ("messages_failed", self.counters.messages_failed),
            ("submissions_cut_short", self.ring.cut_short),
            ("files_open", self.files.open() as u64),
            ("closes_failed", self.files.closes_failed),
            ("completions_unknown", self.counters.unknown),
            ("sends_blocked", self.counters.sends_blocked),
        ]
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let drained = self.drain();
        // A message of which nothing was heard may not have been sent. Once too often is harmless.
        self.messages.drain().for_each(|peer| peer.unpark());
        if drained {
            // The kernel holds nothing of ours but the buffer rings, and gives those back.
            self.sockets.close_all(self.ring.inner());
            return;
        }
        tracing::error!(
            in_flight = self.slots.in_flight(),
            "operations in flight outlive their ring"
        );
        // What the kernel may still reach is never freed.
        self.slots.leak();
        self.sockets.leak();
        self.files.leak();
        self.wake.leak();
        mem::forget(self.header.take());
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("capabilities", &self.capabilities())
            .field("in_flight", &self.slots.in_flight())
            .finish_non_exhaustive()
    }
}
