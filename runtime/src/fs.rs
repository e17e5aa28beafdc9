//! Files: reading and writing at an offset, and making durable what was written.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = std::env::temp_dir().join(format!("viewring-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&dir)?;
//! # let path = dir.join("view");
//! use viewring_runtime::fs::File;
//!
//! viewring_runtime::block_on(async {
//!     let file = File::create_durable(&path).await?;
//!     // Two slots, written in turn: if a crash tears the one, the other is whole.
//!     for view in 0..4u64 {
//!         file.write_durable_at(&view.to_le_bytes(), view % 2 * 4096).await?;
//!     }
//!     let slots = file.read_to_end().await?;
//!     assert_eq!(slots[..8], 2u64.to_le_bytes());
//!     assert_eq!(slots[4096..], 3u64.to_le_bytes());
//!     Ok::<(), std::io::Error>(())
//! })??;
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is durable
//!
//! What was written is in the kernel's memory, and gone with the power, until a sync has
//! *succeeded*: [`write_durable_at`](File::write_durable_at) and
//! [`append_durable`](File::append_durable) write and sync in one trip through the ring,
//! [`sync_data`](File::sync_data) covers every write that was done before it. The name of a new
//! file is durable when its directory was synced: [`File::create_durable`] does so, or
//! [`sync_dir`].
//!
//! **After a sync that failed, nothing can be made durable any more.** The kernel has told of the
//! loss once and counts the lost pages as written: the next sync would succeed, and lie. So the
//! [`File`] is poisoned: every later write and sync fails with [`SyncFailed`].
//!
//! **What is read need not be on the disk.** It may be in the kernel's memory only, and after such
//! a failure no later sync, also of another process, brings it to the disk. So who starts from what
//! a file says writes that once more, durably, before anybody is told.
//!
//! # Order
//!
//! Reads and writes in flight are not ordered among each other. Syncs of one [`File`], and durable
//! writes, go one after the other, in the order in which they were first polled: so each knows
//! whether one before it has failed. Poll those that you hold, or drop them: others wait behind.
//!
//! # What dropping a future does
//!
//! A write or sync that is dropped in flight may happen or not, wholly or in part. Its bytes stay
//! where they are until the kernel has let go of them, and whatever is written or synced next
//! through the same [`File`] waits for that: an old write never lands on a newer one. If it was a
//! sync, and failed, the file is poisoned all the same.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use self::shared::Shared;
use crate::buf::{Buf, SharedBuf};
use crate::current::current;
use crate::operation::Operation;
use crate::reactor::{Op, Outcome};

mod shared;

pub use self::shared::SyncFailed;

/// How to open a [`File`]. By default: for reading, what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Makes it if there is none. Needs `write`.
    pub create: bool,
    /// Empties it. Needs `write`.
    pub truncate: bool,
    /// It must be a directory: such a file can be synced, and nothing else.
    pub directory: bool,
    /// Who may do what with a file that is made, before the process's umask; chmod(2).
    pub mode: u32,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read: true,
            write: false,
            create: false,
            truncate: false,
            directory: false,
            mode: 0o644,
        }
    }
}

impl OpenOptions {
    fn validate(&self) -> io::Result<()> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if !self.read && !self.write {
            return invalid("a file is opened for reading, for writing or both");
        }
        if (self.create || self.truncate) && !self.write {
            return invalid("a file that is opened for reading only is neither made nor emptied");
        }
        if self.directory && (self.write || !self.read) {
            return invalid("a directory is opened for reading only");
        }
        Ok(())
    }
}

/// An open file of this thread's runtime.
///
/// Dropping it closes it, without waiting, as soon as the last operation on it has ended. Drop is
/// no sync.
pub struct File {
    shared: Rc<Shared>,
}

/// One operation transfers no more than that, as read(2) says.
const TRANSFER_MAX: usize = 0x7fff_f000;
/// A whole file is read in pieces of that,
const PIECE: usize = 1 << 20;
/// or at least of that: some files do not tell how long they are.
const PIECE_MIN: usize = 4096;

