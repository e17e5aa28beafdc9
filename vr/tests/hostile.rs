//! Datagrams from a liar, at every port of a live group: random bytes, and honest messages with
//! some bytes changed, half of them sealed again with a right checksum.

use std::net::SocketAddr;
use std::time::Duration;

use viewring::protocol::{
    Checksum, ClientId, Commit, GetState, Kind, Message, Nonce, OpNumber, PrepareOk, ReplicaId,
    Request, RequestNumber, StartViewChange, View, wire,
};
use viewring::{Client, ClientConfig, Node, NodeConfig, Null, query_status};
use viewring_runtime::net::UdpSocket;
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{block_on, spawn, yield_now};
use viewring_transport::{Endpoint, EndpointConfig, Sender};

const CLUSTER: u64 = 9;
const DATAGRAMS: u32 = 10_000;

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

/// One honest datagram of each kind that replicas and clients understand.
async fn honest_datagrams() -> Vec<Vec<u8>> {
    let (view, root, op) = (View(3), Checksum(4), OpNumber(5));
    let messages = [
        Message::Request(Request {
            client: ClientId(77),
            session: OpNumber(1),
            number: RequestNumber(2),
            kind: Kind::Operation,
            body: (*b"operation").into(),
        }),
        Message::PrepareOk(PrepareOk {
            view,
            op,
            checksum: Checksum(6),
        }),
        Message::Commit(Commit {
            view,
            root,
            commit: op,
        }),
        Message::StartViewChange(StartViewChange {
            view,
            root,
            joined: true,
        }),
        Message::GetState(GetState {
            view,
            after: op,
            checksum: Checksum(6),
            nonce: Nonce(7),
            pages: u8::MAX,
        }),
    ];
    let tap = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a socket");
    let config = EndpointConfig {
        cluster: CLUSTER,
        sender: Sender(0),
        ..Default::default()
    };
    let from = Endpoint::bind(([127, 0, 0, 1], 0).into(), config).expect("an endpoint");
    let mut datagrams = Vec::new();
    for message in messages {
        let mut body = Vec::new();
        wire::encode(&message, &mut body);
        from.send(tap.local_addr(), message.kind(), &body)
            .expect("it is short");
        from.flush();
        datagrams.push(
            tap.recv_datagram()
                .await
                .expect("it comes")
                .payload()
                .to_vec(),
        );
    }
    // A fragment of a long message, and the question for the status.
    from.send(tap.local_addr(), 1, &[7; 4_000])
        .expect("it is short enough");
    from.send(tap.local_addr(), 0xE0, &[]).expect("it is short");
    from.flush();
    let pause = Duration::from_millis(100);
    while let Ok(arrived) = timeout(pause, tap.recv_datagram()).await {
        datagrams.push(arrived.expect("it comes").payload().to_vec());
    }
    assert!(datagrams.len() > 7, "the long message was cut up");
    datagrams
}

/// Changes a few bytes, or cuts the end off; then perhaps makes the checksum right again.
fn mutate(datagram: &[u8], random: &mut Random) -> Vec<u8> {
    let mut mutant = datagram.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(mutant.len());
        mutant[at] = random.next() as u8;
    }
    if random.below(8) == 0 {
        mutant.truncate(random.below(mutant.len()));
    }
    if random.below(2) == 0 && mutant.len() >= 28 {
        // See WIRE.md: CRC-32C of all that follows it, at the head of the frame.
        let checksum = crc32c::crc32c(&mutant[4..]);
        mutant[..4].copy_from_slice(&checksum.to_le_bytes());
    }
    mutant
}

/// Resident memory in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("it has memory");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("a number")
}

async fn attack(target: SocketAddr, honest: &[Vec<u8>], random: &mut Random) {
    let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a socket");
    for count in 0..2 * DATAGRAMS {
        let datagram = if count < DATAGRAMS {
            (0..random.below(1_600))
                .map(|_| random.next() as u8)
                .collect()
        } else {
            mutate(&honest[random.below(honest.len())], random)
        };
        socket
            .send_to(&datagram, target)
            .await
            .expect("loopback takes it");
        if count % 32 == 0 {
            yield_now().await;
        }
    }
}

#[test]
fn a_flood_of_lies_stops_nothing_and_is_counted() {
    block_on(async {
        let replicas: Vec<SocketAddr> = (0..3)
            .map(|i| ([127, 0, 0, 1], 21_200 + i).into())
            .collect();
        for id in 0..3 {
            let config = NodeConfig::new(CLUSTER, ReplicaId(id), replicas.clone());
            let mut node = Node::bind(config, Null).await.expect("the port is free");
            spawn(async move { node.run().await }).detach();
        }
        let client = Client::new(ClientConfig::new(CLUSTER, replicas.clone())).expect("a socket");
        let mut session = client.session().await.expect("registered");
        let honest = honest_datagrams().await;
        let mut random = Random(1);
        let targets = [replicas[0], replicas[1], replicas[2], client.local_addr()];
        attack(targets[0], &honest, &mut random).await; // warms every table up
        let before = resident();
        for target in targets {
            attack(target, &honest, &mut random).await;
            let answer = timeout(Duration::from_secs(1), session.call(b"still there?")).await;
            answer.expect("service goes on").expect("answered");
        }
        sleep(Duration::from_millis(50)).await;
        let grown = resident().saturating_sub(before);
        assert!(grown < 16 * 1024, "memory has grown by {grown} KiB");
        for status in query_status(CLUSTER, &replicas, Duration::from_secs(1))
            .await
            .expect("asked")
        {
            let status = status.expect("it lives");
            let dropped: u64 = status.dropped.iter().map(|(_, count)| count).sum();
            assert_eq!(
                (status.status.as_str(), status.view),
                ("normal", 0),
                "{status:?}"
            );
            // Of the random ones none is valid; of the mutants nearly none.
            assert!(dropped >= u64::from(DATAGRAMS), "{status:?}");
        }
    })
    .expect("a ring");
}
