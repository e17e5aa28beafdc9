//! An outbox and an inbox with a bad network, or a bad neighbour, between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;
use viewring_runtime::buf::SharedBuf;
use viewring_runtime::time::Instant;

use crate::config::{EndpointConfig, ReassemblyLimits};
use crate::frame::Sender;
use crate::inbox::{Inbox, Message};
use crate::outbox::Outbox;
use crate::stats::Stats;
use crate::testing::{Line, Random, peer};

/// One that receives.
struct Receiver {
    inbox: Inbox,
    stats: Stats,
    messages: Vec<Message>,
}

impl Receiver {
    fn new() -> Self {
        let inbox = Inbox::new(&config());
        Self {
            inbox,
            stats: Stats::default(),
            messages: Vec::new(),
        }
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let payload = SharedBuf::copy_from(datagram);
        self.inbox.begin(from, payload, false, &mut self.stats);
        while let Some(message) = self.inbox.next(&mut self.stats) {
            self.messages.push(message);
        }
        self.stats.check_sums(self.inbox.open_messages());
    }
}

fn config() -> EndpointConfig {
    EndpointConfig {
        cluster: 7,
        sender: Sender(1),
        budget: 512,
        max_message: 8_000,
        reassembly: ReassemblyLimits {
            bytes: 64_000,
            bytes_per_peer: 16_000,
            messages_per_peer: 8,
            peers: 8,
            ..ReassemblyLimits::default()
        },
        ..EndpointConfig::default()
    }
}

/// The datagrams in which an incarnation sends `bodies`, all in one turn.
fn datagrams(incarnation: u64, bodies: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let line = Line::new(usize::MAX, usize::MAX);
    let mut outbox = Outbox::new(&config(), incarnation);
    let mut stats = Stats::default();
    for body in bodies {
        outbox
            .send(&line, [peer(2)], 5, body, &mut stats)
            .expect("short enough");
    }
    outbox.flush(&line, &mut stats);
    let posted = line.posted.take();
    assert_eq!(stats.datagrams_sent, posted.len() as u64);
    assert_eq!(
        stats.bytes_sent,
        posted
            .iter()
            .map(|(_, sent)| sent.len() as u64)
            .sum::<u64>()
    );
    assert!(posted.iter().all(|(_, sent)| sent.len() <= config().budget));
    posted.into_iter().map(|(_, sent)| sent.to_vec()).collect()
}

/// Bodies short and long.
fn bodies(random: &mut Random) -> Vec<Vec<u8>> {
    let count = 1 + random.below(6);
    let mut body = || {
        let len = if random.below(3) == 0 {
            random.below(3_000)
        } else {
            random.below(300)
        };
        random.bytes(len)
    };
    (0..count).map(|_| body()).collect()
}

#[test]
fn random_datagrams_are_counted_and_nothing_else() {
    let mut random = Random(1);
    let mut receiver = Receiver::new();
    for round in 1..=10_000 {
        let len = random.below(200);
        let mut datagram = random.bytes(len);
        // Half of them look like ours for a while.
        if len > 7 && random.below(2) == 0 {
            datagram[4..7].copy_from_slice(b"Vw\x01");
        }
        receiver.receive(peer(1), &datagram);
        assert_eq!(receiver.stats.datagrams_received, round);
    }
    let stats = receiver.stats;
    assert_eq!((stats.frames_received, stats.datagrams_intact), (0, 0));
    assert!(
        stats.datagram_empty > 0 && stats.datagram_trailing > 0,
        "{stats:?}"
    );
    assert!(
        stats.datagram_magic > 0 && stats.datagram_length > 0,
        "{stats:?}"
    );
}

#[test]
fn mutated_datagrams_never_yield_a_message_that_was_not_sent() {
    let mut random = Random(2);
    let mut receiver = Receiver::new();
    for incarnation in 0..2_000 {
        let sent = bodies(&mut random);
        let intact = datagrams(incarnation, &sent);
        for _ in 0..5 {
            let mut datagram = intact[random.below(intact.len())].clone();
            mutate(&mut datagram, &mut random);
            receiver.receive(peer(random.below(20) as u16), &datagram);
            for message in receiver.messages.drain(..) {
                assert!(sent.iter().any(|body| body[..] == message.body[..]));
            }
        }
    }
    let stats = receiver.stats;
    assert_eq!(stats.datagrams_received, 10_000);
    assert!(
        stats.datagram_checksum > 0 && stats.datagram_version > 0,
        "{stats:?}"
    );
    assert!(
        stats.datagram_length > 0 && stats.frames_whole > 0,
        "{stats:?}"
    );
}

