//! Ending a sleep in the ring from another thread: an eventfd that the ring reads, or a message
//! from the other thread's own ring.

use std::cell::UnsafeCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use super::user_data::UserData;
use crate::reactor::Unpark;

/// Shared with every thread that may wake this ring's.
#[derive(Debug)]
pub(super) struct Unparker {
    eventfd: File,
    /// A duplicate of the ring's descriptor, so that its number is not reused while a message to
    /// it may be under way. Kept only where the kernel knows messages between rings.
    ring: Option<OwnedFd>,
}

impl Unparker {
    pub(super) fn new(ring: Option<OwnedFd>) -> io::Result<Arc<Self>> {
        // SAFETY: eventfd(2) takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else owns: it was just
        // made.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Arc::new(Self {
            eventfd: File::from(eventfd),
            ring,
        }))
    }
}

impl Unpark for Unparker {
    fn unpark(&self) {
        // It fails only if the counter is full: then a wake-up is under way.
        let _full = (&self.eventfd).write(&1u64.to_ne_bytes());
    }

    fn ring(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(AsFd::as_fd)
    }
}

/// The read that an [`Unparker`]'s write completes. One at a time.
pub(super) struct WakeRead {
    unparker: Arc<Unparker>,
    /// Written by the kernel; read by nobody. None once leaked.
    counter: Option<Box<UnsafeCell<u64>>>,
    pub(super) armed: bool,
}

impl WakeRead {
    pub(super) fn new(unparker: Arc<Unparker>) -> Self {
        Self {
            unparker,
            counter: Some(Box::new(UnsafeCell::new(0))),
            armed: false,
        }
    }

    /// Gives up the memory: the read is still in flight and the ring is going.
    pub(super) fn leak(&mut self) {
        std::mem::forget(self.counter.take());
    }

    pub(super) fn unparker(&self) -> &Arc<Unparker> {
        &self.unparker
    }

    /// The SQE. What it names lives until its completion: the owner keeps `self` until then, and
    /// leaks it otherwise.
    pub(super) fn sqe(&self) -> squeue::Entry {
        let fd = types::Fd(self.unparker.eventfd.as_raw_fd());
        let counter = self
            .counter
            .as_ref()
            .expect("leaked only when the ring is dropped")
            .get();
        let read = opcode::Read::new(fd, counter.cast(), size_of::<u64>() as u32).build();
        read.user_data(UserData::Wake.encode())
    }
}
