//! Nobody starves: budgets and yields.

mod counted;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use counted::runtime;
use viewring_runtime::net::UdpSocket;
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{Config, Runtime, Uring, metrics, spawn, yield_now};

fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// Exchanges datagrams and sleeps, a few times; hangs if the reactor or the timers starve.
async fn io_and_timers() {
    let (a, b) = (
        UdpSocket::bind(localhost()).expect("a socket"),
        UdpSocket::bind(localhost()).expect("a socket"),
    );
    let mut buf = [0; 8];
    for _ in 0..10 {
        a.send_to(b"ping", b.local_addr()).await.expect("sent");
        let (len, from) = b.recv_from(&mut buf).await.expect("received");
        assert_eq!((&buf[..len], from), (&b"ping"[..], a.local_addr()));
        sleep(Duration::from_micros(100)).await;
    }
}

#[test]
fn a_yielding_loop_starves_neither_tasks_nor_the_reactor_nor_timers() {
    runtime().block_on(async {
        let done = Rc::new(Cell::new(false));
        let yields = spawn({
            let done = Rc::clone(&done);
            async move {
                while !done.get() {
                    yield_now().await;
                }
            }
        });
        spawn(io_and_timers()).await.expect("no panic");
        done.set(true);
        yields.await.expect("no panic");
    });
}

#[test]
fn a_yielding_main_future_starves_nobody() {
    runtime().block_on(async {
        let work = spawn(io_and_timers());
        while !work.is_finished() {
            yield_now().await;
        }
        work.await.expect("no panic");
    });
}

#[test]
fn a_flood_of_ready_tasks_does_not_starve_the_reactor() {
    let config = Config {
        poll_budget: 16,
        ..Config::default()
    };
    let runtime = Runtime::new(Uring::new().expect("a ring"), config);
    runtime.block_on(async {
        let done = Rc::new(Cell::new(false));
        for _ in 0..1000 {
            let done = Rc::clone(&done);
            spawn(async move {
                while !done.get() {
                    yield_now().await;
                }
            })
            .detach();
        }
        // In the main future: it is polled in every turn.
        let (turns, polls) = (metrics().turns, metrics().polls);
        io_and_timers().await;
        let (turns, polls) = (metrics().turns - turns, metrics().polls - polls);
        assert!(polls <= turns * 16, "{polls} polls in {turns} turns");
        done.set(true);
    });
}

#[test]
fn a_flood_from_another_thread_does_not_starve_the_reactor() {
    let runtime = runtime();
    let handle = runtime.handle();
    let stop = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Relaxed) && handle.spawn_on(|| async {}).is_ok() {
                std::thread::yield_now();
            }
        }
    });
    runtime.block_on(io_and_timers());
    stop.store(true, Ordering::Relaxed);
    flood.join().expect("no panic");
}

#[test]
fn the_smallest_configuration_works() {
    let config = Config {
        poll_budget: 0,
        send_buffers: 0,
        send_buffer_len: 0,
        timer_slack: Duration::ZERO,
        spin: Duration::ZERO,
    };
    let runtime = Runtime::new(Uring::new().expect("a ring"), config);
    runtime.block_on(async {
        let work = spawn(io_and_timers());
        let waited = timeout(Duration::from_secs(5), work).await;
        waited.expect("in time").expect("no panic");
    });
}
