//! Crashes, failing disks and late cancels, through the files of a program.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use viewring_runtime::fs::{File, OpenOptions, SyncFailed};
use viewring_runtime::metrics;
use viewring_runtime::sim::{Disk, DiskFaults, EventKind, NodeId, RingFaults, World, twice};
use viewring_runtime::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn world(seed: u64) -> (World, NodeId) {
    let mut world = World::new(seed);
    let node = world.add_node();
    (world, node)
}

/// Runs a process to its end and gives its output.
fn run<T: 'static, F: Future<Output = T> + 'static>(
    world: &mut World,
    node: NodeId,
    future: F,
) -> T {
    let output = Rc::new(Cell::new(None));
    let put = Rc::clone(&output);
    world.start(node, move || async move { put.set(Some(future.await)) });
    let ended = world.run_until(|world| !world.is_up(node), 60 * SECOND);
    assert_eq!(ended, Ok(()));
    output.take().expect("it ended")
}

async fn log() -> File {
    File::create_durable("data/log")
        .await
        .expect("it can be made")
}

/// Reads all of it, in the next life.
fn found(world: &mut World, node: NodeId) -> Option<Vec<u8>> {
    run(world, node, async {
        let file = match File::open("data/log").await {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            opened => opened.expect("it opens"),
        };
        Some(file.read_to_end().await.expect("it is read"))
    })
}

