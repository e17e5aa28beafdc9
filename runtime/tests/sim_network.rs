//! The simulated network: each fault alone, and the rules of UDP.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use viewring_runtime::net::{UdpOptions, UdpSocket};
use viewring_runtime::sim::{Delay, DropReason, EventKind, Link, NodeId, Verdict, World};
use viewring_runtime::time::{Instant, sleep};

const PORT: u16 = 7000;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Received {
    at: Instant,
    from: SocketAddr,
    payload: Vec<u8>,
}

type Inbox = Rc<RefCell<Vec<Received>>>;

/// Nodes that note what they receive.
fn world_of<const N: usize>(seed: u64) -> (World, [NodeId; N], [Inbox; N]) {
    let mut world = World::new(seed);
    let nodes = std::array::from_fn(|_| world.add_node());
    let inboxes: [Inbox; N] = std::array::from_fn(|_| Inbox::default());
    for (node, inbox) in nodes.iter().zip(&inboxes) {
        world.start(*node, receiver(inbox, PORT));
    }
    world.run_for(Duration::from_millis(1)); // all are bound
    (world, nodes, inboxes)
}

fn receiver(inbox: &Inbox, port: u16) -> impl FnOnce() -> Boxed + 'static {
    let inbox = Rc::clone(inbox);
    move || {
        Box::pin(async move {
            let socket = bind(&format!("0.0.0.0:{port}"));
            loop {
                let datagram = socket.recv_datagram().await.expect("no error is simulated");
                inbox.borrow_mut().push(Received {
                    at: Instant::now(),
                    from: datagram.from(),
                    payload: datagram.payload().to_vec(),
                });
            }
        })
    }
}

type Boxed = std::pin::Pin<Box<dyn Future<Output = ()>>>;

fn bind(addr: &str) -> UdpSocket {
    UdpSocket::bind(addr.parse().expect("an address")).expect("it is free")
}

/// Sends `count` numbered datagrams from one node to another, a millisecond apart.
fn send(world: &mut World, from: NodeId, to: NodeId, count: u32) {
    let to = world.socket_addr(to, PORT);
    world.spawn(from, move || async move {
        let socket = bind("0.0.0.0:0");
        for number in 0..count {
            let payload = number.to_le_bytes();
            socket.send_to(&payload, to).await.expect("sent");
            sleep(Duration::from_millis(1)).await;
        }
    });
}

fn numbers(inbox: &Inbox) -> Vec<u32> {
    let number = |received: &Received| {
        let bytes = received.payload[..4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes)
    };
    inbox.borrow().iter().map(number).collect()
}

fn dropped(world: &World, reason: DropReason) -> bool {
    let events = world.trace();
    events
        .iter()
        .any(|event| event.kind == EventKind::Drop(reason))
}

#[test]
fn a_good_network_brings_everything_in_order_and_not_before_its_delay() {
    let (mut world, [a, b], [_, inbox]) = world_of(1);
    world.update_links(|link| link.delay = Delay::fixed(Duration::from_millis(30)));
    let sent = world.now();
    send(&mut world, a, b, 100);
    world.run_for(SECOND);
    assert_eq!(numbers(&inbox), (0..100).collect::<Vec<_>>());
    let took = inbox.borrow()[0].at - sent;
    assert!((30..31).contains(&took.as_millis()), "{took:?}");
    assert_eq!(inbox.borrow()[0].from.ip(), world.address(a));
}

#[test]
fn a_lossy_link_loses_its_share() {
    let (mut world, [a, b], [_, inbox]) = world_of(2);
    world.update_link(a, b, |link| link.loss = 0.3);
    send(&mut world, a, b, 1000);
    world.run_for(2 * SECOND);
    let arrived = inbox.borrow().len();
    assert!((620..780).contains(&arrived), "{arrived}");
}

