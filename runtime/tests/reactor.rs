//! What every reactor promises: one set of bodies, run on each.
//!
//! A body uses nothing but the runtime's own API, so that it means the same in a simulated world.

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use viewring_runtime::buf::SharedBuf;
use viewring_runtime::net::{UdpOptions, UdpSocket};
use viewring_runtime::time::{BootInstant, Instant, sleep, sleep_until, timeout};
use viewring_runtime::{metrics, nop, spawn, yield_now};

use self::conformance::drained;

#[macro_use]
mod conformance;

bodies! {
    a_datagram_comes_with_its_sender
    an_empty_datagram_is_one_too
    a_long_datagram_is_truncated_and_says_so
    a_short_slice_cuts_the_datagram
    a_refused_peer_is_told_once_and_the_socket_goes_on
    a_connected_socket_hears_its_peer_only
    a_cancel_may_come_at_any_moment
    timers_fire_in_order
    timers_never_fire_early
    one_send_to_many
    many_sockets_at_once
    held_buffers_delay_and_lose_nothing
    buffers_that_come_back_wake_the_receiver
    a_burst_after_held_buffers_came_back_is_heard
    a_dropped_receive_loses_nothing
    receives_that_were_dropped_leave_nothing_behind
    two_receivers_share_a_socket
    dropped_operations_are_orphaned_and_drained
    an_address_in_use_is_an_error
    a_port_is_free_when_the_last_operation_has_ended
    a_socket_sends_to_itself
    ipv6_works_if_there_is_any
    what_is_in_hand_is_taken_without_waiting
    posts_are_limited_and_counted
    a_run_arrives_as_many_datagrams
    a_received_payload_that_is_posted_as_a_run_comes_back
    a_received_payload_that_is_posted_comes_back
    too_long_a_payload_is_an_error
    a_payload_may_exceed_the_pooled_buffers
    options_out_of_range_are_errors
    a_trip_through_the_reactor_ends
}

// A simulated socket keeps its address until its last operation has ended.
conformance!(uring_ports, crate::conformance::on_uring, [
    a_port_is_free_after_the_drop
    a_port_is_free_after_the_drop_with_sends_in_flight
]);

fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

fn socket() -> UdpSocket {
    UdpSocket::bind(localhost()).expect("a socket")
}

fn socket_with(options: &UdpOptions) -> UdpSocket {
    UdpSocket::bind_with(localhost(), options).expect("a socket")
}

async fn send(from: &UdpSocket, payload: &[u8], to: &UdpSocket) {
    let sent = from.send_to(payload, to.local_addr()).await.expect("sent");
    assert_eq!(sent, payload.len());
}

async fn expect(socket: &UdpSocket, payload: &[u8]) {
    let received = timeout(Duration::from_secs(5), socket.recv_datagram()).await;
    let datagram = received.expect("in time").expect("no error");
    assert_eq!(datagram.payload(), payload);
}

async fn a_datagram_comes_with_its_sender() {
    let (a, b) = (socket(), socket());
    for len in [1, 17, 100, 1400, 2048] {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        send(&a, &payload, &b).await;
        let datagram = b.recv_datagram().await.expect("no error");
        assert_eq!(datagram.payload(), payload);
        assert_eq!(datagram.from(), a.local_addr());
        assert!(!datagram.is_truncated());
    }
    assert_eq!(b.stats().received, 5);
}

async fn an_empty_datagram_is_one_too() {
    let (a, b) = (socket(), socket());
    for round in 1..=3 {
        send(&a, b"", &b).await;
        let mut buf = [0; 8];
        let (len, from) = b.recv_from(&mut buf).await.expect("no error");
        assert_eq!((len, from), (0, a.local_addr()));
        send(&a, b"more", &b).await;
        expect(&b, b"more").await;
        assert_eq!(b.stats().received, 2 * round);
    }
}

