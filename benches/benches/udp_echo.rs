//! What does echoing datagrams cost: the round trip within one thread, and the CPU time of a server
//! under load?
//!
//! ```text
//! cargo bench -p viewring-benches --bench udp_echo
//! cargo bench -p viewring-benches --bench udp_echo -- load
//! cargo bench -p viewring-benches --bench udp_echo -- trip
//! ```
//!
//! *Trip*: two sockets on one thread, one datagram going to and fro. *Load*: a server on core 1,
//! and on core 0 a client that never sleeps and keeps 64 datagrams under way. Baseline for both: a
//! ring by hand with the same flags, multishot receives into provided buffers, and sends out of the
//! buffers that were received into. The contestants take turns. Every datagram's bytes are checked.

use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use viewring_benches::raw_ring::{RawUdp, segment_sends};
use viewring_benches::{
    DATAGRAM_LEN, Table, datagram, enters, is_wanted, pin_to_core, quantile, rounds, runtime,
    sequence_of, thread_cpu,
};
use viewring_runtime::{metrics, net, spawn};

/// What a contestant was measured to need, per datagram or per round trip.
struct Measured {
    nanos: f64,
    enters: f64,
}

fn main() {
    if is_wanted("trip") {
        print("round trip in one thread", "p50, ns", trips(), &TRIPS);
    }
    if is_wanted("load") {
        print("echo under load", "server's CPU time, ns", loads(), &LOADS);
    }
}

fn print(what: &str, title: &'static str, measured: Vec<Vec<Measured>>, names: &[&'static str]) {
    println!("{what}");
    let mut nanos = Table::new(title, names);
    let mut enters = Table::new("system calls", names);
    for round in measured {
        nanos.add_round(round.iter().map(|m| m.nanos).collect());
        enters.add_round(round.iter().map(|m| m.enters).collect());
    }
    nanos.print();
    enters.print();
}

// The trip.

const TRIPS: [&str; 3] = ["viewring, post_to", "viewring, send_to", "raw"];

fn trips() -> Vec<Vec<Measured>> {
    let count = rounds(20_000);
    let round = |_| {
        vec![
            trips_of_viewring(count, true),
            trips_of_viewring(count, false),
            trips_of_raw(count),
        ]
    };
    (0..rounds(10)).map(round).collect()
}

fn trips_of_viewring(count: u64, post: bool) -> Measured {
    runtime().block_on(async move {
        let client = bind();
        let server = bind();
        let to = server.local_addr();
        let serving = spawn(serve_trips(server, count, post));
        let mut times = Vec::with_capacity(count as usize);
        let before = enters(&metrics());
        for sequence in 0..count {
            let start = Instant::now();
            if post {
                let mut buf = client.take_buf(DATAGRAM_LEN).expect("a free buffer");
                buf.put_slice(&datagram(sequence));
                client.post_to(buf.share(), to).expect("room to send");
            } else {
                let sent = client.send_to(&datagram(sequence), to).await;
                assert_eq!(sent.expect("a send"), DATAGRAM_LEN);
            }
            let reply = client.recv_datagram().await.expect("a reply");
            times.push(start.elapsed().as_nanos() as f64);
            assert_eq!(sequence_of(reply.payload()), sequence);
        }
        let entered = enters(&metrics()) - before;
        serving.await.expect("no panic");
        Measured {
            nanos: quantile(&mut times, 0.5),
            enters: entered as f64 / count as f64,
        }
    })
}

fn bind() -> net::UdpSocket {
    net::UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port")
}

async fn serve_trips(socket: net::UdpSocket, count: u64, post: bool) {
    for _ in 0..count {
        let request = socket.recv_datagram().await.expect("a request");
        let to = request.from();
        if post {
            let posted = socket.post_to(request.into_payload(), to);
            posted.expect("room to send");
        } else {
            let sent = socket.send_to(request.payload(), to).await;
            assert_eq!(sent.expect("a send"), DATAGRAM_LEN);
        }
    }
}

/// Both sides echo; the client's also counts.
fn trips_of_raw(count: u64) -> Measured {
    let (client, server) = (bind_std(), bind_std());
    let to = server.local_addr().expect("an address");
    let first = client.try_clone().expect("another descriptor");
    let mut ring = RawUdp::new(vec![client, server]).expect("a ring");
    let mut times = Vec::with_capacity(count as usize);
    let mut arrived = Vec::new();
    let mut sequence = 0;
    let sent = first.send_to(&datagram(sequence), to);
    assert_eq!(sent.expect("a send"), DATAGRAM_LEN);
    let mut start = Instant::now();
    while sequence < count {
        ring.turn(&mut arrived).expect("a turn");
        for arrival in arrived.drain(..) {
            if arrival.socket == 0 {
                times.push(start.elapsed().as_nanos() as f64);
                assert_eq!(sequence_of(ring.payload(&arrival)), sequence);
                sequence += 1;
                start = Instant::now();
                ring.replace_payload(&arrival, &datagram(sequence));
            }
            ring.echo(&arrival);
        }
    }
    Measured {
        nanos: quantile(&mut times, 0.5),
        enters: ring.enters as f64 / count as f64,
    }
}

