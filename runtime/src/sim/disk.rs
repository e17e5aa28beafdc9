//! A disk that forgets what was not synced, tears what was being written, and rots.
//!
//! Like the ring it is told of operations and tells of completions: [`Disk::submit`] now,
//! [`Disk::complete`] when [`Disk::next_due`] has come. It knows no clock and no node.
//!
//! # What is kept
//!
//! ```text
//!             write completes            sync completes
//! submitted -----------------> cached ------------------> durable
//!     |  crash                    |  crash                   |  crash
//!     +--> each sector lost       +--> each sector lost      +--> kept
//!          or durable                  or durable
//! ```
//!
//! Where a lost sector was to make the file longer, it may be longer all the same, by zeros: its
//! length is kept elsewhere than its bytes.
//!
//! A sync covers the writes that had completed when it was submitted, and no others. After a sync
//! that failed, the writes that it covered are readable as before, but no later sync makes them
//! durable, and the next process may read what was there before: this is how Linux behaves, and why
//! a failed sync is the end of a process. The name of a file is durable when its directory was
//! synced after the file was made; a crash may take other names away, with all that is in their
//! files. Every directory is there already.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use self::bytes::{File, Write, evict, flip, put, tear};
use super::random::Random;
use crate::time::Instant;

mod bytes;

/// The knobs of a disk. None of its faults is on by default.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskFaults {
    /// No operation is faster.
    pub latency_min: Duration,
    /// The mean of an exponentially distributed time on top.
    pub latency_mean: Duration,
    /// On top of that, for syncs.
    pub sync_latency: Duration,
    /// What is written as a whole or not at all, in bytes: 512 or 4096.
    pub sector: usize,
    /// How many bytes fit; a write of more is cut short, and one of which nothing fits fails with
    /// `ENOSPC`.
    pub capacity: u64,
    /// Per write: only its beginning is written.
    pub short_write: f64,
    /// Per write: it lands at another sector of the file, and says nothing.
    pub misdirected_write: f64,
    /// Per write: it fails with `EIO`; a part may have been written.
    pub write_error: f64,
    /// Per sync: it fails with `EIO`, and a part of what it covered will never be durable.
    pub sync_error: f64,
    /// Per sync: it succeeds and has done nothing.
    pub lying_sync: f64,
    /// Per read: a bit of what is read has changed, for good.
    pub bit_rot: f64,
    /// Per read: it fails with `EIO`.
    pub read_error: f64,
    /// Per read: it brings only the beginning.
    pub short_read: f64,
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self {
            latency_min: Duration::from_micros(20),
            latency_mean: Duration::from_micros(60),
            sync_latency: Duration::from_micros(500),
            sector: 512,
            capacity: u64::MAX,
            short_write: 0.0,
            misdirected_write: 0.0,
            write_error: 0.0,
            sync_error: 0.0,
            lying_sync: 0.0,
            bit_rot: 0.0,
            read_error: 0.0,
            short_read: 0.0,
        }
    }
}

impl DiskFaults {
    /// Faults as `random` decides, except lying and rotting: whoever has only one disk cannot
    /// survive those.
    pub fn draw(random: &mut Random) -> Self {
        let (short_write, write_error) = (random.strength(0.05), random.strength(0.01));
        let (sync_error, read_error) = (random.strength(0.01), random.strength(0.01));
        let latency_mean = random.any_magnitude(Duration::from_millis(10));
        Self {
            latency_mean,
            sync_latency: latency_mean * 5,
            sector: if random.chance(0.5) { 512 } else { 4096 },
            short_write,
            write_error,
            sync_error,
            read_error,
            short_read: random.strength(0.1),
            ..Self::default()
        }
    }
}

/// An open file, or directory, of one process: it means nothing after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenFile {
    is_directory: bool,
    index: u32,
    boot: u32,
}

/// Names an operation until its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a disk can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskOp {
    /// Opens a file.
    Open {
        /// Its name: a path.
        name: String,
        /// Makes it if there is none.
        create: bool,
        /// Empties it.
        truncate: bool,
        /// It is a directory, which can be synced and nothing else.
        directory: bool,
    },
    /// Reads; less than `len` at the end of the file.
    ReadAt {
        /// From this file,
        file: OpenFile,
        /// from there,
        offset: u64,
        /// so many bytes.
        len: usize,
    },
    /// Writes, possibly only the beginning.
    WriteAt {
        /// To this file,
        file: OpenFile,
        /// to there.
        offset: u64,
        /// What is written.
        data: Vec<u8>,
    },
    /// Makes durable what was written; of a directory, which names it has.
    Sync {
        /// To this file.
        file: OpenFile,
    },
    /// Asks how long it is.
    Size {
        /// This file.
        file: OpenFile,
    },
}

