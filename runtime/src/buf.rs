//! Buffers at stable addresses that come back to their pool by themselves.
//!
//! A [`Buf`] is unique and writable; [`Buf::share`] turns it into a [`SharedBuf`], read-only and
//! cheap to clone and to slice. Whoever drops the last handle returns the memory to its
//! [`BufPool`], so the steady state allocates nothing.
//!
//! **Stable address invariant.** The bytes of a buffer live on the heap, behind two pointers, and
//! move neither when the handle moves nor when it is shared. They are initialised from the first
//! moment. The memory is freed or handed out again only after every handle is gone; that is why an
//! operation in flight keeps a handle (see `reactor.rs`), and why nothing else has to be
//! remembered about buffers.
//!
//! **Dropping a buffer runs no foreign code.** Whoever waits for one is not woken by the drop but
//! noted, and woken by the loop of a runtime of this thread. So buffers may be dropped anywhere,
//! also where something is borrowed.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::waiters::{Place, Waiters};

/// A bounded set of equally long buffers. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct BufPool {
    pool: Rc<Pool>,
}

struct Pool {
    buf_len: usize,
    /// How many buffers may be out at once.
    limit: usize,
    free: RefCell<Vec<Rc<Slot>>>,
    /// Buffers handed out and not yet returned: `out <= limit`.
    out: Cell<usize>,
    /// Of them, those that nobody holds: see [`BufPool::lend`].
    lent: Cell<usize>,
    waiting: Waiters,
}

struct Slot {
    data: Box<[u8]>,
}

impl BufPool {
    /// A pool of at most `limit` buffers of `buf_len` bytes each. Allocates when first needed.
    ///
    /// # Panics
    /// When `buf_len` does not fit an `u32`: a longer datagram or frame does not exist.
    pub fn new(buf_len: usize, limit: usize) -> Self {
        assert!(
            u32::try_from(buf_len).is_ok(),
            "a buffer of {buf_len} bytes is too long"
        );
        let pool = Pool {
            buf_len,
            limit,
            free: RefCell::default(),
            out: Cell::new(0),
            lent: Cell::new(0),
            waiting: Waiters::default(),
        };
        Self {
            pool: Rc::new(pool),
        }
    }

    /// A buffer, empty and writable up to its capacity; `None` when all are out.
    pub fn take(&self) -> Option<Buf> {
        let pool = &self.pool;
        if pool.out.get() == pool.limit {
            return None;
        }
        pool.out.set(pool.out.get() + 1);
        let slot = pool
            .free
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Slot::new(pool.buf_len));
        Some(Buf {
            slot: Some(slot),
            pool: Some(Rc::clone(pool)),
            len: 0,
        })
    }

    /// A buffer for at least `len` bytes: pooled if that fits, else allocated for this use alone.
    /// `None` when all pooled buffers are out.
    pub fn take_for(&self, len: usize) -> Option<Buf> {
        if len <= self.pool.buf_len {
            self.take()
        } else {
            Some(Buf::with_capacity(len))
        }
    }

    /// As [`take_for`](Self::take_for), for somebody who does not wait: a pooled buffer only if one
    /// is left for each who does, a quarter of all at most. Else who takes all in every turn would
    /// leave them none.
    pub(crate) fn take_beside(&self, len: usize) -> Option<Buf> {
        let is_pooled = len <= self.pool.buf_len;
        let kept = self.pool.waiting.len().min(self.pool.limit.div_ceil(4));
        if is_pooled && self.available() <= kept {
            return None;
        }
        self.take_for(len)
    }

    /// A buffer, if there is one for each who waited before, too; else the task is woken when one
    /// comes back. Give the place back with [`give_way`](Self::give_way).
    pub(crate) fn poll_take(&self, place: &mut Place, cx: &Context<'_>) -> Poll<Buf> {
        if self.available() > self.pool.waiting.before(place) {
            let buf = self.take().expect("one is available");
            self.leave(place);
            return Poll::Ready(buf);
        }
        self.pool.waiting.wait(place, 1, cx);
        Poll::Pending
    }

    /// Stops waiting. What was kept for it is for others who wait.
    pub(crate) fn give_way(&self, place: &mut Place) {
        if !place.is_taken() {
            return;
        }
        self.leave(place);
        if self.is_awaited() && self.available() > 0 {
            self.pool.have_waiting_woken();
        }
    }

    /// A buffer to wait in a queue of the kernel until something is received into it.
    pub(crate) fn lend(&self) -> Option<Lent> {
        let buf = self.take()?;
        self.pool.lent.set(self.pool.lent.get() + 1);
        Some(Lent(Some(buf)))
    }

    /// How many buffers can be taken now.
    pub fn available(&self) -> usize {
        self.pool.limit - self.pool.out.get()
    }

    /// The length of each buffer, in bytes.
    pub fn buf_len(&self) -> usize {
        self.pool.buf_len
    }

    /// How many buffers may be out at once.
    pub fn limit(&self) -> usize {
        self.pool.limit
    }

    /// How many buffers nobody holds: what is received next can be received into these.
    pub(crate) fn unheld(&self) -> usize {
        self.pool.unheld()
    }

    /// Ready once nobody holds `wanted` buffers (at most the pool's limit); else the task is woken
    /// when that is so. Give the place back with [`leave`](Self::leave).
    pub(crate) fn poll_unheld(
        &self,
        wanted: usize,
        place: &mut Place,
        cx: &Context<'_>,
    ) -> Poll<()> {
        let wanted = wanted.min(self.pool.limit);
        if self.unheld() >= wanted {
            return Poll::Ready(());
        }
        self.pool.waiting.wait(place, wanted, cx);
        Poll::Pending
    }

    /// Whether somebody waits for buffers.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.pool.waiting.is_empty()
    }

    /// Stops waiting.
    pub(crate) fn leave(&self, place: &mut Place) {
        self.pool.waiting.leave(place);
    }
}

