//! Clients of specpaxos and Electrode before a group on loopback: requests as bytes, replies as
//! bytes, and datagrams from a liar.

use std::net::SocketAddr;
use std::time::Duration;

use viewring::kv::{Kv, Operation, Outcome};
use viewring::protocol::ReplicaId;
use viewring::specpaxos::{Client as WalkIn, Dialect};
use viewring::{Client, ClientConfig, Node, NodeConfig, StateMachine, WalkInConfig, query_status};
use viewring_runtime::net::UdpSocket;
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{JoinHandle, block_on, spawn, yield_now};

/// Answers with the operation in capital letters, and questions with their length.
struct Loud;

impl StateMachine for Loud {
    fn apply(&mut self, operation: &[u8], reply: &mut Vec<u8>) {
        reply.extend(operation.iter().map(u8::to_ascii_uppercase));
    }

    fn query(&self, query: &[u8], reply: &mut Vec<u8>) {
        reply.extend_from_slice(query.len().to_string().as_bytes());
    }
}

struct Group {
    /// Where replicas speak their own format.
    own: Vec<SocketAddr>,
    /// Where they speak specpaxos'.
    doors: Vec<SocketAddr>,
    /// Where all of them hear it.
    multicast: Option<SocketAddr>,
    nodes: Vec<Option<JoinHandle<()>>>,
}

async fn group<S: StateMachine + 'static>(
    first_port: u16,
    dialect: Dialect,
    make: fn() -> S,
) -> Group {
    group_at(None, first_port, dialect, make).await
}

async fn group_at<S: StateMachine + 'static>(
    multicast: Option<[u8; 4]>,
    first_port: u16,
    dialect: Dialect,
    make: fn() -> S,
) -> Group {
    let multicast = multicast.map(|ip| SocketAddr::from((ip, first_port + 6)));
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let own: Vec<_> = (0..3).map(|i| at(first_port + i)).collect();
    let doors: Vec<_> = (3..6).map(|i| at(first_port + i)).collect();
    let mut nodes = Vec::new();
    for id in 0..3 {
        let addr = doors[usize::from(id)];
        let config = NodeConfig {
            walk_ins: Some(WalkInConfig {
                addr,
                multicast,
                dialect,
            }),
            ..NodeConfig::new(11, ReplicaId(id), own.clone())
        };
        let mut node = Node::bind(config, make()).await.expect("the port is free");
        nodes.push(Some(spawn(async move {
            let _failed = node.run().await;
        })));
    }
    Group {
        own,
        doors,
        multicast,
        nodes,
    }
}

/// Bytes from hexadecimal digits; what is in quotes stands for itself.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        match word.strip_prefix('"') {
            Some(name) => bytes.extend(name.trim_end_matches('"').as_bytes()),
            None => bytes.extend(word.as_bytes().chunks(2).map(|pair| {
                let pair = std::str::from_utf8(pair).expect("ASCII");
                u8::from_str_radix(pair, 16).expect("two digits")
            })),
        }
    }
    bytes
}

async fn next(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let arrived = timeout(Duration::from_secs(2), socket.recv_datagram()).await;
    let arrived = arrived.ok()?.expect("the socket is well");
    Some((arrived.payload().to_vec(), arrived.from()))
}

async fn send(socket: &UdpSocket, datagram: &[u8], to: SocketAddr) {
    let sent = socket.send_to(datagram, to).await;
    sent.expect("loopback takes it");
}

