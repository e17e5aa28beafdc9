//! Receives that are dropped, and receives that the kernel ends: no datagram is lost by either.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, select};
use viewring_runtime::buf::SharedBuf;
use viewring_runtime::net::{UdpOptions, UdpSocket};
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{Config, Runtime, Uring, UringConfig, metrics, yield_now};

fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

fn run(config: &UringConfig, body: impl Future<Output = ()>) {
    let reactor = Uring::with_config(config).expect("a ring");
    let runtime = Runtime::new(reactor, Config::default());
    runtime.block_on(async {
        let bounded = timeout(Duration::from_secs(60), body).await;
        bounded.expect("the body ends in time");
    });
    let metrics = runtime.metrics();
    assert_eq!(metrics.completions_stale, 0);
    assert_eq!(metrics.reactor("completions_unknown"), 0);
}

/// Something to lose a race against: ready at once, after a trip through the reactor, or at the
/// end of its time.
fn rival(choice: u64) -> Pin<Box<dyn Future<Output = ()>>> {
    match choice % 4 {
        0 => Box::pin(ready(())),
        1 => Box::pin(yield_now()),
        2 => Box::pin(async {
            for _ in 0..3 {
                yield_now().await;
            }
        }),
        _ => Box::pin(sleep(Duration::from_micros(choice % 7))),
    }
}

/// How long a burst is: the kernel's receive buffer holds it for sure.
const BURST: u32 = 50;
const TOTAL: u32 = 100_000;

#[test]
fn of_a_hundred_thousand_datagrams_none_is_lost_between_two_receives() {
    run(&UringConfig::default(), async {
        let sender = UdpSocket::bind(localhost()).expect("a socket");
        let receiver = UdpSocket::bind(localhost()).expect("a socket");
        let mut buf = [0; 8];
        let (mut next, mut dropped, mut random) = (0u32, 0u64, 0x9E37_79B9_7F4A_7C15u64);
        while next < TOTAL {
            for number in next..next + BURST {
                let payload = SharedBuf::copy_from(&number.to_be_bytes());
                let posted = sender.post_to(payload, receiver.local_addr());
                posted.expect("there is room");
            }
            let end = next + BURST;
            while next < end {
                // A receive is dropped before each datagram, in hand or not.
                drop(receiver.recv_from(&mut buf));
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let rival = rival(random >> 33);
                let receive = Box::pin(receiver.recv_from(&mut buf));
                let received = match random >> 40 & 1 {
                    0 => match select(rival, receive).await {
                        Either::Left(_) => None,
                        Either::Right((received, _)) => Some(received),
                    },
                    _ => match select(receive, rival).await {
                        Either::Right(_) => None,
                        Either::Left((received, _)) => Some(received),
                    },
                };
                match received {
                    None => dropped += 1,
                    Some(received) => {
                        let (len, from) = received.expect("no error");
                        assert_eq!((len, from), (4, sender.local_addr()));
                        assert_eq!(buf[..4], next.to_be_bytes());
                        next += 1;
                    }
                }
            }
        }
        assert!(dropped > 10_000, "only {dropped} receives lost their race");
        assert_eq!(receiver.stats().received, u64::from(TOTAL));
        assert_eq!(metrics().operations_orphaned, 0);
        assert_eq!(metrics().reactor("cancels"), 0);
    });
}

async fn arrives(socket: &UdpSocket, payload: &[u8]) {
    let received = timeout(Duration::from_secs(5), socket.recv_datagram()).await;
    let datagram = received.expect("in time").expect("no error");
    assert_eq!(datagram.payload(), payload);
}

async fn send(from: &UdpSocket, payload: &[u8], to: SocketAddr) {
    from.send_to(payload, to).await.expect("sent");
}

#[test]
fn an_empty_datagram_ends_the_receive_and_it_is_started_again() {
    run(&UringConfig::default(), async {
        let a = UdpSocket::bind(localhost()).expect("a socket");
        let b = UdpSocket::bind(localhost()).expect("a socket");
        for round in 1..=10 {
            send(&a, b"", b.local_addr()).await;
            arrives(&b, b"").await;
            send(&a, b"normal", b.local_addr()).await;
            arrives(&b, b"normal").await;
            assert_eq!(b.stats().ended_empty, round);
        }
        // Nobody is receiving at the moment at which it ends.
        send(&a, b"", b.local_addr()).await;
        sleep(Duration::from_millis(1)).await;
        send(&a, b"normal", b.local_addr()).await;
        arrives(&b, b"").await;
        arrives(&b, b"normal").await;
        let stats = b.stats();
        assert_eq!((stats.ended_empty, stats.received), (11, 22));
        assert_eq!((stats.ended_overflow, stats.ended_no_buffers), (0, 0));
    });
}

