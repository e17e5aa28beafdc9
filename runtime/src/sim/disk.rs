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
//! A sync covers the writes that had completed when it was submitted, and no others. After a sync
//! that failed, the writes that it covered are readable as before, but no later sync makes them
//! durable: this is how Linux behaves, and why a failed sync is the end of a process. A file that
//! was made and never synced may be gone.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::random::Random;
use crate::time::Instant;

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
    /// How many bytes fit; a write beyond fails with `ENOSPC`.
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
            ..Self::default()
        }
    }
}

/// An open file of one process: it means nothing after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
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
        /// Its name; there are no directories.
        name: String,
        /// Makes it if there is none.
        create: bool,
    },
    /// Reads; less than `len` at the end of the file.
    ReadAt {
        /// From this file,
        file: FileId,
        /// from there,
        offset: u64,
        /// so many bytes.
        len: usize,
    },
    /// Writes, possibly only the beginning.
    WriteAt {
        /// To this file,
        file: FileId,
        /// to there.
        offset: u64,
        /// What is written.
        data: Vec<u8>,
    },
    /// Makes durable what was written.
    Sync {
        /// To this file.
        file: FileId,
    },
}

/// What an operation that succeeded brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskDone {
    /// The file.
    Opened(FileId),
    /// The bytes.
    Read(Vec<u8>),
    /// So many bytes were written.
    Written(usize),
    /// It is durable.
    Synced,
}

/// One node's disk.
#[derive(Debug)]
pub struct Disk {
    faults: DiskFaults,
    names: BTreeMap<String, u32>,
    files: Vec<File>,
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
}

#[derive(Debug, Default)]
struct File {
    /// What a reader sees.
    cached: Vec<u8>,
    /// What a crash leaves.
    durable: Vec<u8>,
    /// Written and not synced, in order.
    dirty: Vec<Write>,
    /// Whether a crash leaves the file at all.
    is_durable: bool,
}

#[derive(Debug)]
struct Write {
    number: u64,
    offset: u64,
    data: Vec<u8>,
}

#[derive(Debug)]
struct Running {
    op: DiskOp,
    /// A sync covers the writes before this one.
    covers: u64,
}

impl Disk {
    pub(super) fn new(random: Random) -> Self {
        Self {
            faults: DiskFaults::default(),
            names: BTreeMap::new(),
            files: Vec::new(),
            boot: 0,
            running: BTreeMap::new(),
            tickets: 0,
            writes: 0,
            latency: random.fork(1),
            write: random.fork(2),
            sync: random.fork(3),
            read: random.fork(4),
            crash: random.fork(5),
        }
    }

    /// Its knobs.
    pub fn faults(&mut self) -> &mut DiskFaults {
        &mut self.faults
    }

