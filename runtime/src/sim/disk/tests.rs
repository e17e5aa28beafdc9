use super::*;

/// A disk and a clock that jumps to each completion.
struct Bench {
    disk: Disk,
    now: Instant,
}

impl Bench {
    fn new(seed: u64) -> Self {
        Self {
            disk: Disk::new(Random::new(seed)),
            now: Instant::from_nanos(0),
        }
    }

    fn run(&mut self, op: DiskOp) -> io::Result<DiskDone> {
        let ticket = self.disk.submit(self.now, op);
        loop {
            self.now = self.disk.next_due().expect("it is under way");
            let (done, result) = self.disk.complete(self.now).expect("it is due");
            if done == ticket {
                return result;
            }
        }
    }

    fn open(&mut self) -> OpenFile {
        self.open_as("log", true, false).expect("made")
    }

    /// Makes the names in it durable.
    fn sync_directory(&mut self) {
        let directory = self.open_as(".", false, true).expect("it is there");
        self.sync(directory).expect("synced");
    }

    fn open_as(&mut self, name: &str, create: bool, directory: bool) -> io::Result<OpenFile> {
        let opened = self.run(DiskOp::Open {
            name: name.to_owned(),
            create,
            truncate: false,
            directory,
        });
        opened.map(|done| {
            let DiskDone::Opened(file) = done else {
                panic!("{done:?}")
            };
            file
        })
    }

    fn write(&mut self, file: OpenFile, offset: u64, data: &[u8]) -> io::Result<DiskDone> {
        let data = data.to_vec();
        self.run(DiskOp::WriteAt { file, offset, data })
    }

    fn sync(&mut self, file: OpenFile) -> io::Result<DiskDone> {
        self.run(DiskOp::Sync { file })
    }

    fn contents(&self) -> &[u8] {
        self.disk.contents("log").unwrap_or_default()
    }
}

fn errno_of(result: io::Result<DiskDone>) -> Option<i32> {
    result.expect_err("it fails").raw_os_error()
}

#[test]
fn what_was_synced_survives_a_crash_and_the_rest_survives_in_part() {
    let (mut nothing, mut something, mut everything) = (0, 0, 0);
    for seed in 0..200 {
        let mut bench = Bench::new(seed);
        let file = bench.open();
        bench.sync_directory();
        bench.write(file, 0, &[1; 4096]).expect("written");
        bench.sync(file).expect("synced");
        bench.write(file, 4096, &[2; 4096]).expect("written");
        bench.disk.crash();
        let contents = bench.contents();
        assert_eq!(&contents[..4096], &[1; 4096]);
        match contents[4096..].iter().filter(|&&byte| byte == 2).count() {
            0 => nothing += 1,
            4096 => everything += 1,
            torn => {
                assert_eq!(torn % 512, 0, "torn at sectors");
                something += 1;
            }
        }
    }
    assert!(nothing > 0 && something > 0 && everything > 0);
}

#[test]
fn a_crash_may_leave_the_length_without_the_bytes() {
    let (mut shorter, mut zeros) = (0, 0);
    for seed in 0..100 {
        let mut bench = Bench::new(seed);
        let file = bench.open();
        bench.sync_directory();
        bench.write(file, 0, &[1; 100]).expect("written");
        bench.disk.crash();
        match bench.contents() {
            [] => shorter += 1,
            bytes if bytes == [0; 100] => zeros += 1,
            bytes => assert_eq!(bytes, &[1; 100]),
        }
    }
    assert!(shorter > 10 && zeros > 5, "{shorter} {zeros}");
}

