//! Wakes and work from other threads: none is lost, and each takes its way.

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{Config, Gone, Handle, Metrics, Runtime, Uring, metrics, spawn, yield_now};

fn runtime() -> Runtime {
    Runtime::new(Uring::new().expect("a ring"), Config::default())
}

fn run<T>(runtime: &Runtime, body: impl Future<Output = T>) -> T {
    runtime.block_on(async {
        let bounded = timeout(Duration::from_secs(60), body).await;
        bounded.expect("no wake is lost")
    })
}

/// Another thread with its own runtime, which runs until `stop` is dropped.
struct Peer {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<Metrics>,
}

impl Peer {
    fn start() -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std_mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = runtime();
            tell.send(runtime.handle()).expect("it listens");
            runtime.block_on(stopped).expect_err("only dropped");
            runtime.metrics()
        });
        let handle = told.recv().expect("it starts");
        Self {
            handle,
            stop,
            thread,
        }
    }

    fn stop(self) -> Metrics {
        drop(self.stop);
        self.thread.join().expect("no panic")
    }
}

#[test]
fn thousands_of_tasks_are_handed_over_by_plain_threads() {
    let runtime = runtime();
    let ran = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (handle, ran) = (runtime.handle(), Arc::clone(&ran));
            thread::spawn(move || {
                for _ in 0..2000 {
                    let ran = Arc::clone(&ran);
                    let handed = handle.spawn_on(move || async move {
                        yield_now().await;
                        ran.fetch_add(1, Ordering::Relaxed);
                    });
                    handed.expect("the runtime is there");
                }
            })
        })
        .collect();
    run(&runtime, async {
        while ran.load(Ordering::Relaxed) < 8000 {
            sleep(Duration::from_micros(200)).await;
        }
    });
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(runtime.metrics().tasks_spawned, 8000);
    assert_eq!(runtime.metrics().tasks_alive, 0);
}

#[test]
fn a_plain_thread_wakes_a_parked_runtime_through_the_eventfd() {
    const ROUNDS: u64 = 3000;
    let runtime = runtime();
    let (to_thread, requests) = std_mpsc::channel::<u64>();
    let (answer, mut answers) = mpsc::unbounded();
    let thread = thread::spawn(move || {
        for request in requests {
            answer.unbounded_send(request).expect("it listens");
        }
    });
    run(&runtime, async {
        for round in 0..ROUNDS {
            to_thread.send(round).expect("it listens");
            assert_eq!(answers.next().await, Some(round));
        }
        drop(to_thread);
    });
    thread.join().expect("no panic");
    let metrics = runtime.metrics();
    assert!(metrics.reactor("wakes") > 0, "it was parked at least once");
    assert_eq!(metrics.reactor("messages_sent"), 0);
}

#[test]
fn a_peer_wakes_a_parked_runtime_through_its_ring() {
    const ROUNDS: u64 = 3000;
    let runtime = runtime();
    let peer = Peer::start();
    let (to_peer, mut requests) = mpsc::unbounded::<u64>();
    let (answer, mut answers) = mpsc::unbounded();
    let handed = peer.handle.spawn_on(move || async move {
        while let Some(request) = requests.next().await {
            answer.unbounded_send(request).expect("it listens");
        }
    });
    handed.expect("the peer is there");
    run(&runtime, async {
        for round in 0..ROUNDS {
            to_peer.unbounded_send(round).expect("it listens");
            assert_eq!(answers.next().await, Some(round));
        }
        drop(to_peer);
    });
    let (here, there) = (runtime.metrics(), peer.stop());
    for (sender, receiver) in [(&here, &there), (&there, &here)] {
        let sent = sender.reactor("messages_sent");
        assert!(sent > 0, "parked at least once");
        assert_eq!(sender.reactor("messages_failed"), 0);
        // An eventfd also wakes, at the start and the end.
        assert!(receiver.reactor("wakes") <= sent + 8);
    }
}

#[test]
fn many_runtimes_wake_one_another_and_no_wake_is_lost() {
    const PEERS: usize = 4;
    const HOPS: u32 = 4000;
    let runtime = runtime();
    let peers: Vec<Peer> = (0..PEERS).map(|_| Peer::start()).collect();
    let (done, finished) = oneshot::channel::<u32>();
    // A token goes round; each hop is one hand-over to a runtime that is probably parked.
    fn hop(handles: Arc<Vec<Handle>>, at: u32, done: oneshot::Sender<u32>) {
        if at == HOPS {
            done.send(at).expect("it listens");
            return;
        }
        let next = handles[at as usize % handles.len()].clone();
        let handed = next.spawn_on(move || async move { hop(handles, at + 1, done) });
        handed.expect("the peer is there");
    }
    let handles = Arc::new(peers.iter().map(|peer| peer.handle.clone()).collect());
    hop(handles, 0, done);
    assert_eq!(run(&runtime, finished), Ok(HOPS));
    let spawned: u64 = peers
        .into_iter()
        .map(|peer| peer.stop().tasks_spawned)
        .sum();
    assert_eq!(spawned, u64::from(HOPS));
}

