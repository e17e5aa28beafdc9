//! A send that finds no room in its socket's buffer waits, and holds up nobody: neither datagrams
//! nor timers. It leaves when there is room, whatever else happens, and before what is sent later.
//! And runs on a link that bears none.
//!
//! What fills a buffer is a peer on the link that is not there: what is sent to it waits until its
//! address is given up. Or a slow link. That takes a network of our own, hence `unshare(2)` and the
//! privilege to.

mod network;

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use futures::future::join_all;
use viewring_runtime::net::{UdpOptions, UdpSocket};
use viewring_runtime::time::{Instant, sleep, sleep_until, timeout};
use viewring_runtime::{Config, Runtime, Uring, metrics, yield_now};

/// On the other end of it there is nobody.
const LINK: &str = "ip link set lo up && ip link add near type veth peer name far \
    && ip addr add 10.99.0.1/24 dev near && ip link set near up && ip link set far up";

/// A megabyte in a second.
const SLOW_LINK: &str = "ip link set lo up \
    && tc qdisc add dev lo root tbf rate 8mbit burst 16kb limit 8mb";

#[test]
fn a_send_without_room_holds_up_nobody() {
    network::of_its_own("a_send_without_room_holds_up_nobody", LINK, inside);
}

#[test]
fn in_a_larger_buffer_there_is_room_beside_what_waits_for_an_absent_peer() {
    let name = "in_a_larger_buffer_there_is_room_beside_what_waits_for_an_absent_peer";
    network::of_its_own(name, LINK, beside_an_absent_peer);
}

#[test]
fn a_send_without_room_is_not_overtaken_for_long() {
    let name = "a_send_without_room_is_not_overtaken_for_long";
    network::of_its_own(name, SLOW_LINK, on_a_slow_link);
}

#[test]
fn a_send_that_is_given_up_in_line_is_not_sent() {
    let name = "a_send_that_is_given_up_in_line_is_not_sent";
    network::of_its_own(name, SLOW_LINK, given_up_in_line);
}

#[test]
fn sends_of_a_socket_that_is_closing_are_tried_again_after_a_bind() {
    let name = "sends_of_a_socket_that_is_closing_are_tried_again_after_a_bind";
    network::of_its_own(name, LINK, after_a_bind);
}

#[test]
fn sends_without_room_leave_buffers_for_other_sockets() {
    let name = "sends_without_room_leave_buffers_for_other_sockets";
    network::of_its_own(name, LINK, beside_a_flood);
}

#[test]
fn runs_without_room_leave_run_buffers_for_other_sockets() {
    let name = "runs_without_room_leave_run_buffers_for_other_sockets";
    network::of_its_own(name, LINK, beside_a_flood_of_runs);
}

/// A socket with room for hardly any datagram in the kernel, and another one.
fn one_with_hardly_any_room() -> (UdpSocket, UdpSocket) {
    let any = "0.0.0.0:0".parse().expect("an address");
    let options = UdpOptions {
        kernel_send_bytes: Some(1),
        ..UdpOptions::default()
    };
    let little = UdpSocket::bind_with(any, &options).expect("a socket");
    (little, UdpSocket::bind(any).expect("a socket"))
}

fn beside_a_flood_of_runs() {
    let absent: SocketAddr = "10.99.0.82:9".parse().expect("an address");
    Runtime::new(Uring::new().expect("a ring"), Config::default()).block_on(async {
        let (flooding, other) = one_with_hardly_any_room();
        let mut posted = 0;
        while let Some(mut run) = flooding.take_run_buf(absent) {
            run.set_len(10_000);
            let is_posted = flooding.post_run_to(run.share(), 1_000, absent);
            is_posted.expect("there is room");
            posted += 1;
        }
        sleep(Duration::from_millis(2)).await;
        let free: Vec<_> = std::iter::from_fn(|| other.take_run_buf(absent)).collect();
        let (free, all) = (free.len(), free.len() + posted);
        assert!(free > 2 * posted, "{free} of {all} are free");
    });
}