/// As recorded from specpaxos' client, `pad` bytes in between for Electrode's.
async fn speak_bytes(group: &Group, pad: &str) {
    let request = |number: u8| {
        bytes(&format!(
            r#"18030520 2100000000000000 "specpaxos.vr.proto.RequestMessage" {pad}
            1800000000000000 0a16 0a08 "request0" 10 88ef99abc5e88c9111 18 {number:02x}"#
        ))
    };
    let reply = |op: u8, number: u8| {
        bytes(&format!(
            r#"18030520 1f00000000000000 "specpaxos.vr.proto.ReplyMessage" {pad}
            1000000000000000 08 00 10 {op:02x} 1a 08 "REQUEST0" 20 {number:02x}"#
        ))
    };
    let client = UdpSocket::bind(([127, 0, 0, 1], 0).into()).expect("a socket");
    let replicas = &group.doors;
    // The group may still be forming: the client's own retry is far away.
    let first = loop {
        for &replica in replicas {
            send(&client, &request(1), replica).await;
        }
        if let Ok(first) = timeout(Duration::from_millis(200), next(&client)).await {
            break first.expect("an answer");
        }
    };
    assert_eq!(first, (reply(1, 1), replicas[0]), "the first operation");
    // Whatever was sent meanwhile was the same request.
    while let Ok(again) = timeout(Duration::from_millis(100), next(&client)).await {
        assert_eq!(again.expect("an answer").0, reply(1, 1));
    }
    // A duplicate is answered with the same bytes, by the primary alone.
    for &replica in replicas {
        send(&client, &request(1), replica).await;
    }
    assert_eq!(next(&client).await, Some((reply(1, 1), replicas[0])));
    for &replica in replicas {
        send(&client, &request(2), replica).await;
    }
    assert_eq!(next(&client).await, Some((reply(2, 2), replicas[0])));
    // What is older is not answered at all, nor is a request that a backup gets alone.
    send(&client, &request(1), replicas[0]).await;
    send(&client, &request(3), replicas[1]).await;
    let silence = timeout(Duration::from_millis(100), next(&client)).await;
    assert!(silence.is_err(), "{silence:?}");
    ask_past_the_log(&client, replicas, pad).await;
}

async fn ask_past_the_log(client: &UdpSocket, replicas: &[SocketAddr], pad: &str) {
    let question = bytes(&format!(
        r#"18030520 2900000000000000 "specpaxos.vr.proto.UnloggedRequestMessage" {pad}
        0c00000000000000 0a0a 0a04 "ping" 10 07 18 04"#
    ));
    let answer = bytes(&format!(
        r#"18030520 2700000000000000 "specpaxos.vr.proto.UnloggedReplyMessage" {pad}
        0300000000000000 0a01 "4""#
    ));
    for &replica in replicas {
        send(client, &question, replica).await;
        assert_eq!(next(client).await, Some((answer.clone(), replica)));
    }
}

#[test]
fn a_specpaxos_client_gets_the_bytes_that_it_expects() {
    block_on(async {
        let group = group(21_300, Dialect::Specpaxos, || Loud).await;
        speak_bytes(&group, "").await;
    })
    .expect("a ring");
}

#[test]
fn an_electrode_client_gets_the_bytes_that_it_expects() {
    block_on(async {
        let group = group(21_310, Dialect::Electrode, || Loud).await;
        speak_bytes(&group, "00000000 00000000 00000000").await;
    })
    .expect("a ring");
}

/// Both kinds of clients see one store; one request and one reply need several datagrams.
#[test]
fn both_kinds_of_clients_are_served_from_one_store() {
    block_on(async {
        let group = group(21_320, Dialect::Specpaxos, Kv::default).await;
        let client = Client::new(ClientConfig::new(11, group.own.clone())).expect("a socket");
        let mut session = client.session().await.expect("registered");
        let mut walk_in = WalkIn::bind(group.doors.clone(), Dialect::Specpaxos).expect("a socket");
        let value = vec![7; 15_000];
        let put = Operation::Put {
            key: b"k",
            value: &value,
        };
        let stored = walk_in.call(&put.to_bytes()).await.expect("answered");
        assert_eq!(Outcome::decode(&stored.result), Some(Outcome::Stored));
        let get = Operation::Get { key: b"k" }.to_bytes();
        let expected = Some(Outcome::Value(Some(&value)));
        let got = session.call(&get).await.expect("answered");
        assert_eq!(Outcome::decode(&got), expected);
        let got = walk_in.call(&get).await.expect("answered");
        assert_eq!(Outcome::decode(&got.result), expected);
        assert_eq!(walk_in.resent(), 0);
    })
    .expect("a ring");
}