#[test]
fn a_wake_sent_by_a_main_future_that_ends_at_once_arrives() {
    let runtime = runtime();
    let peer = Peer::start();
    for _ in 0..200 {
        let (wake, waits) = oneshot::channel::<()>();
        let (answer, answered) = std_mpsc::channel();
        let handed = peer.handle.spawn_on(move || async move {
            waits.await.expect("sent");
            answer.send(()).expect("it listens");
        });
        handed.expect("the peer is there");
        thread::sleep(Duration::from_micros(300)); // the peer parks
        runtime.block_on(async { wake.send(()).expect("it listens") });
        // Nobody turns this runtime any more.
        let arrived = answered.recv_timeout(Duration::from_secs(5));
        arrived.expect("the wake did not wait for a turn that never comes");
    }
    peer.stop();
}

#[test]
fn a_wake_sent_by_a_runtime_that_is_dropped_arrives() {
    let peer = Peer::start();
    for _ in 0..50 {
        let (wake, waits) = oneshot::channel::<()>();
        let (answer, answered) = std_mpsc::channel();
        let handed = peer.handle.spawn_on(move || async move {
            waits.await.expect_err("only dropped");
            answer.send(()).expect("it listens");
        });
        handed.expect("the peer is there");
        let runtime = runtime();
        runtime
            .spawn(async move {
                let _wake = wake;
                std::future::pending::<()>().await;
            })
            .detach();
        runtime.block_on(yield_now());
        thread::sleep(Duration::from_micros(300)); // the peer parks
        drop(runtime);
        let arrived = answered.recv_timeout(Duration::from_secs(5));
        arrived.expect("a dropped runtime sends its wakes");
    }
    peer.stop();
}

#[test]
fn a_waker_of_a_dead_runtime_is_harmless_to_a_peer() {
    let waker: Waker = {
        let dead = runtime();
        dead.block_on(poll_fn(|cx| Poll::Ready(cx.waker().clone())))
    };
    let runtime = runtime();
    run(&runtime, async {
        for _ in 0..100 {
            waker.wake_by_ref();
            yield_now().await;
        }
        sleep(Duration::from_micros(100)).await;
    });
    drop(runtime);
    waker.wake();
}

#[test]
fn a_handle_of_a_dead_runtime_says_so() {
    let peer = Peer::start();
    let handle = peer.handle.clone();
    peer.stop();
    assert_eq!(handle.spawn_on(|| async {}), Err(Gone));
    let runtime = runtime();
    let refused = runtime.block_on(async { handle.spawn_on(|| async {}) });
    assert_eq!(refused, Err(Gone));
}

#[test]
fn a_runtime_hands_work_to_itself() {
    let runtime = runtime();
    let handle = runtime.handle();
    let (done, finished) = oneshot::channel();
    run(&runtime, async {
        let handed = handle.spawn_on(move || async move { done.send(7).expect("it listens") });
        handed.expect("it is there");
        assert_eq!(finished.await, Ok(7));
        assert_eq!(metrics().reactor("messages_sent"), 0);
    });
}

/// The channels of the `futures` crate work between tasks of one core and between cores: there is
/// no need for others.
#[test]
fn channels_of_the_futures_crate_work_here() {
    let runtime = runtime();
    run(&runtime, async {
        let (mut send, receive) = mpsc::channel::<u32>(4);
        let producer = spawn(async move {
            for number in 0..1000 {
                futures::SinkExt::send(&mut send, number)
                    .await
                    .expect("it listens");
            }
        });
        let received: Vec<u32> = receive.collect().await;
        assert!(received.into_iter().eq(0..1000));
        producer.await.expect("no panic");
        let lock = std::rc::Rc::new(futures::lock::Mutex::new(0));
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let lock = std::rc::Rc::clone(&lock);
                spawn(async move {
                    let mut value = lock.lock().await;
                    yield_now().await;
                    *value += 1;
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(*lock.lock().await, 10);
    });
}

/// A runtime sleeps. Another one wakes it with its next submission, before which it computes.
#[test]
fn a_wake_that_is_not_submitted_yet_holds_up_no_other() {
    const COMPUTES: Duration = Duration::from_secs(2);
    let sleeper = Peer::start();
    let (computes, busy) = (sleeper.handle.clone(), Peer::start());
    thread::sleep(Duration::from_millis(50)); // both sleep by now
    let (tell, told) = std_mpsc::channel();
    let handed = busy.handle.spawn_on(move || async move {
        let handed = computes.spawn_on(|| async {});
        handed.expect("it is there");
        tell.send(()).expect("somebody listens");
        thread::sleep(COMPUTES);
    });
    handed.expect("it is there");
    told.recv().expect("it computes");
    let (tell, told) = std_mpsc::channel();
    let handed = sleeper
        .handle
        .spawn_on(move || async move { tell.send(()).expect("somebody listens") });
    handed.expect("it is there");
    let ran = told.recv_timeout(COMPUTES / 2);
    ran.expect("the sleeper was woken");
    busy.stop();
    sleeper.stop();
}