#[test]
fn a_duplicate_may_come_minutes_later() {
    let (mut world, [a, b], [_, inbox]) = world_of(3);
    world.update_link(a, b, |link| link.duplication = 0.5);
    send(&mut world, a, b, 400);
    world.run_for(SECOND);
    let soon = inbox.borrow().len();
    world.run_for(Duration::from_secs(130));
    let all = inbox.borrow().len();
    assert!((550..650).contains(&all), "{all}");
    assert!(all > soon + 5, "{soon} of {all} came at once");
}

#[test]
fn a_reordering_link_reorders() {
    let (mut world, [a, b], [_, inbox]) = world_of(4);
    world.update_links(|link| link.delay.mean = Duration::from_millis(5));
    send(&mut world, a, b, 100);
    world.run_for(SECOND);
    assert!(numbers(&inbox).is_sorted());
    world.update_links(|link| link.reordering = 1.0);
    inbox.borrow_mut().clear();
    send(&mut world, a, b, 100);
    world.run_for(SECOND);
    assert_eq!(inbox.borrow().len(), 100);
    assert!(!numbers(&inbox).is_sorted());
}

#[test]
fn damage_flips_bits_and_cuts_ends_off() {
    let (mut world, [a, b], [_, inbox]) = world_of(5);
    world.update_link(a, b, |link| link.bit_flips = 0.5);
    send(&mut world, a, b, 100);
    world.run_for(SECOND);
    let intact = |(n, received): (u32, &Received)| received.payload == n.to_le_bytes();
    let intact = (0..)
        .zip(inbox.borrow().iter())
        .filter(|&pair| intact(pair))
        .count();
    assert!((30..70).contains(&intact), "{intact}");
    assert!(
        inbox
            .borrow()
            .iter()
            .all(|received| received.payload.len() == 4)
    );

    world.update_link(a, b, |link| {
        *link = Link {
            truncation: 0.5,
            ..Link::default()
        }
    });
    inbox.borrow_mut().clear();
    send(&mut world, a, b, 100);
    world.run_for(SECOND);
    let cut = inbox
        .borrow()
        .iter()
        .filter(|received| received.payload.len() < 4)
        .count();
    assert!((30..70).contains(&cut));
}

#[test]
fn a_full_link_drops_what_comes_on_top() {
    let (mut world, [a, b], [_, inbox]) = world_of(6);
    world.update_link(a, b, |link| {
        link.delay = Delay::fixed(Duration::from_millis(10));
        link.capacity = 5;
    });
    send(&mut world, a, b, 100);
    world.run_for(SECOND);
    let arrived = inbox.borrow().len();
    assert!((45..=60).contains(&arrived), "{arrived}");
    assert!(dropped(&world, DropReason::Capacity));
}

#[test]
fn a_cut_holds_in_one_direction_until_it_is_healed() {
    let (mut world, [a, b], [to_a, to_b]) = world_of(7);
    world.cut(a, b);
    send(&mut world, a, b, 10);
    send(&mut world, b, a, 10);
    world.run_for(SECOND);
    assert_eq!((to_a.borrow().len(), to_b.borrow().len()), (10, 0));
    world.heal(a, b);
    send(&mut world, a, b, 10);
    world.run_for(SECOND);
    assert_eq!(to_b.borrow().len(), 10);
}

#[test]
fn a_cut_also_loses_what_would_arrive_meanwhile() {
    let (mut world, [a, b], [_, inbox]) = world_of(8);
    world.update_links(|link| link.delay = Delay::fixed(Duration::from_millis(100)));
    send(&mut world, a, b, 2);
    world.run_for(Duration::from_millis(50));
    world.cut_both(a, b);
    world.run_for(Duration::from_millis(100));
    world.heal_both(a, b);
    world.run_for(SECOND);
    assert!(inbox.borrow().is_empty());
}