/// What an operation that succeeded brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskDone {
    /// The file.
    Opened(OpenFile),
    /// The bytes.
    Read(Vec<u8>),
    /// So many bytes were written.
    Written(usize),
    /// It is durable.
    Synced,
    /// It is so many bytes long.
    Size(u64),
}

/// One node's disk.
#[derive(Debug)]
pub struct Disk {
    faults: DiskFaults,
    names: BTreeMap<String, Name>,
    files: Vec<File>,
    /// Those that were opened.
    directories: Vec<String>,
    boot: u32,
    /// By when they complete.
    running: BTreeMap<(Instant, Ticket), Running>,
    tickets: u64,
    writes: u64,
    latency: Random,
    write: Random,
    sync: Random,
    read: Random,
    crash: Random,
    cancel: Random,
}

#[derive(Debug)]
struct Name {
    index: u32,
    /// A sync of its directory covers it if it covers this number.
    number: u64,
    /// Whether a crash leaves it.
    is_durable: bool,
}

#[derive(Debug)]
struct Running {
    op: DiskOp,
    /// A sync covers the writes before this one.
    covers: u64,
}

/// No file is longer: it is in memory.
const FILE_MAX: u64 = 1 << 30;

impl Disk {
    pub(super) fn new(random: Random) -> Self {
        Self {
            faults: DiskFaults::default(),
            names: BTreeMap::new(),
            files: Vec::new(),
            directories: Vec::new(),
            boot: 0,
            running: BTreeMap::new(),
            tickets: 0,
            writes: 0,
            latency: random.fork(1),
            write: random.fork(2),
            sync: random.fork(3),
            read: random.fork(4),
            crash: random.fork(5),
            cancel: random.fork(6),
        }
    }

    /// A new disk, empty, with the same knobs.
    pub(super) fn replacement(&self) -> Self {
        Self {
            faults: self.faults.clone(),
            ..Self::new(self.crash.fork(7))
        }
    }

    /// Its knobs.
    pub fn faults(&mut self) -> &mut DiskFaults {
        &mut self.faults
    }

    /// Starts an operation.
    pub fn submit(&mut self, now: Instant, op: DiskOp) -> Ticket {
        self.start(now, op).0
    }

