//! The ring's own bad days, one by one: a socket must go on receiving after each.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use viewring_runtime::net::{UdpOptions, UdpSocket, UdpStats};
use viewring_runtime::sim::{EndReason, EventKind, Keep, NodeId, RingFaults, World};
use viewring_runtime::time::{Instant, sleep, timeout};
use viewring_runtime::{Metrics, nop};

const SECOND: Duration = Duration::from_secs(1);
const COUNT: u32 = 500;

/// What one node saw of the 500 datagrams that another one sent.
struct Seen {
    numbers: Rc<RefCell<Vec<u32>>>,
    errors: Rc<Cell<u32>>,
    stats: Rc<Cell<UdpStats>>,
    world: World,
    receiver: NodeId,
}

fn bind(addr: &str, options: &UdpOptions) -> UdpSocket {
    let addr = addr.parse().expect("an address");
    UdpSocket::bind_with(addr, options).expect("it is free")
}

fn receive(seed: u64, faults: impl FnOnce(&mut RingFaults)) -> Seen {
    let mut world = World::new(seed);
    world.keep_trace(Keep::All);
    let (receiver, sender) = (world.add_node(), world.add_node());
    world.update_ring(receiver, faults);
    let to = world.socket_addr(receiver, 7);
    let seen = Seen {
        numbers: Rc::default(),
        errors: Rc::default(),
        stats: Rc::default(),
        world,
        receiver,
    };
    let (numbers, errors) = (Rc::clone(&seen.numbers), Rc::clone(&seen.errors));
    let stats = Rc::clone(&seen.stats);
    let mut world = seen.world;
    world.start(receiver, move || async move {
        let options = UdpOptions {
            recv_buffers: 8,
            ..UdpOptions::default()
        };
        let socket = bind("0.0.0.0:7", &options);
        loop {
            match socket.recv_datagram().await {
                Ok(datagram) if datagram.payload().is_empty() => {}
                Ok(datagram) => {
                    let bytes = datagram.payload().try_into().expect("four bytes");
                    numbers.borrow_mut().push(u32::from_le_bytes(bytes));
                }
                Err(_) => errors.set(errors.get() + 1),
            }
            stats.set(socket.stats());
        }
    });
    world.start(sender, move || async move {
        let socket = bind("0.0.0.0:0", &UdpOptions::default());
        for number in 0..COUNT {
            socket
                .send_to(&number.to_le_bytes(), to)
                .await
                .expect("sent");
            sleep(Duration::from_micros(50)).await;
        }
    });
    world.run_for(5 * SECOND);
    Seen { world, ..seen }
}

impl Seen {
    fn all_came(&self) -> bool {
        let mut numbers = self.numbers.borrow().clone();
        numbers.sort_unstable();
        numbers == (0..COUNT).collect::<Vec<_>>()
    }

    fn count(&self, kind: EventKind) -> u64 {
        let trace = self.world.trace();
        trace.iter().filter(|event| event.kind == kind).count() as u64
    }

    fn ends(&self, reason: EndReason) -> u64 {
        self.count(EventKind::ReceiveEnd(reason))
    }

    fn metrics(&self) -> Metrics {
        let metrics = self.world.metrics(self.receiver);
        metrics.expect("the receiver is up")
    }
}

#[test]
fn without_faults_no_receive_ends() {
    let seen = receive(1, |_| {});
    assert!(seen.all_came());
    let stats = seen.stats.get();
    assert_eq!(stats.received, u64::from(COUNT));
    let ended = stats.ended_empty + stats.ended_overflow + stats.ended_no_buffers;
    assert_eq!(
        (ended, stats.ended_error, seen.metrics().completions_stale),
        (0, 0, 0)
    );
}

#[test]
fn a_receive_that_overflows_starts_again_and_loses_nothing() {
    let seen = receive(2, |ring| ring.overflow = 0.2);
    assert!(seen.all_came());
    let ended = seen.stats.get().ended_overflow;
    assert!(ended > 50, "{ended}");
    assert_eq!(ended, seen.ends(EndReason::Overflow));
}

