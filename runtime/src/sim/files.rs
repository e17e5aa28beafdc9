//! A node's open files, and its operations on them, as its kernel has them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;

use slab::Slab;

use super::disk::{DiskDone, DiskOp, OpenFile, Ticket};
use super::node::Node;
use super::timeline::{Happening, Timeline};
use super::trace::{Event, EventKind};
use crate::buf::{Buf, SharedBuf};
use crate::fs::OpenOptions;
use crate::reactor::{FileId, OpKey, Outcome};

/// An operation on a file, and what it keeps alive.
#[derive(Debug)]
pub(super) enum FileWork {
    Open {
        file: FileId,
        path: CString,
        options: OpenOptions,
    },
    Read {
        file: FileId,
        offset: u64,
        buf: Buf,
    },
    Write {
        file: FileId,
        offset: u64,
        data: SharedBuf,
    },
    WriteSync {
        file: FileId,
        offset: u64,
        data: SharedBuf,
        /// The write is done; the sync is under way.
        is_written: bool,
    },
    Sync {
        file: FileId,
    },
    Size {
        file: FileId,
    },
}

#[derive(Debug, Default)]
pub(super) struct Files {
    slab: Slab<Entry>,
    /// What the disk is doing for whom.
    running: BTreeMap<Ticket, OpKey>,
}

#[derive(Debug, Default)]
struct Entry {
    /// None until it is opened.
    open: Option<(OpenFile, OpenOptions)>,
    /// Operations in flight on it.
    operations: usize,
    closing: bool,
}

impl FileWork {
    pub(super) fn file(&self) -> FileId {
        match self {
            Self::Open { file, .. }
            | Self::Read { file, .. }
            | Self::Write { file, .. }
            | Self::WriteSync { file, .. }
            | Self::Sync { file }
            | Self::Size { file } => *file,
        }
    }

    /// What it asks of the disk, first of all.
    fn disk_op(&self, files: &Files) -> io::Result<DiskOp> {
        let disk_op = match self {
            Self::Open { path, options, .. } => DiskOp::Open {
                name: path.to_string_lossy().into_owned(),
                create: options.create,
                truncate: options.truncate,
                directory: options.directory,
            },
            Self::Read { file, offset, buf } => DiskOp::ReadAt {
                file: files.opened_for(*file, |options| options.read)?,
                offset: *offset,
                len: buf.capacity(),
            },
            Self::Write { file, offset, data }
            | Self::WriteSync {
                file, offset, data, ..
            } => DiskOp::WriteAt {
                file: files.opened_for(*file, |options| options.write)?,
                offset: *offset,
                data: data.to_vec(),
            },
            Self::Sync { file } => DiskOp::Sync {
                file: files.opened_for(*file, |_| true)?,
            },
            Self::Size { file } => DiskOp::Size {
                file: files.opened_for(*file, |_| true)?,
            },
        };
        Ok(disk_op)
    }
}

impl Files {
    pub(super) fn add(&mut self) -> FileId {
        FileId(self.slab.insert(Entry::default()) as u32)
    }

    /// An operation on `id` starts.
    pub(super) fn begin(&mut self, id: FileId) {
        self.slab[id.0 as usize].operations += 1;
    }

    /// An operation on `id` has had its final completion.
    pub(super) fn end(&mut self, id: FileId) {
        self.slab[id.0 as usize].operations -= 1;
        self.remove_unused(id);
    }

    /// Lets go of `id`: it is closed with the end of its last operation.
    pub(super) fn close(&mut self, id: FileId) {
        self.slab[id.0 as usize].closing = true;
        self.remove_unused(id);
    }

    fn remove_unused(&mut self, id: FileId) {
        let entry = &self.slab[id.0 as usize];
        if entry.closing && entry.operations == 0 {
            self.slab.remove(id.0 as usize);
        }
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        let open = |(_, entry): &(usize, &Entry)| entry.open.is_some();
        self.slab.iter().filter(open).count()
    }

    fn opened_for(
        &self,
        id: FileId,
        permits: impl Fn(&OpenOptions) -> bool,
    ) -> io::Result<OpenFile> {
        match &self.slab[id.0 as usize].open {
            Some((file, options)) if permits(options) => Ok(*file),
            Some(_) | None => Err(errno(libc::EBADF)),
        }
    }
}

impl Node {
    /// An operation on a file reaches the kernel.
    pub(super) fn submit_file(&mut self, timeline: &mut Timeline, key: OpKey) {
        let Some(work) = self.ops.file_work(key) else {
            return;
        };
        match work.disk_op(&self.files) {
            Ok(disk_op) => self.start_disk(timeline, key, disk_op),
            Err(error) => self.end(key, Err(error)),
        }
    }

