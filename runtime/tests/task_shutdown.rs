//! What becomes of tasks when their runtime is dropped.

mod counted;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use counted::{Counts, OnDrop, runtime};
use viewring_runtime::buf::SharedBuf;
use viewring_runtime::net::UdpSocket;
use viewring_runtime::time::sleep;
use viewring_runtime::{Gone, Runtime, metrics, spawn, yield_now};

fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

#[test]
fn every_suspended_task_is_dropped_once() {
    let counts = Counts::new();
    let runtime = runtime();
    runtime.block_on(async {
        for _ in 0..100 {
            spawn(counts.future(1)).detach();
        }
        yield_now().await;
    });
    runtime.spawn(counts.future(1)).detach(); // never polled
    assert_eq!(counts.get(), (100, 0, 0));
    drop(runtime);
    assert_eq!(counts.get(), (100, 101, 0));
}

#[test]
fn sockets_still_work_while_tasks_are_dropped() {
    let witness = std::net::UdpSocket::bind(localhost()).expect("a socket");
    let timeout = Some(Duration::from_secs(5));
    witness.set_read_timeout(timeout).expect("set");
    let to = witness.local_addr().expect("bound");
    let runtime = runtime();
    runtime.block_on(async {
        let socket = UdpSocket::bind(localhost()).expect("a socket");
        spawn(async move {
            let _farewell = OnDrop(|| {
                let farewell = SharedBuf::copy_from(b"farewell");
                socket.post_to(farewell, to).expect("there is room");
            });
            std::future::pending::<()>().await;
        })
        .detach();
        yield_now().await;
    });
    drop(runtime);
    let mut buf = [0; 16];
    let (len, _) = witness.recv_from(&mut buf).expect("it was sent");
    assert_eq!(&buf[..len], b"farewell");
}

#[test]
fn what_is_spawned_by_a_drop_is_dropped_unpolled() {
    let counts = Counts::new();
    let runtime = runtime();
    runtime.block_on(async {
        for _ in 0..10 {
            let counts = Rc::clone(&counts);
            let inner = Rc::clone(&counts);
            spawn(async move {
                let _spawns = OnDrop(move || {
                    let inner = Rc::clone(&inner);
                    let handle = spawn(async move {
                        drop(inner.future(0).await);
                    });
                    assert!(handle.is_finished());
                    handle.detach();
                    spawn(counts.future(0)).detach();
                });
                std::future::pending::<()>().await;
            })
            .detach();
        }
        yield_now().await;
        assert_eq!(metrics().tasks_alive, 10);
    });
    drop(runtime);
    assert_eq!(counts.get(), (0, 10, 0));
}

#[test]
fn a_drop_may_wake_and_cancel_other_tasks() {
    let counts = Counts::new();
    let runtime = runtime();
    runtime.block_on(async {
        let tasks: Rc<RefCell<Vec<_>>> = Rc::default();
        for _ in 0..20 {
            let (counts, others) = (Rc::clone(&counts), Rc::clone(&tasks));
            let task = spawn(async move {
                let wakes = Rc::clone(&counts);
                let _disturbs = OnDrop(move || {
                    wakes.waker().wake();
                    let other: Option<viewring_runtime::JoinHandle<()>> = others.borrow_mut().pop();
                    other.into_iter().for_each(|other| other.abort());
                });
                drop(counts.future(9).await);
            });
            tasks.borrow_mut().push(task);
        }
        yield_now().await;
    });
    drop(runtime);
    assert_eq!(counts.get(), (20, 20, 0));
}

