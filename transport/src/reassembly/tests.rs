use super::*;
use crate::testing::{Random, peer};

const CHUNK: u16 = 256;
const SECOND: u64 = 1_000_000_000;

/// A reassembly with small limits, and what it has counted and completed.
struct Bench {
    reassembly: Reassembly,
    stats: Stats,
    now: u64,
    whole: Vec<Vec<u8>>,
}

impl Bench {
    fn new() -> Self {
        Self::with(ReassemblyLimits::default())
    }

    fn with(limits: ReassemblyLimits) -> Self {
        let reassembly = Reassembly::new(limits);
        Self {
            reassembly,
            stats: Stats::default(),
            now: 0,
            whole: Vec::new(),
        }
    }

    fn accept(&mut self, fragment: Fragment<'_>) {
        self.stats.fragments_received += 1;
        let now = Instant::from_nanos(self.now);
        let whole = self.reassembly.accept(fragment, now, &mut self.stats);
        self.whole.extend(whole.map(|body| body.to_vec()));
        self.check();
    }

    /// The bounds hold, and so do the sums.
    fn check(&mut self) {
        let Reassembly {
            limits,
            peers,
            bytes,
            finished,
            ..
        } = &self.reassembly;
        assert_eq!(*bytes, peers.values().map(|peer| peer.bytes).sum::<usize>());
        assert!(*bytes <= limits.bytes && peers.len() <= limits.peers);
        assert!(finished.len() <= FINISHED_MAX && finished.capacity() == FINISHED_MAX);
        for peer in peers.values() {
            let held: usize = peer
                .open
                .iter()
                .map(|partial| partial.body.capacity())
                .sum();
            assert_eq!(held, peer.bytes);
            assert!(held <= limits.bytes_per_peer && !peer.open.is_empty());
            assert!(peer.open.len() <= limits.messages_per_peer);
        }
        self.stats.messages_received = self.stats.messages_reassembled;
        self.stats.frames_received = self.stats.fragments_received;
        self.stats.check_sums(self.reassembly.open_messages());
    }
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

/// The fragments of message `message` of peer 1.
fn fragments(message: u32, body: &[u8]) -> Vec<Fragment<'_>> {
    let piece = |(index, piece)| {
        let header = FragmentHeader {
            incarnation: 1,
            message,
            total: body.len() as u32,
            chunk: CHUNK,
            index: index as u16,
            kind: 5,
        };
        Fragment {
            from: peer(1),
            sender: Sender(1),
            header,
            piece,
        }
    };
    body.chunks(CHUNK.into()).enumerate().map(piece).collect()
}

/// Every order of `0..n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    let Some(last) = n.checked_sub(1) else {
        return vec![vec![]];
    };
    let insert =
        |order: Vec<usize>| (0..n).map(move |at| [&order[..at], &[last], &order[at..]].concat());
    orders(last).into_iter().flat_map(insert).collect()
}

#[test]
fn fragments_in_every_order_make_the_message_once() {
    let body = body(4 * 256 + 9);
    let fragments = fragments(0, &body);
    let orders = orders(fragments.len());
    assert_eq!(orders.len(), 120);
    for order in orders {
        let mut bench = Bench::new();
        // Every one of them twice; the last completes the message before it is repeated.
        for at in &order {
            bench.accept(fragments[*at]);
            bench.accept(fragments[*at]);
        }
        assert_eq!(bench.whole, [&body[..]]);
        assert_eq!(
            (bench.stats.fragment_duplicate, bench.stats.fragment_late),
            (4, 1)
        );
        assert_eq!(
            (bench.reassembly.bytes, bench.reassembly.peers.len()),
            (0, 0)
        );
    }
}

#[test]
fn a_message_that_lacks_a_fragment_is_dropped_when_it_is_old() {
    let body = body(600);
    let fragments = fragments(0, &body);
    let mut bench = Bench::new();
    bench.accept(fragments[0]);
    bench.accept(fragments[2]);
    bench
        .reassembly
        .expire(Instant::from_nanos(SECOND), &mut bench.stats);
    assert_eq!(bench.reassembly.open_messages(), 1);
    bench
        .reassembly
        .expire(Instant::from_nanos(SECOND + 1), &mut bench.stats);
    assert_eq!(
        (
            bench.reassembly.open_messages(),
            bench.stats.reassembly_expired
        ),
        (0, 1)
    );
    bench.accept(fragments[1]);
    assert_eq!((bench.stats.fragment_late, bench.whole.len()), (1, 0));
}

#[test]
fn two_incarnations_of_a_sender_are_not_mixed_up() {
    let (old_body, new_body) = (body(600), vec![9; 600]);
    let old = fragments(0, &old_body);
    let new: Vec<_> = fragments(0, &new_body)
        .into_iter()
        .map(|mut fragment| {
            fragment.header.incarnation = 2;
            fragment
        })
        .collect();
    let mut bench = Bench::new();
    for (old, new) in old.iter().zip(&new) {
        bench.accept(*old);
        bench.accept(*new);
    }
    assert_eq!(bench.whole, [old_body, new_body]);
}

