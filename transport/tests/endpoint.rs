//! Endpoints on real sockets, over loopback.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use viewring_runtime::net::{UdpOptions, UdpSocket};
use viewring_runtime::time::{sleep, timeout};
use viewring_transport::{Endpoint, EndpointConfig, Message, Sender, TooLong};

const CLUSTER: u64 = 7;
const KIND: u8 = 5;

fn config(sender: u64) -> EndpointConfig {
    EndpointConfig {
        cluster: CLUSTER,
        sender: Sender(sender),
        ..EndpointConfig::default()
    }
}

fn bind_with(config: EndpointConfig) -> Endpoint {
    Endpoint::bind(any_port(), config).expect("a free port on loopback")
}

fn bind(sender: u64) -> Endpoint {
    bind_with(config(sender))
}

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn run<T>(test: impl Future<Output = T>) -> T {
    viewring_runtime::block_on(test).expect("a runtime")
}

/// The next message; fails the test rather than to wait for ever.
async fn next(endpoint: &Endpoint) -> Message {
    let message = timeout(Duration::from_secs(5), endpoint.recv()).await;
    message
        .unwrap_or_else(|_| panic!("no message; {:?}", endpoint.stats()))
        .expect("a socket")
}

/// Polls `recv` once and drops it.
async fn glance(endpoint: &Endpoint) -> Option<Message> {
    let mut recv = pin!(endpoint.recv());
    poll_fn(|cx| match recv.as_mut().poll(cx) {
        Poll::Ready(message) => Poll::Ready(Some(message.expect("a socket"))),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[test]
fn a_message_says_where_it_is_from_and_what_it_is() {
    run(async {
        let (a, b) = (bind(1), bind(2));
        a.send(b.local_addr(), KIND, b"hello").expect("short");
        a.flush();
        let message = next(&b).await;
        assert_eq!((message.from, message.sender), (a.local_addr(), Sender(1)));
        assert_eq!((message.kind, &message.body[..]), (KIND, &b"hello"[..]));
        b.send(message.from, KIND, b"and to you").expect("short");
        b.flush();
        assert_eq!(next(&a).await.body[..], b"and to you"[..]);
    });
}

#[test]
fn many_messages_share_datagrams_and_keep_their_order() {
    run(async {
        let (a, b) = (bind(1), bind(2));
        for number in 0..100_u8 {
            a.send(b.local_addr(), KIND, &[number; 20]).expect("short");
        }
        a.flush();
        for number in 0..100_u8 {
            assert_eq!(next(&b).await.body[..], [number; 20]);
        }
        // 30 frames of 48 bytes fit 1,472.
        assert_eq!((a.stats().datagrams_sent, a.stats().frames_sent), (4, 100));
        assert_eq!(
            (b.stats().datagrams_intact, b.stats().messages_received),
            (4, 100)
        );
        assert_eq!(a.stats().bytes_sent, b.stats().bytes_received);
    });
}

#[test]
fn one_message_goes_to_many() {
    run(async {
        let (a, others) = (bind(1), [bind(2), bind(3), bind(4)]);
        for body in [&b"short"[..], &[9; 5_000]] {
            let to = others.iter().map(Endpoint::local_addr);
            a.send_to_many(to, KIND, body).expect("short enough");
            a.flush();
            for other in &others {
                assert_eq!(next(other).await.body[..], *body);
            }
        }
    });
}

#[test]
fn a_long_message_crosses_whole_and_in_its_turn() {
    run(async {
        let (a, b) = (bind(1), bind(2));
        let long: Vec<u8> = (0..100 << 10)
            .map(|i: usize| (i * 31 + i / 1_000) as u8)
            .collect();
        for body in [&b"before"[..], &long, b"behind"] {
            a.send(b.local_addr(), KIND, body).expect("short enough");
        }
        a.flush();
        for body in [&b"before"[..], &long, b"behind"] {
            let arrived = next(&b).await.body;
            assert!(
                arrived[..] == *body,
                "{} bytes for {}",
                arrived.len(),
                body.len()
            );
        }
        assert_eq!(
            (b.stats().messages_reassembled, b.stats().fragments_kept),
            (1, 73)
        );
        let too_long = a.send(b.local_addr(), KIND, &vec![0; (1 << 20) + 1]);
        assert_eq!(
            too_long,
            Err(TooLong {
                len: (1 << 20) + 1,
                max: 1 << 20
            })
        );
    });
}

#[test]
fn a_cancelled_receive_loses_nothing() {
    run(async {
        let (a, b) = (bind(1), bind(2));
        let mut expected = 0_u32;
        for round in 0..200_u32 {
            // Begun, and dropped before the datagram is there, while it is on its way, and after.
            assert!(glance(&b).await.is_none());
            for number in 5 * round..5 * round + 5 {
                a.send(b.local_addr(), KIND, &number.to_le_bytes())
                    .expect("short");
                if number % 2 == 0 {
                    a.flush();
                }
            }
            a.flush();
            let patience = Duration::from_micros(u64::from(round % 5) * 20);
            while expected < 5 * round + 5 {
                if let Ok(message) = timeout(patience, b.recv()).await {
                    assert_eq!(message.expect("a socket").body[..], expected.to_le_bytes());
                    expected += 1;
                } else if let Some(message) = glance(&b).await {
                    assert_eq!(message.body[..], expected.to_le_bytes());
                    expected += 1;
                }
            }
        }
        assert_eq!(
            (b.stats().messages_received, b.try_recv().is_none()),
            (1_000, true)
        );
    });
}

#[test]
fn what_is_in_hand_is_taken_without_waiting() {
    run(async {
        let (a, b) = (bind(1), bind(2));
        assert!(b.try_recv().is_none());
        for number in 0..10 {
            a.send(b.local_addr(), KIND, &[number]).expect("short");
            a.flush();
        }
        assert_eq!(next(&b).await.body[..], [0]);
        sleep(Duration::from_millis(20)).await;
        for number in 1..10 {
            assert_eq!(b.try_recv().expect("in hand").body[..], [number]);
        }
        assert!(b.try_recv().is_none());
    });
}

#[test]
fn too_many_sends_in_flight_are_dropped_and_counted() {
    run(async {
        let mut config = config(1);
        config.socket.sends_in_flight = 4;
        let (a, b) = (bind_with(config), bind(2));
        for number in 0..100 {
            a.send(b.local_addr(), KIND, &[number; 1_000])
                .expect("short");
            a.flush();
        }
        let stats = a.stats();
        assert_eq!((stats.frames_sent, stats.send_in_flight), (4, 96));
        for number in 0..4 {
            assert_eq!(next(&b).await.body[..], [number; 1_000]);
        }
        // Those are out: there is room again.
        a.send(b.local_addr(), KIND, b"again").expect("short");
        a.flush();
        assert_eq!(next(&b).await.body[..], b"again"[..]);
    });
}

#[test]
fn without_send_buffers_messages_are_dropped_and_counted() {
    run(async {
        let mut config = config(1);
        config.socket.sends_in_flight = usize::MAX;
        let (a, b) = (bind_with(config), bind(2));
        let mut sent = 0;
        while a.stats().send_no_buffer < 10 {
            a.send(b.local_addr(), KIND, &[0; 1_000]).expect("short");
            sent += 1;
            assert!(sent < 1_000_000, "send buffers without end");
        }
        a.flush();
        let stats = a.stats();
        assert_eq!(stats.frames_sent + stats.send_no_buffer, sent);
        sleep(Duration::from_millis(100)).await;
        while b.try_recv().is_some() {}
        a.send(b.local_addr(), KIND, b"again").expect("short");
        a.flush();
        // What the kernel still had of the flood comes first.
        while next(&b).await.body[..] != b"again"[..] {}
        assert_eq!(a.stats().send_no_buffer, 10);
    });
}

#[test]
fn a_bad_neighbour_is_counted_and_nothing_else() {
    run(async {
        let (a, b) = (bind(1), bind(2));
        let foreign = bind_with(EndpointConfig {
            cluster: 8,
            ..config(1)
        });
        foreign.send(b.local_addr(), KIND, b"hello").expect("short");
        foreign.flush();
        let raw = UdpSocket::bind(any_port()).expect("a free port on loopback");
        for datagram in [&b""[..], b"short", &[0; 100], &[0; 4_000]] {
            raw.send_to(datagram, b.local_addr())
                .await
                .expect("loopback takes it");
        }
        a.send(b.local_addr(), KIND, b"hello").expect("short");
        a.flush();
        assert_eq!(next(&b).await.sender, Sender(1));
        let stats = b.stats();
        assert_eq!((stats.datagrams_received, stats.datagrams_intact), (6, 1));
        assert_eq!((stats.datagram_cluster, stats.datagram_empty), (1, 1));
        assert_eq!((stats.datagram_trailing, stats.datagram_magic), (1, 1));
        assert_eq!(stats.datagram_truncated, 1);
    });
}

#[test]
fn a_peer_that_is_gone_does_no_harm() {
    run(async {
        let (a, b) = (bind(1), bind(2));
        let gone = bind(3).local_addr();
        for _ in 0..3 {
            a.send(gone, KIND, b"anyone?").expect("short");
            a.flush();
            assert!(timeout(Duration::from_millis(5), a.recv()).await.is_err());
        }
        b.send(a.local_addr(), KIND, b"me").expect("short");
        b.flush();
        assert_eq!(next(&a).await.body[..], b"me"[..]);
    });
}

#[test]
fn a_receiver_with_much_in_hand_lets_others_run() {
    run(async {
        let mut config = config(2);
        config.socket.recv_buffers = 1_024;
        let (a, b) = (bind(1), bind_with(config));
        assert!(glance(&b).await.is_none());
        for number in 0..400_u32 {
            a.send(b.local_addr(), KIND, &number.to_le_bytes())
                .expect("short");
            a.flush();
            if number % 50 == 49 {
                sleep(Duration::from_millis(5)).await;
            }
        }
        for number in 0..256_u32 {
            let message = glance(&b).await.expect("in hand");
            assert_eq!(message.body[..], number.to_le_bytes());
        }
        assert!(glance(&b).await.is_none(), "no rest after 256 datagrams");
        for number in 256..400_u32 {
            let message = glance(&b).await.expect("in hand");
            assert_eq!(message.body[..], number.to_le_bytes());
        }
    });
}

#[test]
fn a_receiver_of_many_messages_in_few_datagrams_lets_others_run_too() {
    run(async {
        let (a, b) = (bind(1), bind(2));
        assert!(glance(&b).await.is_none());
        for _ in 0..2_000 {
            a.send(b.local_addr(), KIND, b"").expect("short");
        }
        a.flush();
        sleep(Duration::from_millis(5)).await;
        let (mut messages, mut rests) = (0, 0);
        while messages < 2_000 {
            match glance(&b).await {
                Some(_) => messages += 1,
                None => rests += 1,
            }
        }
        assert!((3..10).contains(&rests), "{rests} rests in 2,000 messages");
    });
}

#[test]
fn binding_says_what_is_wrong() {
    run(async {
        let fault = |addr, config| Endpoint::bind(addr, config).expect_err("it cannot be bound");
        let bad = EndpointConfig {
            budget: 10,
            ..config(1)
        };
        assert_eq!(fault(any_port(), bad).kind(), io::ErrorKind::InvalidInput);
        let bad = EndpointConfig {
            socket: UdpOptions {
                recv_buffers: 0,
                ..UdpOptions::default()
            },
            ..config(1)
        };
        assert_eq!(fault(any_port(), bad).kind(), io::ErrorKind::InvalidInput);
        let taken = bind(1);
        assert_eq!(
            fault(taken.local_addr(), config(2)).kind(),
            io::ErrorKind::AddrInUse
        );
    });
}
