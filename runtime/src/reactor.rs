//! The seam: everything that the runtime asks of the outside world.
//!
//! One trait, [`Reactor`], a closed set of operations, [`Op`], and what comes back,
//! [`Completion`]. Above the seam the executor, the timers, the operation table and every socket
//! are the same compiled code, whatever stands below it.
//!
//! By the book this is a *proactor*: it is told of operations that completed, not of sockets that
//! became ready. The field says reactor, so do we.
//!
//! **Ownership rule.** An [`Op`] is handed over by value, with the handles of every buffer that it
//! reads from or writes to. The reactor keeps them at a stable address until the *final*
//! completion of that operation, whatever happens to the future that started it, to its task, or
//! to the runtime. Nothing above the seam can break this rule, so no safe code can free memory
//! that the kernel may still touch.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use crate::buf::{Buf, BufPool, SharedBuf};
use crate::fs::OpenOptions;
use crate::net::UdpOptions;
use crate::time::{BootInstant, Instant};

/// Names one operation from [`Reactor::start`] to its final completion, and never another one in
/// that time: an index into the operation table and a generation that tells its users apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpKey {
    /// The entry of the operation table; small and dense.
    pub index: u32,
    /// Rises with each operation started; [`OpKey::GENERATION_BITS`] wide.
    pub generation: u32,
}

impl OpKey {
    /// How many bits of the generation count.
    pub const GENERATION_BITS: u32 = 24;
}

/// A socket that the reactor holds open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketId(pub u32);

/// A file that the reactor holds open, or is to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// An operation to start.
#[derive(Debug)]
pub enum Op {
    /// Completes in the next turn; what a trip through the reactor costs.
    Nop,
    /// Sends one datagram: to `to`, or to the connected peer. If there is no room for it in the
    /// socket's buffer it waits, as does what is sent later from that socket; once there is room it
    /// may be late by a millisecond.
    Send {
        /// From this socket.
        socket: SocketId,
        /// The receiver; `None` on a connected socket.
        to: Option<SocketAddr>,
        /// The payload; held until the completion.
        payload: SharedBuf,
        /// Nobody waits for its end, nor for the buffer: no sleep need end when it has.
        unawaited: bool,
        /// If it finds no room, and so many sends of the socket wait for some, it fails (`EAGAIN`)
        /// rather than wait, too.
        line_max: usize,
    },
    /// Sends a run: one datagram for each `segment` bytes of the payload, the last one perhaps
    /// shorter; udp(7), `UDP_SEGMENT`. It fails as a whole, also where the way to the peer does not
    /// bear datagrams of that length in one piece.
    SendRun {
        /// From this socket.
        socket: SocketId,
        /// The receiver.
        to: SocketAddr,
        /// The payloads, back to back; held until the completion.
        payload: SharedBuf,
        /// The length of each but the last; less than that of all.
        segment: u16,
        /// As for [`Send`](Op::Send).
        unawaited: bool,
        /// Likewise.
        line_max: usize,
    },
    /// Receives datagrams until it ends: every completion but the final one has
    /// [`more`](Completion::more). One at a time per socket.
    ///
    /// It ends by itself after a datagram of no bytes, when no buffer is free (`ENOBUFS`), when
    /// completions overflowed, on a socket error (`ECONNREFUSED` …) and when it is cancelled
    /// (`ECANCELED`). No datagram is lost by its end: what was not delivered stays in the socket.
    ReceiveMany {
        /// On this socket.
        socket: SocketId,
    },
    /// Completes when the process is asked to stop (`SIGINT`, `SIGTERM`).
    ShutdownSignal,
    /// Opens a file; openat(2). What follows needs a file that is open.
    Open {
        /// Under this name of the reactor's: see [`Reactor::new_file`].
        file: FileId,
        /// Where it is; held until the completion.
        path: CString,
        /// How.
        options: OpenOptions,
    },
    /// Reads as much as the buffer holds, or less: at the end of the file, nothing; pread(2).
    Read {
        /// From this file,
        file: FileId,
        /// from there.
        offset: u64,
        /// Held until the completion, which brings it back with what was read.
        buf: Buf,
    },
    /// Writes all of it, or only its beginning; pwrite(2).
    Write {
        /// To this file,
        file: FileId,
        /// to there.
        offset: u64,
        /// What; held until the completion.
        data: SharedBuf,
    },
    /// [`Write`](Op::Write), and if that wrote all of it, [`Sync`](Op::Sync) of the data, in one
    /// trip. The sync does not begin before the write is done.
    WriteSync {
        /// To this file,
        file: FileId,
        /// to there.
        offset: u64,
        /// What; held until the completion.
        data: SharedBuf,
    },
    /// Makes durable what writes had written that completed before this started.
    Sync {
        /// Of this file.
        file: FileId,
        /// Leaves out what is not needed to read the data; fdatasync(2), else fsync(2).
        data_only: bool,
    },
    /// Asks how long a file is; statx(2).
    Size {
        /// This file.
        file: FileId,
    },
}

/// What an operation that succeeded brought.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing to tell.
    Done,
    /// So many bytes were transferred.
    Bytes(usize),
    /// A datagram arrived.
    Datagram(Datagram),
    /// Bytes were read.
    Read(Buf),
    /// A file is so many bytes long.
    Size(u64),
    /// A sync ended, perhaps of a write.
    Synced {
        /// How many bytes were written before it; 0 if it was none of a write.
        written: usize,
        /// How the sync went. `ECANCELED`: it was not done, because not all was written or because
        /// the operation was cancelled.
        sync: io::Result<()>,
    },
}