    /// Starts an operation, and says when it completes.
    pub(super) fn start(&mut self, now: Instant, op: DiskOp) -> (Ticket, Instant) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let mut latency =
            self.faults.latency_min + self.latency.exponential(self.faults.latency_mean);
        if matches!(op, DiskOp::Sync { .. }) {
            latency += self.latency.exponential(self.faults.sync_latency);
        }
        let covers = self.writes;
        self.running
            .insert((now + latency, ticket), Running { op, covers });
        (ticket, now + latency)
    }

    /// Asks that an operation not be done. False if that comes too late.
    pub(super) fn cancel(&mut self, ticket: Ticket) -> bool {
        let found = self
            .running
            .keys()
            .find(|&&(_, under_way)| under_way == ticket);
        let Some(&key) = found else { return false };
        // Whether it has begun.
        if self.cancel.chance(0.5) {
            return false;
        }
        self.running.remove(&key).is_some()
    }

    /// When the next operation completes.
    pub fn next_due(&self) -> Option<Instant> {
        self.running.keys().next().map(|&(due, _)| due)
    }

    /// Takes one completion that is due.
    pub fn complete(&mut self, now: Instant) -> Option<(Ticket, io::Result<DiskDone>)> {
        let next = self.running.first_entry()?;
        let (due, ticket) = *next.key();
        if due > now {
            return None;
        }
        let Running { op, covers } = next.remove();
        let done = match op {
            DiskOp::Open {
                name,
                create,
                truncate,
                directory,
            } => self.open(&name, create, truncate, directory),
            DiskOp::ReadAt { file, offset, len } => self.read_at(file, offset, len),
            DiskOp::WriteAt { file, offset, data } => self.write_at(file, offset, data),
            DiskOp::Sync { file } => self.sync(file, covers),
            DiskOp::Size { file } => self
                .index(file)
                .map(|index| DiskDone::Size(self.files[index].cached.len() as u64)),
        };
        Some((ticket, done))
    }

    /// What a reader of the file sees now.
    pub fn contents(&self, name: &str) -> Option<&[u8]> {
        self.file(name).map(|file| &file.cached[..])
    }

    /// What of the file a crash is sure to leave.
    pub fn durable(&self, name: &str) -> Option<&[u8]> {
        let durable = |name: &Name| name.is_durable;
        let name = self.names.get(&normal(name)).filter(|name| durable(name))?;
        Some(&self.files[name.index as usize].durable)
    }

    /// Flips the lowest bit of one byte of a file, for good. False if there is no such byte.
    pub fn rot(&mut self, name: &str, offset: u64) -> bool {
        let Some(name) = self.names.get(&normal(name)) else {
            return false;
        };
        let file = &mut self.files[name.index as usize];
        flip(file, offset as usize, 0)
    }

    fn file(&self, name: &str) -> Option<&File> {
        let name = self.names.get(&normal(name))?;
        Some(&self.files[name.index as usize])
    }

    fn open(
        &mut self,
        name: &str,
        create: bool,
        truncate: bool,
        directory: bool,
    ) -> io::Result<DiskDone> {
        let name = normal(name);
        let known = self.names.get(&name).map(|name| name.index);
        let index = match known {
            Some(_) if directory => return Err(errno(libc::ENOTDIR)),
            Some(index) => index,
            None if directory => {
                self.directories.push(name);
                self.directories.len() as u32 - 1
            }
            None if create => self.make(name),
            None => return Err(errno(libc::ENOENT)),
        };
        if truncate && !directory {
            self.files[index as usize].cached.clear();
            self.note(index, 0, Vec::new(), true);
        }
        Ok(DiskDone::Opened(OpenFile {
            is_directory: directory,
            index,
            boot: self.boot,
        }))
    }

    fn make(&mut self, name: String) -> u32 {
        let index = self.files.len() as u32;
        self.files.push(File::default());
        let made = Name {
            index,
            number: self.writes,
            is_durable: false,
        };
        self.names.insert(name, made);
        self.writes += 1;
        index
    }

    /// Takes note of a write that is to be synced.
    fn note(&mut self, index: u32, offset: u64, data: Vec<u8>, truncates: bool) {
        self.files[index as usize].dirty.push(Write {
            number: self.writes,
            truncates,
            offset,
            data,
        });
        self.writes += 1;
    }

    fn index(&self, file: OpenFile) -> io::Result<usize> {
        if file.boot != self.boot {
            return Err(errno(libc::EBADF));
        }
        if file.is_directory {
            return Err(errno(libc::EISDIR));
        }
        Ok(file.index as usize)
    }

    fn read_at(&mut self, file: OpenFile, offset: u64, len: usize) -> io::Result<DiskDone> {
        let index = self.index(file)?;
        if self.read.chance(self.faults.read_error) {
            return Err(errno(libc::EIO));
        }
        let file = &mut self.files[index];
        let start = file.cached.len().min(offset as usize);
        let mut end = file.cached.len().min(start.saturating_add(len));
        if end > start + 1 && self.read.chance(self.faults.short_read) {
            end = start + 1 + self.read.index(end - start - 1);
        }
        if end > start && self.read.chance(self.faults.bit_rot) {
            let place = start + self.read.index(end - start);
            flip(file, place, self.read.below(8) as u32);
        }
        Ok(DiskDone::Read(file.cached[start..end].to_vec()))
    }

    fn write_at(&mut self, file: OpenFile, offset: u64, mut data: Vec<u8>) -> io::Result<DiskDone> {
        let index = self.index(file)?;
        let end = offset + data.len() as u64;
        if end > FILE_MAX {
            return Err(errno(libc::EFBIG));
        }
        let len = self.files[index].cached.len() as u64;
        let used: u64 = self.files.iter().map(|file| file.cached.len() as u64).sum();
        let longest = len + self.faults.capacity.saturating_sub(used);
        if end > longest {
            let fits = longest.saturating_sub(offset) as usize;
            if fits == 0 && !data.is_empty() {
                return Err(errno(libc::ENOSPC));
            }
            data.truncate(fits);
        }
        let fails = self.write.chance(self.faults.write_error);
        if data.len() > 1 && (fails || self.write.chance(self.faults.short_write)) {
            data.truncate(1 + self.write.index(data.len() - 1));
        }
        let mut landed = offset;
        if self.write.chance(self.faults.misdirected_write) {
            let sectors = len / self.faults.sector as u64 + 1;
            landed = self.write.below(sectors) * self.faults.sector as u64;
        }
        let written = data.len();
        put(&mut self.files[index].cached, landed, &data);
        self.note(index as u32, landed, data, false);
        if fails {
            return Err(errno(libc::EIO));
        }
        Ok(DiskDone::Written(written))
    }

    fn sync(&mut self, file: OpenFile, covers: u64) -> io::Result<DiskDone> {
        if file.boot != self.boot {
            return Err(errno(libc::EBADF));
        }
        let fails = self.sync.chance(self.faults.sync_error);
        if !fails && self.sync.chance(self.faults.lying_sync) {
            return Ok(DiskDone::Synced);
        }
        let index = file.index as usize;
        if file.is_directory {
            return self.sync_directory(index, covers, fails);
        }
        let File {
            durable,
            dirty,
            doubtful,
            ..
        } = &mut self.files[index];
        let covered = dirty.extract_if(.., |write| write.number < covers);
        if fails {
            for write in covered {
                tear(&mut self.sync, 0.5, self.faults.sector, durable, &write);
                doubtful.push(write);
            }
            return Err(errno(libc::EIO));
        }
        for write in covered {
            if write.truncates {
                durable.clear();
            }
            put(durable, write.offset, &write.data);
        }
        Ok(DiskDone::Synced)
    }

    fn sync_directory(&mut self, index: usize, covers: u64, fails: bool) -> io::Result<DiskDone> {
        if fails {
            return Err(errno(libc::EIO));
        }
        let directory = &self.directories[index];
        for (name, made) in &mut self.names {
            made.is_durable |= made.number < covers && parent(name) == *directory;
        }
        Ok(DiskDone::Synced)
    }

    /// The power is gone. Says of how many bytes, at most, the last state is lost.
    pub(super) fn crash(&mut self) -> u64 {
        self.take_running();
        self.boot += 1;
        // In some crashes nearly all survives, in others nearly nothing.
        let kept = self.crash.unit();
        let mut lost = 0;
        for file in &mut self.files {
            for write in std::mem::take(&mut file.dirty) {
                let sector = self.faults.sector;
                lost += tear(&mut self.crash, kept, sector, &mut file.durable, &write);
            }
        }
        let crash = &mut self.crash;
        self.names.retain(|_, name| {
            name.is_durable |= crash.chance(kept);
            name.is_durable
        });
        for (index, file) in self.files.iter_mut().enumerate() {
            if !self.names.values().any(|name| name.index as usize == index) {
                *file = File::default(); // it takes no room
            }
            file.doubtful.clear();
            file.cached.clone_from(&file.durable);
        }
        lost
    }

    /// The process is gone, the kernel is not: what was under way is done or not, and the cache may
    /// have let go of what it could not write.
    pub(super) fn abandon(&mut self) {
        self.take_running();
        self.boot += 1;
        for file in &mut self.files {
            for write in std::mem::take(&mut file.doubtful) {
                evict(&mut self.crash, self.faults.sector, file, &write);
            }
        }
    }

    /// Does a part, which the seed decides, of the writes and opens that are under way.
    fn take_running(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            if self.crash.chance(0.5) {
                continue;
            }
            // Nobody is left to hear how it went.
            let _unheard = match running.op {
                DiskOp::Open {
                    name,
                    create,
                    truncate,
                    directory,
                } => self.open(&name, create, truncate, directory),
                DiskOp::WriteAt {
                    file,
                    offset,
                    mut data,
                } => {
                    if self.crash.chance(0.5) {
                        data.truncate(self.crash.index(data.len() + 1));
                    }
                    self.write_at(file, offset, data)
                }
                DiskOp::ReadAt { .. } | DiskOp::Sync { .. } | DiskOp::Size { .. } => continue,
            };
        }
    }
}

/// One name for all ways to write a path.
fn normal(name: &str) -> String {
    let components = Path::new(name).components();
    let path: PathBuf = components
        .filter(|part| *part != Component::CurDir)
        .collect();
    match path.to_string_lossy() {
        empty if empty.is_empty() => ".".to_owned(),
        path => path.into_owned(),
    }
}

/// The directory of a name that is [`normal`].
fn parent(name: &str) -> String {
    let parent = Path::new(name).parent().map(Path::to_string_lossy);
    normal(&parent.unwrap_or_default())
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[cfg(test)]
mod tests;
