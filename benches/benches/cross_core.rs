//! What does waking a runtime on another core, asleep, and being woken by it cost?
//!
//! ```text
//! cargo bench -p viewring-benches --bench cross_core
//! ```
//!
//! One round trip: a task on core 0 raises a signal for a task on core 1 and sleeps, until that one
//! raises the signal back. Both runtimes have nothing else to do, so both sleep in the kernel each
//! time. Baselines: two rings by hand that send each other messages, and two threads that park.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread::{self, Thread};
use std::time::Instant;

use futures::task::AtomicWaker;
use viewring_benches::raw_ring::RawRing;
use viewring_benches::{Table, is_wanted, pin_to_core, quantile, rounds, runtime};
use viewring_runtime::{metrics, spawn};

const NAMES: [&str; 3] = ["viewring", "thread::park", "raw, ring to ring"];

fn main() {
    if !is_wanted("cross_core") {
        return;
    }
    let trips = rounds(10_000);
    let mut p50 = Table::new("round trip, p50, us", &NAMES);
    let mut p99 = Table::new("round trip, p99, us", &NAMES);
    for _ in 0..rounds(10) {
        let mut all = [viewring(trips), parking(trips), raw(trips)];
        p50.add_round(all.iter_mut().map(|us| quantile(us, 0.5)).collect());
        p99.add_round(all.iter_mut().map(|us| quantile(us, 0.99)).collect());
    }
    p50.print();
    p99.print();
}

/// Measures each of `trips`, on core 0.
fn time_each(trips: u64, mut trip: impl FnMut(u64)) -> Vec<f64> {
    let time = |number| {
        let start = Instant::now();
        trip(number);
        start.elapsed().as_nanos() as f64 / 1000.0
    };
    (1..=trips).map(time).collect()
}

/// Runs `there` on core 1, and `here` on core 0.
fn on_two_cores<R: Send>(here: impl FnOnce() -> R + Send, there: impl FnOnce() + Send) -> R {
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            pin_to_core(1);
            there();
        });
        let here = scope.spawn(|| {
            pin_to_core(0);
            here()
        });
        there.join().expect("no panic");
        here.join().expect("no panic")
    })
}

/// What a task of another thread waits for: how often it was raised.
#[derive(Default)]
struct Signal {
    raised: AtomicBool,
    waiting: AtomicWaker,
}

impl Signal {
    fn raise(&self) {
        assert!(!self.raised.swap(true, Ordering::AcqRel), "raised twice");
        self.waiting.wake();
    }

    async fn wait(&self) {
        std::future::poll_fn(|cx| {
            self.waiting.register(cx.waker());
            if self.raised.swap(false, Ordering::AcqRel) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

fn viewring(trips: u64) -> Vec<f64> {
    let ping = Arc::<Signal>::default();
    let pong = Arc::<Signal>::default();
    let echo = (Arc::clone(&ping), Arc::clone(&pong));
    on_two_cores(
        move || {
            runtime().block_on(async move {
                let task = spawn(async move {
                    let mut times = Vec::with_capacity(trips as usize);
                    for _ in 0..trips {
                        let start = Instant::now();
                        ping.raise();
                        pong.wait().await;
                        times.push(start.elapsed().as_nanos() as f64 / 1000.0);
                    }
                    times
                });
                let times = task.await.expect("no panic");
                assert_asleep(trips);
                times
            })
        },
        move || {
            runtime().block_on(async move {
                let (ping, pong) = echo;
                let task = spawn(async move {
                    for _ in 0..trips {
                        ping.wait().await;
                        pong.raise();
                    }
                });
                task.await.expect("no panic");
                assert_asleep(trips);
            });
        },
    )
}

/// The peer may sometimes be met awake, when the machine has other things to do.
fn assert_asleep(trips: u64) {
    let metrics = metrics();
    let (sent, woken) = (metrics.reactor("messages_sent"), metrics.reactor("wakes"));
    assert!(sent <= trips + 1 && woken <= trips + 2);
    assert!(sent > trips / 2, "the peer was awake: {sent} of {trips}");
    assert_eq!(metrics.reactor("messages_failed"), 0);
}

fn raw(trips: u64) -> Vec<f64> {
    let (to_there, from_here) = mpsc::channel::<RawFd>();
    let (to_here, from_there) = mpsc::channel::<RawFd>();
    on_two_cores(
        move || {
            let mut ring = RawRing::new().expect("a ring");
            to_there.send(ring.as_raw_fd()).expect("a peer");
            let peer = from_there.recv().expect("a peer");
            time_each(trips, |number| {
                let echoed = ring.exchange(peer, number).expect("a message");
                assert_eq!(echoed, number);
            })
        },
        move || {
            let mut ring = RawRing::new().expect("a ring");
            to_here.send(ring.as_raw_fd()).expect("a peer");
            let peer = from_here.recv().expect("a peer");
            let mut word = ring.receive().expect("a message");
            for _ in 1..trips {
                word = ring.exchange(peer, word).expect("a message");
            }
            ring.send(peer, word).expect("a message");
        },
    )
}

/// A word that two threads pass on, and wake each other about.
#[derive(Default)]
struct Mailbox {
    word: AtomicU64,
}

impl Mailbox {
    fn put(&self, word: u64, owner: &Thread) {
        self.word.store(word, Ordering::Release);
        owner.unpark();
    }

    fn wait_for(&self, word: u64) {
        while self.word.load(Ordering::Acquire) != word {
            thread::park();
        }
    }
}

fn parking(trips: u64) -> Vec<f64> {
    let (to_there, from_here) = mpsc::channel::<Thread>();
    let (to_here, from_there) = mpsc::channel::<Thread>();
    let (ping, pong) = (Mailbox::default(), Mailbox::default());
    let (ping, pong) = (&ping, &pong);
    on_two_cores(
        move || {
            to_there.send(thread::current()).expect("a peer");
            let peer = from_there.recv().expect("a peer");
            time_each(trips, |number| {
                ping.put(number, &peer);
                pong.wait_for(number);
            })
        },
        move || {
            to_here.send(thread::current()).expect("a peer");
            let peer = from_here.recv().expect("a peer");
            for number in 1..=trips {
                ping.wait_for(number);
                pong.put(number, &peer);
            }
        },
    )
}
