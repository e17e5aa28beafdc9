//! An inbox with a bad network, or a bad neighbour, before it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use viewring_runtime::buf::SharedBuf;
use viewring_runtime::time::Instant;

use super::endpoint::Inbox;
use super::fragment::fragments;
use super::frame::{Dialect, Kind};
use super::message::{Message, Reply, Request};
use crate::testing::{Random, peer};

const MAX_MESSAGE: usize = 40_000;

/// One that receives, and reads all that it gets.
struct Receiver {
    inbox: Inbox,
    garbled: u64,
}

impl Receiver {
    fn new(dialect: Dialect) -> Self {
        Self {
            inbox: Inbox::new(dialect, MAX_MESSAGE),
            garbled: 0,
        }
    }

    /// The request that has arrived, if it is one.
    fn receive(&mut self, port: u16, datagram: &[u8]) -> Option<(Kind, Vec<u8>)> {
        let payload = SharedBuf::copy_from(datagram);
        let frame = self.inbox.accept(peer(port), payload, false);
        self.inbox.stats.check_sums(self.inbox.open_messages());
        let frame = frame?;
        let Ok(message) = frame.message() else {
            self.garbled += 1;
            return None;
        };
        let bytes = match message {
            Message::Request(request) | Message::UnloggedRequest(request) => request.op,
            Message::Reply(reply) => reply.result,
            Message::UnloggedReply(result) => result,
        };
        Some((frame.kind, bytes.into_owned()))
    }
}

/// A message of some kind, as its datagrams.
fn datagrams(dialect: Dialect, number: u64, kind: usize, bytes: &[u8]) -> Vec<Vec<u8>> {
    let request = Request {
        op: bytes.into(),
        client: number << 40 | 7,
        number,
    };
    let message = match kind {
        0 => Message::Request(request),
        1 => Message::UnloggedRequest(request),
        2 => Message::UnloggedReply(bytes.into()),
        _ => Message::Reply(Reply {
            view: number,
            op_number: number << 20,
            result: bytes.into(),
            number,
        }),
    };
    let mut encoded = Vec::new();
    message.encode(dialect, &mut encoded);
    if encoded.len() <= 9_000 {
        return vec![encoded];
    }
    fragments(number, &encoded)
        .map(|fragment| [&fragment.head()[..], fragment.slice].concat())
        .collect()
}

fn bytes(random: &mut Random) -> Vec<u8> {
    let len = match random.below(8) {
        0 => random.below(30_000),
        // Where a datagram becomes too long, and with it the second slice.
        1 => 8_900 + random.below(100),
        _ => random.below(100),
    };
    random.bytes(len)
}

#[test]
fn random_datagrams_are_counted_and_nothing_else() {
    for dialect in [Dialect::Specpaxos, Dialect::Electrode] {
        let (mut random, mut receiver) = (Random(1), Receiver::new(dialect));
        for round in 1..=10_000 {
            let len = random.below(200);
            let mut datagram = random.bytes(len);
            // Some of them look like ours for a while.
            let likeness: &[u8] = match random.below(4) {
                0 => b"\x18\x03\x05\x20",
                1 => b"\x18\x03\x05\x20\x21\0\0\0\0\0\0\0specpaxos.vr.proto.RequestMessage",
                2 => b"\x10\x10\x10\x20\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                _ => b"",
            };
            let same = likeness.len().min(len);
            datagram[..same].copy_from_slice(&likeness[..same]);
            receiver.receive(1, &datagram);
            assert_eq!(receiver.inbox.stats.datagrams_received, round);
        }
        let stats = receiver.inbox.stats;
        for (name, count) in [
            ("short", stats.datagram_short),
            ("magic", stats.datagram_magic),
            ("name length", stats.datagram_name_length),
            ("data length", stats.datagram_data_length),
            ("header", stats.datagram_fragment_header),
        ] {
            assert!(count > 0, "{name}: {stats:?}");
        }
        assert_eq!(stats.frames_received + stats.messages_reassembled, 0);
    }
}