#[test]
fn what_was_handed_over_and_not_run_is_dropped_on_the_runtimes_thread() {
    let runtime = runtime();
    let here = std::thread::current().id();
    let dropped = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&dropped);
    let guard = OnDrop(move || {
        assert_eq!(std::thread::current().id(), here);
        spawn(async {}).detach();
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let handed = runtime.handle().spawn_on(move || async move {
        let _guard = guard;
    });
    handed.expect("the runtime is there");
    let handle = runtime.handle();
    drop(runtime);
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    assert_eq!(handle.spawn_on(|| async {}), Err(Gone));
}

#[test]
fn wakes_from_another_thread_during_the_shutdown_lose_no_future() {
    for _ in 0..300 {
        let counts = Counts::new();
        let runtime = runtime();
        let stop = Arc::new(AtomicBool::new(false));
        let (send, receive) = mpsc::channel();
        let stopped = Arc::clone(&stop);
        let waking = std::thread::spawn(move || {
            let wakers: Vec<std::task::Waker> = receive.iter().collect();
            while !stopped.load(Ordering::Relaxed) {
                for waker in &wakers {
                    waker.wake_by_ref();
                }
            }
        });
        runtime.block_on(async {
            for _ in 0..8 {
                spawn(counts.future(u32::MAX)).detach();
                yield_now().await;
                send.send(counts.waker()).expect("it listens");
            }
            drop(send);
            yield_now().await;
        });
        drop(runtime);
        let (_, dropped, _) = counts.get();
        assert_eq!(dropped, 8);
        stop.store(true, Ordering::Relaxed);
        waking.join().expect("no panic");
        assert_eq!(Rc::strong_count(&counts), 1);
    }
}

#[test]
fn a_runtime_dropped_by_the_end_of_its_thread_drops_its_tasks() {
    thread_local! {
        static KEPT: RefCell<Option<Runtime>> = const { RefCell::new(None) };
    }
    let dropped = Arc::new(AtomicU32::new(0));
    for touch_first in [false, true] {
        let dropped = Arc::clone(&dropped);
        let thread = std::thread::spawn(move || {
            if touch_first {
                // So that this key's destructor runs after the runtime's own thread-locals'.
                KEPT.with(|kept| assert!(kept.borrow().is_none()));
            }
            let runtime = runtime();
            runtime.block_on(async {
                let socket = UdpSocket::bind(localhost()).expect("a socket");
                spawn(async move {
                    let _counts = OnDrop(|| {
                        dropped.fetch_add(1, Ordering::Relaxed);
                    });
                    socket.recv_datagram().await
                })
                .detach();
                yield_now().await;
            });
            KEPT.set(Some(runtime));
        });
        thread.join().expect("no panic");
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}

#[test]
fn a_runtime_can_be_dropped_inside_another() {
    let (inner_counts, outer_counts) = (Counts::new(), Counts::new());
    let inner = runtime();
    inner.spawn(inner_counts.future(1)).detach();
    inner.block_on(yield_now());
    let outer = runtime();
    outer.block_on(async {
        let task = spawn(outer_counts.future(1));
        yield_now().await;
        let holds = spawn(async move {
            let _inner = inner;
            std::future::pending::<()>().await;
        });
        yield_now().await;
        holds.abort();
        yield_now().await;
        assert_eq!(inner_counts.get(), (1, 1, 0));
        sleep(Duration::from_micros(100)).await;
        outer_counts.waker().wake();
        drop(task.await.expect("it finished"));
    });
    assert_eq!(outer_counts.get(), (2, 1, 1));
}

#[test]
fn a_runtime_dropped_by_a_drop_at_shutdown_is_shut_down_too() {
    let counts = Counts::new();
    let inner = runtime();
    inner.spawn(counts.future(1)).detach();
    inner.block_on(yield_now());
    let inner = Rc::new(Cell::new(Some(inner)));
    let outer = runtime();
    outer
        .spawn(async move {
            let _spawns = OnDrop(|| {
                let inner = inner.take();
                spawn(async move { drop(inner) }).detach();
            });
            std::future::pending::<()>().await;
        })
        .detach();
    outer.block_on(yield_now());
    drop(outer);
    assert_eq!(counts.get(), (1, 1, 0));
}