fn bind_std() -> UdpSocket {
    UdpSocket::bind(("127.0.0.1", 0)).expect("a free port")
}

// The load.

const LOADS: [&str; 2] = ["viewring", "raw"];
/// How many datagrams are under way.
const WINDOW: u64 = 64;
/// How many the client sends at once.
const BURST: u64 = 16;
/// The client waits so long for a reply, then it was lost, and the figures are worth nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// A datagram that ends a server.
const STOP: &[u8] = b"stop";

fn loads() -> Vec<Vec<Measured>> {
    let count = rounds(15_000) * 10;
    let round = |_| vec![load(count, serve_viewring), load(count, serve_raw)];
    (0..rounds(10)).map(round).collect()
}

/// What a server tells when it ends.
struct Served {
    datagrams: u64,
    cpu: Duration,
    enters: u64,
}

type Bound = mpsc::Sender<SocketAddr>;

fn load(count: u64, serve: fn(&Bound) -> Served) -> Measured {
    let (tell, told) = mpsc::channel();
    let server = std::thread::spawn(move || {
        pin_to_core(1);
        serve(&tell)
    });
    let addr = told.recv().expect("a server");
    let client = std::thread::spawn(move || {
        pin_to_core(0);
        ask(addr, count);
    });
    client.join().expect("every reply came");
    let served = server.join().expect("a server that ends");
    assert_eq!(served.datagrams, count);
    Measured {
        nanos: served.cpu.as_nanos() as f64 / count as f64,
        enters: served.enters as f64 / count as f64,
    }
}

fn serve_viewring(bound: &Bound) -> Served {
    runtime().block_on(async {
        let socket = Rc::new(bind());
        bound.send(socket.local_addr()).expect("somebody listens");
        let (cpu_before, enters_before) = (thread_cpu(), enters(&metrics()));
        let datagrams = spawn(echo(Rc::clone(&socket))).await.expect("no panic");
        let stats = socket.stats();
        assert_eq!((stats.post_failed, stats.post_refused), (0, 0));
        Served {
            datagrams,
            cpu: thread_cpu() - cpu_before,
            enters: enters(&metrics()) - enters_before,
        }
    })
}

/// The server: all that it would be in a program.
async fn echo(socket: Rc<net::UdpSocket>) -> u64 {
    let mut requests = Vec::new();
    let mut echoed = 0;
    loop {
        let received = socket.recv_many(&mut requests, 64).await;
        received.expect("requests");
        for request in requests.drain(..) {
            if request.payload() == STOP {
                return echoed;
            }
            let to = request.from();
            let posted = socket.post_to(request.into_payload(), to);
            posted.expect("room to send");
            echoed += 1;
        }
    }
}

fn serve_raw(bound: &Bound) -> Served {
    let socket = bind_std();
    let addr = socket.local_addr().expect("an address");
    let mut ring = RawUdp::new(vec![socket]).expect("a ring");
    bound.send(addr).expect("somebody listens");
    let cpu_before = thread_cpu();
    let mut arrived = Vec::new();
    let mut datagrams = 0;
    loop {
        ring.turn(&mut arrived).expect("a turn");
        for arrival in arrived.drain(..) {
            if ring.payload(&arrival) == STOP {
                return Served {
                    datagrams,
                    cpu: thread_cpu() - cpu_before,
                    enters: ring.enters,
                };
            }
            ring.echo(&arrival);
            datagrams += 1;
        }
    }
}

/// The client: keeps the window full and checks every reply.
fn ask(server: SocketAddr, count: u64) {
    let socket = bind_std();
    socket.connect(server).expect("a route");
    socket.set_nonblocking(true).expect("a nonblocking socket");
    segment_sends(&socket, DATAGRAM_LEN).expect("segmentation offload");
    let mut burst = Vec::with_capacity(DATAGRAM_LEN * BURST as usize);
    let mut seen = vec![false; count as usize];
    let (mut sent, mut received) = (0, 0);
    let mut heard = Instant::now();
    while received < count {
        let size = BURST.min(count - sent);
        if size > 0 && sent + size - received <= WINDOW {
            burst.clear();
            burst.extend((sent..sent + size).flat_map(datagram));
            let len = socket.send(&burst).expect("a send");
            assert_eq!(len, burst.len());
            sent += size;
        }
        let mut reply = [0; 2 * DATAGRAM_LEN];
        match socket.recv(&mut reply) {
            Ok(len) => {
                let sequence = sequence_of(&reply[..len]);
                assert!(
                    !std::mem::replace(&mut seen[sequence as usize], true),
                    "{sequence} was answered twice"
                );
                received += 1;
                heard = Instant::now();
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(heard.elapsed() < PATIENCE, "a reply was lost");
                std::hint::spin_loop();
            }
            Err(error) => panic!("cannot receive: {error}"),
        }
    }
    assert_eq!(socket.send(STOP).expect("a send"), STOP.len());
}