#[test]
fn the_deaf_hear_nothing_and_the_mute_say_nothing() {
    let (mut world, [a, b, c], [to_a, to_b, to_c]) = world_of(9);
    world.set_deaf(a, true);
    world.set_mute(b, true);
    let pairs = [(a, b), (b, a), (a, c), (c, a), (b, c), (c, b)];
    for (from, to) in pairs {
        send(&mut world, from, to, 1);
    }
    world.run_for(SECOND);
    let came = [&to_a, &to_b, &to_c].map(|inbox| inbox.borrow().len());
    assert_eq!(came, [0, 2, 1]);
    world.heal_all();
    for (from, to) in pairs {
        send(&mut world, from, to, 1);
    }
    world.run_for(SECOND);
    let came = [&to_a, &to_b, &to_c].map(|inbox| inbox.borrow().len());
    assert_eq!(came, [2, 4, 3]);
}

#[test]
fn partitions_bridges_and_the_isolated_are_made_of_cuts() {
    let check = |cut: fn(&mut World, [NodeId; 3]), expected: [usize; 3]| {
        let (mut world, nodes, inboxes) = world_of(10);
        cut(&mut world, nodes);
        for from in nodes {
            for to in nodes.into_iter().filter(|&to| to != from) {
                send(&mut world, from, to, 1);
            }
        }
        world.run_for(SECOND);
        assert_eq!(inboxes.map(|inbox| inbox.borrow().len()), expected);
    };
    check(|_, _| {}, [2, 2, 2]);
    check(
        |world, [a, b, c]| world.partition(&[&[a], &[b, c]]),
        [0, 1, 1],
    );
    check(|world, [a, b, c]| world.bridge(&[a], b, &[c]), [1, 2, 1]);
    check(|world, [_, _, c]| world.isolate(c), [1, 1, 0]);
}

#[test]
fn a_rule_decides_until_its_guard_is_dropped() {
    let (mut world, [a, b], [_, inbox]) = world_of(11);
    let guard = world.rule(move |packet| {
        if packet.is_between(a, b) && packet.payload()[0] % 2 == 0 {
            Verdict::Drop
        } else {
            Verdict::Deliver
        }
    });
    send(&mut world, a, b, 10);
    world.run_for(SECOND);
    assert_eq!(numbers(&inbox), [1, 3, 5, 7, 9]);
    drop(guard);
    send(&mut world, a, b, 10);
    world.run_for(SECOND);
    assert_eq!(inbox.borrow().len(), 15);
}

#[test]
fn the_first_rule_that_objects_decides() {
    let (mut world, [a, b], [_, inbox]) = world_of(12);
    let _no_objection = world.rule(|_| Verdict::Deliver);
    let _first = world.rule(|_| Verdict::Replace(vec![9, 0, 0, 0]));
    let _second = world.rule(|_| Verdict::Drop);
    send(&mut world, a, b, 1);
    world.run_for(SECOND);
    assert_eq!(numbers(&inbox), [9]);
}

#[test]
fn rules_delay_duplicate_and_redirect() {
    let (mut world, [a, b, c], [_, to_b, to_c]) = world_of(13);
    let elsewhere = world.socket_addr(c, PORT).to_string();
    let elsewhere = elsewhere.parse().expect("an IPv4 address");
    let _guard = world.rule(move |packet| match packet.payload()[0] {
        0 => Verdict::Delay(Duration::from_millis(500)),
        1 => Verdict::Duplicate(Duration::from_millis(700)),
        _ => Verdict::Redirect(elsewhere),
    });
    send(&mut world, a, b, 3);
    world.run_for(SECOND);
    assert_eq!(numbers(&to_b), [1, 0, 1]);
    assert_eq!(numbers(&to_c), [2]);
}