/// Something happened to an operation.
#[derive(Debug)]
pub struct Completion {
    /// Which operation.
    pub key: OpKey,
    /// How it went.
    pub result: io::Result<Outcome>,
    /// Whether more completions of this operation follow. Without it this one is final: the key is
    /// free, and the world has let go of the operation's buffers.
    pub more: bool,
}

/// A datagram that was received. Dropping it returns its buffer.
#[derive(Debug)]
pub struct Datagram {
    pub(crate) payload: SharedBuf,
    pub(crate) from: SocketAddr,
    pub(crate) truncated: bool,
}

impl Datagram {
    /// The payload: all of it, or, if [`is_truncated`](Self::is_truncated), its beginning.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload as a handle that can be sliced and kept, for as long as it pins the buffer.
    pub fn into_payload(self) -> SharedBuf {
        self.payload
    }

    /// Who sent it.
    pub fn from(&self) -> SocketAddr {
        self.from
    }

    /// Whether it was longer than a receive buffer and its end was cut off.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }
}

/// How long a [`turn`](Reactor::turn) may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: there is work to do.
    Poll,
    /// Until a completion, a remote wake, or this moment.
    Until(Instant),
    /// Until a completion or a remote wake.
    Forever,
}

/// Ends another thread's sleep in [`Reactor::turn`].
pub trait Unpark: Send + Sync + fmt::Debug {
    /// Makes the turn that is under way, or else the next one that would sleep, return soon. Safe
    /// to call from any thread, also when the reactor is gone.
    fn unpark(&self);

    /// The ring that a message would wake, for reactors on a ring.
    fn ring(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The outside world of one runtime.
pub trait Reactor: fmt::Debug {
    /// The present. Never goes back.
    fn now(&self) -> Instant;

    /// The present on a clock that goes on while the machine is suspended. Never goes back.
    fn boot_now(&self) -> BootInstant;

    /// 64 bits nobody can guess (or, in a simulated world, that only the seed decides).
    fn random(&mut self) -> u64;

    /// How many bytes of a receive buffer the reactor needs besides the payload.
    fn datagram_overhead(&self) -> usize;

    /// Opens a UDP socket on `addr` that receives into buffers of `pool`, and tells the address it
    /// got.
    ///
    /// # Errors
    /// What `socket(2)`, `setsockopt(2)` and `bind(2)` say: address in use, not available …
    fn bind_udp(
        &mut self,
        addr: SocketAddr,
        options: &UdpOptions,
        pool: &BufPool,
    ) -> io::Result<(SocketId, SocketAddr)>;

    /// Fixes the peer of `socket`: it receives from that address only.
    ///
    /// # Errors
    /// What `connect(2)` says.
    fn connect_udp(&mut self, socket: SocketId, peer: SocketAddr) -> io::Result<()>;

    /// Lets go of `socket`, whose receive the caller has cancelled: it is closed when its last
    /// operation is final, and its id means nothing from now on.
    fn close(&mut self, socket: SocketId);

    /// A name for a file that [`Op::Open`] is to open.
    fn new_file(&mut self) -> FileId;

    /// Lets go of `file`, opened or not: it is closed, without waiting, when its last operation is
    /// final, and its name means nothing from now on.
    fn close_file(&mut self, file: FileId);

    /// Locks an open file, at once or not at all, until it is closed; flock(2). Where nobody else
    /// can open the file there is nothing to do.
    ///
    /// # Errors
    /// `EWOULDBLOCK`: it was opened once more, here or elsewhere, and is locked there.
    fn lock_file(&mut self, file: FileId) -> io::Result<()>;

    /// Makes a directory, and waits for it; mkdir(2). Where directories need not be made there is
    /// always one.
    ///
    /// # Errors
    /// What mkdir(2) says: there is one, its parent is not found …
    fn make_directory(&mut self, path: &Path) -> io::Result<()>;

    /// Starts an operation: it is submitted by the next [`turn`](Self::turn) at the latest, and
    /// completes in a turn, never within this call. A full queue delays it and loses nothing.
    fn start(&mut self, key: OpKey, op: Op);

    /// Asks that the operation end soon. Its final completion still comes, with whatever result
    /// won the race. Never lost, also when a queue is full; harmless if the operation has ended.
    fn cancel(&mut self, key: OpKey);

    /// Whether a turn that only polls would find nothing to do. Cheap: no system call.
    fn is_idle(&mut self) -> bool;

    /// Whether [`is_idle`](Self::is_idle) shows without a turn that something has come meanwhile:
    /// only then does it make sense to look again and again. A simulated world stands still while
    /// somebody looks.
    fn shows_work(&self) -> bool {
        false
    }

    /// One round: submits what was started and adds what completed to `completions`, at most a
    /// bounded number. Sleeps as `wait` allows if there is nothing to tell.
    ///
    /// # Errors
    /// Only when the reactor cannot go on; operations in flight stay owned.
    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// The means for other threads to end a sleep.
    fn unparker(&self) -> Arc<dyn Unpark>;

    /// Ends a peer's sleep with this reactor's next submission, if it has a way that is cheaper
    /// than [`Unpark::unpark`]. False if not.
    fn unpark_peer(&mut self, peer: &Arc<dyn Unpark>) -> bool {
        let _ = peer;
        false
    }

    /// How many operations were started and have not had their final completion.
    fn in_flight(&self) -> usize;

    /// Counters, as (name, count), for people.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}