    fn start_disk(&mut self, timeline: &mut Timeline, key: OpKey, disk_op: DiskOp) {
        if let DiskOp::WriteAt { data, .. } = &disk_op {
            timeline.trace.absorb_bytes(data);
        }
        let (ticket, due) = self.disk.start(timeline.now(), disk_op);
        self.files.running.insert(ticket, key);
        timeline.at(due, Happening::Disk { life: self.life });
    }

    /// Takes what the disk has done.
    pub(super) fn serve_disk(&mut self, timeline: &mut Timeline) {
        while let Some((ticket, done)) = self.disk.complete(timeline.now()) {
            let Some(key) = self.files.running.remove(&ticket) else {
                continue; // a test had asked for it
            };
            let kind = match done {
                Ok(_) => EventKind::Disk,
                Err(_) => EventKind::DiskError,
            };
            timeline.record(Event::of(self.life.node, kind).number(done_bytes(&done)));
            self.disk_done(timeline, key, done);
        }
    }

    /// The disk has done what an operation had asked for: that is its end, unless it goes on.
    fn disk_done(&mut self, timeline: &mut Timeline, key: OpKey, done: io::Result<DiskDone>) {
        let Some(work) = self.ops.file_work(key) else {
            return;
        };
        let result = match (work, done) {
            (
                FileWork::WriteSync {
                    data,
                    is_written: true,
                    ..
                },
                done,
            ) => Ok(Outcome::Synced {
                written: data.len(),
                sync: done.map(drop),
            }),
            (FileWork::Sync { .. }, done) => Ok(Outcome::Synced {
                written: 0,
                sync: done.map(drop),
            }),
            (_, Err(error)) => Err(error),
            (
                FileWork::WriteSync {
                    file,
                    data,
                    is_written,
                    ..
                },
                Ok(DiskDone::Written(written)),
            ) => {
                if written == data.len() && !self.ring.cuts_link() {
                    *is_written = true;
                    let file = *file;
                    return match self.files.opened_for(file, |_| true) {
                        Ok(file) => self.start_disk(timeline, key, DiskOp::Sync { file }),
                        Err(error) => self.end(key, Err(error)),
                    };
                }
                let sync = Err(errno(libc::ECANCELED));
                Ok(Outcome::Synced { written, sync })
            }
            (FileWork::Open { file, options, .. }, Ok(DiskDone::Opened(opened))) => {
                let entry = &mut self.files.slab[file.0 as usize];
                entry.open = Some((opened, options.clone()));
                Ok(Outcome::Done)
            }
            (FileWork::Read { buf, .. }, Ok(DiskDone::Read(bytes))) => {
                let mut buf = std::mem::replace(buf, Buf::with_capacity(0));
                buf.put_slice(&bytes);
                Ok(Outcome::Read(buf))
            }
            (FileWork::Write { .. }, Ok(DiskDone::Written(written))) => Ok(Outcome::Bytes(written)),
            (FileWork::Size { .. }, Ok(DiskDone::Size(size))) => Ok(Outcome::Size(size)),
            (work, Ok(done)) => unreachable!("{work:?} brought {done:?}"),
        };
        self.end(key, result);
    }

    /// An operation on a file was cancelled: it ends, unless the disk is at it already.
    pub(super) fn cancel_file(&mut self, key: OpKey) {
        let of_it = |(_, running): &(&Ticket, &OpKey)| **running == key;
        let ticket = self
            .files
            .running
            .iter()
            .find(of_it)
            .map(|(ticket, _)| *ticket);
        if let Some(ticket) = ticket {
            // Nobody waits for a node that leaves; what its disk is at is then the disk's affair.
            if !self.is_leaving() && !self.disk.cancel(ticket) {
                return;
            }
            self.files.running.remove(&ticket);
        }
        let cancelled = errno(libc::ECANCELED);
        let result = match self.ops.file_work(key) {
            Some(FileWork::WriteSync {
                data,
                is_written: true,
                ..
            }) => Ok(Outcome::Synced {
                written: data.len(),
                sync: Err(cancelled),
            }),
            Some(FileWork::Sync { .. }) => Ok(Outcome::Synced {
                written: 0,
                sync: Err(cancelled),
            }),
            _ => Err(cancelled),
        };
        self.end(key, result);
    }
}

fn done_bytes(done: &io::Result<DiskDone>) -> u64 {
    match done {
        Ok(DiskDone::Read(bytes)) => bytes.len() as u64,
        Ok(DiskDone::Written(written)) => *written as u64,
        Ok(DiskDone::Size(size)) => *size,
        Ok(DiskDone::Opened(_) | DiskDone::Synced) | Err(_) => 0,
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
