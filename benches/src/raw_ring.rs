//! The baseline: io_uring by hand, with the same setup flags as the runtime and nothing above it.
//!
//! **Leak invariant.** Whatever the kernel may reach (buffers, the buffer ring, the header of
//! receives) is leaked when it is made. So it is valid for ever, whenever an operation ends; a
//! benchmark makes a few megabytes of it. Sockets are leaked too.
//!
//! **Lending invariant.** `Place` says for each buffer who may touch it: while it is `Lent` or
//! `Sending`, the kernel; while it is `Ours`, we do, through the one [`Arrival`] that names it.
#![expect(
    unsafe_code,
    reason = "the raw ring that the runtime is compared with; see the invariants above"
)]

use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// A ring of the runtime's kind and size.
fn build() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_clamp()
        .setup_cqsize(8192)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(1024)
}

/// A ring for operations that name no memory.
#[expect(missing_debug_implementations, reason = "nobody prints a ring")]
pub struct RawRing {
    ring: IoUring,
    /// How many system calls it made.
    pub enters: u64,
}

impl RawRing {
    /// A ring for this thread.
    ///
    /// # Errors
    /// What `io_uring_setup(2)` says.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            ring: build()?,
            enters: 0,
        })
    }

    /// Submits `count` NOPs, waits for them all, and gives the sum of their results (0).
    ///
    /// # Errors
    /// What `io_uring_enter(2)` says.
    ///
    /// # Panics
    /// When they do not fit, or do not all come back.
    pub fn nops(&mut self, count: usize) -> io::Result<i64> {
        let mut queue = self.ring.submission();
        for number in 0..count {
            let nop = opcode::Nop::new().build().user_data(number as u64);
            // SAFETY: a NOP names no memory.
            unsafe { queue.push(&nop) }.expect("the queue is empty, and large enough");
        }
        drop(queue);
        self.wait(count)?;
        let mut reaped = 0;
        let mut sum = 0;
        for cqe in self.ring.completion() {
            reaped += 1;
            sum += i64::from(cqe.result());
        }
        assert_eq!(reaped, count);
        Ok(sum)
    }

    /// Submits what is queued and sleeps until there are `count` completions.
    fn wait(&mut self, count: usize) -> io::Result<()> {
        self.enters += 1;
        self.ring.submit_and_wait(count).map(drop)
    }

    /// Sleeps for `nanos` nanoseconds.
    ///
    /// # Errors
    /// What `io_uring_enter(2)` says.
    pub fn sleep(&mut self, nanos: u64) -> io::Result<()> {
        self.enters += 1;
        let timeout = Timespec::new()
            .sec(nanos / 1_000_000_000)
            .nsec((nanos % 1_000_000_000) as u32);
        let args = SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(1, &args) {
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Sends a message to a peer's ring, sleeps until one has come from there, and gives its word.
    ///
    /// # Errors
    /// What `io_uring_enter(2)` and the delivery say.
    pub fn exchange(&mut self, peer: RawFd, word: u64) -> io::Result<u64> {
        self.push_message(peer, word);
        self.receive()
    }

    /// Sends a message to a peer's ring.
    ///
    /// # Errors
    /// What `io_uring_enter(2)` says.
    pub fn send(&mut self, peer: RawFd, word: u64) -> io::Result<()> {
        self.push_message(peer, word);
        self.wait(0)
    }

    fn push_message(&mut self, peer: RawFd, word: u64) {
        let message = opcode::MsgRingData::new(Fd(peer), 0, word, None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(SENT);
        // SAFETY: a message names no memory.
        unsafe { self.ring.submission().push(&message) }.expect("the queue is empty");
    }

    /// Sleeps until a message has come, and gives its word.
    ///
    /// # Errors
    /// What `io_uring_enter(2)` and an earlier delivery say.
    pub fn receive(&mut self) -> io::Result<u64> {
        loop {
            self.wait(1)?;
            if let Some(cqe) = self.ring.completion().next() {
                if cqe.user_data() == SENT {
                    return Err(io::Error::from_raw_os_error(-cqe.result()));
                }
                return Ok(cqe.user_data());
            }
        }
    }
}

impl AsRawFd for RawRing {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

const SENT: u64 = u64::MAX;

/// How many receive buffers there are: as many as a socket of the runtime has.
const BUFFERS: u16 = 256;
const BUFFER_LEN: usize = 2048;
/// A `sockaddr_in6`.
const NAME_LEN: usize = 28;
/// `io_uring_recvmsg_out`, then the name, then the payload.
const NAME_AT: usize = 16;
const PAGE: usize = 4096;

/// UDP sockets on a ring: one multishot receive each into one buffer ring, echoed out of the
/// buffer that it was received into.
#[expect(missing_debug_implementations, reason = "nobody prints a ring")]
pub struct RawUdp {
    ring: IoUring,
    sockets: Vec<&'static UdpSocket>,
    header: &'static libc::msghdr,
    buffers: NonNull<u8>,
    entries: NonNull<BufRingEntry>,
    tail: u16,
    places: Vec<Place>,
    reaped: Vec<cqueue::Entry>,
    /// How many system calls it made.
    pub enters: u64,
}

/// Who has a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Lent,
    Ours,
    Sending,
}

/// A datagram that arrived. Give it back with [`RawUdp::echo`] or [`RawUdp::release`].
#[derive(Debug)]
pub struct Arrival {
    /// On which socket, by its place in the list.
    pub socket: usize,
    buffer: u16,
    len: usize,
}

impl RawUdp {
    /// A ring that receives on `sockets`.
    ///
    /// # Errors
    /// What `io_uring_setup(2)` and `io_uring_register(2)` say.
    ///
    /// # Panics
    /// When memory is short.
    pub fn new(sockets: Vec<UdpSocket>) -> io::Result<Self> {
        let ring = build()?;
        let bytes = vec![0u8; usize::from(BUFFERS) * BUFFER_LEN];
        let buffers = NonNull::from(Box::leak(bytes.into_boxed_slice())).cast::<u8>();
        let entries = leak_zeroed_pages();
        // SAFETY: io_uring_register_buf_ring(3) asks for a page-aligned ring of that many entries
        // that stays valid: `leak_zeroed_pages` aligns it, makes a page of 256 entries of 16
        // bytes, and the leak invariant keeps it.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(entries.as_ptr() as u64, BUFFERS, 0, 0)
        }?;
        // SAFETY: a `msghdr` is integers and pointers, for which zero is a value.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_namelen = NAME_LEN as libc::socklen_t;
        let leak = |socket| -> &'static UdpSocket { Box::leak(Box::new(socket)) };
        let mut raw = Self {
            ring,
            sockets: sockets.into_iter().map(leak).collect(),
            header: Box::leak(Box::new(header)),
            buffers,
            entries,
            tail: 0,
            places: vec![Place::Ours; usize::from(BUFFERS)],
            reaped: Vec::new(),
            enters: 0,
        };
        for buffer in 0..BUFFERS {
            raw.lend(buffer);
        }
        raw.publish();
        for socket in 0..raw.sockets.len() {
            raw.arm(socket);
        }
        Ok(raw)
    }

    /// Submits what is queued, sleeps until something has happened, and adds what arrived.
    ///
    /// # Errors
    /// What `io_uring_enter(2)`, a receive or a send says.
    ///
    /// # Panics
    /// When a completion names a buffer that is not the kernel's.
    pub fn turn(&mut self, arrived: &mut Vec<Arrival>) -> io::Result<()> {
        self.enters += 1;
        self.ring.submit_and_wait(1)?;
        let mut reaped = mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion());
        for cqe in reaped.drain(..) {
            let index = cqe.user_data() & INDEX;
            if cqe.user_data() & RECEIVE == 0 {
                self.sent(index as u16, &cqe)?;
            } else {
                arrived.push(self.received(index as usize, &cqe)?);
            }
        }
        self.reaped = reaped;
        self.publish();
        Ok(())
    }

    fn sent(&mut self, buffer: u16, cqe: &cqueue::Entry) -> io::Result<()> {
        assert_eq!(self.places[usize::from(buffer)], Place::Sending);
        if cqe.result() < 0 {
            return Err(io::Error::from_raw_os_error(-cqe.result()));
        }
        self.lend(buffer);
        Ok(())
    }

    fn received(&mut self, socket: usize, cqe: &cqueue::Entry) -> io::Result<Arrival> {
        let len = usize::try_from(cqe.result())
            .map_err(|_| io::Error::from_raw_os_error(-cqe.result()))?;
        let buffer = cqueue::buffer_select(cqe.flags()).ok_or(io::ErrorKind::InvalidData)?;
        let place = &mut self.places[usize::from(buffer)];
        assert_eq!(*place, Place::Lent);
        *place = Place::Ours;
        if !cqueue::more(cqe.flags()) {
            self.arm(socket);
        }
        Ok(Arrival {
            socket,
            buffer,
            len,
        })
    }

    /// The payload of a datagram.
    ///
    /// # Panics
    /// When it was given back before.
    pub fn payload(&self, arrival: &Arrival) -> &[u8] {
        &self.bytes(arrival)[NAME_AT + NAME_LEN..]
    }

    /// Writes another payload of the same length.
    ///
    /// # Panics
    /// When it is not of the same length.
    pub fn replace_payload(&mut self, arrival: &Arrival, payload: &[u8]) {
        let start = NAME_AT + NAME_LEN;
        assert_eq!(arrival.len, start + payload.len());
        assert_eq!(self.places[usize::from(arrival.buffer)], Place::Ours);
        let base = self.address(arrival.buffer);
        // SAFETY: `add` asks for an offset within the allocation: a datagram's length is at most
        // the buffer's.
        let to = unsafe { base.add(start) };
        // SAFETY: both sides are valid for that many bytes, and apart: the buffer is ours (the
        // lending invariant) and nobody else borrows it, for we are borrowed exclusively.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(payload).cast(), payload.len()) };
    }

    /// Queues a send of the datagram to whom it came from.
    ///
    /// # Panics
    /// When the kernel wrote something else than it should.
    pub fn echo(&mut self, arrival: &Arrival) {
        let parsed = RecvMsgOut::parse(self.bytes(arrival), self.header);
        let parsed = parsed.expect("the kernel wrote a header");
        let (name, payload) = (parsed.name_data(), parsed.payload_data());
        let fd = Fd(self.sockets[arrival.socket].as_raw_fd());
        let send = opcode::Send::new(fd, payload.as_ptr(), payload.len() as u32)
            .dest_addr(name.as_ptr().cast())
            .dest_addr_len(name.len() as libc::socklen_t)
            .build()
            .user_data(arrival.buffer.into());
        self.places[usize::from(arrival.buffer)] = Place::Sending;
        self.push(&send);
    }

    /// Lets the kernel receive into the buffer again.
    ///
    /// # Panics
    /// When it was given back before.
    pub fn release(&mut self, arrival: &Arrival) {
        assert_eq!(self.places[usize::from(arrival.buffer)], Place::Ours);
        self.lend(arrival.buffer);
        self.publish();
    }

    fn arm(&mut self, socket: usize) {
        let fd = Fd(self.sockets[socket].as_raw_fd());
        let receive = opcode::RecvMsgMulti::new(fd, &raw const *self.header, 0)
            .build()
            .user_data(RECEIVE | socket as u64);
        self.push(&receive);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what our entries name is leaked, and if it is a buffer that is sent, its place
        // says `Sending`, so that nobody writes it until the completion.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("more entries than there are buffers");
    }

    /// Header, name and payload.
    fn bytes(&self, arrival: &Arrival) -> &[u8] {
        assert_eq!(self.places[usize::from(arrival.buffer)], Place::Ours);
        let base = self.address(arrival.buffer);
        let bytes = NonNull::slice_from_raw_parts(base, arrival.len.min(BUFFER_LEN));
        // SAFETY: the bytes are within one buffer, initialised (zeroed when made), and nobody
        // writes them while the result lives: the buffer is ours, and we are borrowed.
        unsafe { bytes.as_ref() }
    }

    fn address(&self, buffer: u16) -> NonNull<u8> {
        assert!(buffer < BUFFERS);
        // SAFETY: there are `BUFFERS` buffers of that length in the allocation.
        unsafe { self.buffers.add(usize::from(buffer) * BUFFER_LEN) }
    }

    /// Writes a buffer into the ring; [`publish`](Self::publish) shows it to the kernel.
    fn lend(&mut self, buffer: u16) {
        let address = self.address(buffer).as_ptr() as u64;
        let place = usize::from(self.tail % BUFFERS);
        // SAFETY: `place` is below the number of entries of the allocation.
        let mut entry = unsafe { self.entries.add(place) };
        // SAFETY: the entry is zeroed memory or was written before, both valid. The kernel does
        // not look at entries from the published tail on; of `BUFFERS` places one is free when
        // there is a buffer to lend. The setters leave the tail in entry 0 alone.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address);
        entry.set_len(BUFFER_LEN as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.places[usize::from(buffer)] = Place::Lent;
    }

    fn publish(&mut self) {
        // SAFETY: `tail` asks for the address of the ring's first entry.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: it points into the leaked ring, is aligned, and is accessed only here.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

const RECEIVE: u64 = 1 << 63;
const INDEX: u64 = RECEIVE - 1;

/// Zeroed memory for the buffer ring, page-aligned.
fn leak_zeroed_pages() -> NonNull<BufRingEntry> {
    #[derive(Clone, Copy)]
    #[repr(C, align(4096))]
    struct Page([u8; PAGE]);
    let page = Box::leak(Box::new(Page([0; PAGE])));
    assert!(usize::from(BUFFERS) * size_of::<BufRingEntry>() <= PAGE);
    NonNull::from(&mut page.0).cast()
}

/// Makes each send on `socket` go out as datagrams of `len` bytes (`UDP_SEGMENT`), so that a
/// client is fast enough to keep a server busy.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn segment_sends(socket: &UdpSocket, len: usize) -> io::Result<()> {
    let len = len as libc::c_int;
    // SAFETY: setsockopt(2) reads one int, which `len` is.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const len).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