#[test]
fn what_is_under_way_when_a_process_is_killed_may_be_done_in_part() {
    let (mut nothing, mut part, mut all, mut emptied) = (0, 0, 0, 0);
    for seed in 0..100 {
        let mut bench = Bench::new(seed);
        let file = bench.open();
        bench.open_as("other", true, false).expect("made");
        let other = bench.open_as("other", false, false).expect("made");
        bench.write(other, 0, &[1]).expect("written");
        let data = vec![1; 1000];
        let write = DiskOp::WriteAt {
            file,
            offset: 0,
            data,
        };
        let open = DiskOp::Open {
            name: "other".to_owned(),
            create: false,
            truncate: true,
            directory: false,
        };
        bench.disk.submit(bench.now, write);
        bench.disk.submit(bench.now, open);
        bench.disk.abandon();
        match bench.contents().len() {
            0 => nothing += 1,
            1000 => all += 1,
            _ => part += 1,
        }
        emptied += usize::from(bench.disk.contents("other") == Some(&[]));
    }
    assert!(
        nothing > 10 && part > 10 && all > 10,
        "{nothing} {part} {all}"
    );
    assert!((1..100).contains(&emptied), "{emptied}");
}

#[test]
fn a_short_read_brings_the_beginning() {
    let mut bench = Bench::new(7);
    let file = bench.open();
    bench.write(file, 0, &[1, 2, 3, 4, 5]).expect("written");
    bench.disk.faults().short_read = 1.0;
    for len in 0..10 {
        let read = DiskOp::ReadAt {
            file,
            offset: 1,
            len,
        };
        let Ok(DiskDone::Read(bytes)) = bench.run(read) else {
            panic!("it succeeds")
        };
        let most = len.min(4);
        let is_short = bytes.len() < most && !bytes.is_empty();
        assert!(is_short || most < 2 && bytes.len() == most, "{bytes:?}");
        assert_eq!(bytes, [2, 3, 4, 5][..bytes.len()]);
    }
}

#[test]
fn a_sync_covers_only_what_had_completed_before_it() {
    let mut kept = 0;
    for seed in 0..100 {
        let mut bench = Bench::new(seed);
        let file = bench.open();
        bench.sync_directory();
        let early = bench.disk.submit(bench.now, DiskOp::Sync { file });
        bench.disk.submit(
            bench.now,
            DiskOp::WriteAt {
                file,
                offset: 0,
                data: vec![7; 100],
            },
        );
        while let Some(due) = bench.disk.next_due() {
            bench.now = due;
            let (_, result) = bench.disk.complete(due).expect("due");
            result.expect("no faults");
        }
        assert!(early > Ticket(0));
        bench.disk.crash();
        kept += usize::from(!bench.contents().is_empty());
    }
    assert!((1..100).contains(&kept), "{kept}");
}

#[test]
fn after_a_failed_sync_the_data_are_readable_and_never_durable() {
    for seed in 0..50 {
        let mut bench = Bench::new(seed);
        let file = bench.open();
        bench.sync_directory();
        bench.write(file, 0, &[3; 64]).expect("written");
        bench.disk.faults().sync_error = 1.0;
        assert_eq!(errno_of(bench.sync(file)), Some(libc::EIO));
        bench.disk.faults().sync_error = 0.0;
        assert_eq!(bench.contents(), &[3; 64]);
        let before = bench.disk.files[0].durable.clone();
        bench.sync(file).expect("it says so");
        assert_eq!(bench.disk.durable("log"), Some(&before[..]));
    }
}

#[test]
fn the_next_process_may_read_what_was_there_before_a_failed_sync() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..100 {
        let mut bench = Bench::new(seed);
        let file = bench.open();
        bench.write(file, 0, &[1; 1024]).expect("written");
        bench.sync(file).expect("synced");
        bench.write(file, 0, &[2; 1536]).expect("written");
        bench.disk.faults().sync_error = 1.0;
        assert_eq!(errno_of(bench.sync(file)), Some(libc::EIO));
        assert_eq!(bench.contents(), &[2; 1536]);
        bench.write(file, 100, &[3; 100]).expect("written");
        bench.disk.abandon();
        let bytes = bench.contents();
        assert_eq!(bytes.len(), 1536);
        assert_eq!(bytes[100..200], [3; 100], "it is still to be written");
        assert_eq!(bytes[200..512], [2; 312], "likewise: the whole sector");
        match bytes[512] {
            1 => old += 1,
            byte => new += usize::from(byte == 2),
        }
        assert!(bytes[1024] == 2 || bytes[1024] == 0);
    }
    assert!(old > 5 && new > 5 && old + new == 100, "{old} {new}");
}

