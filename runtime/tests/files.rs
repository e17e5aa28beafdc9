//! What every reactor promises about files: one set of bodies, run on each. On io_uring they use a
//! folder of their own.

use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;

use futures::FutureExt;
use futures::future::join_all;
use viewring_runtime::buf::{Buf, BufPool, SharedBuf};
use viewring_runtime::fs::{File, OpenOptions, create_dir_durable, sync_dir};
use viewring_runtime::{metrics, spawn, yield_now};

use self::conformance::drained;

#[macro_use]
mod conformance;

bodies! {
    what_was_written_is_read_back
    a_missing_file_is_an_error_that_names_it
    a_path_that_cannot_be_is_an_error
    options_that_contradict_each_other_are_errors
    what_was_not_opened_for_it_is_refused
    a_read_ends_at_the_end_of_the_file
    a_hole_reads_as_zeros
    a_whole_file_is_read_whatever_its_length
    an_emptied_file_is_empty
    appends_go_one_after_the_other
    whoever_waits_for_a_sync_gets_its_turn
    an_append_begins_where_the_file_ends
    an_append_begins_behind_what_was_written_meanwhile
    nothing_can_be_written_durably
    buffers_are_used_without_a_copy
    many_operations_at_once
    offsets_beyond_all_files_are_errors
    a_drop_may_come_at_any_moment
    what_is_written_after_a_dropped_write_stays
    an_append_that_was_dropped_leaves_no_hole
    a_waiting_sync_that_is_dropped_lets_the_next_one_go
    a_file_is_closed_when_its_last_operation_has_ended
    an_open_that_is_dropped_leaves_nothing_open
    a_directory_can_be_synced
    directories_are_made_as_deep_as_they_are_missing
    a_file_can_be_locked_again_when_it_was_closed
}

/// A folder that is gone with its owner. A simulated node has folders for free.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let unique = format!("files-{}-{name}", viewring_runtime::random());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
        std::fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    async fn file(&self) -> File {
        let file = File::create_durable(self.path("file")).await;
        file.expect("it can be made")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("it is there");
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

async fn what_was_written_is_read_back() {
    let folder = Folder::new("back");
    let file = folder.file().await;
    for (len, offset) in [(1, 0), (4096, 1), (100_000, 4097), (0, 5)] {
        file.write_all_at(&bytes(len), offset)
            .await
            .expect("written");
        let mut back = vec![0; len];
        file.read_exact_at(&mut back, offset).await.expect("read");
        assert_eq!(back, bytes(len));
    }
    file.sync_data().await.expect("synced");
    file.sync_all().await.expect("synced");
    assert_eq!(file.size().await.expect("a size"), 104_097);
    let again = File::open(folder.path("file")).await.expect("it is there");
    assert_eq!(
        again.read_to_end().await.expect("read")[4097..],
        bytes(100_000)
    );
    assert_eq!(again.path(), folder.path("file"));
}

async fn a_missing_file_is_an_error_that_names_it() {
    let folder = Folder::new("missing");
    let path = folder.path("nothing here");
    let error = File::open(&path).await.expect_err("it is not there");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("nothing here"), "{error}");
    drained(0).await;
    assert_eq!(metrics().reactor("files_open"), 0);
}