#[test]
fn a_receive_that_ended_for_want_of_buffers_goes_on() {
    run(&UringConfig::default(), async {
        let options = UdpOptions {
            recv_buffers: 8,
            ..UdpOptions::default()
        };
        let a = UdpSocket::bind(localhost()).expect("a socket");
        let b = UdpSocket::bind_with(localhost(), &options).expect("a socket");
        for round in 0..5u64 {
            for number in 0..30u8 {
                send(&a, &[number], b.local_addr()).await;
            }
            let mut held = Vec::new();
            while held.len() < 8 {
                b.recv_many(&mut held, 8).await.expect("no error");
            }
            let starved = timeout(Duration::from_millis(1), b.recv_datagram()).await;
            assert!(starved.is_err());
            assert!(b.stats().ended_no_buffers > round);
            assert!(held.iter().map(|d| d.payload()[0]).eq(0..8));
            drop(held);
            for number in 8..30u8 {
                arrives(&b, &[number]).await;
            }
            send(&a, b"normal", b.local_addr()).await;
            arrives(&b, b"normal").await;
        }
        assert_eq!(b.stats().received, 5 * 31);
        assert_eq!(b.stats().ended_error, 0);
    });
}

#[test]
fn whatever_a_receiver_holds_and_gives_back_it_is_never_deaf() {
    let mut random = 0x1234_5678_9ABC_DEF0u64;
    let mut below = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    for round in 0..100 {
        let config = UringConfig {
            submission_entries: 2,
            completion_entries: [2, 4, 8, 64, 512][below(5) as usize],
        };
        let options = UdpOptions {
            recv_buffers: 1 + below(if round % 2 == 0 { 12 } else { 80 }) as usize,
            ..UdpOptions::default()
        };
        run(&config, async {
            let a = UdpSocket::bind(localhost()).expect("a socket");
            let b = UdpSocket::bind_with(localhost(), &options).expect("a socket");
            let (mut held, mut sent, mut got) = (Vec::new(), 0, 0);
            for _ in 0..200 {
                match below(8) {
                    0 | 1 => {
                        for _ in 0..below(40).min(100 - (sent - got)) {
                            let payload = [b'x'; 4];
                            let len = below(5) as usize;
                            let payload = SharedBuf::copy_from(&payload[..len]);
                            let posted = a.post_to(payload, b.local_addr());
                            sent += u64::from(posted.is_ok());
                        }
                    }
                    2 | 3 => {
                        for _ in 0..below(40) {
                            let patience = Duration::from_micros(below(200));
                            let received = timeout(patience, b.recv_datagram()).await;
                            let Ok(received) = received else { break };
                            held.push(received.expect("no error"));
                            got += 1;
                        }
                    }
                    4 => held.truncate(below(held.len() as u64 + 1) as usize),
                    5 => yield_now().await,
                    6 => {
                        let taken = b.try_recv_many(&mut held, below(20) as usize);
                        got += taken.expect("no error") as u64;
                    }
                    _ => sleep(Duration::from_micros(below(100))).await,
                }
            }
            held.clear();
            while got < sent {
                let received = timeout(Duration::from_secs(5), b.recv_datagram()).await;
                let received = received.unwrap_or_else(|_| panic!("{options:?} {:?}", b.stats()));
                received.expect("no error");
                got += 1;
            }
        });
    }
}

#[test]
fn a_receive_that_ended_by_overflow_goes_on() {
    let tiny = UringConfig {
        submission_entries: 4,
        completion_entries: 8,
    };
    run(&tiny, async {
        let outside = std::net::UdpSocket::bind(localhost()).expect("a socket");
        let b = UdpSocket::bind(localhost()).expect("a socket");
        let mut out = Vec::new();
        b.try_recv_many(&mut out, 1).expect("no error"); // begin to receive
        yield_now().await;
        for round in 0..5u8 {
            for number in 0..100u8 {
                let sent = outside.send_to(&[round, number], b.local_addr());
                sent.expect("sent");
            }
            for number in 0..100u8 {
                arrives(&b, &[round, number]).await;
            }
            outside.send_to(b"normal", b.local_addr()).expect("sent");
            arrives(&b, b"normal").await;
        }
        let stats = b.stats();
        assert!(stats.ended_overflow >= 5, "{stats:?}");
        assert_eq!((stats.received, stats.ended_error), (505, 0));
    });
}

#[test]
fn a_receive_that_ended_by_a_refusal_goes_on() {
    run(&UringConfig::default(), async {
        let a = UdpSocket::bind(localhost()).expect("a socket");
        let peer = std::net::UdpSocket::bind(localhost()).expect("a socket");
        let addr = peer.local_addr().expect("bound");
        drop(peer);
        a.connect(addr).expect("connected");
        let mut buf = [0; 16];
        for round in 1..=5 {
            assert!(a.recv(&mut buf).now_or_never().is_none());
            yield_now().await;
            a.send(b"hello?").await.expect("sent");
            let told = timeout(Duration::from_secs(5), a.recv(&mut buf)).await;
            let error = told.expect("in time").expect_err("refused");
            assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
            assert_eq!(a.stats().ended_error, round);
            let peer = std::net::UdpSocket::bind(addr).expect("free");
            peer.send_to(b"normal", a.local_addr()).expect("sent");
            arrives(&a, b"normal").await;
        }
        assert_eq!(a.stats().received, 5);
    });
}
