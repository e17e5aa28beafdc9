//! The life of a simulated node: crash, restart, pause, clocks, signals, panics.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use viewring_runtime::net::UdpSocket;
use viewring_runtime::sim::{Delay, DiskDone, DiskOp, NodeId, OnPanic, World};
use viewring_runtime::time::{Elapsed, Instant, sleep, timeout};
use viewring_runtime::{nop, random, signal, spawn, yield_now};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn bind(addr: &str) -> UdpSocket {
    UdpSocket::bind(addr.parse().expect("an address")).expect("it is free")
}

/// Counts the drops of what holds it.
struct Dropped(Rc<Cell<u32>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

fn flag() -> (Rc<Cell<bool>>, Rc<Cell<bool>>) {
    let flag = Rc::new(Cell::new(false));
    (Rc::clone(&flag), flag)
}

#[test]
fn a_crash_drops_every_future_and_nothing_that_they_do_reaches_the_world() {
    struct SendsWhenDropped(UdpSocket, std::net::SocketAddr);
    impl Drop for SendsWhenDropped {
        fn drop(&mut self) {
            let mut buf = self.0.take_buf(4).expect("there are buffers");
            buf.put_slice(b"last");
            self.0.post_to(buf.share(), self.1).expect("admitted");
        }
    }
    let mut world = World::new(1);
    let (node, other) = (world.add_node(), world.add_node());
    let to = world.socket_addr(other, 1);
    let drops = Rc::new(Cell::new(0));
    let counted = Rc::clone(&drops);
    world.start(node, move || async move {
        let guard = |count: &Rc<Cell<u32>>| Dropped(Rc::clone(count));
        let (sleeper, receiver) = (guard(&counted), guard(&counted));
        spawn(async move {
            let _guard = sleeper;
            sleep(SECOND).await;
        })
        .detach();
        spawn(async move {
            let _guard = receiver;
            let _last = SendsWhenDropped(bind("0.0.0.0:9"), to);
            bind("0.0.0.0:8").recv_datagram().await.expect("never");
        })
        .detach();
        let _main = guard(&counted);
        std::future::pending::<()>().await;
    });
    world.run_for(10 * MS);
    assert_eq!(drops.get(), 0);
    world.crash(node);
    assert_eq!(drops.get(), 3);
    world.run_for(SECOND);
    assert_eq!(world.network_stats().sent, 0);
    assert!(!world.is_up(node) && world.metrics(node).is_none());
}

#[test]
fn a_restart_gets_a_fresh_runtime_and_other_random_numbers() {
    let mut world = World::new(2);
    let node = world.add_node();
    let drawn = Rc::new(RefCell::new(Vec::new()));
    let make = || {
        let drawn = Rc::clone(&drawn);
        move || async move {
            let _socket = bind("0.0.0.0:7"); // free again each time
            drawn.borrow_mut().push(random());
            std::future::pending::<()>().await;
        }
    };
    world.start(node, make());
    world.run_for(MS);
    world.restart(node, make());
    world.run_for(MS);
    assert_eq!(world.metrics(node).expect("it is up").tasks_spawned, 1);
    let drawn = drawn.borrow();
    assert_eq!(drawn.len(), 2);
    assert_ne!(drawn[0], drawn[1]);
}

#[test]
fn what_was_sent_before_a_crash_may_arrive_after_it() {
    let mut world = World::new(3);
    let (sender, receiver) = (world.add_node(), world.add_node());
    world.update_links(|link| link.delay = Delay::fixed(SECOND));
    let to = world.socket_addr(receiver, 7);
    let (arrived, arrives) = flag();
    let receive = || {
        let arrives = Rc::clone(&arrives);
        move || async move {
            bind("0.0.0.0:7").recv_datagram().await.expect("it comes");
            arrives.set(true);
        }
    };
    world.start(receiver, receive());
    world.start(sender, move || async move {
        bind("0.0.0.0:0").send_to(b"old", to).await.expect("sent");
    });
    world.run_for(100 * MS);
    world.crash(sender);
    world.crash(receiver);
    world.run_for(100 * MS);
    world.start(receiver, receive());
    world.run_for(SECOND);
    assert!(arrived.get());
}

#[test]
fn a_node_that_ends_by_itself_sends_what_it_has_posted() {
    let mut world = World::new(4);
    let (sender, receiver) = (world.add_node(), world.add_node());
    let to = world.socket_addr(receiver, 7);
    let (arrived, arrives) = flag();
    world.start(receiver, move || async move {
        bind("0.0.0.0:7").recv_datagram().await.expect("it comes");
        arrives.set(true);
    });
    world.run_for(MS);
    world.start(sender, move || async move {
        let socket = bind("0.0.0.0:0");
        let mut buf = socket.take_buf(3).expect("there are buffers");
        buf.put_slice(b"bye");
        socket.post_to(buf.share(), to).expect("admitted");
    });
    world.run_for(SECOND);
    assert!(arrived.get());
    assert!(!world.is_up(sender) && !world.is_up(receiver));
}

#[test]
fn after_a_pause_datagrams_come_before_timers() {
    let mut world = World::new(5);
    let (node, other) = (world.add_node(), world.add_node());
    let to = world.socket_addr(node, 7);
    let heard = Rc::new(RefCell::new(None));
    let hears = Rc::clone(&heard);
    world.start(node, move || async move {
        let socket = bind("0.0.0.0:7");
        let first = timeout(100 * MS, socket.recv_datagram()).await;
        let ok = first.map(|datagram| datagram.expect("no error").payload().to_vec());
        *hears.borrow_mut() = Some((ok, Instant::now()));
    });
    world.run_for(10 * MS);
    world.pause(node, SECOND);
    world.start(other, move || async move {
        sleep(500 * MS).await; // long after the timeout has passed
        bind("0.0.0.0:0").send_to(b"late", to).await.expect("sent");
    });
    world.run_for(990 * MS);
    assert!(heard.borrow().is_none(), "it is paused");
    world.run_for(SECOND);
    let (result, at) = heard.borrow_mut().take().expect("it goes on");
    assert_eq!(result, Ok(b"late".to_vec()));
    assert!(at.as_nanos() >= 1_010_000_000, "its clock went on: {at:?}");
}

#[test]
fn a_pause_makes_a_timer_late_and_nothing_else() {
    let mut world = World::new(6);
    let node = world.add_node();
    let fired = Rc::new(Cell::new(None));
    let fires = Rc::clone(&fired);
    world.start(node, move || async move {
        let result = timeout(100 * MS, std::future::pending::<()>()).await;
        assert_eq!(result, Err(Elapsed));
        fires.set(Some(Instant::now()));
    });
    world.run_for(10 * MS);
    world.pause(node, SECOND);
    world.run_for(2 * SECOND);
    let at = fired.get().expect("it fired");
    assert!((at - Instant::from_nanos(0)).as_millis() == 1010, "{at:?}");
}

/// How much world time a sleep of ten seconds takes.
fn ten_seconds(change: impl FnOnce(&mut World, NodeId)) -> Option<Duration> {
    let mut world = World::new(7);
    let node = world.add_node();
    change(&mut world, node);
    let begun = world.now();
    world.start(node, || sleep(10 * SECOND));
    let ended = world.run_until(|world| !world.is_up(node), 60 * SECOND);
    ended.ok().map(|()| world.now() - begun)
}

#[test]
fn a_clock_that_drifts_makes_timers_early_or_late() {
    let between = |took: Option<Duration>, low_us: u128, high_us: u128| {
        let took = took.expect("it ends").as_micros();
        assert!((low_us..high_us).contains(&took), "{took}");
    };
    between(ten_seconds(|_, _| {}), 10_000_000, 10_000_200);
    between(
        ten_seconds(|world, node| world.set_drift(node, 500)),
        9_995_000,
        9_995_300,
    );
    between(
        ten_seconds(|world, node| world.set_drift(node, -500)),
        10_005_000,
        10_005_300,
    );
    assert_eq!(
        ten_seconds(|world, node| world.set_drift(node, -1_000_000)),
        None
    );
}

#[test]
fn a_clock_that_is_set_ahead_fires_what_is_due_at_once() {
    let mut world = World::new(8);
    let node = world.add_node();
    world.start(node, || sleep(10 * SECOND));
    world.run_for(SECOND);
    world.advance_clock(node, 9 * SECOND);
    assert_eq!(world.local_time(node) - world.now(), 9 * SECOND);
    world.run_for(MS);
    assert!(!world.is_up(node));
}

#[test]
fn a_slow_node_takes_its_time() {
    let work = |factor| {
        let mut world = World::new(9);
        let node = world.add_node();
        world.slow_down(node, factor);
        world.start(node, || async {
            for _ in 0..1000 {
                yield_now().await;
            }
        });
        let ended = world.run_until(|world| !world.is_up(node), SECOND);
        ended.expect("it ends");
        world.now().as_nanos()
    };
    let (fast, slow) = (work(1), work(50));
    assert!(fast >= 1_000_000, "even a busy loop takes time: {fast}");
    assert!((45 * fast..55 * fast).contains(&slow), "{fast} {slow}");
}

#[test]
fn a_shutdown_signal_reaches_who_listens_and_kills_who_does_not() {
    let mut world = World::new(10);
    let (listens, does_not) = (world.add_node(), world.add_node());
    let (stopped, stops) = flag();
    world.start(listens, move || async move {
        signal::shutdown().await.expect("the handler is installed");
        signal::shutdown()
            .await
            .expect("once asked is asked for good");
        stops.set(true);
    });
    world.start(does_not, std::future::pending);
    world.run_for(MS);
    world.signal_shutdown(listens);
    world.signal_shutdown(does_not);
    assert!(!world.is_up(does_not));
    world.run_for(MS);
    assert!(stopped.get() && !world.is_up(listens));
}

#[test]
fn a_new_life_knows_nothing_of_the_signals_and_cancellations_of_the_last_one() {
    let mut world = World::new(18);
    let node = world.add_node();
    world.update_ring(node, |ring| {
        ring.late_cancel = 1.0;
        ring.late_by = SECOND;
    });
    let (first_stopped, first_stops) = flag();
    world.start(node, move || async move {
        // The cancellation will take effect in the next life, if anywhere.
        let waited = timeout(MS, signal::shutdown()).await;
        assert!(waited.is_err());
        signal::shutdown().await.expect("the handler is installed");
        first_stops.set(true);
        std::future::pending::<()>().await;
    });
    world.run_for(10 * MS);
    world.signal_shutdown(node);
    world.run_for(10 * MS);
    assert!(first_stopped.get());
    world.restart(node, || async {
        let _ended = signal::shutdown().await;
    });
    world.run_for(60 * SECOND);
    assert!(world.is_up(node), "nobody asked the new one to stop");
    world.signal_shutdown(node);
    world.run_for(MS);
    assert!(!world.is_up(node));
}

#[test]
fn a_panic_is_reported_with_the_seed() {
    let panic = catch_unwind(|| {
        let mut world = World::new(0xC0FFEE);
        let node = world.add_node();
        world.start(node, || async {
            spawn(async { panic!("seven is not eight") }).detach();
            sleep(SECOND).await;
        });
        world.run_for(SECOND);
    })
    .expect_err("the world panics too");
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(message.contains("n0 panicked"), "{message}");
    assert!(message.contains("seed 12648430"), "{message}");
    assert!(message.contains("seven is not eight"), "{message}");
}

#[test]
fn a_panic_may_be_the_end_of_the_process_and_of_nothing_else() {
    let mut world = World::new(11);
    let (panics, lives) = (world.add_node(), world.add_node());
    world.on_panic(OnPanic::Kill);
    world.start(panics, || async { panic!("the disk is gone") });
    world.start(lives, std::future::pending);
    world.run_for(SECOND);
    assert!(!world.is_up(panics) && world.is_up(lives));
}

#[test]
fn a_checker_may_panic_while_nodes_run() {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(12);
        let node = world.add_node();
        world.start(node, || async {
            let _socket = bind("0.0.0.0:7");
            std::future::pending::<()>().await;
        });
        world.run_for(SECOND);
        panic!("the checker found something");
    }));
    assert!(result.is_err());
}

