//! A send that finds no room in its socket's buffer waits, and holds up nobody: neither datagrams
//! nor timers. It leaves when there is room, whatever else happens. And runs on a link that bears
//! none.
//!
//! What fills a buffer is a peer on the link that is not there: what is sent to it waits until its
//! address is given up. That takes a network of our own, hence `unshare(2)` and the privilege to.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use viewring_runtime::net::UdpSocket;
use viewring_runtime::time::{Instant, sleep, timeout};
use viewring_runtime::{Config, Runtime, Uring, metrics};

/// Whoever runs the test again, in a network of its own.
const INSIDE: &str = "BLOCKED_SEND_INSIDE";

#[test]
fn a_send_without_room_holds_up_nobody() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let set_up = "ip link set lo up && ip link add near type veth peer name far \
        && ip addr add 10.99.0.1/24 dev near && ip link set near up && ip link set far up";
    let test = std::env::current_exe().expect("this program");
    let unshare = |script: &str| {
        Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .env(INSIDE, "1")
            .status()
    };
    if !unshare(set_up).is_ok_and(|status| status.success()) {
        eprintln!("not tried: it takes root, unshare(1) and ip(8)");
        return;
    }
    let run = format!("{set_up} && exec {} --nocapture", test.display());
    let status = unshare(&run).expect("it was tried before");
    assert!(status.success(), "see above");
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

        // A run whose datagrams are longer than the link takes.
        let mut run = socket.take_run_buf().expect("a buffer");
        run.set_len(6_000);
        let to = "10.99.0.78:9".parse().expect("an address");
        socket
            .post_run_to(run.share(), 2_000, to)
            .expect("there is room");
        sleep(Duration::from_millis(1)).await;
        assert_eq!(socket.stats().post_failed, 1);
        assert!(
            socket.take_run_buf().is_none(),
            "it is not tried again soon"
        );

        for _ in 0..600 {
            post(100);
        }
        sleep(Duration::from_millis(1)).await;
        let blocked = || metrics().reactor("sends_blocked");
        assert!(blocked() > 0, "the buffer is full");

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
