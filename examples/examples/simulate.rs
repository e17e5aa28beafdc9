//! A simulated world for a program of your own: here, a client that counts on a server across a
//! network which loses, duplicates, delays and cuts, while the server crashes now and then.
//!
//! The client sends each request until it is answered; the server answers a request that it knows
//! from a table. Is that enough for each request to count once? Every seed is another history:
//!
//! ```text
//! cargo run --release -p viewring-examples --example simulate          # seeds 0 to 99
//! cargo run --release -p viewring-examples --example simulate -- 7     # seed 7, with its trace
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use viewring::runtime::net::UdpSocket;
use viewring::runtime::sim::{Keep, Link, NodeId, RingFaults, World, twice};
use viewring::runtime::time::{sleep, timeout};

const REQUESTS: u64 = 50;
const CLIENTS: usize = 3;
/// How long the faults last, and how long the clients may take once they are over.
const BAD_DAYS: Duration = Duration::from_secs(20);
const BOUND: Duration = Duration::from_secs(30);

/// What survives a crash of the server; a real one would keep it on disk. By client and request:
/// the answer that was given. The checker reads it too.
type Ledger = Rc<RefCell<BTreeMap<(u64, u64), u64>>>;

fn main() {
    if let Some(seed) = std::env::args().nth(1) {
        let seed = seed.parse().expect("a seed is a number");
        let mut world = World::new(seed);
        world.keep_trace(Keep::All);
        scenario(&mut world);
        world.trace().iter().for_each(|event| println!("{event}"));
        return;
    }
    for seed in 0..100 {
        let hash = twice(seed, scenario);
        println!("seed {seed:>2}: {REQUESTS} requests of {CLIENTS} clients, hash {hash:016x}");
    }
}

/// The server's program: nothing in it knows that the world is simulated.
async fn serve(at: SocketAddr, ledger: Ledger) {
    let socket = UdpSocket::bind(at).expect("the port is free");
    loop {
        let Ok(datagram) = socket.recv_datagram().await else {
            continue; // the socket had an error, and goes on
        };
        let Some((client, request)) = decode(datagram.payload()) else {
            continue; // garbled, or nothing
        };
        let count = ledger.borrow().len() as u64 + 1;
        let known = *(ledger.borrow_mut())
            .entry((client, request))
            .or_insert(count);
        let _lost = socket
            .send_to(&encode(request, known), datagram.from())
            .await;
    }
}

/// The client's program. Its timeout is a scope: what is left is dropped.
async fn count(client: u64, server: SocketAddr) {
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let socket = UdpSocket::bind(any).expect("there are ports");
    for request in 0..REQUESTS {
        loop {
            let _lost = socket.send_to(&encode(client, request), server).await;
            let answer = timeout(Duration::from_millis(100), answer_to(&socket, request));
            if answer.await.is_ok() {
                break;
            }
        }
        sleep(Duration::from_millis(viewring::runtime::random() % 200)).await;
    }
}

async fn answer_to(socket: &UdpSocket, request: u64) -> u64 {
    loop {
        let Ok(datagram) = socket.recv_datagram().await else {
            continue;
        };
        match decode(datagram.payload()) {
            Some((to, count)) if to == request => return count,
            _ => {} // late, or garbled
        }
    }
}

/// Two numbers and their checksum.
fn encode(one: u64, other: u64) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&one.to_le_bytes());
    bytes[8..16].copy_from_slice(&other.to_le_bytes());
    bytes[16..].copy_from_slice(&checksum(one, other).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u64, u64)> {
    let (words, []) = bytes.as_chunks::<8>() else {
        return None;
    };
    let [one, other, sum] = words else {
        return None;
    };
    let [one, other, sum] = [one, other, sum].map(|word| u64::from_le_bytes(*word));
    (checksum(one, other) == sum).then_some((one, other))
}

fn checksum(one: u64, other: u64) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    (one.wrapping_mul(ODD) ^ other)
        .rotate_left(32)
        .wrapping_mul(ODD)
        ^ !one
}

/// One history: bad days, then good ones in which everybody must finish, then the check.
fn scenario(world: &mut World) {
    let ledger = Ledger::default();
    let server = world.add_node();
    let at = world.socket_addr(server, 7000);
    let clients: Vec<NodeId> = (0..CLIENTS).map(|_| world.add_node()).collect();
    start_server(world, server, &ledger);
    for (number, &client) in (0..).zip(&clients) {
        world.start(client, move || count(number, at));
    }
    bad_days(world, server, &clients, &ledger);

    world.heal_all();
    world.update_links(|link| *link = Link::default());
    for node in world.nodes() {
        world.update_ring(node, |ring| *ring = RingFaults::default());
    }
    let finished = |world: &World| clients.iter().all(|&client| !world.is_up(client));
    world
        .run_until(finished, BOUND)
        .expect("once the network is good, everybody finishes");
    check(&ledger.borrow());
}

fn start_server(world: &mut World, server: NodeId, ledger: &Ledger) {
    let at = world.socket_addr(server, 7000);
    let ledger = Rc::clone(ledger);
    world.start(server, move || serve(at, ledger));
}

fn bad_days(world: &mut World, server: NodeId, clients: &[NodeId], ledger: &Ledger) {
    let mut random = world.random(0);
    world.update_links(|link| *link = Link::draw(&mut random));
    world.update_ring(server, |ring| *ring = RingFaults::draw(&mut random));
    let end = world.now() + BAD_DAYS;
    while world.now() < end {
        let client = clients[random.index(CLIENTS)];
        match random.below(5) {
            0 => world.cut(client, server),
            1 => world.cut(server, client),
            2 => world.restart(server, {
                let (at, ledger) = (world.socket_addr(server, 7000), Rc::clone(ledger));
                move || serve(at, ledger)
            }),
            3 => world.pause(server, random.exponential(Duration::from_millis(500))),
            _ => world.heal_all(),
        }
        world.run_for(random.exponential(Duration::from_secs(1)));
    }
}

/// Each request counts once: as many counts as requests, and no count twice.
fn check(ledger: &BTreeMap<(u64, u64), u64>) {
    let mut counts: Vec<u64> = ledger.values().copied().collect();
    counts.sort_unstable();
    let all = 1..=REQUESTS * CLIENTS as u64;
    assert!(counts.iter().copied().eq(all), "{ledger:?}");
}
