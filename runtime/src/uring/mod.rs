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
mod provided;
mod ring;
mod setup;
mod signals;
mod unpark;
mod user_data;

use std::cell::UnsafeCell;
use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{cqueue, opcode, squeue, types};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use self::address::RawAddress;
use self::provided::Provided;
use self::ring::Ring;
use self::unpark::{Unparker, WakeRead};
use self::user_data::UserData;
use crate::buf::{BufPool, SharedBuf};
use crate::net::UdpOptions;
use crate::reactor::{Completion, Datagram, Op, OpKey, Outcome, Reactor, SocketId, Unpark, Wait};
use crate::time::Instant;

pub use self::setup::{Capabilities, SetupError};

/// How large the ring is, and how it behaves.
#[derive(Clone, Debug)]
pub struct UringConfig {
    /// Submission queue entries: how many operations one system call can start.
    pub submission_entries: u32,
    /// Completion queue entries. More than are ever in flight, or multishot receives end early.
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
    slots: Vec<Slot>,
    in_flight: usize,
    sockets: Slab<SocketEntry>,
    groups: Groups,
    /// Read by the kernel with every receive; see [`receive_header`].
    header: Box<libc::msghdr>,
    timer: DeadlineTimer,
    wake: WakeRead,
    /// Peers to whom a message is under way.
    messages: Slab<Arc<dyn Unpark>>,
    reaped: Vec<cqueue::Entry>,
    counters: Counters,
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
}

/// One operation's place. Reused; its boxed part is allocated once.
struct Slot {
    generation: u32,
    /// What the operation keeps alive. `Nothing` while the slot is free.
    held: Held,
    shared: Box<UnsafeCell<KernelShared>>,
}

/// What the kernel reads or writes by address.
struct KernelShared {
    address: RawAddress,
    word: u64,
}

enum Held {
    Nothing,
    Nop,
    Send {
        socket: SocketId,
        _payload: SharedBuf,
    },
    Receive {
        socket: SocketId,
    },
    Signal {
        _waiting: signals::Waiting,
    },
    /// It could not even be started; the completion is made up in the next turn.
    Failed(Option<io::Error>),
}

struct SocketEntry {
    socket: Socket,
    provided: Provided,
    /// Operations in flight on it.
    operations: usize,
    closing: bool,
}

/// Buffer group ids; those given back are used again.
#[derive(Default)]
struct Groups {
    next: u16,
    free: Vec<u16>,
}

/// The one kernel timer, armed for the earliest deadline, lazily.
struct DeadlineTimer {
    spec: Box<UnsafeCell<types::Timespec>>,
    armed: Option<Instant>,
    generation: u32,
}