#[test]
fn a_file_whose_name_is_gone_takes_no_room() {
    let mut bench = Bench::new(8);
    bench.disk.faults().capacity = 1000;
    for _ in 0..50 {
        let file = bench.open();
        bench.write(file, 0, &[1; 1000]).expect("there is room");
        bench.sync(file).expect("synced");
        bench.disk.crash();
    }
}

#[test]
fn a_lying_sync_keeps_no_promise() {
    let lost = (0..50).filter(|&seed| {
        let mut bench = Bench::new(seed);
        let file = bench.open();
        bench.disk.faults().lying_sync = 1.0;
        bench.write(file, 0, &[4; 512]).expect("written");
        bench.sync(file).expect("it says so");
        bench.disk.crash();
        bench.contents().is_empty()
    });
    assert!(lost.count() > 10);
}

#[test]
fn a_short_write_says_how_much_it_wrote() {
    let mut bench = Bench::new(1);
    let file = bench.open();
    bench.disk.faults().short_write = 1.0;
    let Ok(DiskDone::Written(written)) = bench.write(file, 0, &[5; 1000]) else {
        panic!("it succeeds")
    };
    assert!((1..1000).contains(&written));
    assert_eq!(bench.contents(), vec![5; written]);
}

#[test]
fn a_misdirected_write_lands_elsewhere_and_says_nothing() {
    let mut bench = Bench::new(2);
    let file = bench.open();
    bench.write(file, 0, &[1; 8192]).expect("written");
    bench.disk.faults().misdirected_write = 1.0;
    let missed = (0..10).any(|_| {
        let done = bench.write(file, 1024, &[9; 512]).expect("it says so");
        assert_eq!(done, DiskDone::Written(512));
        bench.contents()[1024] != 9
    });
    assert!(missed);
}

#[test]
fn rot_stays_and_is_found_by_the_reader() {
    let mut bench = Bench::new(3);
    let file = bench.open();
    bench.sync_directory();
    bench.write(file, 0, &[0; 100]).expect("written");
    bench.sync(file).expect("synced");
    bench.disk.faults().bit_rot = 1.0;
    let read = |bench: &mut Bench| {
        let read = bench.run(DiskOp::ReadAt {
            file,
            offset: 0,
            len: 1000,
        });
        let Ok(DiskDone::Read(bytes)) = read else {
            panic!("{read:?}")
        };
        bytes
    };
    let rotten = read(&mut bench);
    assert_eq!(
        (rotten.len(), rotten.iter().filter(|&&b| b != 0).count()),
        (100, 1)
    );
    bench.disk.faults().bit_rot = 0.0;
    bench.disk.crash();
    assert_eq!(bench.contents(), rotten);
    assert!(bench.disk.rot("log", 5) && !bench.disk.rot("log", 100));
}

#[test]
fn errors_are_told() {
    let mut bench = Bench::new(4);
    let opened = bench.open_as("none", false, false);
    assert_eq!(
        opened.expect_err("it fails").raw_os_error(),
        Some(libc::ENOENT)
    );
    let file = bench.open();
    let opened = bench.open_as("./log", false, true);
    assert_eq!(
        opened.expect_err("it fails").raw_os_error(),
        Some(libc::ENOTDIR)
    );
    bench.disk.faults().capacity = 100;
    let done = bench.write(file, 50, &[0; 51]).expect("a part fits");
    assert_eq!(done, DiskDone::Written(50));
    for (offset, len) in [(100, 1), (150, 1)] {
        let write = bench.write(file, offset, &vec![0; len]);
        assert_eq!(errno_of(write), Some(libc::ENOSPC));
    }
    let done = bench.write(file, 0, &[0; 100]).expect("it is no longer");
    assert_eq!(done, DiskDone::Written(100));
    bench.disk.faults().write_error = 1.0;
    assert_eq!(errno_of(bench.write(file, 0, &[0; 50])), Some(libc::EIO));
    bench.disk.faults().read_error = 1.0;
    let read = bench.run(DiskOp::ReadAt {
        file,
        offset: 0,
        len: 1,
    });
    assert_eq!(errno_of(read), Some(libc::EIO));
}