#[test]
fn a_bound_on_virtual_time_is_kept() {
    let mut world = World::new(13);
    let node = world.add_node();
    world.start(node, || async {
        loop {
            sleep(10 * MS).await;
        }
    });
    let result = world.run_until(|_| false, SECOND);
    assert_eq!(result, Err(Elapsed));
    assert_eq!(world.now() - Instant::from_nanos(0), SECOND);
}

#[test]
fn a_world_in_which_nothing_can_happen_any_more_says_so() {
    let mut world = World::new(14);
    assert!(!world.step());
    let node = world.add_node();
    world.start(node, || async {
        nop().await.expect("nothing went wrong");
    });
    let mut steps = 0;
    while world.step() {
        steps += 1;
    }
    assert!((1..10).contains(&steps), "{steps}");
}

#[test]
fn a_wake_from_outside_is_seen() {
    let mut world = World::new(15);
    let (waits, wakes) = (world.add_node(), world.add_node());
    let (sender, receiver) = futures::channel::oneshot::channel();
    world.start(waits, move || async move {
        receiver.await.expect("it is sent");
    });
    world.start(wakes, move || async move {
        sleep(SECOND).await;
        sender.send(()).expect("it is awaited");
    });
    let ended = world.run_until(|world| !world.is_up(waits), 2 * SECOND);
    assert_eq!(ended, Ok(()));
}

