//! A multicast address is heard by the interface that was asked for, and by no other; what is sent
//! to it leaves by the interface of whom it is meant for, also where no route leads to it. A
//! network's broadcast address is told from those of its hosts.
//!
//! That takes interfaces of our own, hence `unshare(2)` and the privilege to.

mod network;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use viewring_runtime::net::{Multicast, UdpOptions, UdpSocket};
use viewring_runtime::time::timeout;
use viewring_runtime::{Config, Runtime, Uring};

const LINKS: &str = "ip link set lo up && ip link add one type veth peer name other \
    && ip addr add 10.99.1.1/24 dev one && ip link set one up \
    && ip addr add 10.99.2.1/28 dev other && ip link set other up";

#[test]
fn a_group_is_heard_by_one_interface() {
    network::of_its_own("a_group_is_heard_by_one_interface", LINKS, || {
        Runtime::new(Uring::new().expect("a ring"), Config::default()).block_on(inside());
    });
}

fn bind(addr: SocketAddr, part: Multicast) -> std::io::Result<UdpSocket> {
    let options = UdpOptions {
        multicast: Some(part),
        ..UdpOptions::default()
    };
    UdpSocket::bind_with(addr, &options)
}

async fn hears(socket: &UdpSocket, patience: Duration) -> Option<Vec<u8>> {
    let heard = timeout(patience, socket.recv_datagram()).await.ok()?;
    Some(heard.expect("the socket is well").payload().to_vec())
}

async fn inside() {
    let group = SocketAddr::from(([239, 192, 77, 6], 7_000));
    let networks = [[10, 99, 1, 1], [10, 99, 2, 1]].map(Ipv4Addr::from);
    let members = networks.map(|at| bind(group, Multicast::Receive { at }).expect("a socket"));
    // Nobody is there, but that is the way to them.
    let neighbours = [[10, 99, 1, 9], [10, 99, 2, 9]].map(Ipv4Addr::from);
    let any = ([0, 0, 0, 0], 0).into();
    for (index, towards) in neighbours.into_iter().enumerate() {
        let sender = bind(any, Multicast::Send { towards }).expect("a socket");
        sender.send_to(b"near", group).await.expect("sent");
        let near = hears(&members[index], Duration::from_secs(5)).await;
        assert_eq!(near.as_deref(), Some(&b"near"[..]));
        let far = hears(&members[1 - index], Duration::from_millis(100)).await;
        assert_eq!(far, None);
    }
    let towards = Ipv4Addr::new(198, 51, 100, 7);
    let error = bind(any, Multicast::Send { towards }).expect_err("no route leads there");
    assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));

    // The one with 28 bits is not the one with 24.
    let [at, _] = networks;
    for (broadcast, is_one) in [
        ([10, 99, 1, 255], true),
        ([10, 99, 1, 15], false),
        ([10, 99, 2, 15], true),
        ([10, 99, 2, 1], false),
    ] {
        let bound = bind((broadcast, 7_001).into(), Multicast::Receive { at });
        assert_eq!(bound.is_ok(), is_one, "{broadcast:?}: {bound:?}");
    }
}