    /// Starts an operation.
    pub fn submit(&mut self, now: Instant, op: DiskOp) -> Ticket {
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
        ticket
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
            DiskOp::Open { name, create } => self.open(name, create),
            DiskOp::ReadAt { file, offset, len } => self.read_at(file, offset, len),
            DiskOp::WriteAt { file, offset, data } => self.write_at(file, offset, data),
            DiskOp::Sync { file } => self.sync(file, covers),
        };
        Some((ticket, done))
    }

    /// What a reader of the file sees now.
    pub fn contents(&self, name: &str) -> Option<&[u8]> {
        self.file(name).map(|file| &file.cached[..])
    }

    /// What of the file a crash is sure to leave.
    pub fn durable(&self, name: &str) -> Option<&[u8]> {
        let file = self.file(name).filter(|file| file.is_durable);
        file.map(|file| &file.durable[..])
    }

    /// Flips the lowest bit of one byte of a file, for good. False if there is no such byte.
    pub fn rot(&mut self, name: &str, offset: u64) -> bool {
        let Some(&index) = self.names.get(name) else {
            return false;
        };
        let file = &mut self.files[index as usize];
        flip(file, offset as usize, 0)
    }

    fn file(&self, name: &str) -> Option<&File> {
        self.names
            .get(name)
            .map(|&index| &self.files[index as usize])
    }

    fn open(&mut self, name: String, create: bool) -> io::Result<DiskDone> {
        let index = match self.names.get(&name) {
            Some(&index) => index,
            None if create => {
                let index = self.files.len() as u32;
                self.files.push(File::default());
                self.names.insert(name, index);
                index
            }
            None => return Err(errno(libc::ENOENT)),
        };
        let boot = self.boot;
        Ok(DiskDone::Opened(FileId { index, boot }))
    }

    fn index(&self, file: FileId) -> io::Result<usize> {
        if file.boot == self.boot {
            Ok(file.index as usize)
        } else {
            Err(errno(libc::EBADF))
        }
    }

    fn read_at(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<DiskDone> {
        let index = self.index(file)?;
        if self.read.chance(self.faults.read_error) {
            return Err(errno(libc::EIO));
        }
        let file = &mut self.files[index];
        let start = file.cached.len().min(offset as usize);
        let end = file.cached.len().min(start.saturating_add(len));
        if end > start && self.read.chance(self.faults.bit_rot) {
            let place = start + self.read.index(end - start);
            flip(file, place, self.read.below(8) as u32);
        }
        Ok(DiskDone::Read(file.cached[start..end].to_vec()))
    }

    fn write_at(&mut self, file: FileId, offset: u64, mut data: Vec<u8>) -> io::Result<DiskDone> {
        let index = self.index(file)?;
        let end = offset + data.len() as u64;
        let len = self.files[index].cached.len() as u64;
        let used: u64 = self.files.iter().map(|file| file.cached.len() as u64).sum();
        if used + end.saturating_sub(len) > self.faults.capacity {
            return Err(errno(libc::ENOSPC));
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
        let file = &mut self.files[index];
        put(&mut file.cached, landed, &data);
        file.dirty.push(Write {
            number: self.writes,
            offset: landed,
            data,
        });
        self.writes += 1;
        if fails {
            return Err(errno(libc::EIO));
        }
        Ok(DiskDone::Written(written))
    }

    fn sync(&mut self, file: FileId, covers: u64) -> io::Result<DiskDone> {
        let index = self.index(file)?;
        let fails = self.sync.chance(self.faults.sync_error);
        if !fails && self.sync.chance(self.faults.lying_sync) {
            return Ok(DiskDone::Synced);
        }
        let File {
            durable,
            dirty,
            is_durable,
            ..
        } = &mut self.files[index];
        let covered = dirty.extract_if(.., |write| write.number < covers);
        if fails {
            for write in covered {
                tear(&mut self.sync, 0.5, self.faults.sector, durable, &write);
            }
            return Err(errno(libc::EIO));
        }
        for write in covered {
            put(durable, write.offset, &write.data);
        }
        *is_durable = true;
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
        let files = &mut self.files;
        self.names.retain(|_, index| {
            let file = &mut files[*index as usize];
            file.is_durable |= !file.durable.is_empty() || crash.chance(kept);
            file.cached.clone_from(&file.durable);
            file.is_durable
        });
        lost
    }

    /// The process is gone, the kernel is not: what was under way is done or not.
    pub(super) fn abandon(&mut self) {
        self.take_running();
        self.boot += 1;
    }

    /// Does a part, which the seed decides, of the writes that are under way.
    fn take_running(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            let DiskOp::WriteAt { file, offset, data } = running.op else {
                continue;
            };
            if self.crash.chance(0.5) {
                // Nobody is left to hear how it went.
                let _unheard = self.write_at(file, offset, data);
            }
        }
    }
}

/// Does some sectors of a write and leaves others; says how many bytes it left.
fn tear(
    random: &mut Random,
    kept: f64,
    sector: usize,
    durable: &mut Vec<u8>,
    write: &Write,
) -> u64 {
    let mut lost = 0;
    let mut at = 0;
    while at < write.data.len() {
        let offset = write.offset + at as u64;
        let room = sector - (offset % sector as u64) as usize;
        let end = write.data.len().min(at + room);
        if random.chance(kept) {
            put(durable, offset, &write.data[at..end]);
        } else {
            lost += (end - at) as u64;
        }
        at = end;
    }
    lost
}

/// Writes into a file, filling a hole before it with zeros.
fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let start = offset as usize;
    let end = start + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
}

fn flip(file: &mut File, place: usize, bit: u32) -> bool {
    let Some(byte) = file.cached.get_mut(place) else {
        return false;
    };
    *byte ^= 1 << bit;
    if let Some(byte) = file.durable.get_mut(place) {
        *byte ^= 1 << bit;
    }
    true
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[cfg(test)]
mod tests;
