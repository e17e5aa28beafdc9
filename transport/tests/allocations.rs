//! In the steady state, what is sent and received costs no allocation: everything from the frame
//! to the ring and back comes from pools and from queues that have grown as far as they have to.
//!
//! What this counts: allocations on this thread by both endpoints, their sockets, the operation
//! table, the timers and the reactor on io_uring, over a thousand rounds of 40 messages there and
//! back in shared datagrams, with a timeout around each wait. What it does not: fragmented
//! messages, which are put together in memory of their own, and what a user does with a message.

use std::net::SocketAddr;
use std::time::Duration;

use allocation_counter::measure;
use viewring_runtime::time::timeout;
use viewring_runtime::{Config, Runtime, Uring, yield_now};
use viewring_transport::{Endpoint, EndpointConfig, Sender};

const KIND: u8 = 1;
const MESSAGES: usize = 40;

fn bind(sender: u64) -> Endpoint {
    let config = EndpointConfig {
        cluster: 7,
        sender: Sender(sender),
        ..EndpointConfig::default()
    };
    Endpoint::bind(([127, 0, 0, 1], 0).into(), config).expect("a socket")
}

async fn receive(endpoint: &Endpoint) {
    for number in 0..MESSAGES {
        let message = timeout(Duration::from_secs(10), endpoint.recv()).await;
        let message = message.expect("in time").expect("received");
        assert_eq!(message.body[0] as usize, number);
    }
}

fn send(endpoint: &Endpoint, to: SocketAddr) {
    for number in 0..MESSAGES {
        let body = [number as u8; 100];
        endpoint.send(to, KIND, &body).expect("short");
    }
    endpoint.flush();
}

async fn rounds(a: &Endpoint, b: &Endpoint, count: usize) {
    for _ in 0..count {
        send(a, b.local_addr());
        receive(b).await;
        send(b, a.local_addr());
        receive(a).await;
        yield_now().await;
    }
}

#[test]
fn messages_there_and_back_cost_no_allocation() {
    let runtime = Runtime::new(Uring::new().expect("a ring"), Config::default());
    let (a, b) = runtime.block_on(async { (bind(1), bind(2)) });
    runtime.block_on(rounds(&a, &b, 1000)); // pools and queues grow
    // A call of `block_on` itself allocates: the same, however long it runs.
    let few = measure(|| runtime.block_on(rounds(&a, &b, 1)));
    let many = measure(|| runtime.block_on(rounds(&a, &b, 1001)));
    assert_eq!(many.count_total - few.count_total, 0);
    assert!(
        (1..=4).contains(&few.count_total),
        "{few:?}: it was one round"
    );
    assert!(b.stats().messages_received >= 80_000);
}