/// Whoever gets the head right can still lie in every byte behind it, and in the head itself.
#[test]
fn mutated_datagrams_never_panic_and_every_reason_occurs() {
    let (mut random, mut receiver) = (Random(2), Receiver::new(Dialect::Specpaxos));
    for round in 1..8_000 {
        let sent = bytes(&mut random);
        let now = Instant::from_nanos(round * 20_000_000);
        receiver.inbox.set_now(now);
        let port = random.below(40) as u16;
        for mut datagram in datagrams(Dialect::Specpaxos, round, random.below(4), &sent) {
            mutate(&mut datagram, &mut random);
            receiver.receive(port, &datagram);
        }
    }
    let stats = receiver.inbox.stats;
    let unseen: Vec<_> = stats.dropped().filter(|(_, count)| *count == 0).collect();
    let not_here = [
        "send_too_long",
        "send_no_buffer",
        "send_in_flight",
        "datagram_truncated",
        // Names of replicas are too far from ours to be hit by chance: `frame.rs` tests them.
        "datagram_replicas",
        // Nor are there so many senders: `reassembly.rs`.
        "reassembly_senders",
    ];
    let unseen: Vec<_> = unseen
        .iter()
        .filter(|(name, _)| !not_here.contains(name))
        .collect();
    assert!(unseen.is_empty(), "{unseen:?} of {stats:?}");
    assert!(
        receiver.garbled > 0 && stats.messages_reassembled > 0,
        "{stats:?}"
    );
}

/// Changes a few bytes, mostly where the heads are; cuts the end off, or adds to it.
fn mutate(datagram: &mut Vec<u8>, random: &mut Random) {
    match random.below(6) {
        0 => datagram.truncate(random.below(datagram.len())),
        1 => {
            let len = 1 + random.below(40);
            datagram.extend(random.bytes(len));
        }
        2 => {
            let at = random.below(datagram.len().min(28));
            datagram[at] = random.next() as u8 >> random.below(8);
        }
        3 => {
            let at = random.below(datagram.len().min(90));
            datagram[at] ^= 1 << random.below(8);
        }
        // As it was: slices may come to a whole.
        _ => (),
    }
}

#[test]
fn a_message_that_claims_to_be_of_the_other_layout_is_not_believed() {
    for (sent, heard) in [
        (Dialect::Specpaxos, Dialect::Electrode),
        (Dialect::Electrode, Dialect::Specpaxos),
    ] {
        let mut receiver = Receiver::new(heard);
        let datagram = &datagrams(sent, 1, 0, b"request0")[0];
        assert_eq!(receiver.receive(1, datagram), None);
        let stats = receiver.inbox.stats;
        let refused = stats.datagram_data_length + stats.datagram_short + receiver.garbled;
        assert_eq!(refused, 1, "{stats:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_was_sent_arrives(seed: u64, electrode: bool) {
        let dialect = if electrode { Dialect::Electrode } else { Dialect::Specpaxos };
        let (mut random, mut receiver) = (Random(seed), Receiver::new(dialect));
        for number in 1..20 {
            let (sent, kind) = (bytes(&mut random), random.below(4));
            let mut arrived = None;
            for datagram in datagrams(dialect, number, kind, &sent) {
                assert_eq!(arrived, None);
                arrived = receiver.receive(1, &datagram);
            }
            let kinds =
                [Kind::Request, Kind::UnloggedRequest, Kind::UnloggedReply, Kind::Reply];
            prop_assert_eq!(arrived, Some((kinds[kind], sent)));
        }
    }

    /// Several senders, their datagrams repeated and some lost: what arrives was sent.
    #[test]
    fn a_bad_network_loses_and_repeats_but_invents_nothing(seed: u64) {
        let (mut random, mut receiver) = (Random(seed), Receiver::new(Dialect::Specpaxos));
        let mut sent = BTreeMap::new();
        let mut on_the_way = Vec::new();
        for number in 1..12 {
            let port = random.below(3) as u16;
            let body = bytes(&mut random);
            for datagram in datagrams(Dialect::Specpaxos, number, 0, &body) {
                let copies = [0, 1, 1, 1, 2][random.below(5)];
                on_the_way.extend(vec![(port, datagram); copies]);
            }
            sent.insert(body, ());
        }
        for _ in 0..random.below(4) {
            let (one, other) = (random.below(on_the_way.len()), random.below(on_the_way.len()));
            on_the_way.swap(one, other);
        }
        for (port, datagram) in on_the_way {
            if let Some((_, body)) = receiver.receive(port, &datagram) {
                prop_assert!(sent.contains_key(&body));
            }
        }
        prop_assert_eq!(receiver.garbled, 0);
    }
}