#[test]
fn a_receive_that_ends_on_an_empty_datagram_starts_again() {
    let seen = receive(3, |ring| ring.empty = 0.2);
    assert!(seen.all_came());
    assert!(seen.stats.get().ended_empty > 50);
    assert_eq!(seen.stats.get().ended_empty, seen.ends(EndReason::Empty));
}

#[test]
fn a_socket_error_is_told_once_and_the_socket_goes_on() {
    let seen = receive(4, |ring| ring.socket_error = 0.1);
    assert!(seen.all_came());
    let told = u64::from(seen.errors.get());
    assert!(told > 10, "{told}");
    assert_eq!(
        (told, told),
        (seen.stats.get().ended_error, seen.ends(EndReason::Error))
    );
}

#[test]
fn a_socket_whose_buffers_are_gone_waits_for_them() {
    let seen = receive(5, |ring| {
        ring.starve = 0.05;
        ring.starve_for = Duration::from_millis(2);
    });
    assert!(seen.all_came());
    assert!(seen.count(EventKind::Starve) > 2);
    assert!(seen.stats.get().ended_no_buffers > 0);
}

#[test]
fn buffers_that_the_program_holds_run_out_without_any_fault() {
    let mut world = World::new(6);
    let (receiver, sender) = (world.add_node(), world.add_node());
    let to = world.socket_addr(receiver, 7);
    let stats = Rc::new(Cell::new(UdpStats::default()));
    let noted = Rc::clone(&stats);
    world.start(receiver, move || async move {
        let options = UdpOptions {
            recv_buffers: 4,
            ..UdpOptions::default()
        };
        let socket = bind("0.0.0.0:7", &options);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(socket.recv_datagram().await.expect("no error"));
        }
        let fifth = timeout(SECOND, socket.recv_datagram()).await;
        assert!(fifth.is_err(), "there is no buffer for it");
        drop(held);
        socket
            .recv_datagram()
            .await
            .expect("it waited in the socket");
        noted.set(socket.stats());
    });
    world.start(sender, move || async move {
        let socket = bind("0.0.0.0:0", &UdpOptions::default());
        for _ in 0..5 {
            socket.send_to(b"x", to).await.expect("sent");
        }
    });
    world.run_for(3 * SECOND);
    assert!(!world.is_up(receiver));
    assert!(stats.get().ended_no_buffers >= 1);
}

#[test]
fn a_late_cancellation_lets_the_operation_go_on_and_nobody_hears_of_it() {
    let mut world = World::new(7);
    world.keep_trace(Keep::All);
    let (receiver, sender) = (world.add_node(), world.add_node());
    world.update_ring(receiver, |ring| {
        ring.late_cancel = 1.0;
        ring.late_by = Duration::from_millis(50);
    });
    let to = world.socket_addr(receiver, 7);
    world.start(receiver, || async {
        let first = bind("0.0.0.0:7", &UdpOptions::default());
        first.recv_datagram().await.expect("it comes");
        drop(first);
        let taken = UdpSocket::bind("0.0.0.0:7".parse().expect("an address"));
        taken.expect_err("the old receive still holds the socket");
        sleep(SECOND).await;
        bind("0.0.0.0:7", &UdpOptions::default());
        std::future::pending::<()>().await;
    });
    world.start(sender, move || async move {
        let socket = bind("0.0.0.0:0", &UdpOptions::default());
        for _ in 0..100 {
            socket.send_to(b"x", to).await.expect("sent");
            sleep(Duration::from_millis(1)).await;
        }
    });
    world.run_for(3 * SECOND);
    let events = world.trace();
    assert!(
        events
            .iter()
            .any(|event| event.kind == EventKind::LateCancel)
    );
    let metrics = world.metrics(receiver).expect("it is up");
    assert_eq!(
        (metrics.completions_stale, metrics.operations_orphaned),
        (0, 1)
    );
    let got = world.network_stats().delivered;
    assert!((3..100).contains(&got), "the orphan took some: {got}");
}