#[test]
fn a_dead_primary_costs_a_specpaxos_client_less_than_a_second() {
    block_on(async {
        let mut group = group(21_330, Dialect::Specpaxos, || Loud).await;
        let mut client = WalkIn::bind(group.doors.clone(), Dialect::Specpaxos).expect("a socket");
        client.call(b"a").await.expect("answered");
        let primary = group.nodes[0].take().expect("it runs");
        primary.cancel().await.expect("it did not panic");
        let answer = timeout(Duration::from_secs(1), client.call(b"b")).await;
        let answer = answer.expect("within a second").expect("answered");
        assert_eq!((answer.op_number, &answer.result[..]), (2, &b"B"[..]));
        assert_eq!(client.resent(), 0);
    })
    .expect("a ring");
}

/// A multicast address, and the broadcast address of the loopback network.
const TO_ALL: [[u8; 4]; 2] = [[239, 192, 77, 3], [127, 255, 255, 255]];

#[test]
fn a_request_to_all_is_one_datagram_and_outlives_the_primary() {
    block_on(async {
        for (ip, first_port) in TO_ALL.into_iter().zip([21_350, 21_360]) {
            let mut group = group_at(Some(ip), first_port, Dialect::Specpaxos, || Loud).await;
            let all = group.multicast.expect("there is one");
            let client = WalkIn::bind_to_group(group.doors.clone(), all, Dialect::Specpaxos);
            let mut client = client.expect("a socket");
            for number in 1..=20 {
                let answer = client.call(b"a").await.expect("answered");
                assert_eq!((answer.op_number, &answer.result[..]), (number, &b"A"[..]));
            }
            let primary = group.nodes[0].take().expect("it runs");
            primary.cancel().await.expect("it did not panic");
            let answer = timeout(Duration::from_secs(1), client.call(b"b")).await;
            let answer = answer.expect("within a second").expect("answered");
            assert_eq!((answer.op_number, &answer.result[..]), (21, &b"B"[..]));
            assert_eq!((client.stats().datagrams_sent, client.resent()), (21, 0));
        }
    })
    .expect("a ring");
}

#[test]
fn a_request_is_the_same_whichever_way_it_comes() {
    block_on(async {
        let group = group_at(Some(TO_ALL[0]), 21_370, Dialect::Specpaxos, || Loud).await;
        let all = group.multicast.expect("there is one");
        let at_once = WalkIn::bind_to_group(group.doors.clone(), all, Dialect::Specpaxos);
        let mut at_once = at_once.expect("a socket");
        let one_by_one = WalkIn::bind(group.doors.clone(), Dialect::Specpaxos);
        let mut one_by_one = one_by_one.expect("a socket");
        for number in 1..=5 {
            let answer = at_once.call(b"a").await.expect("answered");
            assert_eq!(answer.op_number, 2 * number - 1);
            let answer = one_by_one.call(b"b").await.expect("answered");
            assert_eq!(answer.op_number, 2 * number);
        }
        // The original's bytes, both ways: it is executed once, and answered by the primary alone,
        // from its own address.
        let request = bytes(
            r#"18030520 2100000000000000 "specpaxos.vr.proto.RequestMessage"
            1800000000000000 0a16 0a08 "request0" 10 88ef99abc5e88c9111 18 01"#,
        );
        let reply = bytes(
            r#"18030520 1f00000000000000 "specpaxos.vr.proto.ReplyMessage"
            1000000000000000 08 00 10 0b 1a 08 "REQUEST0" 20 01"#,
        );
        let client = UdpSocket::bind(([127, 0, 0, 1], 0).into()).expect("a socket");
        for to in [all, group.doors[0], group.doors[1], all] {
            send(&client, &request, to).await;
            if to != group.doors[1] {
                let expected = Some((reply.clone(), group.doors[0]));
                assert_eq!(next(&client).await, expected, "sent to {to}");
            }
            let more = timeout(Duration::from_millis(100), next(&client)).await;
            assert!(more.is_err(), "sent to {to}: {more:?}");
        }
    })
    .expect("a ring");
}