impl Pool {
    fn unheld(&self) -> usize {
        self.limit - self.out.get() + self.lent.get()
    }

    fn put(&self, slot: Rc<Slot>) {
        debug_assert_eq!(slot.data.len(), self.buf_len);
        self.out.set(self.out.get() - 1);
        self.free.borrow_mut().push(slot);
        if !self.waiting.is_empty() {
            self.have_waiting_woken();
        }
    }

    #[cold]
    fn have_waiting_woken(&self) {
        let unheld = self.unheld();
        let noted = DUE.try_with(|due| self.waiting.take(unheld, &mut *due.borrow_mut()));
        if noted.is_err() {
            // The thread ends: there is no loop any more, and nothing of it is borrowed.
            let mut due = Vec::new();
            self.waiting.take(unheld, &mut due);
            due.into_iter().for_each(Waker::wake);
        }
    }
}

thread_local! {
    static DUE: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// Whether there is somebody for whom buffers have come back on this thread.
pub(crate) fn is_due() -> bool {
    DUE.try_with(|due| !due.borrow().is_empty())
        .unwrap_or(false)
}

/// Adds to `wakers` those for whom buffers have come back on this thread. A runtime's loop does so
/// in every turn, before it sleeps.
pub(crate) fn take_due(wakers: &mut impl Extend<Waker>) {
    // There is nobody left to wake if the thread ends.
    let _thread_ends = DUE.try_with(|due| wakers.extend(due.borrow_mut().drain(..)));
}

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufPool")
            .field("buf_len", &self.pool.buf_len)
            .field("limit", &self.pool.limit)
            .field("available", &self.available())
            .finish()
    }
}

impl Slot {
    fn new(len: usize) -> Rc<Self> {
        Rc::new(Self {
            data: vec![0; len].into_boxed_slice(),
        })
    }
}

/// A unique, writable buffer. Reads as the bytes written so far.
///
/// Dropping it returns the memory to its pool.
pub struct Buf {
    /// Some until dropped or shared.
    slot: Option<Rc<Slot>>,
    /// None: allocated for one use, freed when dropped.
    pool: Option<Rc<Pool>>,
    len: usize,
}

impl Buf {
    /// A buffer outside any pool.
    ///
    /// # Panics
    /// When `capacity` does not fit an `u32`.
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(
            u32::try_from(capacity).is_ok(),
            "a buffer of {capacity} bytes is too long"
        );
        Self {
            slot: Some(Slot::new(capacity)),
            pool: None,
            len: 0,
        }
    }

    /// How many bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.slot().data.len()
    }

    /// How many more bytes it can hold.
    pub fn remaining(&self) -> usize {
        self.capacity() - self.len
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// When they do not fit: see [`remaining`](Self::remaining).
    pub fn put_slice(&mut self, bytes: &[u8]) {
        let at = self.len;
        self.set_len(at + bytes.len());
        self[at..].copy_from_slice(bytes);
    }

    /// Sets how many bytes count as written. Bytes never written before are zero or what an
    /// earlier user of the buffer left there.
    ///
    /// # Panics
    /// When `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(
            len <= self.capacity(),
            "{len} bytes in a buffer of {}",
            self.capacity()
        );
        self.len = len;
    }

    /// Gives up writing for sharing.
    pub fn share(mut self) -> SharedBuf {
        let end = self.len as u32;
        SharedBuf {
            slot: self.slot.take(),
            pool: self.pool.take(),
            start: 0,
            end,
        }
    }

    /// Where the kernel may write: the whole capacity. Stable until the buffer is dropped.
    pub(crate) fn storage_mut(&mut self) -> &mut [u8] {
        let slot = self
            .slot
            .as_mut()
            .expect("a buffer has its slot until it is dropped");
        &mut Rc::get_mut(slot)
            .expect("a Buf is the only handle to its slot")
            .data
    }

    fn slot(&self) -> &Slot {
        self.slot
            .as_ref()
            .expect("a buffer has its slot until it is dropped")
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.slot().data[..self.len]
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.storage_mut()[..len]
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if let (Some(slot), Some(pool)) = (self.slot.take(), self.pool.take()) {
            pool.put(slot);
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} of {} bytes)", self.len, self.capacity())
    }
}