impl File {
    /// Opens a file for reading.
    ///
    /// # Cancel safety
    /// Strict: what was opened is closed.
    ///
    /// # Errors
    /// What openat(2) says, with the path: not found, not permitted … And [`Gone`](crate::Gone), in
    /// an [`io::Error`], when the runtime was dropped.
    ///
    /// # Panics
    /// Outside a runtime.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path, &OpenOptions::default()).await
    }

    /// Opens a file.
    ///
    /// # Cancel safety
    /// What was opened is closed. A file may have been made or emptied, or may still be, also after
    /// it was opened once more: an open that empties is better waited for.
    ///
    /// # Errors
    /// As for [`open`](Self::open), and [`InvalidInput`](io::ErrorKind::InvalidInput) for options
    /// that contradict each other or a path with a zero byte.
    ///
    /// # Panics
    /// Outside a runtime.
    pub async fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> io::Result<Self> {
        options.validate()?;
        let path = path.as_ref();
        let name = CString::new(path.as_os_str().as_bytes())?;
        let runtime = current();
        let id = runtime.reactor().new_file();
        // From here on its drop closes it, also if it is never opened.
        let file = Self {
            shared: Shared::new(&runtime, id, path),
        };
        let open = Op::Open {
            file: id,
            path: name,
            options: options.clone(),
        };
        let opened = Operation::start(&runtime, open).await;
        opened.map_err(|error| with_path(error, path))?;
        Ok(file)
    }

    /// Opens a file for reading and writing, made if there is none, whose existence is durable when
    /// this returns: it and its directory were synced. What is in it stays.
    ///
    /// # Cancel safety
    /// What was opened is closed. A file may have been made.
    ///
    /// # Errors
    /// As for [`open_with`](Self::open_with) and [`sync_dir`].
    ///
    /// # Panics
    /// Outside a runtime.
    pub async fn create_durable(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let options = OpenOptions {
            write: true,
            create: true,
            ..OpenOptions::default()
        };
        let file = Self::open_with(path, &options).await?;
        file.sync_all().await?;
        sync_dir(parent_of(path)).await?;
        Ok(file)
    }

    /// Locks it until it is closed or its process has ended: no lock outlives that. Nobody else who
    /// opens the file can lock it meanwhile, in this process or another; to read and write it they
    /// need no lock. flock(2). In a simulated world a disk is of one node, and every file free.
    ///
    /// It asks the kernel and does not wait for the ring: for the start of a program.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock): somebody else has it. One whose process has ended
    /// with operations in flight may have it for some milliseconds more. What else flock(2) says,
    /// and [`Gone`](crate::Gone).
    pub fn try_lock(&self) -> io::Result<()> {
        self.shared.try_lock()
    }

    /// How it was called when it was opened.
    pub fn path(&self) -> &Path {
        self.shared.path()
    }

    /// Its length in bytes.
    ///
    /// # Cancel safety
    /// Strict.
    ///
    /// # Errors
    /// What statx(2) says, and [`Gone`](crate::Gone).
    pub async fn size(&self) -> io::Result<u64> {
        let size = self.shared.start(Op::Size {
            file: self.shared.id,
        });
        let Outcome::Size(size) = size.await? else {
            unreachable!("a size was asked for")
        };
        Ok(size)
    }

    /// Reads from `offset` on into `buf`, and says how much: at the end of the file, and seldom
    /// elsewhere, less than there is room for. Nothing: the file ends there, or `buf` is empty.
    ///
    /// # Cancel safety
    /// Strict.
    ///
    /// # Errors
    /// What pread(2) says, and [`Gone`](crate::Gone).
    pub async fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let room = Buf::with_capacity(buf.len().min(TRANSFER_MAX));
        let read = self.read_buf_at(room, offset).await?;
        buf[..read.len()].copy_from_slice(&read);
        Ok(read.len())
    }

    /// Fills `buf` from `offset` on.
    ///
    /// # Cancel safety
    /// Strict; a part of `buf` may have been filled.
    ///
    /// # Errors
    /// As for [`read_at`](Self::read_at), and [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) when
    /// the file ends before.
    pub async fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            let read = self.read_at(&mut buf[filled..], offset + filled as u64);
            match read.await {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads from `offset` on into `buf`, as much as that can hold, without a copy. What was in it
    /// is replaced by what was read: perhaps less, at the end of the file nothing.
    ///
    /// # Cancel safety
    /// Strict, but `buf` goes back to its pool once the kernel has let go of it.
    ///
    /// # Errors
    /// As for [`read_at`](Self::read_at).
    pub async fn read_buf_at(&self, mut buf: Buf, offset: u64) -> io::Result<Buf> {
        check_range(offset, buf.capacity())?;
        buf.set_len(0);
        let file = self.shared.id;
        let read = self.shared.start(Op::Read { file, offset, buf });
        let Outcome::Read(buf) = read.await? else {
            unreachable!("a read was asked for")
        };
        Ok(buf)
    }

    /// Reads all of it: for files that fit in memory.
    ///
    /// # Cancel safety
    /// Strict.
    ///
    /// # Errors
    /// As for [`read_at`](Self::read_at).
    pub async fn read_to_end(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        // Usually one read brings all, and a second one, of nothing, proves it.
        let size = usize::try_from(self.size().await?).unwrap_or(PIECE);
        let mut room = Buf::with_capacity(size.clamp(PIECE_MIN, PIECE));
        loop {
            let capacity = room.capacity();
            room = match self.read_buf_at(room, all.len() as u64).await {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    room = Buf::with_capacity(capacity);
                    continue;
                }
                read => read?,
            };
            if room.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&room);
        }
    }

    /// Writes a copy of `data` at `offset`, or only its beginning, and says how much.
    ///
    /// # Cancel safety
    /// Dropping it leaves open what of it is written. The next write or sync waits until that is
    /// decided.
    ///
    /// # Errors
    /// What pwrite(2) says: no space … [`InvalidInput`](io::ErrorKind::InvalidInput) for an end
    /// beyond 2^63 - 1, or for 4 GiB and more to be written whole. [`SyncFailed`] when an earlier
    /// sync has failed, and [`Gone`](crate::Gone), each in an [`io::Error`].
    pub async fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let data = &data[..data.len().min(TRANSFER_MAX)];
        self.write_buf_at(SharedBuf::copy_from(data), offset).await
    }

    /// Writes `data` at `offset`, or only its beginning, without a copy, and says how much.
    ///
    /// # Cancel safety
    /// As for [`write_at`](Self::write_at).
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at).
    pub async fn write_buf_at(&self, data: SharedBuf, offset: u64) -> io::Result<usize> {
        check_range(offset, data.len())?;
        self.shared.admit().await?;
        let file = self.shared.id;
        let write = self.shared.start(Op::Write { file, offset, data });
        let Outcome::Bytes(written) = write.await? else {
            unreachable!("a write transfers bytes")
        };
        if written > 0 {
            self.shared.reached(offset + written as u64);
        }
        Ok(written)
    }

    /// Writes a copy of all of `data` at `offset`.
    ///
    /// # Cancel safety
    /// As for [`write_at`](Self::write_at).
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at); a part may have been written.
    pub async fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let (mut rest, mut offset) = (copy(data, offset)?, offset);
        while !rest.is_empty() {
            match self.write_buf_at(rest.clone(), offset).await {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = rest.slice(written..rest.len());
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes a copy of all of `data` at `offset` and makes it durable, usually in one trip.
    ///
    /// # Cancel safety
    /// Dropping it leaves open what of it is written, and whether that is durable. The next write
    /// or sync waits until that is decided.
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at) and [`sync_data`](Self::sync_data); then a part may have
    /// been written, and nothing of it counts.
    pub async fn write_durable_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let data = copy(data, offset)?;
        self.write_durable_buf_at(data, offset).await
    }

    /// Like [`write_durable_at`](Self::write_durable_at), without a copy.
    ///
    /// # Cancel safety
    /// As for [`write_durable_at`](Self::write_durable_at).
    ///
    /// # Errors
    /// As for [`write_durable_at`](Self::write_durable_at).
    pub async fn write_durable_buf_at(&self, data: SharedBuf, offset: u64) -> io::Result<()> {
        let len = data.len();
        check_range(offset, len)?;
        let _alone = self.shared.admit_alone().await?;
        self.write_and_sync(data, offset).await?;
        if len > 0 {
            self.shared.reached(offset + len as u64);
        }
        Ok(())
    }

    /// Appends a copy of all of `data` and makes it durable, usually in one trip; says at which
    /// offset it begins.
    ///
    /// Where the file ends is asked once; what is written through this [`File`] beyond that moves
    /// it, so let nobody else make the file longer or shorter meanwhile. Appends go one after the
    /// other, in the order in which they were first polled. One that failed or was dropped leaves
    /// no hole: the next one overwrites what was written of it. So what is read back must tell a
    /// whole record from the rest of an older one, by a checksum that knows its place.
    ///
    /// # Cancel safety
    /// As for [`write_durable_at`](Self::write_durable_at).
    ///
    /// # Errors
    /// As for [`write_durable_at`](Self::write_durable_at) and [`size`](Self::size).
    pub async fn append_durable(&self, data: &[u8]) -> io::Result<u64> {
        let data = copy(data, 0)?;
        self.append_durable_buf(data).await
    }

    /// Like [`append_durable`](Self::append_durable), without a copy.
    ///
    /// # Cancel safety
    /// As for [`append_durable`](Self::append_durable).
    ///
    /// # Errors
    /// As for [`append_durable`](Self::append_durable).
    pub async fn append_durable_buf(&self, data: SharedBuf) -> io::Result<u64> {
        let alone = self.shared.admit_alone().await?;
        let offset = match alone.end() {
            Some(end) => end,
            None => {
                let size = self.size().await?;
                alone.set_end(size);
                size
            }
        };
        let len = data.len();
        check_range(offset, len)?;
        self.write_and_sync(data, offset).await?;
        alone.set_end(offset + len as u64);
        Ok(offset)
    }

    /// Makes durable what was written before, and of the file's attributes what is needed to read
    /// it; fdatasync(2).
    ///
    /// # Cancel safety
    /// Dropping it leaves open what is durable. If the sync fails the file is poisoned all the
    /// same.
    ///
    /// # Errors
    /// [`SyncFailed`], in an [`io::Error`], when this sync or an earlier one has failed: see the
    /// [module](self). And [`Gone`](crate::Gone).
    pub async fn sync_data(&self) -> io::Result<()> {
        let _alone = self.shared.admit_alone().await?;
        self.sync(true).await
    }

    /// Makes durable what was written before, and all attributes of the file; fsync(2).
    ///
    /// # Cancel safety
    /// As for [`sync_data`](Self::sync_data).
    ///
    /// # Errors
    /// As for [`sync_data`](Self::sync_data).
    pub async fn sync_all(&self) -> io::Result<()> {
        let _alone = self.shared.admit_alone().await?;
        self.sync(false).await
    }

    /// Why nothing can be made durable any more, if that is so.
    pub fn sync_failed(&self) -> Option<SyncFailed> {
        self.shared.sync_failed()
    }

    /// Not a byte counts before a sync that began after the last of them was written.
    async fn write_and_sync(&self, data: SharedBuf, offset: u64) -> io::Result<()> {
        let file = self.shared.id;
        let (mut rest, mut offset) = (data, offset);
        loop {
            let data = rest.clone();
            let both = self.shared.start(Op::WriteSync { file, offset, data });
            let (written, sync) = match both.await {
                Ok(Outcome::Synced { written, sync }) => (written, sync),
                Ok(other) => unreachable!("a sync was asked for, not {other:?}"),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match sync {
                // It was not done: the rest is still to be written, or the pair was no pair.
                Err(error) if is_cancelled(&error) => {}
                sync => return self.shared.judge(sync),
            }
            if written == rest.len() {
                return self.sync(true).await;
            }
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = rest.slice(written..rest.len());
            offset += written as u64;
        }
    }

    async fn sync(&self, data_only: bool) -> io::Result<()> {
        let file = self.shared.id;
        let sync = self.shared.start(Op::Sync { file, data_only });
        let Outcome::Synced { sync, .. } = sync.await? else {
            unreachable!("a sync was asked for")
        };
        self.shared.judge(sync)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

/// Makes durable which names the directory at `path` has: a file that was made is found again after
/// a crash only when its directory was synced since.
///
/// # Cancel safety
/// Dropping it leaves open what is durable.
///
/// # Errors
/// What openat(2) says, with the path, and [`SyncFailed`] or [`Gone`](crate::Gone), each in an
/// [`io::Error`].
///
/// # Panics
/// Outside a runtime.
pub async fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    open_dir(path.as_ref()).await?.sync_all().await
}

async fn open_dir(path: &Path) -> io::Result<File> {
    let options = OpenOptions {
        directory: true,
        ..OpenOptions::default()
    };
    File::open_with(path, &options).await
}

/// Makes the directory at `path`, and those above it that are missing, whose names are durable when
/// this returns. If it is there, or a link that leads to one, nothing is made, nor synced.
///
/// It waits for the kernel, and not through the ring: for the start of a program.
///
/// # Cancel safety
/// Some of them may have been made.
///
/// # Errors
/// What mkdir(2) says, with the path, and as for [`sync_dir`]: something else may be there.
///
/// # Panics
/// Outside a runtime.
pub async fn create_dir_durable(path: impl AsRef<Path>) -> io::Result<()> {
    // Without a dot at its end, which is not found below what is still missing.
    let wanted = path.as_ref().components().as_path();
    let (mut missing, mut is_there) = (vec![wanted], false);
    while let Some(&path) = missing.last() {
        let (made, parent) = (current().reactor().make_directory(path), parent_of(path));
        match made {
            Ok(()) => sync_dir(parent).await?,
            // What else may be there: a file, or a link that leads nowhere.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if path == wanted {
                    open_dir(path).await?;
                }
            }
            // Once: if it is there, and there is nothing below it, it leads nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_there => {
                if parent == path {
                    return Err(with_path(error, path));
                }
                missing.push(parent);
                continue;
            }
            Err(error) => return Err(with_path(error, path)),
        }
        is_there = true;
        missing.pop();
    }
    Ok(())
}

/// The directory that has the name of `path`.
fn parent_of(path: &Path) -> &Path {
    let parent = path.parent();
    let named = parent.filter(|parent| !parent.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

/// A copy of what is to be written.
fn copy(data: &[u8], offset: u64) -> io::Result<SharedBuf> {
    check_range(offset, data.len())?;
    Ok(SharedBuf::copy_from(data))
}

/// Beyond the greatest file there is nothing; and the kernel gives the last offsets other meanings.
fn check_range(offset: u64, len: usize) -> io::Result<()> {
    if u32::try_from(len).is_err() {
        let what = "no more than 2^32 - 1 bytes are written at once";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let end = offset.checked_add(len as u64);
    if end.is_none_or(|end| i64::try_from(end).is_err()) {
        let what = "no file is longer than 2^63 - 1 bytes";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(())
}

fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

fn with_path(error: io::Error, path: &Path) -> io::Error {
    if error.raw_os_error().is_none() {
        return error; // it is our own
    }
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_fits_a_buffer_is_refused() {
        let Ok(len) = usize::try_from(1u64 << 32) else {
            return; // there is no such slice
        };
        check_range(0, len - 1).expect("it fits");
        let error = check_range(0, len).expect_err("it does not");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