/// A small generator: the test repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea and Flood 2014).
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// What the original dies of, and what looks like a request for a while.
fn lies() -> Vec<Vec<u8>> {
    [
        r#"18030520 1e00000000000000 "specpaxos.vr.proto.NoSuchThing!" 0000000000000000"#,
        r#"18030520 2100000000000000 "specpaxos.vr.proto.PrepareMessage" 0000000000000000"#,
        r#"18030520 1800000000000000 "specpaxos.vr.MyPrepareOK" 1400000000000000 00000000"#,
        r#"18030520 ffffffffffffffff "specpaxos.vr.proto.RequestMessage" 1800000000000000"#,
        r#"18030520 2100000000000000 "specpaxos.vr.proto.RequestMessage" ffffffffffffffff"#,
        r#"18030520 2100000000000000 "specpaxos.vr.proto.RequestMessage"
           0400000000000000 0affffff"#,
        r#"18030520 2100000000000000 "specpaxos.vr.proto.RequestMessage"
           1800000000000000 0a16 0a08 "request0" 10 88ef99abc5e88c9111 18 01"#,
        r#"10101020 0100000000000000 0000000000000000 ffffffffffffff7f 00"#,
        r#"10101020 0100000000000000 2823000000000000 5046000000000000 00"#,
        "20050318",
        "",
    ]
    .map(bytes)
    .to_vec()
}

async fn attack(target: SocketAddr, count: u32, random: &mut Random) {
    let socket = UdpSocket::bind(([127, 0, 0, 1], 0).into()).expect("a socket");
    let lies = lies();
    for round in 0..count {
        let mut lie = lies[random.below(lies.len())].clone();
        for _ in 0..random.below(4) {
            let len = lie.len().max(1);
            if let Some(byte) = lie.get_mut(random.below(len)) {
                *byte = random.next() as u8;
            }
        }
        if random.below(8) == 0 {
            lie.resize(random.below(9_500), 0);
        }
        send(&socket, &lie, target).await;
        if round % 32 == 0 {
            yield_now().await;
        }
    }
}

#[test]
fn what_kills_a_specpaxos_replica_is_counted_here() {
    block_on(async {
        let group = group_at(Some(TO_ALL[0]), 21_340, Dialect::Specpaxos, || Loud).await;
        let mut client = WalkIn::bind(group.doors.clone(), Dialect::Specpaxos).expect("a socket");
        client.call(b"a").await.expect("answered");
        let mut random = Random(1);
        for &door in group.doors.iter().chain(&group.multicast) {
            attack(door, 5_000, &mut random).await;
            let answer = timeout(Duration::from_secs(2), client.call(b"still there?")).await;
            let answer = answer.expect("service goes on").expect("answered");
            assert_eq!(answer.result, b"STILL THERE?");
        }
        attack(client.local_addr(), 500, &mut random).await;
        client.call(b"z").await.expect("answered");
        sleep(Duration::from_millis(50)).await;
        let asked = query_status(11, &group.own, Duration::from_secs(1)).await;
        for status in asked.expect("asked") {
            let status = status.expect("it lives");
            assert_eq!((&*status.status, status.view), ("normal", 0), "{status:?}");
            for reason in [
                "magic",
                "name",
                "name_length",
                "data_length",
                "short",
                "replicas",
            ] {
                let reason = format!("specpaxos datagram_{reason}");
                let counted = status.dropped.iter().any(|(name, _)| *name == reason);
                assert!(counted, "{reason}: {status:?}");
            }
        }
    })
    .expect("a ring");
}
