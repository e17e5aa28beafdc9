//! The files of a ring: which descriptor an operation uses, when that may be closed, and what
//! operations on files look like to the kernel.

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use io_uring::{cqueue, opcode, squeue, types};
use slab::Slab;

use super::pair::Pair;
use super::slots::Held;
use super::user_data::UserData;
use super::{Uring, transferred};
use crate::buf::{Buf, SharedBuf};
use crate::fs::OpenOptions;
use crate::reactor::{Completion, FileId, OpKey, Outcome};

#[derive(Default)]
pub(super) struct Files {
    entries: Slab<Entry>,
    /// Closes in flight.
    pub(super) closing: usize,
    pub(super) closes_failed: u64,
}

#[derive(Default)]
struct Entry {
    /// None until it is opened.
    fd: Option<OwnedFd>,
    /// Operations in flight on it.
    operations: usize,
    closing: bool,
}

impl Files {
    pub(super) fn add(&mut self) -> FileId {
        FileId(self.entries.insert(Entry::default()) as u32)
    }

    /// An operation on `id` starts: the descriptor stays open until [`release`](Self::release). It
    /// is one that the kernel refuses (`EBADF`) if the file is not open.
    pub(super) fn using(&mut self, id: FileId) -> RawFd {
        let entry = &mut self.entries[id.0 as usize];
        entry.operations += 1;
        entry.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// The completion of an open.
    pub(super) fn opened(&mut self, id: FileId, cqe: &cqueue::Entry) -> io::Result<Outcome> {
        transferred(cqe)?;
        // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else owns: the kernel made
        // this one for us in openat(2), and says so once.
        let fd = unsafe { OwnedFd::from_raw_fd(cqe.result()) };
        let before = self.entries[id.0 as usize].fd.replace(fd);
        assert!(before.is_none(), "a file is opened once: it may be in use");
        Ok(Outcome::Done)
    }

    /// Locks the file as long as any descriptor of this opening of it is open; flock(2).
    pub(super) fn lock(&self, id: FileId) -> io::Result<()> {
        let entry = &self.entries[id.0 as usize];
        let fd = entry.fd.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        // The copy's end does not end the lock: that is of what both descriptors stand for.
        let copy = std::fs::File::from(fd.try_clone()?);
        copy.try_lock().map_err(io::Error::from)
    }

    /// The completion of a close. Whatever it says, the descriptor is gone; close(2).
    pub(super) fn closed(&mut self, result: io::Result<usize>) {
        self.closing -= 1;
        self.closes_failed += u64::from(result.is_err());
    }

    /// An operation on `id` has had its final completion. Gives the descriptor if it is to be
    /// closed now.
    pub(super) fn release(&mut self, id: FileId) -> Option<OwnedFd> {
        self.entries[id.0 as usize].operations -= 1;
        self.remove_if_unused(id)
    }

    /// Lets go of `id`. Gives the descriptor if it is to be closed now.
    pub(super) fn close(&mut self, id: FileId) -> Option<OwnedFd> {
        self.entries[id.0 as usize].closing = true;
        self.remove_if_unused(id)
    }

    fn remove_if_unused(&mut self, id: FileId) -> Option<OwnedFd> {
        let index = id.0 as usize;
        let entry = &self.entries[index];
        let unused = entry.closing && entry.operations == 0;
        unused.then(|| self.entries.remove(index).fd).flatten()
    }

    /// How many have a descriptor that is not closed yet.
    pub(super) fn open(&self) -> usize {
        let open = |(_, entry): &(usize, &Entry)| entry.fd.is_some();
        self.entries.iter().filter(open).count() + self.closing
    }

    /// Gives up the descriptors: operations in flight may use them, and the ring is going.
    pub(super) fn leak(&mut self) {
        self.entries.drain().for_each(std::mem::forget);
    }
}

impl Uring {
    pub(super) fn start_open(
        &mut self,
        key: OpKey,
        file: FileId,
        path: CString,
        options: &OpenOptions,
    ) -> squeue::Entry {
        // The descriptor that this uses is none, but its end is to be waited for.
        self.files.using(file);
        let mode = options.mode;
        let flags = flags(options);
        let name = path.as_ptr(); // on the heap: it stays when the handle moves
        self.slots.occupy(key, Held::Open { file, _path: path });
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), name);
        open.flags(flags).mode(mode).build()
    }

    pub(super) fn start_read(
        &mut self,
        key: OpKey,
        file: FileId,
        offset: u64,
        mut buf: Buf,
    ) -> squeue::Entry {
        let fd = self.files.using(file);
        let storage = buf.storage_mut();
        let (data, len) = (storage.as_mut_ptr(), storage.len() as u32);
        self.slots.occupy(key, Held::Read { file, buf });
        let read = opcode::Read::new(types::Fd(fd), data, len);
        read.offset(offset).build()
    }

    pub(super) fn start_write(
        &mut self,
        key: OpKey,
        file: FileId,
        offset: u64,
        data: SharedBuf,
    ) -> squeue::Entry {
        let fd = self.files.using(file);
        let write = write(fd, offset, &data);
        self.slots.occupy(key, Held::Write { file, _data: data });
        write
    }

    /// Two entries, of which the second is the sync; their completions become one.
    pub(super) fn start_write_sync(
        &mut self,
        key: OpKey,
        file: FileId,
        offset: u64,
        data: SharedBuf,
    ) {
        let fd = self.files.using(file);
        let write = write(fd, offset, &data).user_data(UserData::Op(key).encode());
        let sync = sync(fd, true).user_data(UserData::Sync(key).encode());
        let held = Held::WriteSync {
            file,
            pair: Pair::new(data.len(), self.ring.cut_short),
            _data: data,
        };
        self.slots.occupy(key, held);
        // SAFETY: the slot invariant, as in `start`: the bytes and the descriptor are held by the
        // slot that was just occupied, until both completions have come.
        unsafe { self.ring.push_linked(write, sync) };
    }

    pub(super) fn start_sync(
        &mut self,
        key: OpKey,
        file: FileId,
        data_only: bool,
    ) -> squeue::Entry {
        let fd = self.files.using(file);
        self.slots.occupy(key, Held::Sync { file });
        sync(fd, data_only)
    }

    pub(super) fn start_size(&mut self, key: OpKey, file: FileId) -> squeue::Entry {
        let fd = self.files.using(file);
        // SAFETY: a `statx` is integers, for which zero is a value.
        let answer = Box::new(UnsafeCell::new(unsafe {
            std::mem::zeroed::<libc::statx>()
        }));
        let place = answer.get();
        self.slots.occupy(key, Held::Size { file, answer });
        let statx = opcode::Statx::new(types::Fd(fd), c"".as_ptr(), place.cast());
        let flags = libc::AT_EMPTY_PATH;
        statx.flags(flags).mask(libc::STATX_SIZE).build()
    }

    /// The one completion of an operation on a file that is open.
    pub(super) fn complete_file(
        &mut self,
        key: OpKey,
        cqe: &cqueue::Entry,
        completions: &mut Vec<Completion>,
    ) {
        let held = self.slots.vacate(key); // the kernel has let go of it
        self.release(&held);
        let transferred = transferred(cqe);
        let result = match held {
            Held::Read { mut buf, .. } => transferred.map(|len| {
                buf.set_len(len.min(buf.capacity()));
                Outcome::Read(buf)
            }),
            Held::Sync { .. } => Ok(Outcome::Synced {
                written: 0,
                sync: transferred.map(drop),
            }),
            Held::Size { answer, .. } => {
                let size = answer.into_inner().stx_size;
                transferred.map(|_| Outcome::Size(size))
            }
            Held::Write { .. } => transferred.map(Outcome::Bytes),
            Held::Nothing
            | Held::Nop
            | Held::Send { .. }
            | Held::Receive { .. }
            | Held::Signal { .. }
            | Held::Open { .. }
            | Held::WriteSync { .. }
            | Held::Failed(_) => unreachable!("they complete elsewhere"),
        };
        completions.push(Completion {
            key,
            result,
            more: false,
        });
    }

    /// The completion of the sync of a pair.
    pub(super) fn complete_sync(
        &mut self,
        key: OpKey,
        cqe: &cqueue::Entry,
        completions: &mut Vec<Completion>,
    ) {
        let Some(Held::WriteSync { pair, .. }) = self.slots.held(key) else {
            self.counters.unknown += 1;
            return;
        };
        pair.sync_ended(transferred(cqe).map(drop));
        self.complete_pair(key, completions);
    }

    /// Tells of a pair whose both completions have come.
    pub(super) fn complete_pair(&mut self, key: OpKey, completions: &mut Vec<Completion>) {
        let cut_short = self.ring.cut_short;
        let Some(Held::WriteSync { pair, .. }) = self.slots.held(key) else {
            return;
        };
        let Some(result) = pair.outcome(cut_short) else {
            return;
        };
        let held = self.slots.vacate(key);
        self.release(&held);
        completions.push(Completion {
            key,
            result,
            more: false,
        });
    }

    /// Closes a descriptor through the ring: close(2) may wait for a disk or a network.
    pub(super) fn close_descriptor(&mut self, fd: Option<OwnedFd>) {
        let Some(fd) = fd else { return };
        self.files.closing += 1;
        let close = opcode::Close::new(types::Fd(fd.into_raw_fd())).build();
        // SAFETY: it names no memory, and the descriptor is owned by nobody else: see `release`.
        unsafe { self.ring.push(close.user_data(UserData::Close.encode())) };
    }
}

/// The bytes stay where they are when their handle moves.
fn write(fd: RawFd, offset: u64, data: &SharedBuf) -> squeue::Entry {
    let write = opcode::Write::new(types::Fd(fd), data.as_ptr(), data.len() as u32);
    write.offset(offset).build()
}

fn sync(fd: RawFd, data_only: bool) -> squeue::Entry {
    let flags = if data_only {
        types::FsyncFlags::DATASYNC
    } else {
        types::FsyncFlags::empty()
    };
    opcode::Fsync::new(types::Fd(fd)).flags(flags).build()
}

/// As in open(2).
fn flags(options: &OpenOptions) -> i32 {
    let access = match (options.read, options.write) {
        (true, true) => libc::O_RDWR,
        (false, true) => libc::O_WRONLY,
        (_, false) => libc::O_RDONLY,
    };
    let set = |is_set, flag| if is_set { flag } else { 0 };
    access
        | set(options.create, libc::O_CREAT)
        | set(options.truncate, libc::O_TRUNC)
        | set(options.directory, libc::O_DIRECTORY)
        | libc::O_CLOEXEC
}