#[test]
fn held_packets_wait_until_they_are_released() {
    let (mut world, [a, b], [_, inbox]) = world_of(14);
    let guard = world.rule(|_| Verdict::Hold);
    send(&mut world, a, b, 4);
    world.run_for(SECOND);
    drop(guard);
    assert_eq!((world.held().len(), inbox.borrow().len()), (4, 0));
    assert_eq!(world.release(|packet| packet.payload()[0] >= 2), 2);
    world.run_for(SECOND);
    assert_eq!(numbers(&inbox), [2, 3]);
    assert_eq!(world.release(|_| true), 2);
    world.run_for(SECOND);
    assert_eq!(numbers(&inbox), [2, 3, 0, 1]);
}

#[test]
fn what_is_sent_to_nobody_vanishes() {
    let (mut world, [a], _) = world_of::<1>(15);
    world.spawn(a, || async {
        let socket = bind("0.0.0.0:0");
        let nowhere = "10.9.9.9:1".parse().expect("an address");
        assert_eq!(socket.send_to(b"lost", nowhere).await.expect("sent"), 4);
    });
    world.run_for(SECOND);
    assert!(dropped(&world, DropReason::NoNode));
}

#[test]
fn a_connected_sender_hears_that_a_port_is_closed_and_others_do_not() {
    let (mut world, [a, b], _) = world_of::<2>(16);
    let closed = world.socket_addr(b, 9);
    let error = Rc::new(RefCell::new(None));
    let told = Rc::clone(&error);
    world.spawn(a, move || async move {
        let socket = bind("0.0.0.0:0");
        socket.send_to(b"?", closed).await.expect("sent");
        sleep(Duration::from_millis(10)).await;
        socket.connect(closed).expect("connects");
        socket.send(b"?").await.expect("nothing is known yet");
        *told.borrow_mut() = socket.recv_datagram().await.err();
    });
    world.run_for(SECOND);
    let kind = error.borrow().as_ref().map(io::Error::kind);
    assert_eq!(kind, Some(io::ErrorKind::ConnectionRefused));
    assert_eq!(world.network_stats().refused, 1);

    // A machine without power answers nothing.
    world.crash(b);
    world.spawn(a, move || async move {
        let socket = bind("0.0.0.0:0");
        socket.connect(closed).expect("connects");
        socket.send(b"?").await.expect("sent");
        sleep(Duration::from_millis(10)).await;
        socket.send(b"?").await.expect("nobody said anything");
    });
    world.run_for(SECOND);
    assert_eq!(world.network_stats().refused, 1);
}

#[test]
fn the_limits_of_a_datagram_hold() {
    let (mut world, [a, b], [_, inbox]) = world_of(17);
    let small = UdpOptions {
        buffer_len: 100,
        ..UdpOptions::default()
    };
    let to_small = world.socket_addr(b, 8000);
    let to_large = world.socket_addr(b, PORT);
    let seen = Rc::new(RefCell::new(None));
    let see = Rc::clone(&seen);
    world.spawn(b, move || async move {
        let addr = "0.0.0.0:8000".parse().expect("an address");
        let socket = UdpSocket::bind_with(addr, &small).expect("free");
        let datagram = socket.recv_datagram().await.expect("it comes");
        *see.borrow_mut() = Some((datagram.payload().len(), datagram.is_truncated()));
    });
    world.spawn(a, move || async move {
        let socket = bind("0.0.0.0:0");
        let error = socket.send_to(&[0; 65_508], to_large).await;
        let error = error.expect_err("too long").raw_os_error();
        assert_eq!(error, Some(libc::EMSGSIZE));
        socket
            .send_to(&[0; 65_507], to_large)
            .await
            .expect("just fits");
        sleep(Duration::from_millis(1)).await;
        socket.send_to(&[7; 101], to_small).await.expect("sent");
    });
    world.run_for(SECOND);
    assert_eq!(*seen.borrow(), Some((100, true)));
    assert_eq!(
        inbox.borrow()[0].payload.len(),
        2048,
        "its own buffers are shorter"
    );
}

