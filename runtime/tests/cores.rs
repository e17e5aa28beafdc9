//! One runtime per core: start, hand over, stop, and what can go wrong.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use viewring_runtime::cores::{self, Builder, Cores, CoresError};
use viewring_runtime::time::sleep;
use viewring_runtime::{Config, Runtime, SetupError, Uring, UringConfig, metrics};

/// Three cores, which need not exist.
fn three() -> Builder {
    Cores::builder().cores([2, 0, 1, 1]).pinned(false)
}

#[test]
fn every_allowed_core_has_a_pinned_named_thread() {
    let cores = Cores::builder().name("test-").start().expect("started");
    let (tell, told) = mpsc::channel();
    for &core in cores.peers().cores() {
        let tell = tell.clone();
        let spawned = cores.spawn_on(core, move || async move {
            let thread = std::thread::current();
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("Linux");
            let allowed = status
                .lines()
                .find(|line| line.starts_with("Cpus_allowed_list"));
            let allowed = allowed.and_then(|line| line.split_whitespace().last());
            let allowed = allowed.map(str::to_owned);
            let said = (cores::core(), thread.name().map(str::to_owned), allowed);
            tell.send(said).expect("it listens");
        });
        spawned.expect("it is there");
    }
    let mut said: Vec<_> = cores
        .peers()
        .cores()
        .iter()
        .map(|_| told.recv().expect("it tells"))
        .collect();
    said.sort();
    let mut expected: Vec<_> = cores
        .peers()
        .cores()
        .iter()
        .map(|&core| {
            (
                Some(core),
                Some(format!("test-{core}")),
                Some(core.to_string()),
            )
        })
        .collect();
    expected.sort();
    assert_eq!(said, expected);
    cores.stop();
    let ended = cores.join().expect("no panic");
    assert!(ended.iter().all(|(_, metrics)| metrics.tasks_spawned == 1));
}

#[test]
fn cores_reach_one_another() {
    let cores = three().start().expect("started");
    assert_eq!(cores.peers().cores(), [0, 1, 2]);
    let (answer, answered) = mpsc::channel::<Vec<usize>>();
    fn visit(mut way: Vec<usize>, answer: mpsc::Sender<Vec<usize>>) {
        let here = cores::core().expect("this is a core");
        way.push(here);
        if way.len() == 300 {
            answer.send(way).expect("somebody waits");
            return;
        }
        let peers = cores::peers().expect("this is a core");
        let spawned = peers.spawn_on((here + 1) % 3, move || async move { visit(way, answer) });
        spawned.expect("it is there");
    }
    let spawned = cores.spawn_on(0, move || async move { visit(Vec::new(), answer) });
    spawned.expect("it is there");
    let way = answered.recv().expect("it answers");
    assert!(way.into_iter().eq((0..300).map(|hop| hop % 3)));
}

#[test]
fn an_unknown_core_is_an_error() {
    let cores = three().start().expect("started");
    let error = cores.spawn_on(7, || async {}).expect_err("there is none");
    assert!(matches!(error, CoresError::Unknown(7)));
    drop(cores);
    let error = Cores::builder().cores([0, 1_000_000]).start();
    assert!(matches!(error, Err(CoresError::Unknown(1_000_000))));
}

#[test]
fn a_core_without_a_ring_is_an_error_and_none_is_left() {
    let impossible = UringConfig {
        submission_entries: 0,
        completion_entries: 0,
    };
    let error = three().uring(impossible).start().expect_err("no such ring");
    assert!(matches!(
        error,
        CoresError::Setup {
            core: 0,
            cause: SetupError::Other(_)
        }
    ));
}

#[test]
fn whoever_is_outside_is_no_core() {
    assert_eq!(cores::core(), None);
    assert!(cores::peers().is_none());
}

#[test]
fn a_stop_drops_tasks_and_refuses_more() {
    let dropped = Arc::new(AtomicU32::new(0));
    struct Counts(Arc<AtomicU32>);
    impl Drop for Counts {
        fn drop(&mut self) {
            assert!(cores::core().is_some(), "dropped on its core");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let cores = three().start().expect("started");
    let (tell, told) = mpsc::channel();
    for core in 0..3 {
        let (counts, tell) = (Counts(Arc::clone(&dropped)), tell.clone());
        let spawned = cores.spawn_on(core, move || async move {
            let _counts = counts;
            tell.send(()).expect("it listens");
            std::future::pending().await
        });
        spawned.expect("it is there");
    }
    for _ in 0..3 {
        told.recv().expect("it runs");
    }
    let peers = cores.peers().clone();
    // From one of the cores.
    let spawned = cores.spawn_on(1, || async { cores::peers().expect("a core").stop() });
    spawned.expect("it is there");
    let ended = cores.join().expect("no panic");
    assert_eq!(ended.len(), 3);
    assert_eq!(dropped.load(Ordering::Relaxed), 3);
    let error = peers.spawn_on(2, || async {}).expect_err("stopped");
    assert!(matches!(error, CoresError::Stopped(2)));
    peers.stop();
}

#[test]
fn tasks_may_end_by_themselves_within_the_grace() {
    let cores = three()
        .grace(Duration::from_secs(20))
        .start()
        .expect("started");
    let done = Arc::new(AtomicU32::new(0));
    for core in 0..3 {
        let done = Arc::clone(&done);
        let spawned = cores.spawn_on(core, move || async move {
            cores::peers().expect("a core").stopping().await;
            sleep(Duration::from_millis(3)).await;
            done.fetch_add(1, Ordering::Relaxed);
        });
        spawned.expect("it is there");
    }
    cores.stop();
    cores.join().expect("no panic");
    assert_eq!(done.load(Ordering::Relaxed), 3);
}

#[test]
fn the_panic_of_a_task_is_its_own() {
    let cores = three()
        .grace(Duration::from_secs(20))
        .start()
        .expect("started");
    let spawned = cores.spawn_on(1, || async { panic!("a task's own") });
    spawned.expect("it is there");
    let (answer, answered) = mpsc::channel();
    let spawned = cores.spawn_on(1, move || async move {
        answer.send(metrics().task_panics).expect("somebody waits");
    });
    spawned.expect("it is there");
    assert_eq!(answered.recv(), Ok(1));
    cores.stop();
    cores.join().expect("no core panicked");
}

#[test]
fn the_panic_of_a_core_is_reported_and_stops_the_others() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a core's end");
        }
    }
    let cores = three().start().expect("started");
    let spawned = cores.spawn_on(1, || async {
        let mut timer = sleep(Duration::from_millis(1));
        let waker = Arc::new(Panics).into();
        let polled = Pin::new(&mut timer).poll(&mut Context::from_waker(&waker));
        assert_eq!(polled, Poll::Pending);
        std::future::pending().await
    });
    spawned.expect("it is there");
    let error = cores.join().expect_err("a core panicked");
    let CoresError::Panicked { core: 1, message } = error else {
        panic!("another error: {error}")
    };
    assert_eq!(message, "a core's end");
}

/// They are woken by the ring of the runtime that this thread runs, which does not turn any more.
#[test]
fn cores_that_sleep_are_stopped_by_a_runtime_that_drops_them() {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = Runtime::new(Uring::new().expect("a ring"), Config::default());
        runtime.block_on(async {
            let cores = three().start().expect("started");
            std::thread::sleep(Duration::from_millis(50)); // they sleep by now
            drop(cores);
        });
        done.send(()).expect("somebody waits");
    });
    let stopped = is_done.recv_timeout(Duration::from_secs(20));
    stopped.expect("they have stopped");
}