async fn a_path_that_cannot_be_is_an_error() {
    let error = File::open("a\0b")
        .await
        .expect_err("no path has a zero byte");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

async fn options_that_contradict_each_other_are_errors() {
    let folder = Folder::new("options");
    let reject = async |change: fn(&mut OpenOptions)| {
        let mut options = OpenOptions::default();
        change(&mut options);
        let error = File::open_with(folder.path("file"), &options).await;
        assert_eq!(error.expect_err("refused").kind(), ErrorKind::InvalidInput);
    };
    reject(|options| options.read = false).await;
    reject(|options| options.create = true).await;
    reject(|options| options.truncate = true).await;
    reject(|options| (options.directory, options.write) = (true, true)).await;
}

async fn what_was_not_opened_for_it_is_refused() {
    let folder = Folder::new("refused");
    drop(folder.file().await);
    let reader = File::open(folder.path("file")).await.expect("there");
    let error = reader.write_at(b"x", 0).await.expect_err("read only");
    assert_eq!(error.raw_os_error(), Some(libc_ebadf()));
    let error = reader
        .write_durable_at(b"x", 0)
        .await
        .expect_err("read only");
    assert_eq!(error.raw_os_error(), Some(libc_ebadf()));
    let options = OpenOptions {
        read: false,
        write: true,
        ..OpenOptions::default()
    };
    let writer = File::open_with(folder.path("file"), &options).await;
    let writer = writer.expect("there");
    writer.write_durable_at(b"x", 0).await.expect("it may");
    let error = writer.read_at(&mut [0], 0).await.expect_err("write only");
    assert_eq!(error.raw_os_error(), Some(libc_ebadf()));
    // What was refused was no failed sync.
    assert!(reader.sync_failed().is_none());
    reader.sync_data().await.expect("a reader may sync");
}

/// `EBADF` of every Linux.
fn libc_ebadf() -> i32 {
    9
}

async fn a_read_ends_at_the_end_of_the_file() {
    let folder = Folder::new("end");
    let file = folder.file().await;
    let mut buf = [7; 10];
    assert_eq!(file.read_at(&mut buf, 0).await.expect("read"), 0);
    file.write_all_at(b"abcdef", 0).await.expect("written");
    assert_eq!(file.read_at(&mut buf, 2).await.expect("read"), 4);
    assert_eq!(&buf, b"cdef\x07\x07\x07\x07\x07\x07");
    assert_eq!(file.read_at(&mut buf, 6).await.expect("read"), 0);
    assert_eq!(file.read_at(&mut buf, 1 << 40).await.expect("read"), 0);
    assert_eq!(file.read_at(&mut [], 0).await.expect("read"), 0);
    let error = file
        .read_exact_at(&mut buf, 2)
        .await
        .expect_err("too short");
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

async fn a_hole_reads_as_zeros() {
    let folder = Folder::new("hole");
    let file = folder.file().await;
    // Two slots: the second first.
    file.write_durable_at(b"two", 4096).await.expect("durable");
    let whole = file.read_to_end().await.expect("read");
    assert_eq!(whole[..4096], [0; 4096]);
    assert_eq!(&whole[4096..], b"two");
    file.write_durable_at(b"one", 0).await.expect("durable");
    let whole = file.read_to_end().await.expect("read");
    assert_eq!((&whole[..3], &whole[4096..]), (&b"one"[..], &b"two"[..]));
}

async fn a_whole_file_is_read_whatever_its_length() {
    let folder = Folder::new("whole");
    let file = folder.file().await;
    for len in [0, 1, 4096, (1 << 20) - 1, 1 << 20, (1 << 21) + 17] {
        file.write_all_at(&bytes(len), 0).await.expect("written");
        let whole = file.read_to_end().await.expect("read");
        assert!(whole == bytes(len), "{len} bytes");
    }
}

async fn directories_are_made_as_deep_as_they_are_missing() {
    let folder = Folder::new("deep");
    let deep = folder.path("one").join("two").join("three");
    for _ in 0..2 {
        create_dir_durable(&deep).await.expect("made, or there");
    }
    let file = File::create_durable(deep.join("file")).await;
    drop(file.expect("its directory is there"));
}

async fn a_file_can_be_locked_again_when_it_was_closed() {
    let folder = Folder::new("locked");
    for _ in 0..2 {
        let file = folder.file().await;
        file.try_lock().expect("it is free");
        file.try_lock().expect("it is ours");
        drop(file);
        open_files(0).await;
    }
}

/// Waits until so many are open.
async fn open_files(count: u64) {
    while metrics().reactor("files_open") > count {
        yield_now().await;
    }
}

#[test]
fn a_file_that_was_opened_once_more_is_locked_by_one_of_both() {
    conformance::on_uring("locks", || async {
        let folder = Folder::new("locks");
        let (one, other) = (folder.file().await, folder.file().await);
        one.try_lock().expect("it is free");
        let error = other.try_lock().expect_err("it is not");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        drop(one);
        open_files(1).await;
        other.try_lock().expect("it is free");
    });
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
    conformance::on_uring("no directory", || async {
        let folder = Folder::new("no-directory");
        drop(folder.file().await);
        std::os::unix::fs::symlink("nowhere", folder.path("link")).expect("a link");
        let file = folder.path("file");
        let link = folder.path("link");
        for (path, kind) in [
            (file.join("below"), ErrorKind::NotADirectory),
            (file, ErrorKind::NotADirectory),
            (link.join("below"), ErrorKind::NotFound),
            (link, ErrorKind::NotFound),
            (PathBuf::new(), ErrorKind::NotFound),
        ] {
            let error = create_dir_durable(&path).await.expect_err("it cannot be");
            assert_eq!(error.kind(), kind, "{path:?}");
            let named = path.display().to_string();
            assert!(error.to_string().contains(&named), "{error}");
        }
    });
}

#[test]
fn a_directory_is_made_whatever_way_the_path_takes_to_it() {
    conformance::on_uring("ways to a directory", || async {
        let folder = Folder::new("ways");
        std::fs::create_dir(folder.path("there")).expect("made");
        std::os::unix::fs::symlink("there", folder.path("link")).expect("a link");
        for (path, made) in [
            ("one/", "one"),
            ("two/.", "two"),
            ("three/./below/.", "three/below"),
            ("four/../five", "five"),
            ("six/..", "six"),
            ("link/below", "there/below"),
            ("link", "there"),
            ("..", "there"),
        ] {
            let created = create_dir_durable(folder.path(path)).await;
            created.unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(folder.path(made).is_dir(), "{path}");
        }
        for path in [".", "..", "./", "/"] {
            create_dir_durable(path).await.expect("it is there");
        }
    });
}

#[test]
fn many_make_the_same_directories_at_once() {
    conformance::on_uring("the same directories", || async {
        let folder = Folder::new("same");
        let deep = folder.path("one").join("two").join("three");
        for made in join_all((0..20).map(|_| create_dir_durable(&deep))).await {
            made.expect("made, or there");
        }
        assert!(deep.is_dir());
    });
}

#[test]
fn a_file_that_does_not_tell_its_length_is_read_in_a_few_reads() {
    let read = viewring_runtime::block_on(async {
        let file = File::open("/proc/self/status").await?;
        assert_eq!(file.size().await?, 0);
        let read = file.read_to_end().await?;
        assert!(metrics().reactor("submitted") < 10);
        Ok::<_, std::io::Error>(read)
    });
    let read = read.expect("a runtime").expect("read");
    assert!(read.starts_with(b"Name:"));
}

async fn an_emptied_file_is_empty() {
    let folder = Folder::new("emptied");
    let file = folder.file().await;
    file.write_durable_at(b"old and long", 0)
        .await
        .expect("durable");
    let options = OpenOptions {
        write: true,
        truncate: true,
        ..OpenOptions::default()
    };
    let emptied = File::open_with(folder.path("file"), &options).await;
    let emptied = emptied.expect("it is there");
    assert_eq!(file.size().await.expect("a size"), 0);
    emptied.write_durable_at(b"new", 0).await.expect("durable");
    assert_eq!(file.read_to_end().await.expect("read"), b"new");
    let kept = folder.file().await;
    assert_eq!(kept.read_to_end().await.expect("read"), b"new");
}

async fn appends_go_one_after_the_other() {
    let folder = Folder::new("appends");
    let file = folder.file().await;
    let appends = (0..50u8).map(|number| {
        let file = &file;
        async move {
            let record = [number; 100];
            file.append_durable(&record).await.expect("durable")
        }
    });
    let mut offsets = join_all(appends).await;
    let whole = file.read_to_end().await.expect("read");
    for (number, &offset) in offsets.iter().enumerate() {
        let at = offset as usize;
        assert_eq!(whole[at..at + 100], [number as u8; 100]);
    }
    offsets.sort_unstable();
    assert!(offsets.into_iter().eq((0..50).map(|place| place * 100)));
}

async fn whoever_waits_for_a_sync_gets_its_turn() {
    let folder = Folder::new("turns");
    let file = Rc::new(folder.file().await);
    let appending = async |name: u8, file: Rc<File>| {
        for _ in 0..10 {
            file.append_durable(&[name]).await.expect("durable");
        }
    };
    let tasks = b"abcd".map(|name| spawn(appending(name, Rc::clone(&file))));
    for task in tasks {
        task.await.expect("no panic");
    }
    let whole = file.read_to_end().await.expect("read");
    assert_eq!(whole, b"abcd".repeat(10), "in turn");
    // Also one that waits only now and then.
    let syncing = Rc::clone(&file);
    let syncs = spawn(async move {
        while Rc::strong_count(&syncing) > 1 {
            syncing.sync_data().await.expect("synced");
        }
    });
    yield_now().await;
    for _ in 0..10 {
        file.sync_data().await.expect("synced");
    }
    drop(file);
    syncs.await.expect("no panic");
}

async fn an_append_begins_behind_what_was_written_meanwhile() {
    let folder = Folder::new("meanwhile");
    let file = folder.file().await;
    assert_eq!(file.append_durable(b"abc").await.expect("durable"), 0);
    file.write_all_at(b"defg", 3).await.expect("written");
    assert_eq!(file.append_durable(b"h").await.expect("durable"), 7);
    file.write_durable_at(b"i", 8).await.expect("durable");
    file.write_durable_at(b"A", 0).await.expect("durable");
    file.write_all_at(b"", 100).await.expect("nothing to do");
    assert_eq!(file.append_durable(b"j").await.expect("durable"), 9);
    assert_eq!(file.read_to_end().await.expect("read"), b"Abcdefghij");
}

async fn an_append_begins_where_the_file_ends() {
    let folder = Folder::new("append");
    let file = folder.file().await;
    file.write_all_at(b"0123456789", 0).await.expect("written");
    assert_eq!(file.append_durable(b"abc").await.expect("durable"), 10);
    assert_eq!(file.append_durable(b"").await.expect("durable"), 13);
    assert_eq!(file.append_durable(b"d").await.expect("durable"), 13);
    let again = folder.file().await;
    assert_eq!(again.append_durable(b"e").await.expect("durable"), 14);
    assert_eq!(again.read_to_end().await.expect("read"), b"0123456789abcde");
}

async fn nothing_can_be_written_durably() {
    let folder = Folder::new("nothing");
    let file = folder.file().await;
    file.write_durable_at(b"", 10).await.expect("nothing to do");
    assert_eq!(file.write_at(b"", 10).await.expect("nothing to do"), 0);
    assert_eq!(file.size().await.expect("a size"), 0);
}

async fn buffers_are_used_without_a_copy() {
    let folder = Folder::new("buffers");
    let file = folder.file().await;
    let pool = BufPool::new(64, 2);
    let mut record = pool.take().expect("one is free");
    record.put_slice(b"from a pool");
    let record = record.share();
    let offset = file.append_durable_buf(record.clone()).await;
    assert_eq!(offset.expect("durable"), 0);
    let slice = record.slice(0..4);
    file.write_durable_buf_at(slice, 11).await.expect("durable");
    let mut buf = pool.take().expect("the other");
    buf.put_slice(b"it is replaced");
    let address = buf.as_ptr();
    let buf = file.read_buf_at(buf, 0).await.expect("read");
    assert_eq!((&buf[..], buf.as_ptr()), (&b"from a poolfrom"[..], address));
    drop((record, buf));
    assert_eq!(pool.available(), 2, "the kernel has let go of them");
}

async fn many_operations_at_once() {
    let folder = Folder::new("many");
    let file = folder.file().await;
    let place = |number: u64| number * 37 % 200 * 1000;
    let writes = (0..200u64).map(|number| {
        let file = &file;
        async move {
            let data = vec![number as u8; 1000];
            match number % 4 {
                0 => file.write_durable_at(&data, place(number)).await,
                _ => file.write_all_at(&data, place(number)).await,
            }
        }
    });
    for written in join_all(writes).await {
        written.expect("written");
    }
    let reads = join_all((0..200u64).map(|number| {
        let buf = Buf::with_capacity(1000);
        file.read_buf_at(buf, place(number))
    }));
    let (read, synced) = futures::join!(reads, file.sync_data());
    synced.expect("synced");
    for (number, read) in read.into_iter().enumerate() {
        assert_eq!(read.expect("read")[..], vec![number as u8; 1000]);
    }
    let files = (0..100).map(|_| File::open(folder.path("file")));
    let files = join_all(files).await;
    assert!(files.iter().all(Result::is_ok));
    assert_eq!(metrics().reactor("files_open"), 101);
    drop((files, file));
    closed().await;
}

/// Waits until no file is open.
async fn closed() {
    while metrics().reactor("files_open") > 0 {
        yield_now().await;
    }
}

async fn offsets_beyond_all_files_are_errors() {
    let folder = Folder::new("beyond");
    let file = folder.file().await;
    // The kernel would take the last one for "where the last read ended".
    for offset in [u64::MAX, i64::MAX as u64, u64::MAX - 3] {
        let mut buf = [0; 8];
        for error in [
            file.read_at(&mut buf, offset).await.map(drop),
            file.write_at(&buf, offset).await.map(drop),
            file.write_durable_at(&buf, offset).await,
        ] {
            assert_eq!(error.expect_err("no").kind(), ErrorKind::InvalidInput);
        }
    }
}

async fn a_drop_may_come_at_any_moment() {
    let folder = Folder::new("drop");
    let file = folder.file().await;
    let path = folder.path("file");
    let data = SharedBuf::copy_from(&bytes(10_000));
    for round in 0..400u64 {
        let mut back = [0; 100];
        let kind = round % 7;
        let mut operation: Pin<Box<dyn Future<Output = bool>>> = match kind {
            0 => Box::pin(file.write_at(&data, 0).map(|done| done.is_ok())),
            1 => Box::pin(file.write_durable_at(&data, 0).map(|done| done.is_ok())),
            2 => Box::pin(file.append_durable(&data[..10]).map(|done| done.is_ok())),
            3 => Box::pin(file.sync_data().map(|done| done.is_ok())),
            4 => Box::pin(file.read_at(&mut back, 0).map(|done| done.is_ok())),
            5 => Box::pin(File::open(&path).map(|done| done.is_ok())),
            _ => Box::pin(file.size().map(|done| done.is_ok())),
        };
        for _ in 0..round % 5 {
            if let std::task::Poll::Ready(went_well) = futures::poll!(&mut operation) {
                assert!(went_well);
                break;
            }
            yield_now().await;
        }
        drop(operation);
    }
    file.write_durable_at(&data, 0).await.expect("after all");
    let mut back = vec![0; data.len()];
    file.read_exact_at(&mut back, 0).await.expect("read");
    assert_eq!(back, bytes(10_000));
    drop(file);
    drained(0).await;
    closed().await;
}

async fn what_is_written_after_a_dropped_write_stays() {
    let folder = Folder::new("order");
    let file = folder.file().await;
    let (old, new) = (vec![1; 200_000], vec![2; 200_000]);
    for round in 0..40 {
        let mut dropped: Pin<Box<dyn Future<Output = ()>>> = match round % 2 {
            0 => Box::pin(file.write_at(&old, 0).map(|_| ())),
            _ => Box::pin(file.write_durable_at(&old, 0).map(|_| ())),
        };
        assert!(futures::poll!(&mut dropped).is_pending());
        drop(dropped);
        file.write_durable_at(&new, 0).await.expect("durable");
        drained(0).await;
        assert!(file.read_to_end().await.expect("read") == new);
    }
    assert!(metrics().operations_orphaned >= 40);
}

async fn an_append_that_was_dropped_leaves_no_hole() {
    let folder = Folder::new("holes");
    let file = folder.file().await;
    for round in 0..20 {
        let mut dropped = Box::pin(file.append_durable(b"unheard"));
        // The first one asks for the size before it writes.
        for _ in 0..round % 3 + 1 {
            let _perhaps = futures::poll!(&mut dropped);
        }
        drop(dropped);
        let offset = file.append_durable(b"heard").await.expect("durable");
        assert_eq!(offset, round * 5);
    }
    let whole = file.read_to_end().await.expect("read");
    assert_eq!(whole[..100], b"heard".repeat(20));
}

async fn a_waiting_sync_that_is_dropped_lets_the_next_one_go() {
    let folder = Folder::new("waiting");
    let file = folder.file().await;
    let mut first = Box::pin(file.write_durable_at(b"1", 0));
    let mut second = Box::pin(file.sync_data());
    let mut third = Box::pin(file.write_durable_at(b"3", 2));
    assert!(futures::poll!(&mut first).is_pending());
    assert!(futures::poll!(&mut second).is_pending());
    assert!(futures::poll!(&mut third).is_pending());
    assert_eq!(metrics().operations_in_flight, 1);
    first.await.expect("durable");
    drop(second);
    third.await.expect("durable");
    assert_eq!(file.read_to_end().await.expect("read"), b"1\x003");
}

async fn a_file_is_closed_when_its_last_operation_has_ended() {
    let folder = Folder::new("close");
    for _ in 0..20 {
        let file = folder.file().await;
        while metrics().reactor("files_open") > 1 {
            yield_now().await; // its directory
        }
        let mut writing = Box::pin(file.write_at(b"on its way", 0));
        let mut reading = Box::pin(file.read_buf_at(Buf::with_capacity(10), 0));
        assert!(futures::poll!(&mut writing).is_pending());
        assert!(futures::poll!(&mut reading).is_pending());
        drop((writing, reading));
        drop(file);
        assert_eq!(metrics().reactor("files_open"), 1);
        drained(0).await;
        closed().await;
    }
}

async fn an_open_that_is_dropped_leaves_nothing_open() {
    let folder = Folder::new("open");
    drop(folder.file().await);
    for round in 0..30 {
        let mut opening = Box::pin(File::open(folder.path("file")));
        for _ in 0..round % 3 {
            let _perhaps = futures::poll!(&mut opening);
            yield_now().await;
        }
        drop(opening);
    }
    drained(0).await;
    closed().await;
}

async fn a_directory_can_be_synced() {
    let folder = Folder::new("directory");
    sync_dir(&folder.0).await.expect("synced");
    drop(folder.file().await);
    let error = sync_dir(folder.path("file")).await;
    assert_eq!(
        error.expect_err("it is a file").kind(),
        ErrorKind::NotADirectory
    );
}