#[test]
fn two_addresses_are_not_mixed_up() {
    let (one, two) = (body(600), vec![9; 600]);
    let mut bench = Bench::new();
    for (one, two) in fragments(0, &one).iter().zip(fragments(0, &two)) {
        bench.accept(*one);
        bench.accept(Fragment {
            from: peer(2),
            ..two
        });
    }
    assert_eq!(bench.whole, [one, two]);
}

#[test]
fn a_fragment_that_contradicts_the_others_ends_the_message() {
    let body = body(600);
    let good = fragments(0, &body);
    let with = |change: fn(&mut FragmentHeader)| {
        let mut bad = good[1];
        change(&mut bad.header);
        bad
    };
    let bad = [
        Fragment {
            piece: &[0; 256],
            ..good[0]
        },
        Fragment {
            sender: Sender(2),
            ..good[1]
        },
        with(|header| header.kind = 6),
        with(|header| header.total = 601),
        with(|header| header.chunk = 255),
    ];
    for bad in bad {
        let mut bench = Bench::new();
        bench.accept(good[0]);
        bench.accept(bad);
        assert_eq!(
            (bench.stats.fragment_mixed, bench.reassembly.open_messages()),
            (1, 0)
        );
        good.iter().for_each(|fragment| bench.accept(*fragment));
        assert_eq!(
            (bench.stats.fragment_late, bench.whole.len()),
            (3, 0),
            "{bad:?}"
        );
    }
}

/// Opens messages of the given peers and lengths, and says which are open at the end.
fn open(limits: ReassemblyLimits, messages: &[(u16, usize)]) -> (Vec<u32>, Stats) {
    let mut bench = Bench::with(limits);
    let bodies: Vec<_> = messages.iter().map(|(_, len)| body(*len)).collect();
    for (number, body) in bodies.iter().enumerate() {
        let first = fragments(number as u32, body)[0];
        bench.accept(Fragment {
            from: peer(messages[number].0),
            ..first
        });
    }
    let peers = bench.reassembly.peers.values();
    let open = peers
        .flat_map(|peer| &peer.open)
        .map(|partial| partial.key.message);
    (open.collect(), bench.stats)
}

#[test]
fn over_each_limit_the_oldest_goes() {
    let limits = ReassemblyLimits {
        bytes: 6000,
        bytes_per_peer: 4000,
        messages_per_peer: 3,
        peers: 3,
        ..ReassemblyLimits::default()
    };
    let (open_now, stats) = open(limits, &[(1, 600), (2, 600), (2, 600), (2, 600), (2, 600)]);
    assert_eq!(
        (open_now, stats.reassembly_peer_messages),
        (vec![0, 2, 3, 4], 1)
    );

    let (open_now, stats) = open(limits, &[(1, 600), (2, 1500), (2, 1500), (2, 3000)]);
    assert_eq!((open_now, stats.reassembly_peer_bytes), (vec![0, 3], 2));

    let (open_now, stats) = open(limits, &[(1, 3000), (2, 1500), (3, 1500), (2, 2500)]);
    assert_eq!((open_now, stats.reassembly_bytes), (vec![1, 3, 2], 1));

    let (open_now, stats) = open(limits, &[(1, 600), (2, 600), (1, 600), (3, 600), (4, 600)]);
    // Peer 1's oldest, and then peer 2's only one: that made room for a peer.
    assert_eq!((open_now, stats.reassembly_peers), (vec![2, 3, 4], 2));
    assert_eq!(stats.reassembly_opened, 5);
}

#[test]
fn a_flood_of_fragments_stays_within_the_bounds() {
    let limits = ReassemblyLimits {
        bytes: 30_000,
        bytes_per_peer: 10_000,
        messages_per_peer: 4,
        peers: 6,
        ..ReassemblyLimits::default()
    };
    let mut random = Random(42);
    let mut bench = Bench::with(limits);
    let zeros = vec![0; 10_000];
    for _ in 0..50_000 {
        let longest = if random.below(4) == 0 { 10_000 } else { 600 };
        let len = 257 + random.below(longest - 257);
        let all = fragments(random.below(40) as u32, &zeros[..len]);
        let mut fragment = all[random.below(all.len())];
        fragment.from = peer(random.below(8).min(6) as u16);
        fragment.header.incarnation = random.below(3) as u64;
        bench.now += random.below(100) as u64 * SECOND / 500;
        bench
            .reassembly
            .expire(Instant::from_nanos(bench.now), &mut bench.stats);
        bench.accept(fragment);
    }
    let stats = bench.stats;
    assert!(
        stats.reassembly_peer_messages > 0 && stats.reassembly_peer_bytes > 0,
        "{stats:?}"
    );
    assert!(
        stats.reassembly_bytes > 0 && stats.reassembly_peers > 0,
        "{stats:?}"
    );
    assert!(
        stats.fragment_mixed > 0 && stats.reassembly_expired > 0,
        "{stats:?}"
    );
}