/// How long a dropped ring waits for its operations.
const DRAIN_BOUND: Duration = Duration::from_secs(1);

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
        let unparker = duplicate
            .and_then(Unparker::new)
            .map_err(SetupError::Other)?;
        Ok(Self {
            ring,
            slots: Vec::new(),
            in_flight: 0,
            sockets: Slab::new(),
            groups: Groups::default(),
            header: Box::new(receive_header()),
            timer: DeadlineTimer {
                spec: Box::new(UnsafeCell::new(types::Timespec::new())),
                armed: None,
                generation: 0,
            },
            wake: WakeRead::new(unparker),
            messages: Slab::new(),
            reaped: Vec::new(),
            counters: Counters::default(),
        })
    }

    /// What the kernel granted.
    pub fn capabilities(&self) -> Capabilities {
        self.ring.capabilities()
    }

    /// The slot of `key`, made if need be.
    fn occupy(&mut self, key: OpKey, held: Held) -> &mut Slot {
        let index = key.index as usize;
        while self.slots.len() <= index {
            let shared = KernelShared {
                address: RawAddress::EMPTY,
                word: 0,
            };
            self.slots.push(Slot {
                generation: 0,
                held: Held::Nothing,
                shared: Box::new(UnsafeCell::new(shared)),
            });
        }
        let slot = &mut self.slots[index];
        // The slot invariant rests on this, so it is checked, whatever the caller does.
        assert!(
            matches!(slot.held, Held::Nothing),
            "operation {key:?} is in flight already"
        );
        slot.generation = key.generation;
        slot.held = held;
        self.in_flight += 1;
        slot
    }

    fn start_send(
        &mut self,
        key: OpKey,
        id: SocketId,
        to: Option<SocketAddr>,
        payload: SharedBuf,
    ) -> squeue::Entry {
        let fd = self.use_socket(id);
        let (data, len) = (payload.as_ptr(), payload.len() as u32);
        let slot = self.occupy(
            key,
            Held::Send {
                socket: id,
                _payload: payload,
            },
        );
        let send = opcode::Send::new(types::Fd(fd), data, len);
        let send = match to {
            None => send,
            Some(to) => {
                // SAFETY: `get` points to a live, initialised value, and the slot was free: the
                // kernel does not look at it, nor does anybody else hold a reference.
                let shared = unsafe { &mut *slot.shared.get() };
                shared.address = RawAddress::new(to);
                send.dest_addr(shared.address.as_ptr())
                    .dest_addr_len(shared.address.len())
            }
        };
        send.build()
    }

    fn start_receive(&mut self, key: OpKey, id: SocketId) -> squeue::Entry {
        let fd = self.use_socket(id);
        self.occupy(key, Held::Receive { socket: id });
        let provided = &mut self.sockets[id.0 as usize].provided;
        provided.refill();
        opcode::RecvMsgMulti::new(types::Fd(fd), &raw const *self.header, provided.group()).build()
    }

    fn start_signal(&mut self, key: OpKey) -> squeue::Entry {
        match signals::Waiting::begin() {
            Ok((waiting, fd)) => {
                let slot = self.occupy(key, Held::Signal { _waiting: waiting });
                // SAFETY: `get` points to a live value; only its address is taken.
                let word = unsafe { &raw mut (*slot.shared.get()).word };
                opcode::Read::new(types::Fd(fd), word.cast(), size_of::<u64>() as u32).build()
            }
            Err(error) => {
                self.occupy(key, Held::Failed(Some(error)));
                opcode::Nop::new().build()
            }
        }
    }

    fn use_socket(&mut self, id: SocketId) -> RawFd {
        let entry = &mut self.sockets[id.0 as usize];
        entry.operations += 1;
        entry.socket.as_raw_fd()
    }

    /// An operation on `id` has had its final completion.
    fn release_socket(&mut self, id: SocketId) {
        let entry = &mut self.sockets[id.0 as usize];
        entry.operations -= 1;
        self.remove_if_unused(id);
    }

    fn remove_if_unused(&mut self, id: SocketId) {
        let index = id.0 as usize;
        let entry = &self.sockets[index];
        if entry.closing && entry.operations == 0 {
            let entry = self.sockets.remove(index);
            let group = entry.provided.group();
            entry.provided.unregister(self.ring.inner());
            self.groups.free.push(group);
        }
    }

    /// Has the ring wake up at `deadline` or before.
    fn arm_timer(&mut self, deadline: Instant) {
        let generation = match self.timer.armed {
            // It fires before: we shall look again then. This is what makes a restart free.
            Some(armed) if armed <= deadline => return,
            Some(_) => None,
            None => {
                self.timer.generation += 1;
                Some(self.timer.generation)
            }
        };
        self.timer.armed = Some(deadline);
        self.counters.timer_armed += 1;
        let nanos = deadline.as_nanos();
        let spec = types::Timespec::new()
            .sec(nanos / 1_000_000_000)
            .nsec((nanos % 1_000_000_000) as u32);
        let pointer = self.timer.spec.get();
        // SAFETY: `pointer` is valid for writes, and nothing else accesses it at this moment: the
        // kernel reads it only within an enter of this thread, when it consumes an entry.
        unsafe { pointer.write(spec) };
        let flags = types::TimeoutFlags::ABS;
        let entry = match generation {
            Some(generation) => opcode::Timeout::new(pointer)
                .flags(flags)
                .build()
                .user_data(UserData::Timer(generation).encode()),
            None => {
                let target = UserData::Timer(self.timer.generation);
                opcode::TimeoutUpdate::new(target.encode(), pointer)
                    .flags(flags)
                    .build()
                    .flags(squeue::Flags::SKIP_SUCCESS)
                    .user_data(UserData::TimerUpdate(self.timer.generation).encode())
            }
        };
        // SAFETY: io_uring_prep_timeout(3): the timespec is read when the entry is consumed; it
        // lives as long as the ring, and holds the latest deadline whenever it is read.
        unsafe { self.ring.push(entry) };
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
            UserData::Op(key) => self.complete(key, cqe, completions),
            UserData::Timer(generation) => {
                if generation == self.timer.generation {
                    self.timer.armed = None;
                    self.counters.timer_fired += 1;
                }
            }
            // It had fired already: its completion has come or comes; arm a new one.
            UserData::TimerUpdate(generation) => {
                if generation == self.timer.generation {
                    self.timer.armed = None;
                }
            }
            UserData::Cancel => {}
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
        let Some(slot) = self.slots.get_mut(key.index as usize) else {
            self.counters.unknown += 1;
            return;
        };
        if slot.generation != key.generation || matches!(slot.held, Held::Nothing) {
            self.counters.unknown += 1;
            return;
        }
        let more = cqueue::more(cqe.flags());
        let result = match &mut slot.held {
            Held::Receive { socket } => {
                let socket = *socket;
                self.received(socket, cqe)
            }
            Held::Failed(error) => Err(error.take().unwrap_or_else(|| io::ErrorKind::Other.into())),
            Held::Send { .. } => transferred(cqe).map(Outcome::Bytes),
            Held::Nop | Held::Signal { .. } | Held::Nothing => {
                transferred(cqe).map(|_| Outcome::Done)
            }
        };
        if !more {
            self.vacate(key);
        }
        completions.push(Completion { key, result, more });
    }

    /// The final completion has come: the kernel has let go of everything in the slot.
    fn vacate(&mut self, key: OpKey) {
        let slot = &mut self.slots[key.index as usize];
        let held = mem::replace(&mut slot.held, Held::Nothing);
        self.in_flight -= 1;
        if let Held::Send { socket, .. } | Held::Receive { socket } = held {
            self.release_socket(socket);
        }
    }

    /// One completion of a receive, which brings a datagram or an end.
    fn received(&mut self, id: SocketId, cqe: &cqueue::Entry) -> io::Result<Outcome> {
        let provided = &mut self.sockets[id.0 as usize].provided;
        // First of all: a buffer that is named comes back, also with an error.
        let buf = cqueue::buffer_select(cqe.flags()).and_then(|id| provided.take(id));
        provided.refill();
        let len = transferred(cqe)?;
        let mut buf = buf.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOBUFS))?;
        buf.set_len(len.min(buf.capacity()));
        let parsed = types::RecvMsgOut::parse(&buf, &self.header)
            .map_err(|()| io::ErrorKind::InvalidData)?;
        let from = address::parse(parsed.name_data()).ok_or(io::ErrorKind::InvalidData)?;
        let truncated = parsed.is_payload_truncated();
        let payload_len = parsed.payload_data().len();
        let payload = buf
            .share()
            .slice(DATAGRAM_OVERHEAD..DATAGRAM_OVERHEAD + payload_len);
        Ok(Outcome::Datagram(Datagram {
            payload,
            from,
            truncated,
        }))
    }

    /// Cancels everything and waits until the kernel has let go. False if it has not, in time.
    fn drain(&mut self) -> bool {
        let everything = types::CancelBuilder::any().all();
        let cancel = opcode::AsyncCancel2::new(everything).build();
        // SAFETY: it names no memory.
        unsafe { self.ring.push(cancel.user_data(UserData::Cancel.encode())) };
        let bound = self.now() + DRAIN_BOUND;
        while self.in_flight > 0 || self.wake.armed || !self.messages.is_empty() {
            self.arm_timer(bound);
            if self.ring.enter(true).is_err() || self.now() >= bound {
                return false;
            }
            let mut dropped = Vec::new();
            self.dispatch_reaped(&mut dropped);
        }
        true
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

/// What of a receive buffer the kernel fills besides the payload: its header and the name.
const DATAGRAM_OVERHEAD: usize = 16 + address::NAME_LEN;

/// Tells the kernel how much room a receive leaves for the sender's name; recvmsg(2).
fn receive_header() -> libc::msghdr {
    // SAFETY: a `msghdr` is integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_namelen = address::NAME_LEN as libc::socklen_t;
    header
}

fn transferred(cqe: &cqueue::Entry) -> io::Result<usize> {
    usize::try_from(cqe.result()).map_err(|_| io::Error::from_raw_os_error(-cqe.result()))
}

impl Reactor for Uring {
    fn now(&self) -> Instant {
        let mut spec = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: clock_gettime(2) writes one timespec, which `spec` is.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut spec) };
        Instant::from_nanos(spec.tv_sec as u64 * 1_000_000_000 + spec.tv_nsec as u64)
    }

    fn random(&mut self) -> u64 {
        let mut bytes = [0u8; 8];
        // SAFETY: getrandom(2) writes at most that many bytes to `bytes`.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        assert_eq!(got, 8, "getrandom(2) gives up to 256 bytes without fail");
        u64::from_ne_bytes(bytes)
    }

    fn datagram_overhead(&self) -> usize {
        DATAGRAM_OVERHEAD
    }

    fn bind_udp(
        &mut self,
        addr: SocketAddr,
        options: &UdpOptions,
        pool: &BufPool,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let Some(bytes) = options.kernel_recv_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = options.kernel_send_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        socket.bind(&addr.into())?;
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::InvalidData)?;
        let group = self.groups.take()?;
        let provided = match Provided::register(self.ring.inner(), group, pool.clone()) {
            Ok(provided) => provided,
            Err(error) => {
                self.groups.free.push(group);
                return Err(error);
            }
        };
        let entry = SocketEntry {
            socket,
            provided,
            operations: 0,
            closing: false,
        };
        Ok((SocketId(self.sockets.insert(entry) as u32), local))
    }

    fn connect_udp(&mut self, socket: SocketId, peer: SocketAddr) -> io::Result<()> {
        self.sockets[socket.0 as usize].socket.connect(&peer.into())
    }

    fn close(&mut self, socket: SocketId) {
        self.sockets[socket.0 as usize].closing = true;
        self.remove_if_unused(socket);
    }

    fn start(&mut self, key: OpKey, op: Op) {
        let entry = match op {
            Op::Nop => {
                self.occupy(key, Held::Nop);
                opcode::Nop::new().build()
            }
            Op::Send {
                socket,
                to,
                payload,
            } => self.start_send(key, socket, to, payload),
            Op::ReceiveMany { socket } => self.start_receive(key, socket),
            Op::ShutdownSignal => self.start_signal(key),
        };
        // SAFETY: the slot invariant: what the entry names is owned by the slot that was just
        // occupied, or (the receive header) lives as long as the ring, until the final completion.
        unsafe { self.ring.push(entry.user_data(UserData::Op(key).encode())) };
    }

    fn cancel(&mut self, key: OpKey) {
        let slot = self.slots.get(key.index as usize);
        if slot.is_none_or(|slot| slot.generation != key.generation) {
            return;
        }
        self.counters.cancels += 1;
        let target = UserData::Op(key).encode();
        let cancel = opcode::AsyncCancel::new(target)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(UserData::Cancel.encode());
        // SAFETY: it names no memory. It stands behind its target in the queue, so it finds it.
        unsafe { self.ring.push(cancel) };
    }

    fn is_idle(&mut self) -> bool {
        self.ring.is_idle()
    }

    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        let sleep = wait != Wait::Poll;
        if sleep {
            self.arm_wake();
        }
        if let Wait::Until(deadline) = wait {
            self.arm_timer(deadline);
        }
        self.ring.enter(sleep)?;
        self.dispatch_reaped(completions);
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
        let Some(ring) = peer.ring() else {
            return false;
        };
        let index = self.messages.insert(Arc::clone(peer)) as u32;
        self.counters.messages_sent += 1;
        let message = UserData::MessageReceived.encode();
        let entry = opcode::MsgRingData::new(types::Fd(ring), 0, message, None)
            .build()
            .user_data(UserData::MessageSent(index).encode());
        // SAFETY: it names no memory; the descriptor stays open while `messages` holds the peer.
        unsafe { self.ring.push(entry) };
        true
    }

    fn in_flight(&self) -> usize {
        self.in_flight
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
            ("completions_unknown", self.counters.unknown),
        ]
    }
}

impl Groups {
    fn take(&mut self) -> io::Result<u16> {
        if let Some(group) = self.free.pop() {
            return Ok(group);
        }
        let group = self.next;
        self.next = group
            .checked_add(1)
            .ok_or_else(|| io::Error::other("65,535 sockets on one ring is the limit"))?;
        Ok(group)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.drain() {
            // The kernel holds nothing of ours but the buffer rings, and gives those back.
            for entry in self.sockets.drain() {
                entry.provided.unregister(self.ring.inner());
            }
            return;
        }
        tracing::error!(
            in_flight = self.in_flight,
            "operations in flight outlive their ring"
        );
        // What the kernel may still reach is never freed.
        mem::forget(mem::take(&mut self.slots));
        for entry in self.sockets.drain() {
            mem::forget(entry);
        }
        self.wake.leak();
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("capabilities", &self.capabilities())
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}
