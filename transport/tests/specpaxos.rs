//! Endpoints of specpaxos' format that hear what is sent to all, over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use viewring_runtime::net::{Multicast, UdpOptions, UdpSocket};
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::yield_now;
use viewring_transport::specpaxos::{Endpoint, EndpointConfig, Message, Reply, Request};

/// A multicast address and a broadcast address.
const GROUPS: [[u8; 4]; 2] = [[239, 192, 77, 2], [127, 255, 255, 255]];

fn run<T>(test: impl Future<Output = T>) -> T {
    viewring_runtime::block_on(test).expect("a runtime")
}

fn here() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn endpoint() -> Endpoint {
    Endpoint::bind(here(), EndpointConfig::default()).expect("a free port on loopback")
}

/// The first member of a group on a port of its own, and the group's address.
fn founder(ip: [u8; 4]) -> (Endpoint, SocketAddr) {
    let mut endpoint = endpoint();
    let group = endpoint.join((ip, 0).into()).expect("a free port");
    (endpoint, group)
}

fn member(group: SocketAddr) -> Endpoint {
    let mut endpoint = endpoint();
    endpoint.join(group).expect("the address is shared");
    endpoint
}

fn to_all() -> UdpOptions {
    let towards = [127, 0, 0, 1].into();
    UdpOptions {
        multicast: Some(Multicast::Send { towards }),
        ..UdpOptions::default()
    }
}

fn sender() -> Endpoint {
    let config = EndpointConfig {
        socket: to_all(),
        ..EndpointConfig::default()
    };
    Endpoint::bind(here(), config).expect("a free port on loopback")
}

fn request(op: &[u8], number: u64) -> Message<'_> {
    Message::Request(Request {
        op: op.into(),
        client: 1,
        number,
    })
}

/// The operation of the next request, and who asks.
async fn next(endpoint: &Endpoint) -> (Vec<u8>, SocketAddr) {
    let frame = timeout(Duration::from_secs(5), endpoint.recv()).await;
    let frame = frame.unwrap_or_else(|_| panic!("nothing came: {:?}", endpoint.stats()));
    let frame = frame.expect("the sockets are well");
    let Ok(Message::Request(request)) = frame.message() else {
        panic!("{frame:?} is no request");
    };
    (request.op.into_owned(), frame.from)
}

#[test]
fn what_is_sent_to_all_is_one_datagram_and_each_answers_with_its_own_address() {
    run(async {
        for ip in GROUPS {
            let (founder, group) = founder(ip);
            let members = [founder, member(group), member(group)];
            let sender = sender();
            sender.send([group], &request(b"all", 1)).expect("short");
            for (member, number) in members.iter().zip(1..) {
                let (op, from) = next(member).await;
                assert_eq!((&*op, from), (&b"all"[..], sender.local_addr()));
                let reply = Message::Reply(Reply {
                    view: 0,
                    op_number: 1,
                    result: (&b""[..]).into(),
                    number,
                });
                member.send([from], &reply).expect("short");
                let answer = sender.recv().await.expect("the socket is well");
                assert_eq!(answer.from, member.local_addr());
                assert_eq!(member.stats().datagrams_received, 1);
            }
            assert_eq!(sender.stats().datagrams_sent, 1);
        }
    });
}

#[test]
fn both_ways_lead_to_one_endpoint_and_pieces_are_put_together() {
    run(async {
        let ((member, group), sender) = (founder(GROUPS[0]), sender());
        let long = vec![7; 30_000];
        for (to, op) in [
            (group, &b"one"[..]),
            (member.local_addr(), b"other"),
            (group, &long),
            (member.local_addr(), &long),
        ] {
            sender.send([to], &request(op, 1)).expect("not too long");
            assert_eq!(next(&member).await.0, op);
        }
        assert_eq!(member.stats().messages_reassembled, 2);
    });
}

#[test]
fn garbage_is_counted_whichever_way_it_came() {
    run(async {
        let (member, group) = founder(GROUPS[0]);
        let liar = UdpSocket::bind_with(here(), &to_all()).expect("a socket");
        for (to, count) in [(group, 1), (member.local_addr(), 2)] {
            liar.send_to(b"no such magic number", to)
                .await
                .expect("sent");
            liar.send_to(b"", to).await.expect("sent");
            let counted = async {
                while member.stats().datagram_short < count {
                    assert!(member.try_recv().is_none());
                    sleep(Duration::from_millis(1)).await;
                }
            };
            let counted = timeout(Duration::from_secs(5), counted).await;
            counted.expect("it is counted");
            let stats = member.stats();
            assert_eq!((stats.datagram_magic, stats.datagram_short), (count, count));
        }
    });
}

#[test]
fn a_flood_that_comes_one_way_does_not_silence_the_other() {
    run(async {
        for is_to_all in [true, false] {
            let ((member, group), sender) = (founder(GROUPS[1]), sender());
            let ways = [member.local_addr(), group];
            let (flooded, other) = (ways[usize::from(is_to_all)], ways[usize::from(!is_to_all)]);
            // It begins to listen.
            assert!(member.try_recv().is_none());
            for _ in 0..600 {
                sender
                    .send([flooded], &request(b"flood", 1))
                    .expect("short");
                yield_now().await;
            }
            sender.send([other], &request(b"other", 2)).expect("short");
            sleep(Duration::from_millis(50)).await;
            let mut before = 0;
            while next(&member).await.0 != b"other" {
                before += 1;
            }
            assert!(before <= BATCH, "{before} of 600 came first");
        }
    });
}

/// So many datagrams of one socket are looked at before the other's turn.
const BATCH: usize = 64;

#[test]
fn the_address_of_one_host_is_no_group() {
    run(async {
        let mut endpoint = endpoint();
        let error = endpoint.join(here()).expect_err("it is one host's");
        assert!(error.to_string().contains("broadcast address"), "{error}");
    });
}