#[test]
fn completions_in_another_order_are_told_to_the_right_operations() {
    let mut world = World::new(8);
    world.keep_trace(Keep::All);
    let node = world.add_node();
    world.update_ring(node, |ring| ring.reorder = 1.0);
    let to = world.socket_addr(node, 9);
    world.start(node, move || async move {
        let socket = bind("0.0.0.0:7", &UdpOptions::default());
        for len in 0..20 {
            let (long, short) = (vec![0; 100 + len], vec![0; len]);
            let sends = futures::future::join3(
                socket.send_to(&long, to),
                socket.send_to(&short, to),
                nop(),
            );
            let (first, second, third) = sends.await;
            assert_eq!(first.expect("sent"), 100 + len);
            assert_eq!(second.expect("sent"), len);
            third.expect("nothing went wrong");
        }
    });
    world.run_for(SECOND);
    let reorders = |event: &&viewring_runtime::sim::Event| event.kind == EventKind::Reorder;
    assert!(world.trace().iter().filter(reorders).count() >= 10);
    assert!(!world.is_up(node));
}

#[test]
fn a_full_queue_delays_operations_and_loses_none() {
    let mut world = World::new(9);
    let node = world.add_node();
    world.update_ring(node, |ring| {
        ring.delay_submission = 1.0;
        ring.late_by = Duration::from_millis(3);
    });
    let took = Rc::new(Cell::new(Duration::ZERO));
    let takes = Rc::clone(&took);
    world.start(node, move || async move {
        let begun = Instant::now();
        for _ in 0..100 {
            nop().await.expect("nothing went wrong");
        }
        takes.set(begun.elapsed());
    });
    world.run_for(5 * SECOND);
    let took = took.get().as_millis();
    assert!((200..450).contains(&took), "{took}");
}

#[test]
fn a_delayed_send_that_is_cancelled_may_win_or_lose() {
    let mut world = World::new(10);
    let node = world.add_node();
    world.update_ring(node, |ring| {
        ring.delay_submission = 1.0;
        ring.late_cancel = 1.0;
        ring.late_by = Duration::from_millis(3);
    });
    let to = world.socket_addr(node, 9);
    world.start(node, move || async move {
        let socket = bind("0.0.0.0:7", &UdpOptions::default());
        for _ in 0..200 {
            let send = socket.send_to(b"?", to);
            let _abandoned = timeout(Duration::from_micros(100), send).await;
        }
        sleep(SECOND).await;
    });
    world
        .run_until(|world| !world.is_up(node), 5 * SECOND)
        .expect("it ends");
    let sent = world.network_stats().sent;
    assert!((40..190).contains(&sent), "{sent} of 200 went out");
}

#[test]
fn sends_fail_now_and_then() {
    let mut world = World::new(11);
    let node = world.add_node();
    world.update_ring(node, |ring| ring.send_error = 0.5);
    let to = world.socket_addr(node, 9);
    let failed = Rc::new(Cell::new(0));
    let fails = Rc::clone(&failed);
    world.start(node, move || async move {
        let socket = bind("0.0.0.0:7", &UdpOptions::default());
        for _ in 0..100 {
            if socket.send_to(b"?", to).await.is_err() {
                fails.set(fails.get() + 1);
            }
        }
    });
    world.run_for(SECOND);
    let sent = world.network_stats().sent;
    assert_eq!(sent + failed.get(), 100);
    assert!((30..70).contains(&sent), "{sent}");
}

#[test]
fn everything_at_once_loses_nothing_but_what_could_not_be_sent() {
    for seed in 100..140 {
        let seen = receive(seed, |ring| *ring = RingFaults::draw(&mut random(seed)));
        assert!(seen.all_came(), "seed {seed}: {:?}", seen.stats.get());
        assert_eq!(seen.metrics().completions_stale, 0);
    }
}

fn random(seed: u64) -> viewring_runtime::sim::Random {
    viewring_runtime::sim::Random::new(seed)
}
