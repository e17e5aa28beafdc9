//! Provided buffers: a ring of buffers that the kernel picks from when a datagram arrives.
//!
//! The kernel takes them in the order in which they were put there, so a ring of thousands would
//! have every datagram land in memory that was not touched for long: out of the cache, and of the
//! address translation too. Few are lent at a time, therefore, of those that were used last; when
//! a receive finds the ring empty and the pool is not, more.
//!
//! **Provided invariant.** `lent[id]` holds the [`Lent`] buffer of every buffer id that stands in
//! the ring or that the kernel may have taken from it. It stays there, untouched by us, until a
//! completion names the id. So the kernel writes only to memory that nobody else reads or writes.
//! The ring's own memory lives until the group is unregistered or the io_uring instance is gone.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::buf::{Buf, BufPool, Lent};

/// The largest page of any Linux: what is aligned to it is aligned to a page.
const PAGE: usize = 65_536;

/// One socket's buffer ring.
pub(super) struct Provided {
    group: u16,
    pool: BufPool,
    memory: RingMemory,
    /// Where the next buffer is added; wraps like the kernel's.
    tail: u16,
    /// By buffer id.
    lent: Vec<Option<Lent>>,
    /// The ids that are not lent.
    unused: Vec<u16>,
    /// How many are lent at most.
    window: usize,
}

/// How many buffers are lent before it is known that more are needed: what one enter fills.
const FIRST_WINDOW: usize = 32;

impl Provided {
    /// Registers a group for the buffers of `pool`, at most 32,768; lends none yet.
    pub(super) fn register(ring: &IoUring, group: u16, pool: BufPool) -> io::Result<Self> {
        let buffers = u16::try_from(pool.limit()).map_err(io::Error::other)?;
        let entries = buffers
            .checked_next_power_of_two()
            .ok_or(io::ErrorKind::InvalidInput)?;
        let memory = RingMemory::new(entries);
        let (address, entries) = (memory.base.as_ptr() as u64, memory.entries);
        // SAFETY: io_uring_register_buf_ring(3) asks for a page-aligned ring of `entries` entries
        // that stays valid until it is unregistered: `RingMemory` is page-aligned and that long,
        // and lives in the returned value, whose owner unregisters it first (`unregister`) or
        // closes the ring or leaks it.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, entries, group, 0)
        }?;
        let lent = (0..buffers).map(|_| None).collect();
        Ok(Self {
            group,
            pool,
            memory,
            tail: 0,
            lent,
            unused: (0..buffers).rev().collect(),
            window: FIRST_WINDOW.min(usize::from(buffers)),
        })
    }

    /// The group's id, for SQEs.
    pub(super) fn group(&self) -> u16 {
        self.group
    }

    /// Lends free buffers of the pool to the kernel, up to the window.
    pub(super) fn refill(&mut self) {
        let before = self.tail;
        while self.lent.len() - self.unused.len() < self.window
            && let Some(mut buf) = self.pool.lend()
        {
            let Some(id) = self.unused.pop() else { break };
            let storage = buf.storage_mut();
            self.memory.write(
                self.tail,
                storage.as_mut_ptr() as u64,
                storage.len() as u32,
                id,
            );
            self.tail = self.tail.wrapping_add(1);
            self.lent[usize::from(id)] = Some(buf);
        }
        if self.tail != before {
            self.memory.publish(self.tail);
        }
    }

    /// A receive ended because no buffer was lent: next time more are, if there are more.
    pub(super) fn ran_out(&mut self) {
        if self.pool.available() > 0 {
            self.window = (self.window * 2).min(self.lent.len());
        }
    }

    /// The buffer that a completion named: the kernel has let go of it. `None` if it was not lent.
    pub(super) fn take(&mut self, id: u16) -> Option<Buf> {
        let lent = self.lent.get_mut(usize::from(id))?.take()?;
        self.unused.push(id);
        Some(lent.end())
    }

    /// Ends the group. Call it only when no receive of the group is in flight.
    ///
    /// If the kernel refuses, everything is leaked, the group's id too, and it says false.
    pub(super) fn unregister(self, ring: &IoUring) -> bool {
        let ended = ring.submitter().unregister_buf_ring(self.group).is_ok();
        if !ended {
            std::mem::forget(self);
        }
        ended
    }
}

/// Page-aligned, zeroed memory for `entries` buffer ring entries.
struct RingMemory {
    base: NonNull<BufRingEntry>,
    entries: u16,
}

impl RingMemory {
    fn new(entries: u16) -> Self {
        let layout = Self::layout(entries);
        // SAFETY: alloc_zeroed asks for a layout of non-zero size: there is at least one entry.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base.cast()) else {
            handle_alloc_error(layout)
        };
        Self { base, entries }
    }

    fn layout(entries: u16) -> Layout {
        let bytes = usize::from(entries.max(1)) * size_of::<BufRingEntry>();
        Layout::from_size_align(bytes, PAGE).expect("at most 512 KiB, aligned to a page")
    }

    /// Fills the entry of position `at`; the kernel sees it after [`publish`](Self::publish).
    fn write(&mut self, at: u16, address: u64, len: u32, id: u16) {
        let place = usize::from(at & (self.entries - 1));
        // SAFETY: `add` asks for a place within the allocation: `place` is below `entries`, a
        // power of two.
        let entry = unsafe { self.base.add(place) };
        // SAFETY: `as_mut` asks for a valid, initialised, unaliased entry: the memory is zeroed,
        // which is a valid entry, and the kernel does not look at entries from the published tail
        // on, where we write; at most `entries` are lent, so this one is not among them. The
        // kernel reads the tail, which shares its bytes with entry 0's reserved field, but the
        // setters below leave that field alone.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(address);
        entry.set_len(len);
        entry.set_bid(id);
    }

    /// Moves the tail: the kernel may take every entry before it.
    fn publish(&mut self, tail: u16) {
        // SAFETY: `tail` asks for the address of the ring's first entry, initialised: `base` is.
        let shared = unsafe { BufRingEntry::tail(self.base.as_ptr()) };
        // SAFETY: `from_ptr` asks for a pointer that is aligned (offset 14 of a page-aligned ring),
        // valid for reads and writes while the reference lives (it is within our allocation,
        // derived from its base pointer), and not accessed non-atomically meanwhile (only here).
        let shared = unsafe { AtomicU16::from_ptr(shared.cast_mut()) };
        // Release: the entries are written before the kernel sees the tail.
        shared.store(tail, Ordering::Release);
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        let layout = Self::layout(self.entries);
        // SAFETY: dealloc asks for a pointer from the same allocator and its layout: `new` made it
        // with this one. The kernel does not use it any more: see the provided invariant.
        unsafe { dealloc(self.base.as_ptr().cast(), layout) };
    }
}