async fn a_long_datagram_is_truncated_and_says_so() {
    let b = socket_with(&UdpOptions {
        buffer_len: 100,
        ..UdpOptions::default()
    });
    let a = socket();
    for (len, truncated) in [(100, false), (101, true), (2000, true), (99, false)] {
        send(&a, &vec![7; len], &b).await;
        let datagram = b.recv_datagram().await.expect("no error");
        assert_eq!(datagram.payload(), vec![7; len.min(100)]);
        assert_eq!(datagram.is_truncated(), truncated);
        assert_eq!(datagram.from(), a.local_addr());
    }
    assert_eq!(b.stats().truncated, 2);
}

async fn a_short_slice_cuts_the_datagram() {
    let (a, b) = (socket(), socket());
    send(&a, b"abcdef", &b).await;
    let mut buf = [0; 3];
    let received = b.recv_from(&mut buf).await.expect("no error");
    assert_eq!((received, &buf), ((3, a.local_addr()), b"abc"));
    send(&a, b"next", &b).await;
    expect(&b, b"next").await;
}

async fn a_refused_peer_is_told_once_and_the_socket_goes_on() {
    let a = socket();
    let gone = socket();
    let addr = gone.local_addr();
    drop(gone);
    drained(0).await;
    a.connect(addr).expect("connected");
    // Receiving before the refusal comes: the receive is what is told.
    let mut buf = [0; 8];
    assert!(a.recv(&mut buf).now_or_never().is_none());
    sleep(Duration::from_millis(1)).await;
    a.send(b"is there anybody?").await.expect("sent");
    let told = timeout(Duration::from_secs(5), a.recv(&mut buf)).await;
    let error = told.expect("in time").expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let quiet = timeout(Duration::from_millis(5), a.recv(&mut buf)).await;
    assert!(quiet.is_err(), "told once");
    let back = UdpSocket::bind(addr).expect("a socket");
    send(&back, b"now there is", &a).await;
    expect(&a, b"now there is").await;
    a.send(b"good").await.expect("sent");
    expect(&back, b"good").await;
    assert_eq!(a.stats().ended_error, 1);
}

async fn a_connected_socket_hears_its_peer_only() {
    let (a, peer, stranger) = (socket(), socket(), socket());
    a.connect(peer.local_addr()).expect("connected");
    send(&stranger, b"psst", &a).await;
    send(&peer, b"hello", &a).await;
    expect(&a, b"hello").await;
    let quiet = timeout(Duration::from_millis(2), a.recv_datagram()).await;
    assert!(quiet.is_err());
}

async fn a_cancel_may_come_at_any_moment() {
    let (a, b) = (socket(), socket());
    let mut orphaned = 0;
    for round in 0..300 {
        let mut operation: std::pin::Pin<Box<dyn Future<Output = bool>>> = match round % 2 {
            0 => Box::pin(nop().map(|done| done.is_ok())),
            _ => Box::pin(a.send_to(b"x", b.local_addr()).map(|sent| sent.is_ok())),
        };
        let mut finished = false;
        for _ in 0..round % 4 {
            if futures::poll!(&mut operation).is_ready() {
                finished = true;
                break;
            }
            yield_now().await;
        }
        orphaned += u64::from(!finished && round % 4 > 0);
        drop(operation);
    }
    drained(0).await;
    assert!(metrics().operations_orphaned <= orphaned);
    send(&a, b"after all", &b).await;
    drained(1).await; // only the receive, if any
}