#[test]
fn what_was_synced_survives_a_crash_and_the_rest_in_part() {
    let (mut lost, mut torn, mut kept) = (0, 0, 0);
    for seed in 0..100 {
        let (mut world, node) = world(seed);
        world.start(node, || async {
            let file = log().await;
            file.write_durable_at(&[1; 2048], 0).await.expect("durable");
            file.write_all_at(&[2; 2048], 2048).await.expect("written");
            std::future::pending().await
        });
        world.run_for(SECOND);
        world.crash(node);
        let bytes = found(&mut world, node).expect("it was made durably");
        assert_eq!(bytes[..2048], [1; 2048]);
        match bytes[2048..].iter().filter(|&&byte| byte == 2).count() {
            0 => lost += 1,
            2048 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 0 && torn > 0 && kept > 0, "{lost} {torn} {kept}");
}

#[test]
fn what_was_acknowledged_survives_whenever_the_crash_comes() {
    let mut acknowledged_most = 0;
    for seed in 0..200 {
        let (mut world, node) = world(seed);
        let mut random = world.random(1);
        world.with_disk(node, |disk| disk.faults().short_write = 0.3);
        let acknowledged = Rc::new(Cell::new(0));
        let count = Rc::clone(&acknowledged);
        world.start(node, move || async move {
            let file = log().await;
            for number in 0..100u8 {
                let record = [number + 1; 700];
                file.append_durable(&record).await.expect("durable");
                count.set(number + 1);
            }
        });
        world.run_for(random.exponential(Duration::from_millis(30)));
        world.crash(node);
        let acknowledged = acknowledged.get();
        acknowledged_most = acknowledged_most.max(acknowledged);
        let bytes = found(&mut world, node).unwrap_or_default();
        for number in 0..acknowledged {
            let at = usize::from(number) * 700;
            assert_eq!(bytes[at..at + 700], [number + 1; 700], "seed {seed}");
        }
    }
    assert!(acknowledged_most > 50, "{acknowledged_most}");
}

#[test]
fn two_slots_written_in_turn_leave_one_that_is_whole() {
    let slot = |number: u64| number.to_le_bytes().repeat(128); // two sectors
    let value = |slot: &[u8]| {
        let (words, _) = slot.as_chunks::<8>();
        let is_whole = words.len() == 128 && words.iter().all(|word| *word == words[0]);
        is_whole.then(|| u64::from_le_bytes(words[0]))
    };
    let mut torn = 0;
    for seed in 0..100 {
        let (mut world, node) = world(seed);
        let mut random = world.random(1);
        let said = Rc::new(Cell::new(0));
        let say = Rc::clone(&said);
        world.start(node, move || async move {
            let file = log().await;
            for number in 1.. {
                let at = number % 2 * 4096;
                file.write_durable_at(&slot(number), at)
                    .await
                    .expect("durable");
                say.set(number);
            }
        });
        world.run_for(Duration::from_millis(10) + random.exponential(Duration::from_millis(5)));
        world.crash(node);
        let bytes = found(&mut world, node).expect("it was made durably");
        let slots = [0, 4096].map(|at| bytes.get(at..at + 1024).and_then(value));
        torn += slots.iter().filter(|slot| slot.is_none()).count();
        let newest = slots.into_iter().flatten().max().unwrap_or(0);
        assert!(
            newest == said.get() || newest == said.get() + 1,
            "seed {seed}"
        );
    }
    assert!(torn > 3, "{torn}");
}

#[test]
fn a_new_file_may_be_gone_unless_its_directory_was_synced() {
    let mut gone = 0;
    for seed in 0..50 {
        let (mut world, node) = world(seed);
        world.start(node, || async {
            let options = OpenOptions {
                write: true,
                create: true,
                ..OpenOptions::default()
            };
            let file = File::open_with("data/log", &options).await.expect("made");
            file.write_durable_at(b"for nothing", 0)
                .await
                .expect("durable");
            std::future::pending().await
        });
        world.run_for(SECOND);
        world.crash(node);
        gone += usize::from(found(&mut world, node).is_none());
    }
    assert!((1..50).contains(&gone), "{gone}");
}

#[test]
fn a_kill_loses_nothing_that_was_written_and_a_new_disk_everything() {
    let (mut world, node) = world(1);
    world.start(node, || async {
        log()
            .await
            .write_all_at(b"cached", 0)
            .await
            .expect("written");
        std::future::pending().await
    });
    world.run_for(SECOND);
    world.kill(node);
    assert_eq!(found(&mut world, node).as_deref(), Some(&b"cached"[..]));
    world.replace_disk(node);
    assert_eq!(found(&mut world, node), None);
}

#[test]
fn a_durable_write_finishes_what_was_written_short() {
    for seed in 0..50 {
        let (mut world, node) = world(seed);
        world.with_disk(node, |disk| disk.faults().short_write = 0.9);
        let data: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
        let written = data.clone();
        world.start(node, move || async move {
            let file = log().await;
            assert_eq!(file.append_durable(&written).await.expect("durable"), 0);
            std::future::pending().await
        });
        world.run_for(SECOND);
        let is_durable = |disk: &mut Disk| disk.durable("data/log") == Some(&data);
        assert!(world.with_disk(node, is_durable));
    }
}

#[test]
fn a_durable_write_whose_sync_was_cut_off_syncs_once_more() {
    for seed in 0..20 {
        let (mut world, node) = world(seed);
        world.update_ring(node, |ring| ring.cut_link = 1.0);
        world.start(node, || async {
            let file = log().await;
            file.append_durable(&[7; 5000]).await.expect("durable");
            std::future::pending().await
        });
        world.run_for(SECOND);
        let is_durable = |disk: &mut Disk| disk.durable("data/log") == Some(&[7; 5000]);
        assert!(world.with_disk(node, is_durable));
    }
}

#[test]
fn what_is_read_whole_is_whole_though_the_disk_reads_in_parts() {
    for seed in 0..20 {
        let (mut world, node) = world(seed);
        world.with_disk(node, |disk| disk.faults().short_read = 0.9);
        run(&mut world, node, async {
            let file = log().await;
            let data: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
            file.write_durable_at(&data, 0).await.expect("durable");
            assert_eq!(file.read_to_end().await.expect("read"), data);
            let mut part = vec![0; 3000];
            file.read_exact_at(&mut part, 1000).await.expect("read");
            assert_eq!(part, data[1000..4000]);
        });
    }
}

#[test]
fn after_a_failed_sync_nothing_is_called_durable_any_more() {
    let (mut world, node) = world(2);
    world.start(node, || async {
        let file = log().await;
        sleep(SECOND).await;
        let error = file
            .write_durable_at(b"lost", 0)
            .await
            .expect_err("it fails");
        let cause = error
            .get_ref()
            .and_then(|cause| cause.downcast_ref::<SyncFailed>());
        assert_eq!(cause.expect("it says so").path(), file.path());
        assert!(error.to_string().contains("data/log"), "{error}");
        sleep(SECOND).await; // the disk is well again
        let errors = [
            file.sync_data().await,
            file.sync_all().await,
            file.write_all_at(b"x", 0).await,
            file.write_durable_at(b"x", 0).await,
            file.append_durable(b"x").await.map(drop),
        ];
        for error in errors {
            assert_eq!(
                error.expect_err("poisoned").to_string(),
                file.sync_failed().unwrap().to_string()
            );
        }
        assert_eq!(file.read_to_end().await.expect("it can be read"), b"lost");
        // Another one is another witness.
        log()
            .await
            .write_durable_at(b"found", 0)
            .await
            .expect("durable");
    });
    world.run_for(SECOND / 2);
    world.with_disk(node, |disk| disk.faults().sync_error = 1.0);
    world.run_for(SECOND);
    world.with_disk(node, |disk| disk.faults().sync_error = 0.0);
    world.run_for(2 * SECOND);
    assert!(!world.is_up(node));
    assert_eq!(found(&mut world, node).as_deref(), Some(&b"found"[..]));
}

/// When the disk has failed. In these tests only syncs do.
fn failures(world: &World) -> Vec<Instant> {
    let trace = world.trace().into_iter();
    let failures = trace.filter(|event| event.kind == EventKind::DiskError);
    failures.map(|event| event.at).collect()
}

#[test]
fn a_sync_that_fails_unheard_poisons_the_file() {
    let (mut failed, mut not_done) = (0, 0);
    for seed in 0..40 {
        let (mut world, node) = world(seed);
        let poisoned = Rc::new(Cell::new(None));
        let put = Rc::clone(&poisoned);
        world.start(node, move || async move {
            let file = log().await;
            sleep(SECOND).await;
            // Long enough for the write, too short for the sync, as a rule.
            let late = timeout(Duration::from_micros(300), file.write_durable_at(b"x", 0)).await;
            sleep(SECOND).await; // the disk is well again
            let next = file.sync_data().await;
            assert_eq!(next.is_err(), file.sync_failed().is_some());
            put.set(late.is_err().then(|| next.is_err()));
        });
        world.run_for(SECOND / 2);
        world.with_disk(node, |disk| disk.faults().sync_error = 1.0);
        world.run_for(SECOND);
        world.with_disk(node, |disk| disk.faults().sync_error = 0.0);
        world.run_for(2 * SECOND);
        let Some(poisoned) = poisoned.get() else {
            continue; // it was heard
        };
        assert_eq!(poisoned, !failures(&world).is_empty(), "seed {seed}");
        failed += usize::from(poisoned);
        not_done += usize::from(!poisoned);
    }
    assert!(failed > 5 && not_done > 5, "{failed} {not_done}");
}

#[test]
fn no_sync_succeeds_after_one_that_failed_however_they_overlap() {
    let (mut failed, mut went_well) = (0, 0);
    for seed in 0..200 {
        let (mut world, node) = world(seed);
        world.with_disk(node, |disk| disk.faults().sync_error = 0.0);
        let results = Rc::new(RefCell::new(Vec::new()));
        let put = Rc::clone(&results);
        world.start(node, move || async move {
            let file = Rc::new(log().await);
            sleep(SECOND).await;
            let syncs = (0..6u64).map(|number| {
                let (file, put) = (Rc::clone(&file), Rc::clone(&put));
                async move {
                    sleep(Duration::from_micros(number * 150)).await;
                    let synced = match number % 3 {
                        0 => file.sync_data().await.is_ok(),
                        1 => file.write_durable_at(b"x", number).await.is_ok(),
                        // Some are dropped under way.
                        _ => {
                            let sync = file.write_durable_at(b"y", number);
                            match timeout(Duration::from_micros(400), sync).await {
                                Ok(result) => result.is_ok(),
                                Err(_) => return,
                            }
                        }
                    };
                    put.borrow_mut().push((Instant::now(), synced));
                }
            });
            join_all(syncs).await;
            let synced = file.sync_data().await.is_ok();
            put.borrow_mut().push((Instant::now(), synced));
        });
        world.run_for(SECOND / 2);
        world.with_disk(node, |disk| disk.faults().sync_error = 0.3);
        world.run_for(2 * SECOND);
        let first = failures(&world).into_iter().min();
        for &(at, succeeded) in results.borrow().iter() {
            let is_after = first.is_some_and(|failure| failure < at);
            assert!(!(succeeded && is_after), "seed {seed}: {first:?}, {at:?}");
        }
        failed += usize::from(first.is_some());
        went_well += usize::from(first.is_none());
    }
    assert!(failed > 20 && went_well > 20, "{failed} {went_well}");
}

#[test]
fn a_write_that_failed_poisons_nothing() {
    let (mut world, node) = world(3);
    world.with_disk(node, |disk| disk.faults().capacity = 1000);
    run(&mut world, node, async {
        let file = log().await;
        let error = file.append_durable(&[1; 1001]).await.expect_err("no space");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(file.append_durable(&[2; 1000]).await.expect("there is"), 0);
        assert!(file.sync_failed().is_none());
    });
    assert_eq!(found(&mut world, node), Some(vec![2; 1000]));
}

#[test]
fn operations_take_the_time_that_the_disk_takes() {
    let (mut world, node) = world(4);
    world.with_disk(node, |disk| {
        disk.faults().latency_min = Duration::from_millis(7);
        disk.faults().sync_latency = Duration::from_millis(50);
    });
    run(&mut world, node, async {
        let file = log().await;
        let begun = Instant::now();
        file.write_durable_at(b"x", 0).await.expect("durable");
        let took = begun.elapsed();
        assert!(
            took > Duration::from_millis(14),
            "a write, then a sync: {took:?}"
        );
    });
}

#[test]
fn nothing_is_open_after_a_crash_and_a_file_may_outlive_its_runtime() {
    let (mut world, node) = world(5);
    let kept = Rc::new(RefCell::new(None));
    let keep = Rc::clone(&kept);
    world.start(node, move || async move {
        *keep.borrow_mut() = Some(log().await);
        std::future::pending().await
    });
    world.run_for(SECOND);
    world.crash(node);
    run(&mut world, node, async {
        assert_eq!(metrics().reactor("files_open"), 0);
        let file = log().await;
        assert_eq!(metrics().reactor("files_open"), 1);
        drop(file);
        assert_eq!(metrics().reactor("files_open"), 0);
    });
    let file: File = kept.take().expect("it was kept");
    run(&mut world, node, async move {
        let gone = "the runtime has shut down";
        let error = file.sync_data().await.expect_err("its runtime is gone");
        assert_eq!(error.to_string(), gone);
        let error = file.read_to_end().await.expect_err("its runtime is gone");
        assert_eq!(error.to_string(), gone);
    });
}

/// Everything at once; the checks are those of a journal that trusts nothing but what it was told.
fn on_a_bad_day(world: &mut World) {
    let node = world.add_node();
    let mut random = world.random(1);
    world.with_disk(node, |disk| *disk.faults() = DiskFaults::draw(&mut random));
    world.update_ring(node, |ring| *ring = RingFaults::draw(&mut random));
    let acknowledged = Rc::new(Cell::new(0u64));
    for life in 0..4 {
        let count = Rc::clone(&acknowledged);
        world.start(node, move || async move {
            // A disk that fails is the end of a life.
            let _end = append_for_ever(&count).await;
            std::future::pending().await
        });
        world.run_for(random.exponential(Duration::from_millis(200)));
        match life % 2 {
            0 => world.crash(node),
            _ => world.kill(node),
        }
    }
    let (faults, calm) = (DiskFaults::default(), RingFaults::default());
    world.with_disk(node, |disk| *disk.faults() = faults);
    world.update_ring(node, |ring| *ring = calm);
    let bytes = found(world, node).unwrap_or_default();
    let durable = whole_records(&bytes);
    assert!(
        durable >= acknowledged.get(),
        "{durable} < {}",
        acknowledged.get()
    );
}

const RECORD: usize = 24;

fn record(number: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    for (place, byte) in record.iter_mut().enumerate() {
        *byte = number.to_le_bytes()[place % 8] ^ (place as u8).wrapping_mul(31);
    }
    record
}

fn whole_records(bytes: &[u8]) -> u64 {
    let (records, _) = bytes.as_chunks::<RECORD>();
    let is_whole = |&(place, found): &(usize, &[u8; RECORD])| *found == record(place as u64);
    records.iter().enumerate().take_while(is_whole).count() as u64
}

async fn append_for_ever(acknowledged: &Cell<u64>) -> std::io::Result<()> {
    let file = File::create_durable("data/log").await?;
    let found = file.read_to_end().await?;
    let mut next = whole_records(&found);
    // What was read may not be on the disk, and after a sync that failed in an earlier life no sync
    // brings it there: it is written again.
    let whole = &found[..next as usize * RECORD];
    file.write_durable_at(whole, 0).await?;
    assert!(next >= acknowledged.get(), "what was acknowledged is there");
    loop {
        let patience = Duration::from_micros(200) * (viewring_runtime::random() % 10) as u32;
        let at = next * RECORD as u64;
        let durable = timeout(patience, file.write_durable_at(&record(next), at)).await;
        if let Ok(result) = durable {
            result?;
            next += 1;
            acknowledged.set(next);
        }
    }
}

#[test]
fn a_journal_loses_nothing_that_it_acknowledged_on_bad_days() {
    for seed in 0..30 {
        twice(seed, on_a_bad_day);
    }
}
