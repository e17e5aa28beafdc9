//! A runtime freed in the middle of everything leaves nothing behind.

mod counted;

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use counted::{Counts, runtime};
use futures::FutureExt;
use viewring_runtime::buf::{Buf, SharedBuf};
use viewring_runtime::fs::File;
use viewring_runtime::net::UdpSocket;
use viewring_runtime::time::{Timer, interval, sleep, timeout};
use viewring_runtime::{
    Config, Gone, JoinError, Runtime, Uring, UringConfig, nop, spawn, yield_now,
};

fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

fn socket() -> UdpSocket {
    UdpSocket::bind(localhost()).expect("a socket")
}

/// One test at a time: they count the descriptors of the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux").count()
}

/// Runs `f` many times and sees that it leaves no descriptor open.
fn leaves_nothing_open(times: usize, mut f: impl FnMut(usize)) {
    let _alone = alone();
    f(0); // what is opened once and for all
    let before = open_files();
    for round in 0..times {
        f(round);
        closes_down_to(before);
    }
}

/// No more files are open than `before`, or soon: the test harness opens some of its own.
fn closes_down_to(before: usize) {
    for _ in 0..200 {
        if open_files() <= before {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{} files are open, {before} were before", open_files());
}

/// Receives, sends, timers and trips in flight, in tasks, and some that nobody waits for.
async fn busy(counts: &Rc<Counts>, other: SocketAddr) {
    for number in 0..8u64 {
        let counts = Rc::clone(counts);
        spawn(async move {
            let _held = counts.future(0);
            let socket = socket();
            let to = socket.local_addr();
            for _ in 0..4 {
                let posted = socket.post_to(SharedBuf::copy_from(b"posted"), to);
                posted.expect("there is room");
            }
            let sends = async {
                for _ in 0..1000 {
                    socket.send_to(b"sent", other).await.expect("sent");
                    socket.send_to(&[1; 5000], to).await.expect("sent");
                }
                std::future::pending::<()>().await;
            };
            let receives = async {
                loop {
                    let held = socket.recv_datagram().await.expect("no error");
                    yield_now().await;
                    drop(held);
                }
            };
            let sleeps = sleep(Duration::from_secs(number));
            let mut ticks = interval(Duration::from_micros(300));
            let ticking = async {
                loop {
                    ticks.tick().await;
                    nop().await.expect("no error");
                }
            };
            futures::join!(sends, receives, sleeps, ticking)
        })
        .detach();
    }
}

#[test]
fn a_runtime_can_be_dropped_at_any_moment() {
    leaves_nothing_open(150, |round| {
        let counts = Counts::new();
        let runtime = runtime();
        runtime.block_on(async {
            let other = socket();
            busy(&counts, other.local_addr()).await;
            for _ in 0..round {
                yield_now().await;
            }
        });
        drop(runtime);
        let started = if round == 0 { 0 } else { 8 };
        assert_eq!(counts.get(), (0, started, 0));
        assert_eq!(Rc::strong_count(&counts), 1);
    });
}

#[test]
fn also_with_tiny_queues() {
    leaves_nothing_open(60, |round| {
        let counts = Counts::new();
        let config = UringConfig {
            submission_entries: 2,
            completion_entries: 4,
        };
        let ring = Uring::with_config(&config).expect("a ring");
        let runtime = Runtime::new(ring, Config::default());
        runtime.block_on(async {
            let other = socket();
            busy(&counts, other.local_addr()).await;
            for _ in 0..round {
                yield_now().await;
            }
        });
    });
}

#[test]
fn also_while_panicking() {
    leaves_nothing_open(60, |round| {
        let counts = Counts::new();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let runtime = runtime();
            runtime.block_on(async {
                busy(&counts, localhost_of(&socket())).await;
                for _ in 0..=round {
                    yield_now().await;
                }
                std::panic::resume_unwind(Box::new("quietly"));
            });
        }));
        panicked.expect_err("it panicked");
        assert_eq!(counts.get(), (0, 8, 0));
        assert_eq!(Rc::strong_count(&counts), 1);
    });
}

#[test]
fn also_with_files_in_use() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("shutdown");
    leaves_nothing_open(100, |round| {
        let runtime = runtime();
        let kept = runtime.block_on(async {
            let file = Rc::new(File::create_durable(&path).await.expect("made"));
            for number in 0..8u64 {
                let (file, path) = (Rc::clone(&file), path.clone());
                spawn(async move {
                    loop {
                        let written = file.write_durable_at(&[1; 10_000], number * 10_000);
                        let other = File::open(&path);
                        let read = file.read_buf_at(Buf::with_capacity(10_000), 0);
                        let (written, other, read) = futures::join!(written, other, read);
                        written.expect("durable");
                        drop((other.expect("there"), read.expect("read")));
                    }
                })
                .detach();
            }
            for _ in 0..round * 3 {
                yield_now().await;
            }
            file
        });
        drop(runtime);
        assert_eq!(Rc::strong_count(&kept), 1);
        assert!(kept.size().now_or_never().is_some_and(|size| size.is_err()));
    });
    std::fs::remove_file(&path).expect("it is there");
}