#[test]
fn a_name_is_durable_when_its_directory_was_synced_after_it_was_made() {
    let mut gone = 0;
    for seed in 0..50 {
        let mut bench = Bench::new(seed);
        bench.open_as("a/early", true, false).expect("made");
        bench.open_as("b/other", true, false).expect("made");
        let directory = bench.open_as("./a", false, true).expect("it is there");
        bench.sync(directory).expect("synced");
        let late = bench.open_as("a/late", true, false).expect("made");
        bench.write(late, 0, b"x").expect("written");
        bench.sync(late).expect("synced"); // its bytes, not its name
        bench.disk.crash();
        assert!(bench.disk.contents("a/early").is_some());
        for name in ["a/late", "b/other"] {
            gone += usize::from(bench.disk.contents(name).is_none());
        }
    }
    assert!((1..100).contains(&gone), "{gone}");
}

#[test]
fn an_emptied_file_is_the_old_one_or_empty_after_a_crash_and_empty_after_a_sync() {
    let (mut old, mut empty) = (0, 0);
    for seed in 0..50 {
        let mut bench = Bench::new(seed);
        let file = bench.open();
        bench.sync_directory();
        bench.write(file, 0, &[8; 100]).expect("written");
        bench.sync(file).expect("synced");
        let emptied = bench.run(DiskOp::Open {
            name: "log".to_owned(),
            create: false,
            truncate: true,
            directory: false,
        });
        assert!(emptied.is_ok() && bench.contents().is_empty());
        if seed % 2 == 0 {
            bench.sync(file).expect("synced");
        }
        bench.disk.crash();
        match bench.contents().len() {
            0 => empty += 1,
            100 if seed % 2 == 1 => old += 1,
            len => panic!("{len} bytes"),
        }
    }
    assert!(old > 0 && empty > 25, "{old} {empty}");
}

#[test]
fn a_file_handle_does_not_survive_its_process() {
    let mut bench = Bench::new(5);
    let file = bench.open();
    bench.write(file, 0, b"cached").expect("written");
    bench.disk.abandon();
    assert_eq!(errno_of(bench.sync(file)), Some(libc::EBADF));
    assert_eq!(bench.contents(), b"cached", "the kernel lives on");
}

#[test]
fn operations_complete_in_time_and_in_order_of_their_latency() {
    let mut bench = Bench::new(6);
    let file = bench.open();
    for offset in 0..20 {
        let data = vec![1];
        bench
            .disk
            .submit(bench.now, DiskOp::WriteAt { file, offset, data });
    }
    let mut tickets = Vec::new();
    let mut last = bench.now;
    while let Some(due) = bench.disk.next_due() {
        assert!(due >= last);
        let just_before = Instant::from_nanos(due.as_nanos() - 1);
        assert!(bench.disk.complete(just_before).is_none());
        let (ticket, _) = bench.disk.complete(due).expect("due");
        tickets.push(ticket);
        last = due;
    }
    assert_eq!(tickets.len(), 20);
    assert!(!tickets.is_sorted(), "they overtake each other");
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let mut bench = Bench::new(seed);
        let mut random = Random::new(9);
        *bench.disk.faults() = DiskFaults::draw(&mut random);
        let file = bench.open();
        for n in 0..50 {
            let _heard = bench.write(file, n * 100, &[n as u8; 300]);
            if n % 10 == 0 {
                let _heard = bench.sync(file);
            }
        }
        bench.disk.crash();
        (bench.contents().to_vec(), bench.now)
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11).0, run(12).0);
}