/// Few buffers, all of them posted to an absent peer, again and again, by a socket with room for
/// hardly any.
fn beside_a_flood() {
    const BUFFERS: usize = 64;
    const WAITING_MAX: usize = BUFFERS / 4;
    let absent: SocketAddr = "10.99.0.81:9".parse().expect("an address");
    let config = Config {
        send_buffers: BUFFERS,
        ..Config::default()
    };
    Runtime::new(Uring::new().expect("a ring"), config).block_on(async {
        let (flooding, other) = one_with_hardly_any_room();
        let mut here = other.local_addr();
        here.set_ip("127.0.0.1".parse().expect("an address"));
        let post = |socket: &UdpSocket, to| {
            let mut payload = socket.take_buf(100)?;
            payload.set_len(100);
            Some(socket.post_to(payload.share(), to).is_ok())
        };
        // All in one turn: that there is no room shows when it is too late.
        while post(&flooding, absent) == Some(true) {}
        sleep(Duration::from_millis(2)).await;
        let refused = flooding.stats().post_refused;
        assert!(
            refused as usize > BUFFERS / 2,
            "{refused} find too long a line"
        );
        for _ in 0..20 {
            assert_eq!(post(&flooding, absent), Some(false), "at once");
            let free = (0..BUFFERS).map_while(|_| other.take_buf(100)).count();
            assert!(free >= BUFFERS - WAITING_MAX, "{free} buffers are free");
            assert_eq!(post(&other, here), Some(true));
            let heard = timeout(Duration::from_millis(500), other.recv_datagram()).await;
            heard.expect("heard").expect("no error");
            // Nobody is refused who waits for the end.
            let waits = timeout(
                Duration::from_millis(1),
                flooding.send_to(b"awaited", absent),
            );
            waits.await.expect_err("it stands in line");
        }
        assert_eq!(flooding.stats().post_failed, 0);
    });
}