#[test]
fn who_waits_for_a_file_on_another_runtime_is_told() {
    let _alone = alone();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("shutdown-told");
    let (first, second) = (runtime(), runtime());
    let file = first.block_on(File::create_durable(&path)).expect("made");
    second.block_on(async {
        let file = Rc::new(file);
        // One is in flight, one was dropped in flight, the rest wait for those.
        drop(futures::poll!(Box::pin(file.write_at(b"dropped", 9))));
        let waits: Vec<_> = (0..4)
            .map(|number| {
                let file = Rc::clone(&file);
                spawn(async move { file.write_durable_at(b"x", number).await })
            })
            .collect();
        yield_now().await;
        drop(first);
        for wait in waits {
            let told = timeout(Duration::from_secs(5), wait).await.expect("told");
            let error = told.expect("no panic").expect_err("its runtime is gone");
            assert!(error.downcast::<Gone>().is_ok());
        }
        assert_eq!(Rc::strong_count(&file), 1);
    });
    std::fs::remove_file(&path).expect("it is there");
}

fn localhost_of(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr()
}

#[test]
fn also_when_dropped_before_it_ever_turned() {
    leaves_nothing_open(50, |_| {
        drop(runtime());
        let runtime = runtime();
        let main = runtime.block_on(async {
            let socket = socket();
            assert!(socket.recv_datagram().now_or_never().is_none());
            socket
        });
        drop(runtime);
        drop(main);
    });
}

#[test]
fn what_outlives_its_runtime_is_harmless() {
    leaves_nothing_open(50, |_| {
        let counts = Counts::new();
        let first = runtime();
        let (socket, datagram, timer, task) = first.block_on(async {
            let socket = socket();
            let to = socket.local_addr();
            for _ in 0..3 {
                socket.send_to(b"kept", to).await.expect("sent");
            }
            let datagram = socket.recv_datagram().await.expect("no error");
            assert!(socket.recv_datagram().now_or_never().is_some());
            let mut timer = Timer::after(Duration::from_secs(9));
            assert!(futures::poll!(&mut timer).is_pending());
            let task = spawn(counts.future(1));
            yield_now().await;
            (socket, datagram, timer, task)
        });
        drop(first);
        assert_eq!(datagram.payload(), b"kept");
        let to = socket.local_addr();
        let second = runtime();
        second.block_on(async {
            // What was in hand is still there; then there is an error, and no hanging.
            let received = socket.recv_datagram().await.expect("it was in hand");
            assert_eq!(received.payload(), b"kept");
            socket
                .recv_datagram()
                .await
                .expect_err("its runtime is gone");
            socket
                .send_to(b"x", to)
                .await
                .expect_err("its runtime is gone");
            assert_eq!(socket.send_to_many(b"x", &[to, to]).await.sent, 0);
            socket.connect(to).expect_err("its runtime is gone");
            let refused = socket.post_to(SharedBuf::copy_from(b"x"), to);
            refused.expect_err("its runtime is gone");
            let cancelled = task.await.expect_err("it was dropped");
            assert!(matches!(cancelled, JoinError::Cancelled));
        });
        drop((timer, datagram, socket));
        assert_eq!(counts.get(), (1, 1, 0));
    });
}

#[test]
fn who_waits_on_another_runtime_is_told() {
    let _alone = alone();
    let (first, second) = (runtime(), runtime());
    let (socket, trip) = first.block_on(async {
        let mut trip = Box::pin(nop());
        assert!(futures::poll!(&mut trip).is_pending());
        (socket(), trip)
    });
    second.block_on(async {
        let to = socket.local_addr();
        let waits = spawn(async move {
            let received = socket.recv_datagram().map(|received| received.map(drop));
            let sent = socket.send_to(b"x", to);
            futures::join!(received, sent, trip)
        });
        yield_now().await;
        drop(first);
        let told = timeout(Duration::from_secs(5), waits).await.expect("told");
        let (received, sent, trip) = told.expect("no panic");
        let gone = |error: io::Error| error.downcast::<Gone>().is_ok();
        assert!(received.is_err_and(gone));
        assert!(sent.is_err_and(gone));
        trip.expect("it had ended when its runtime was dropped");
    });
}

#[test]
fn leaving_block_on_sends_what_was_posted() {
    let _alone = alone();
    let witness = std::net::UdpSocket::bind(localhost()).expect("a socket");
    witness
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("set");
    let to = witness.local_addr().expect("bound");
    let runtime = runtime();
    let socket = runtime.block_on(async {
        let socket = socket();
        let posted = socket.post_to(SharedBuf::copy_from(b"at the last moment"), to);
        posted.expect("there is room");
        socket
    });
    let mut buf = [0; 32];
    let (len, _) = witness.recv_from(&mut buf).expect("it was sent");
    assert_eq!(&buf[..len], b"at the last moment");
    drop((runtime, socket));
}

/// More than one turn takes from the ring.
const MANY: u64 = 600;

#[test]
fn what_was_posted_and_sent_counts_as_such_though_the_runtime_is_dropped_at_once() {
    let _alone = alone();
    let runtime = runtime();
    let socket = runtime.block_on(async {
        let socket = socket();
        for _ in 0..MANY {
            let posted = socket.post_to(SharedBuf::copy_from(b"farewell"), socket.local_addr());
            posted.expect("there is room");
        }
        socket
    });
    drop(runtime);
    let stats = socket.stats();
    assert_eq!((stats.posted, stats.post_failed), (MANY, 0));
}

#[test]
fn a_waker_or_a_handle_that_is_kept_keeps_no_memory_of_the_ring_in_use() {
    let _alone = alone();
    let before = open_files();
    let counts = Counts::new();
    let runtime = runtime();
    let handle = runtime.handle();
    runtime.block_on(async {
        spawn(counts.future(1)).detach();
        yield_now().await;
    });
    let waker = counts.waker();
    drop(runtime);
    assert!(handle.spawn_on(|| async {}).is_err());
    waker.wake();
    drop(handle);
    drop(counts);
    closes_down_to(before);
}