async fn timers_fire_in_order() {
    let base = Instant::now() + Duration::from_millis(3);
    let fired = Rc::new(std::cell::RefCell::new(Vec::new()));
    let tasks: Vec<_> = (0..200u64)
        .map(|number| {
            let place = number * 37 % 200;
            let fired = Rc::clone(&fired);
            // Pairs have the same deadline: they fire in the order of their arming.
            let deadline = base + Duration::from_micros(place / 2 * 20);
            spawn(async move {
                sleep_until(deadline).await;
                fired.borrow_mut().push((deadline, number));
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let fired = fired.borrow();
    assert_eq!(fired.len(), 200);
    assert!(fired.is_sorted());
}

async fn timers_never_fire_early() {
    let one = |number: u64| async move {
        let duration = Duration::from_nanos(number * number * 977 + 1);
        let (boot, before) = (BootInstant::now(), Instant::now());
        sleep(duration).await;
        assert!(before.elapsed() >= duration);
        assert!(BootInstant::now() - boot >= duration);
    };
    join_all((0..100).map(one)).await;
    for number in 0..20 {
        one(number).await;
    }
}

async fn one_send_to_many() {
    let a = socket();
    let receivers: Vec<UdpSocket> = (0..50).map(|_| socket()).collect();
    let mut to: Vec<SocketAddr> = receivers.iter().map(UdpSocket::local_addr).collect();
    let result = a.send_to_many(b"all", &to).await;
    assert_eq!((result.sent, result.failed.len()), (50, 0));
    for receiver in &receivers {
        expect(receiver, b"all").await;
    }
    // An address of another family cannot be reached from here; the rest can.
    to.insert(7, "[::1]:9".parse().expect("an address"));
    let result = a.send_to_many(b"again", &to).await;
    assert_eq!((result.sent, result.failed.len()), (50, 1));
    assert_eq!(result.failed[0].0, 7);
    for receiver in &receivers {
        expect(receiver, b"again").await;
    }
    assert_eq!(a.send_to_many(b"nobody", &[]).await.sent, 0);
}

async fn many_sockets_at_once() {
    let options = UdpOptions {
        recv_buffers: 4,
        ..UdpOptions::default()
    };
    let sockets: Vec<UdpSocket> = (0..200).map(|_| socket_with(&options)).collect();
    let receives = join_all(sockets.iter().map(UdpSocket::recv_datagram));
    let sends = join_all((0..200u8).map(|i| {
        let (from, to) = (&sockets[usize::from(i)], &sockets[199 - usize::from(i)]);
        async move { send(from, &[i], to).await }
    }));
    let (received, _) = futures::join!(receives, sends);
    for (place, datagram) in received.into_iter().enumerate() {
        let datagram = datagram.expect("no error");
        assert_eq!(datagram.payload(), [199 - place as u8]);
        assert_eq!(datagram.from(), sockets[199 - place].local_addr());
    }
    drop(sockets);
    drained(0).await;
}

async fn held_buffers_delay_and_lose_nothing() {
    let b = socket_with(&UdpOptions {
        recv_buffers: 4,
        ..UdpOptions::default()
    });
    let a = socket();
    for number in 0..20u8 {
        send(&a, &[number], &b).await;
    }
    let mut seen = Vec::new();
    for round in 1..=5 {
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(b.recv_datagram().await.expect("no error"));
        }
        // All buffers are held: nothing more comes, and nobody spins over it.
        let turns = metrics().turns;
        let starved = timeout(Duration::from_millis(2), b.recv_datagram()).await;
        assert!(starved.is_err());
        assert!(metrics().turns - turns < 50);
        // The last time nothing waits for a buffer.
        assert!(b.stats().ended_no_buffers >= round.min(4));
        seen.extend(held.iter().map(|datagram| datagram.payload()[0]));
    }
    assert!(seen.iter().copied().eq(0..20), "{seen:?}");
}

async fn buffers_that_come_back_wake_the_receiver() {
    let b = socket_with(&UdpOptions {
        recv_buffers: 1,
        ..UdpOptions::default()
    });
    let a = socket();
    send(&a, b"first", &b).await;
    send(&a, b"second", &b).await;
    let first = b.recv_datagram().await.expect("no error");
    let releases = async {
        sleep(Duration::from_millis(1)).await;
        assert_eq!(first.payload(), b"first");
        drop(first);
    };
    futures::join!(expect(&b, b"second"), releases);
}

async fn a_burst_after_held_buffers_came_back_is_heard() {
    let b = socket_with(&UdpOptions {
        recv_buffers: 8,
        ..UdpOptions::default()
    });
    let a = socket();
    for hold in (0..=8).rev() {
        let mut held = Vec::new();
        for _ in 0..hold {
            send(&a, b"held", &b).await;
            held.push(b.recv_datagram().await.expect("no error"));
        }
        drop(held);
        // The world may not have got them back yet when this burst comes.
        for number in 0..20u8 {
            let posted = a.post_to(SharedBuf::copy_from(&[number]), b.local_addr());
            posted.expect("there is room");
        }
        for number in 0..20u8 {
            expect(&b, &[number]).await;
        }
    }
}

async fn a_dropped_receive_loses_nothing() {
    let (a, b) = (socket(), socket());
    let mut buf = [0; 4];
    for number in 0..500u32 {
        if number % 3 == 0 {
            assert!(b.recv_from(&mut buf).now_or_never().is_none());
        }
        send(&a, &number.to_be_bytes(), &b).await;
        let received = loop {
            let receive = timeout(Duration::ZERO, b.recv_from(&mut buf));
            if let Ok(received) = receive.await {
                break received.expect("no error");
            }
            yield_now().await;
        };
        assert_eq!(received, (4, a.local_addr()));
        assert_eq!(u32::from_be_bytes(buf), number);
    }
    assert_eq!(metrics().operations_orphaned, 0, "dropping costs nothing");
}

async fn receives_that_were_dropped_leave_nothing_behind() {
    struct Unmoved;
    impl Wake for Unmoved {
        fn wake(self: Arc<Self>) {
            unreachable!("whoever has gone is not woken");
        }
    }
    let socket = socket();
    let wakers: Vec<_> = (0..100).map(|_| Arc::new(Unmoved)).collect();
    for waker in &wakers {
        let mut receive = Box::pin(socket.recv_datagram());
        let waker = Waker::from(Arc::clone(waker));
        let polled = receive.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    assert!(wakers.iter().all(|waker| Arc::strong_count(waker) == 1));
    send(&socket, b"x", &socket).await;
    expect(&socket, b"x").await;
}

async fn two_receivers_share_a_socket() {
    let (a, b) = (socket(), Rc::new(socket()));
    let receivers: Vec<_> = (0..4)
        .map(|_| {
            let b = Rc::clone(&b);
            spawn(async move {
                let mut count = 0;
                while !b
                    .recv_datagram()
                    .await
                    .expect("no error")
                    .payload()
                    .is_empty()
                {
                    count += 1;
                }
                count
            })
        })
        .collect();
    for _ in 0..100 {
        send(&a, b"work", &b).await;
    }
    for _ in 0..4 {
        send(&a, b"", &b).await; // one end for each
    }
    let mut total = 0;
    for receiver in receivers {
        total += receiver.await.expect("no panic");
    }
    assert_eq!(total, 100);
}

async fn dropped_operations_are_orphaned_and_drained() {
    let (a, b) = (socket(), socket());
    for _ in 0..100 {
        let mut sending = Box::pin(a.send_to(b"perhaps", b.local_addr()));
        assert!(futures::poll!(&mut sending).is_pending());
    }
    assert_eq!(metrics().operations_orphaned, 100);
    assert_eq!(metrics().operations_in_flight, 100);
    drained(0).await;
    send(&a, b"", &b).await;
    let mut received = 0;
    while !b
        .recv_datagram()
        .await
        .expect("no error")
        .payload()
        .is_empty()
    {
        received += 1;
    }
    assert!(received <= 100);
}

async fn an_address_in_use_is_an_error() {
    let a = socket();
    let error = UdpSocket::bind(a.local_addr()).expect_err("in use");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    send(&a, b"unharmed", &a).await;
    expect(&a, b"unharmed").await;
}

async fn a_port_is_free_when_the_last_operation_has_ended() {
    let a = socket();
    let mut b = socket();
    let addr = b.local_addr();
    for round in 0..20u8 {
        send(&a, &[round], &b).await;
        expect(&b, &[round]).await;
        drop(b);
        drained(0).await;
        b = UdpSocket::bind(addr).expect("free again");
    }
}

async fn a_port_is_free_after_the_drop() {
    let a = socket();
    let mut b = socket();
    let addr = b.local_addr();
    for round in 0..20u8 {
        send(&a, &[round], &b).await;
        expect(&b, &[round]).await;
        drop(b); // while its receive is in flight
        b = UdpSocket::bind(addr).expect("free again");
    }
}

async fn a_port_is_free_after_the_drop_with_sends_in_flight() {
    let a = socket();
    for _ in 0..20 {
        let b = socket();
        let addr = b.local_addr();
        let payload = SharedBuf::copy_from(b"on its way");
        b.post_to(payload, a.local_addr()).expect("there is room");
        drop(b);
        drop(UdpSocket::bind(addr).expect("free again"));
        let datagram = a.recv_datagram().await.expect("no error");
        assert_eq!(
            (datagram.payload(), datagram.from()),
            (&b"on its way"[..], addr)
        );
    }
}

async fn a_socket_sends_to_itself() {
    let a = socket();
    for _ in 0..3 {
        send(&a, b"me", &a).await;
        let datagram = a.recv_datagram().await.expect("no error");
        assert_eq!(
            (datagram.payload(), datagram.from()),
            (&b"me"[..], a.local_addr())
        );
    }
}

async fn ipv6_works_if_there_is_any() {
    let Ok(a) = UdpSocket::bind("[::1]:0".parse().expect("an address")) else {
        eprintln!("SKIPPED: no IPv6 here");
        return;
    };
    let b = UdpSocket::bind("[::1]:0".parse().expect("an address")).expect("a socket");
    send(&a, b"", &b).await;
    send(&a, b"six", &b).await;
    expect(&b, b"").await;
    let datagram = b.recv_datagram().await.expect("no error");
    assert_eq!(
        (datagram.payload(), datagram.from()),
        (&b"six"[..], a.local_addr())
    );
    b.connect(a.local_addr()).expect("connected");
    b.send(b"back").await.expect("sent");
    expect(&a, b"back").await;
}

async fn what_is_in_hand_is_taken_without_waiting() {
    let (a, b) = (socket(), socket());
    let mut out = Vec::new();
    assert_eq!(b.try_recv_many(&mut out, 9).expect("no error"), 0);
    for number in 0..10u8 {
        send(&a, &[number], &b).await;
    }
    while out.len() < 10 {
        let before = out.len();
        let taken = b.try_recv_many(&mut out, 3).expect("no error");
        assert!(taken <= 3);
        assert_eq!(out.len(), before + taken);
        yield_now().await;
    }
    assert!(out.iter().map(|d| d.payload()[0]).eq(0..10));
    send(&a, b"one", &b).await;
    send(&a, b"two", &b).await;
    out.clear();
    while out.len() < 2 {
        b.recv_many(&mut out, 8).await.expect("no error");
    }
    assert_eq!(out.len(), 2);
}

async fn posts_are_limited_and_counted() {
    let a = socket_with(&UdpOptions {
        sends_in_flight: 3,
        ..UdpOptions::default()
    });
    let b = socket();
    let payload = SharedBuf::copy_from(b"posted");
    for _ in 0..3 {
        a.post_to(payload.clone(), b.local_addr())
            .expect("there is room");
    }
    let refused = a.post_to(payload.clone(), b.local_addr());
    assert_eq!(&refused.expect_err("no room")[..], b"posted");
    for _ in 0..3 {
        expect(&b, b"posted").await;
    }
    drained(1).await;
    a.post_to(payload.slice(0..4), b.local_addr())
        .expect("there is room");
    expect(&b, b"post").await;
    // A failure is counted: no datagram is this long.
    let long = SharedBuf::copy_from(&vec![0; 70_000]);
    a.post_to(long, b.local_addr()).expect("there is room");
    drained(1).await;
    let stats = a.stats();
    assert_eq!(
        (stats.posted, stats.post_failed, stats.post_refused),
        (4, 1, 1)
    );
}

async fn a_run_arrives_as_many_datagrams() {
    let (a, b) = (socket(), socket());
    for last in [1, 99, 100] {
        let mut run = a.take_run_buf(b.local_addr()).expect("a buffer");
        let payload: Vec<u8> = (0..400 + last).map(|i| (i % 251) as u8).collect();
        run.put_slice(&payload);
        let posted = a.post_run_to(run.share(), 100, b.local_addr());
        posted.expect("there is room");
        for datagram in payload.chunks(100) {
            expect(&b, datagram).await;
        }
    }
    drained(1).await;
    assert_eq!((a.stats().posted, b.stats().received), (3, 15));
}

/// Nothing else happens that could end a sleep: the end of what `post` sends must.
async fn comes_back(post: impl FnOnce(&UdpSocket, SharedBuf, SocketAddr) -> Result<(), SharedBuf>) {
    let (a, nobody) = (socket(), socket());
    let b = socket_with(&UdpOptions {
        recv_buffers: 1,
        ..UdpOptions::default()
    });
    send(&a, b"first", &b).await;
    send(&a, b"second", &b).await;
    let first = b.recv_datagram().await.expect("no error");
    post(&b, first.into_payload(), nobody.local_addr()).expect("there is room");
    let second = timeout(Duration::from_secs(5), b.recv_datagram()).await;
    let second = second.expect("its buffer came back").expect("no error");
    assert_eq!(second.payload(), b"second");
}

async fn a_received_payload_that_is_posted_as_a_run_comes_back() {
    comes_back(|socket, payload, to| socket.post_run_to(payload, 3, to)).await;
}

async fn a_received_payload_that_is_posted_comes_back() {
    comes_back(|socket, payload, to| socket.post_to(payload, to)).await;
}

async fn too_long_a_payload_is_an_error() {
    let (a, b) = (socket(), socket());
    for len in [65_508, 65_536, 200_000] {
        let sent = a.send_to(&vec![1; len], b.local_addr()).await;
        assert!(sent.is_err(), "{len} bytes are no datagram");
    }
    send(&a, b"short", &b).await;
    expect(&b, b"short").await;
}

async fn a_payload_may_exceed_the_pooled_buffers() {
    let a = socket();
    let b = socket_with(&UdpOptions {
        buffer_len: 65_536,
        recv_buffers: 4,
        ..UdpOptions::default()
    });
    for len in [2048, 2049, 9000, 65_507] {
        let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        send(&a, &payload, &b).await;
        expect(&b, &payload).await;
    }
}

async fn options_out_of_range_are_errors() {
    let reject = |change: fn(&mut UdpOptions)| {
        let mut options = UdpOptions::default();
        change(&mut options);
        let error = UdpSocket::bind_with(localhost(), &options).expect_err("out of range");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    };
    reject(|options| options.recv_buffers = 0);
    reject(|options| options.recv_buffers = 32_769);
    reject(|options| options.buffer_len = 0);
    reject(|options| options.buffer_len = 65_537);
    let largest = UdpOptions {
        recv_buffers: 32_768,
        buffer_len: 1,
        ..UdpOptions::default()
    };
    let (a, b) = (socket(), socket_with(&largest));
    send(&a, b"1", &b).await;
    expect(&b, b"1").await;
}

async fn a_trip_through_the_reactor_ends() {
    for _ in 0..100 {
        nop().await.expect("no error");
    }
    let done = join_all((0..100).map(|_| nop())).await;
    assert!(done.into_iter().all(|done| done.is_ok()));
}