/// A buffer that is out but that nobody holds: it counts as free for those who wait for buffers.
pub(crate) struct Lent(Option<Buf>);

impl Lent {
    /// Something was received into it: now somebody holds it.
    pub(crate) fn end(mut self) -> Buf {
        self.uncount().expect("it ends once")
    }

    /// Where the kernel may write: see [`Buf::storage_mut`].
    pub(crate) fn storage_mut(&mut self) -> &mut [u8] {
        let buf = self.0.as_mut().expect("it has not ended");
        buf.storage_mut()
    }

    fn uncount(&mut self) -> Option<Buf> {
        let buf = self.0.take();
        if let Some(pool) = buf.as_ref().and_then(|buf| buf.pool.as_ref()) {
            pool.lent.set(pool.lent.get() - 1);
        }
        buf
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        drop(self.uncount());
    }
}

/// A read-only window onto a buffer; cloning and slicing share the memory.
///
/// Dropping the last handle returns the memory to its pool. A handle kept for long keeps a whole
/// pooled buffer from being used again: copy what you keep.
pub struct SharedBuf {
    /// Some until dropped.
    slot: Option<Rc<Slot>>,
    pool: Option<Rc<Pool>>,
    start: u32,
    end: u32,
}

impl SharedBuf {
    /// A copy of `bytes` outside any pool.
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut buf = Buf::with_capacity(bytes.len());
        buf.put_slice(bytes);
        buf.share()
    }

    /// Whether dropping it can give a buffer back to no other pool.
    pub(crate) fn is_of(&self, pool: &BufPool) -> bool {
        let own = self.pool.as_ref();
        own.is_none_or(|own| Rc::ptr_eq(own, &pool.pool))
    }

    /// The window `range` of this window, sharing the memory.
    ///
    /// # Panics
    /// When `range` reaches beyond this window.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "slice beyond the buffer"
        );
        let mut slice = self.clone();
        slice.end = self.start + range.end as u32;
        slice.start = self.start + range.start as u32;
        slice
    }

    /// The window `range` of this window, in its place: nothing is shared that was not before.
    ///
    /// # Panics
    /// When `range` reaches beyond this window.
    pub fn into_slice(mut self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "slice beyond the buffer"
        );
        self.end = self.start + range.end as u32;
        self.start += range.start as u32;
        self
    }
}

impl Clone for SharedBuf {
    fn clone(&self) -> Self {
        Self {
            slot: self.slot.clone(),
            pool: self.pool.clone(),
            start: self.start,
            end: self.end,
        }
    }
}

impl Deref for SharedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let slot = self
            .slot
            .as_ref()
            .expect("a buffer has its slot until it is dropped");
        &slot.data[self.start as usize..self.end as usize]
    }
}

impl Drop for SharedBuf {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        if let Some(pool) = self.pool.take()
            && Rc::strong_count(&slot) == 1
        {
            pool.put(slot);
        }
    }
}

impl fmt::Debug for SharedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBuf({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_handed_out_again_and_is_empty() {
        let pool = BufPool::new(8, 1);
        let mut first = pool.take().expect("one is free");
        first.put_slice(b"abc");
        let address = first.as_ptr();
        assert!(pool.take().is_none());
        drop(first);
        let second = pool.take().expect("it came back");
        assert_eq!((second.len(), second.as_ptr()), (0, address));
    }

    #[test]
    fn a_shared_buffer_comes_back_with_the_last_slice() {
        let pool = BufPool::new(8, 1);
        let mut buf = pool.take().expect("one is free");
        buf.put_slice(b"abcdef");
        let shared = buf.share();
        let slice = shared.slice(1..4).into_slice(1..3);
        drop(shared);
        assert_eq!((&slice[..], pool.available()), (&b"cd"[..], 0));
        drop(slice);
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn an_oversized_buffer_does_not_enter_the_pool() {
        let pool = BufPool::new(8, 1);
        let big = pool.take_for(9).expect("allocated alone");
        assert_eq!((big.capacity(), pool.available()), (9, 1));
        drop(big);
        assert_eq!(pool.take().expect("free").capacity(), 8);
    }

    #[test]
    fn a_lent_buffer_is_out_but_nobody_holds_it() {
        let pool = BufPool::new(8, 2);
        let counts = || (pool.available(), pool.unheld());
        let (first, second) = (pool.lend().expect("free"), pool.lend().expect("free"));
        assert!(pool.lend().is_none());
        assert_eq!(counts(), (0, 2));
        let held = first.end();
        assert_eq!(counts(), (0, 1));
        drop(second);
        assert_eq!(counts(), (1, 1));
        drop(held);
        assert_eq!(counts(), (2, 2));
    }

    #[test]
    #[should_panic(expected = "9 bytes in a buffer of 8")]
    fn writing_beyond_the_capacity_panics() {
        let pool = BufPool::new(8, 1);
        pool.take().expect("free").put_slice(&[0; 9]);
    }
}