#[test]
fn an_address_is_bound_once_and_loopback_stays_inside() {
    let (mut world, [a, b], [to_a, to_b]) = world_of(18);
    let own = world.socket_addr(a, PORT);
    let foreign = world.socket_addr(b, PORT);
    world.spawn(a, move || async move {
        let error = UdpSocket::bind(own).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let error = UdpSocket::bind(foreign).expect_err("not here");
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        let inward = bind("127.0.0.1:0");
        let here = "127.0.0.1:7000".parse().expect("an address");
        inward.send_to(b"self", here).await.expect("sent");
        inward
            .send_to(b"out?", foreign)
            .await
            .expect_err("no way back");
        // Dropped sockets free their address, once their receive has ended.
        drop(bind("127.0.0.1:8000"));
        sleep(Duration::from_millis(1)).await;
        drop(bind("127.0.0.1:8000"));
    });
    world.isolate(a); // a node is never cut off from itself
    world.run_for(SECOND);
    assert_eq!(to_b.borrow().len(), 0);
    assert_eq!(to_a.borrow().len(), 1);
    assert!(to_a.borrow()[0].from.ip().is_loopback());
}

#[test]
fn a_socket_that_nobody_reads_fills_up() {
    let (mut world, [a, b], _) = world_of::<2>(19);
    let to = world.socket_addr(b, 8000);
    world.spawn(b, || async {
        let _unread = bind("0.0.0.0:8000");
        std::future::pending::<()>().await;
    });
    world.spawn(a, move || async move {
        let socket = bind("0.0.0.0:0");
        for _ in 0..300 {
            socket.send_to(&[0; 1000], to).await.expect("sent");
        }
    });
    world.run_for(SECOND);
    assert!(dropped(&world, DropReason::SocketFull));
}

#[test]
fn a_link_can_be_drawn() {
    let world = World::new(20);
    let mut random = world.random(1);
    let drawn: Vec<Link> = (0..50).map(|_| Link::draw(&mut random)).collect();
    assert!(drawn.iter().any(|link| link.loss == 0.0));
    assert!(drawn.iter().any(|link| link.loss > 0.1));
    assert!(drawn.iter().any(|link| link.capacity <= 20));
}

#[test]
fn a_run_that_reaches_nobody_keeps_no_runs_from_others_and_is_tried_again_later() {
    let (mut world, [a, b], [_, to_b]) = world_of::<2>(21);
    let to = world.socket_addr(b, PORT);
    let done = Rc::new(Cell::new(false));
    let is_done = Rc::clone(&done);
    world.spawn(a, move || async move {
        let socket = bind("0.0.0.0:0");
        let post = async |to| {
            let mut run = socket.take_run_buf(to)?;
            run.put_slice(b"onetwothree");
            let posted = socket.post_run_to(run.share(), 3, to);
            posted.expect("there is room");
            sleep(Duration::from_millis(1)).await;
            Some(())
        };
        let nowhere = |host| SocketAddr::from(([10, 9, 9, host], 0));
        assert!(post(nowhere(0)).await.is_some());
        // One by one they do not get there, either.
        let stats = socket.stats();
        assert_eq!((stats.posted, stats.post_failed), (0, 4));
        assert!(post(nowhere(0)).await.is_none(), "not again soon");
        assert!(post(to).await.is_some());
        assert_eq!(socket.stats().posted, 1);
        // So many are not remembered.
        for host in 1..=16 {
            assert!(post(nowhere(host)).await.is_some());
        }
        assert!(post(nowhere(16)).await.is_none());
        assert!(post(nowhere(0)).await.is_some());
        sleep(10 * SECOND).await;
        assert!(post(nowhere(16)).await.is_some(), "later it is tried again");
        assert_eq!(socket.stats().post_failed, 19 * 4);
        is_done.set(true);
    });
    world.run_for(11 * SECOND);
    assert!(done.get());
    assert_eq!(to_b.borrow().len(), 4);
}
