//! Datagrams for many: who hears them, by which interface, and what is refused.
//!
//! Everything stays on loopback. Groups have ports of their own, so that tests do not hear others.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use viewring_runtime::net::{Multicast, UdpOptions, UdpSocket};
use viewring_runtime::time::timeout;

#[macro_use]
#[expect(
    dead_code,
    unused_macros,
    reason = "each reactor has bodies of its own"
)]
mod conformance;

conformance!(uring, crate::conformance::on_uring, [
    every_member_of_a_group_hears_one_datagram
    every_host_of_a_network_hears_one_datagram
    who_has_not_asked_to_send_to_all_does_not
    what_is_no_group_is_refused
]);

conformance!(
    sim,
    crate::conformance::on_sim,
    [a_simulated_world_has_none_and_says_so]
);

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn bind(addr: &str, part: Option<Multicast>) -> io::Result<UdpSocket> {
    let options = UdpOptions {
        multicast: part,
        ..UdpOptions::default()
    };
    UdpSocket::bind_with(addr.parse().expect("an address"), &options)
}

fn member(group: &str) -> io::Result<UdpSocket> {
    bind(group, Some(Multicast::Receive { at: HERE }))
}

fn sender(addr: &str) -> UdpSocket {
    let part = Multicast::Send { towards: HERE };
    bind(addr, Some(part)).expect("a socket")
}

async fn hears(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let heard = socket.recv_datagram().await.expect("the socket is well");
    (heard.payload().to_vec(), heard.from())
}

async fn hears_nothing(socket: &UdpSocket) -> bool {
    let patience = Duration::from_millis(100);
    timeout(patience, socket.recv_datagram()).await.is_err()
}

/// One datagram is sent to `group`: each member gets it once, and can answer.
async fn all_hear(group: &str, from: &str) {
    let first = member(group).expect("a socket");
    let group = first.local_addr();
    let others = [(); 2].map(|()| member(&group.to_string()).expect("the address is shared"));
    let sender = sender(from);
    let sent = sender.send_to(b"all", group).await.expect("sent");
    assert_eq!(sent, 3);
    let members = std::iter::once(&first).chain(&others);
    let own = UdpSocket::bind(SocketAddr::from((HERE, 0))).expect("a socket");
    for member in members {
        let (payload, from) = hears(member).await;
        assert_eq!(payload, b"all");
        assert_eq!(from.port(), sender.local_addr().port());
        assert!(hears_nothing(member).await, "once");
        own.send_to(b"one", from).await.expect("sent");
        let answer = (b"one".to_vec(), own.local_addr());
        assert_eq!(hears(&sender).await, answer);
    }
    // Who has left is missed by nobody.
    drop(first);
    sender.send_to(b"rest", group).await.expect("sent");
    for member in &others {
        assert_eq!(hears(member).await.0, b"rest");
    }
}

async fn every_member_of_a_group_hears_one_datagram() {
    all_hear("239.192.77.1:0", "127.0.0.1:0").await;
    // Whatever the routes say.
    all_hear("239.192.77.1:0", "0.0.0.0:0").await;
}

async fn every_host_of_a_network_hears_one_datagram() {
    all_hear("127.255.255.255:0", "127.0.0.1:0").await;
    all_hear("127.255.255.255:0", "0.0.0.0:0").await;
}

async fn who_has_not_asked_to_send_to_all_does_not() {
    let plain = bind("127.0.0.1:0", None).expect("a socket");
    let everybody = "127.255.255.255:9".parse().expect("an address");
    let error = plain.send_to(b"", everybody).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

async fn what_is_no_group_is_refused() {
    for one in ["127.0.0.1:0", "127.0.0.255:0", "0.0.0.0:0"] {
        let error = member(one).expect_err("it is one host's");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("neither a multicast address"));
    }
    for part in [
        Multicast::Receive { at: HERE },
        Multicast::Send { towards: HERE },
    ] {
        let error = bind("[ff01::1]:0", Some(part)).expect_err("IPv6");
        assert!(error.to_string().contains("IPv4"), "{error}");
    }
    let nowhere = Multicast::Receive {
        at: Ipv4Addr::new(198, 51, 100, 7),
    };
    let error = bind("239.192.77.1:0", Some(nowhere)).expect_err("no interface has it");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}

async fn a_simulated_world_has_none_and_says_so() {
    for part in [
        Multicast::Receive { at: HERE },
        Multicast::Send { towards: HERE },
    ] {
        let error = bind("0.0.0.0:0", Some(part)).expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