#[test]
fn worlds_run_in_several_threads_and_do_not_meet() {
    let run = |seed: u64| {
        let mut world = World::new(seed);
        for _ in 0..3 {
            let node = world.add_node();
            world.start(node, || async {
                for _ in 0..10 {
                    sleep(Duration::from_micros(random() % 1000)).await;
                }
            });
        }
        world.run_for(SECOND);
        world.event_hash()
    };
    let alone: Vec<u64> = (0..4).map(run).collect();
    let threads: Vec<_> = (0..4)
        .map(|seed| std::thread::spawn(move || run(seed)))
        .collect();
    let together: Vec<u64> = (threads.into_iter())
        .map(|thread| thread.join().expect("no panic"))
        .collect();
    assert_eq!(alone, together);
}

#[test]
fn a_crash_loses_what_the_disk_has_not_synced_and_a_kill_does_not() {
    let mut world = World::new(16);
    let node = world.add_node();
    let write = |world: &mut World, byte: u8| {
        let mut now = world.now();
        world.with_disk(node, |disk| {
            let mut run = |op| {
                disk.submit(now, op);
                now = disk.next_due().expect("it is under way");
                disk.complete(now).expect("it is due").1.expect("no faults")
            };
            let name = "log".to_owned();
            let opened = run(DiskOp::Open {
                name,
                create: true,
                truncate: false,
                directory: false,
            });
            let DiskDone::Opened(file) = opened else {
                panic!("{opened:?}")
            };
            let data = vec![byte; 64 * 1024];
            run(DiskOp::WriteAt {
                file,
                offset: 0,
                data,
            });
        });
    };
    let contents = |world: &mut World| {
        world.with_disk(node, |disk| {
            disk.contents("log").unwrap_or_default().to_vec()
        })
    };
    world.start(node, std::future::pending);
    world.run_for(MS);
    write(&mut world, 1);
    world.kill(node);
    assert_eq!(contents(&mut world), vec![1; 64 * 1024]);
    world.start(node, std::future::pending);
    write(&mut world, 2);
    world.crash(node);
    assert_ne!(contents(&mut world), vec![2; 64 * 1024]);
}