fn given_up_in_line() {
    const LEN: usize = 1_000;
    const POSTED: usize = 300;
    const GIVEN_UP: u8 = 7;
    let receiver = StdSocket::bind("127.0.0.1:0").expect("a socket");
    let to = receiver.local_addr().expect("bound");
    let second = Some(Duration::from_secs(1));
    receiver.set_read_timeout(second).expect("set");
    let hears = thread::spawn(move || {
        let mut buf = [0; LEN];
        let mut hear = || receiver.recv(&mut buf).map(|_| buf[0]);
        let heard = (0..POSTED).map(|_| hear().expect("all are heard"));
        heard.collect::<Vec<u8>>()
    });
    Runtime::new(Uring::new().expect("a ring"), Config::default()).block_on(async {
        let any = "127.0.0.1:0".parse().expect("an address");
        let socket = UdpSocket::bind(any).expect("a socket");
        for _ in 0..POSTED {
            let mut payload = socket.take_buf(LEN).expect("a buffer");
            payload.set_len(LEN);
            socket.post_to(payload.share(), to).expect("there is room");
        }
        sleep(Duration::from_millis(2)).await;
        let posted = || socket.stats().posted as usize;
        assert!(posted() < POSTED * 3 / 4, "the buffer is full");
        // They stand behind dozens of others.
        while posted() < POSTED * 3 / 4 {
            let in_flight = metrics().operations_in_flight;
            let sends = (0..20).map(|_| socket.send_to(&[GIVEN_UP; LEN], to));
            let given_up = timeout(Duration::from_millis(1), join_all(sends)).await;
            given_up.expect_err("they wait");
            yield_now().await;
            assert!(metrics().operations_in_flight <= in_flight);
        }
        while posted() < POSTED {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let heard = hears.join().expect("it heard");
    assert!(!heard.contains(&GIVEN_UP), "{heard:?}");
}

fn after_a_bind() {
    // Whether the loop sleeps between two attempts or is busy.
    for is_busy in [false, true] {
        tried_again_after_a_bind(is_busy);
    }
}

fn tried_again_after_a_bind(is_busy: bool) {
    let absent = "10.99.0.80:9".parse().expect("an address");
    Runtime::new(Uring::new().expect("a ring"), Config::default()).block_on(async {
        let any = "0.0.0.0:0".parse().expect("an address");
        let socket = UdpSocket::bind(any).expect("a socket");
        let addr = socket.local_addr();
        for _ in 0..600 {
            let mut payload = socket.take_buf(100).expect("a buffer");
            payload.set_len(100);
            let posted = socket.post_to(payload.share(), absent);
            posted.expect("there is room");
        }
        sleep(Duration::from_millis(5)).await;
        drop(socket);
        sleep(Duration::from_millis(5)).await;
        let enters = || metrics().reactor("enters");
        thread::sleep(Duration::from_millis(3)); // it is time to try them again
        UdpSocket::bind(addr).expect_err("they are stuck");
        let (before, until) = (enters(), Instant::now() + Duration::from_millis(100));
        while is_busy && Instant::now() < until {
            yield_now().await;
        }
        sleep_until(until).await;
        let tried = enters() - before;
        assert!(tried > 20, "they are tried {tried} times in 100 ms");
    });
}

fn beside_an_absent_peer() {
    let absent = "10.99.0.79:9".parse().expect("an address");
    Runtime::new(Uring::new().expect("a ring"), Config::default()).block_on(async {
        let options = UdpOptions {
            kernel_send_bytes: Some(1 << 20),
            ..UdpOptions::default()
        };
        let any = "0.0.0.0:0".parse().expect("an address");
        let socket = UdpSocket::bind_with(any, &options).expect("a socket");
        let mut here = socket.local_addr();
        here.set_ip("127.0.0.1".parse().expect("an address"));
        let post = |to| {
            let mut payload = socket.take_buf(100).expect("a buffer");
            payload.set_len(100);
            socket.post_to(payload.share(), to).expect("there is room");
        };
        for _ in 0..20 {
            (0..30).for_each(|_| post(absent));
            post(here);
            let heard = timeout(Duration::from_millis(500), socket.recv_datagram()).await;
            assert_eq!(
                heard.expect("heard").expect("no error").payload().len(),
                100
            );
        }
    });
}

/// The buffer is never empty and never full for long, so that there is mostly room for what is new.
fn on_a_slow_link() {
    const LEN: usize = 1_000;
    let receiver = StdSocket::bind("127.0.0.1:0").expect("a socket");
    let to = receiver.local_addr().expect("bound");
    receiver
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("set");
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let hears = thread::spawn(move || {
        let (mut order, mut buf) = (Vec::new(), [0; LEN]);
        while receiver.recv(&mut buf).is_ok() {
            let (number, _) = buf.split_first_chunk().expect("long enough");
            order.push(u64::from_le_bytes(*number));
            count.store(order.len(), Ordering::Relaxed);
        }
        order
    });
    let runtime = Runtime::new(Uring::new().expect("a ring"), Config::default());
    let posted = runtime.block_on(async {
        let any = "127.0.0.1:0".parse().expect("an address");
        let socket = UdpSocket::bind_with(any, &UdpOptions::default()).expect("a socket");
        let post = |number: usize| {
            let mut payload = socket.take_buf(LEN).expect("a buffer");
            payload.put_slice(&(number as u64).to_le_bytes());
            payload.set_len(LEN);
            socket.post_to(payload.share(), to).expect("there is room");
        };
        const BURST: usize = 500;
        (0..BURST).for_each(post);
        sleep(Duration::from_millis(2)).await;
        let waiting = metrics().reactor("sends_blocked") as usize;
        assert!(waiting > 0, "the buffer is full");
        let room = BURST - waiting;
        // They leave one by one, not only when half the buffer is free.
        sleep(Duration::from_millis(20)).await;
        assert!(socket.stats().posted > room as u64);
        // If those wait on, three quarters of the buffer are full.
        let under_way = waiting + room * 3 / 4;
        let (began, mut posted) = (Instant::now(), BURST);
        while began.elapsed() < Duration::from_secs(2) {
            while posted - received.load(Ordering::Relaxed) < under_way {
                post(posted);
                posted += 1;
            }
            sleep(Duration::from_micros(500)).await;
        }
        while socket.stats().posted < posted as u64 {
            assert!(began.elapsed() < Duration::from_secs(10), "some never left");
            sleep(Duration::from_millis(10)).await;
        }
        posted
    });
    let order = hears.join().expect("it heard");
    assert_eq!(order.len(), posted);
    let overtaken = |place: usize| {
        let earlier = &order[..place];
        earlier.iter().filter(|&&by| by > order[place]).count()
    };
    let worst = (0..order.len()).map(overtaken).max().expect("some");
    assert!(worst < 64, "one of {posted} was overtaken by {worst}");
}

fn inside() {
    let nobody: SocketAddr = "10.99.0.77:9".parse().expect("an address");
    Runtime::new(Uring::new().expect("a ring"), Config::default()).block_on(async {
        let any = "0.0.0.0:0".parse().expect("an address");
        let socket = UdpSocket::bind(any).expect("a socket");
        let post = |len| {
            let mut payload = socket.take_buf(len).expect("a buffer");
            payload.set_len(len);
            socket
                .post_to(payload.share(), nobody)
                .expect("there is room");
        };
        // Nothing else happens while the buffer empties: the peer's address becomes known.
        let arrived = || {
            let links = std::fs::read_to_string("/proc/net/dev").expect("the links");
            let far = links.split("far:").nth(1).expect("ours");
            let packets = far.split_whitespace().nth(1).expect("a count");
            packets.parse::<u64>().expect("a number")
        };
        let watch = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            let known = "ip neigh replace 10.99.0.78 lladdr 02:00:00:00:00:78 dev near";
            let status = Command::new("sh").args(["-c", known]).status();
            assert!(status.expect("ip(8)").success());
            thread::sleep(Duration::from_millis(400));
            arrived()
        });
        for _ in 0..600 {
            let mut payload = socket.take_buf(100).expect("a buffer");
            payload.set_len(100);
            let late: SocketAddr = "10.99.0.78:9".parse().expect("an address");
            socket
                .post_to(payload.share(), late)
                .expect("there is room");
        }
        sleep(Duration::from_secs(2)).await;
        let count = watch.join().expect("it watched");
        // The kernel itself may drop a few of those that wait for the address.
        assert!(count > 500, "{count} datagrams have left");

        // A run whose datagrams are longer than the link takes: they leave in fragments.
        let to: SocketAddr = "10.99.0.78:9".parse().expect("an address");
        let mut run = socket.take_run_buf(to).expect("a buffer");
        run.set_len(6_000);
        let (before, fragments) = (socket.stats(), arrived());
        socket
            .post_run_to(run.share(), 2_000, to)
            .expect("there is room");
        sleep(Duration::from_millis(5)).await;
        let stats = socket.stats();
        assert_eq!((stats.posted, stats.post_failed), (before.posted + 3, 0));
        assert!(arrived() >= fragments + 6, "two for each");
        let is_tried = |to| socket.take_run_buf(to).is_some();
        assert!(!is_tried(to), "not again soon");
        assert!(is_tried(nobody), "that says nothing about others");

        for _ in 0..600 {
            post(100);
        }
        sleep(Duration::from_millis(1)).await;
        let blocked = || metrics().reactor("sends_blocked");
        assert!(blocked() > 0, "the buffer is full");

        // Futures that give up, wherever in the line they stand.
        for _ in 0..600 {
            post(100);
        }
        for _ in 0..3 {
            let sends = (0..40).map(|_| socket.send_to(b"awaited", nobody));
            let _in_vain = timeout(Duration::from_millis(3), join_all(sends)).await;
        }

        // A datagram.
        let mut to = socket.local_addr();
        to.set_ip("127.0.0.1".parse().expect("an address"));
        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            let sender = StdSocket::bind("127.0.0.1:0").expect("a socket");
            sender.send_to(b"late", to).expect("sent");
        });
        let (began, before) = (Instant::now(), blocked());
        post(100);
        let heard = timeout(Duration::from_secs(2), socket.recv_datagram()).await;
        assert_eq!(heard.expect("heard").expect("no error").payload(), b"late");
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        assert!(blocked() > before, "that send found no room, either");
        late.join().expect("it sent");

        // A timer that is due when the sleep begins.
        let began = Instant::now();
        let timer = sleep(Duration::from_micros(10));
        post(100);
        thread::sleep(Duration::from_millis(1));
        timer.await;
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
    });
}