/// Flips a few bits, cuts the end off, or adds to it.
fn mutate(datagram: &mut Vec<u8>, random: &mut Random) {
    match random.below(4) {
        0 => datagram.truncate(random.below(datagram.len())),
        1 => {
            let len = 1 + random.below(40);
            datagram.extend(random.bytes(len));
        }
        // Where the first header is, more often than not.
        2 => datagram[random.below(28)] ^= 1 << random.below(8),
        _ => (0..1 + random.below(4)).for_each(|_| {
            let at = random.below(datagram.len());
            datagram[at] ^= 1 << random.below(8);
        }),
    }
}

/// Whoever knows the checksum can say anything: fragments of every shape, sealed and intact.
#[test]
fn well_sealed_nonsense_is_counted_and_bounded() {
    let mut random = Random(3);
    let mut receiver = Receiver::new();
    for round in 0..10_000 {
        let sent = [vec![1; 1_000], vec![2; 20]];
        let mut datagram = datagrams(round / 100, &sent)[random.below(3)].clone();
        let body_len = crate::frame::u32_at(&datagram, 24) as usize;
        // A byte of the fragment header, or of the frame's kind, and a new seal.
        let at = if random.below(8) == 0 {
            7
        } else {
            28 + random.below(24)
        };
        datagram[at] = random.next() as u8 >> random.below(8);
        let checksum = crc32c::crc32c(&datagram[4..28 + body_len]);
        datagram[..4].copy_from_slice(&checksum.to_le_bytes());
        receiver
            .inbox
            .set_now(Instant::from_nanos(round * 1_000_000), &mut receiver.stats);
        receiver.receive(peer(random.below(9) as u16), &datagram);
        receiver.messages.clear();
    }
    let stats = receiver.stats;
    let seen: BTreeMap<_, _> = stats.iter().filter(|(_, count)| *count > 0).collect();
    for name in [
        "header",
        "kind",
        "too_long",
        "count",
        "index",
        "size",
        "duplicate",
        "mixed",
    ] {
        assert!(
            seen.contains_key(&*format!("fragment_{name}")),
            "{name}: {seen:?}"
        );
    }
    assert!(seen.contains_key("frame_unknown_kind"), "{seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_was_sent_arrives(seed: u64) {
        let sent = bodies(&mut Random(seed));
        let mut receiver = Receiver::new();
        for datagram in datagrams(1, &sent) {
            receiver.receive(peer(1), &datagram);
        }
        let arrived: Vec<_> = receiver.messages.iter().map(|m| m.body.to_vec()).collect();
        prop_assert_eq!(arrived, sent);
        let stats = receiver.stats;
        prop_assert_eq!(stats.datagrams_intact, stats.datagrams_received);
    }

    /// Two incarnations at one address, their datagrams shuffled, repeated and some lost: what
    /// arrives was sent, a long message at most once, and all of it if nothing is lost.
    #[test]
    fn a_bad_network_loses_and_shuffles_but_invents_nothing(seed: u64, lossy: bool) {
        let mut random = Random(seed);
        let sent = [bodies(&mut random), bodies(&mut random)];
        let mut on_the_way = Vec::new();
        for (incarnation, sent) in sent.iter().enumerate() {
            for datagram in datagrams(incarnation as u64, sent) {
                let copies = if lossy { random.below(3) } else { 1 + random.below(2) };
                on_the_way.extend(vec![datagram; copies]);
            }
        }
        for at in 1..on_the_way.len() {
            on_the_way.swap(at, random.below(at + 1));
        }
        // Room for every message: what is evicted here would be a loss.
        let mut config = config();
        config.reassembly.messages_per_peer = 12;
        config.reassembly.bytes_per_peer = 64_000;
        let inbox = Inbox::new(&config);
        let mut receiver = Receiver { inbox, stats: Stats::default(), messages: Vec::new() };
        on_the_way.iter().for_each(|datagram| receiver.receive(peer(1), datagram));

        let sent = sent.concat();
        let times = |body: &[u8]| receiver.messages.iter().filter(|m| m.body[..] == *body).count();
        for message in &receiver.messages {
            prop_assert!(sent.iter().any(|body| body[..] == message.body[..]));
        }
        for body in &sent {
            prop_assert!(lossy || times(body) >= 1);
            prop_assert!(body.len() < 512 || times(body) <= 1);
        }
    }
}
