//! A loop that looks for work before it sleeps: it finds timers, datagrams and what other threads
//! hand over, and makes no system call for it.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use viewring_runtime::net::UdpSocket;
use viewring_runtime::sim::{NodeConfig, World};
use viewring_runtime::time::{Instant, sleep};
use viewring_runtime::{Config, Runtime, Uring, metrics};

/// Longer than any of these tests has to wait, however busy the machine is.
const LONG: Duration = Duration::from_secs(10);

fn spinning(spin: Duration) -> Runtime {
    let config = Config {
        spin,
        ..Config::default()
    };
    Runtime::new(Uring::new().expect("a ring"), config)
}

#[test]
fn a_timer_fires_without_the_kernel() {
    spinning(LONG).block_on(async {
        let (began, enters) = (Instant::now(), metrics().reactor("enters"));
        sleep(Duration::from_millis(2)).await;
        assert!(began.elapsed() >= Duration::from_millis(2));
        let metrics = metrics();
        assert_eq!(metrics.reactor("timer_armed"), 0);
        assert_eq!(metrics.reactor("enters"), enters);
        assert!(metrics.spins_hit > 0 && metrics.spins_missed == 0);
    });
}

#[test]
fn a_datagram_is_found() {
    spinning(LONG).block_on(async {
        let localhost: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let socket = UdpSocket::bind(localhost).expect("a socket");
        let to = socket.local_addr();
        let sender = thread::spawn(move || {
            thread::sleep(Duration::from_millis(2));
            let sender = std::net::UdpSocket::bind(localhost).expect("a socket");
            sender.send_to(b"late", to).expect("sent");
        });
        let datagram = socket.recv_datagram().await.expect("received");
        assert_eq!(datagram.payload(), b"late");
        assert_eq!(metrics().spins_missed, 0);
        sender.join().expect("it sent");
    });
}

#[test]
fn what_another_thread_hands_over_is_found() {
    let runtime = spinning(LONG);
    let handle = runtime.handle();
    let (tell, told) = futures::channel::oneshot::channel();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(2));
        let done = handle.spawn_on(|| async move { tell.send(()).expect("awaited") });
        done.expect("the runtime lives");
    });
    runtime.block_on(async {
        told.await.expect("told");
        assert_eq!(metrics().spins_missed, 0);
        assert_eq!(metrics().reactor("wakes"), 0);
    });
    other.join().expect("it handed over");
}

#[test]
fn an_idle_loop_looks_ever_less() {
    let runtime = spinning(Duration::from_micros(50));
    runtime.block_on(async {
        for _ in 0..30 {
            sleep(Duration::from_millis(2)).await;
        }
        assert!(metrics().spins_missed < 20, "{:?}", metrics());
    });
}

#[test]
fn a_loop_that_only_sends_now_and_then_is_idle() {
    let runtime = spinning(Duration::from_millis(1));
    runtime.block_on(async {
        let localhost: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let socket = UdpSocket::bind(localhost).expect("a socket");
        for _ in 0..60 {
            let mut payload = socket.take_buf(4).expect("a buffer");
            payload.put_slice(b"beat");
            let posted = socket.post_to(payload.share(), socket.local_addr());
            posted.expect("there is room");
            sleep(Duration::from_millis(10)).await;
        }
        assert!(metrics().spins_missed < 30, "{:?}", metrics());
    });
}

#[test]
fn a_simulated_loop_does_not_look() {
    let mut world = World::new(1);
    let runtime = Config {
        spin: LONG,
        ..Config::default()
    };
    let node = world.add_node_with(NodeConfig {
        runtime,
        ..NodeConfig::default()
    });
    world.start(node, || sleep(Duration::from_secs(10)));
    world.run_for(Duration::from_secs(2));
    let metrics = world.metrics(node).expect("it is up");
    assert!(metrics.turns > 0);
    assert_eq!((metrics.spins_hit, metrics.spins_missed), (0, 0));
}
