//! A group that is described by specpaxos' configuration file, and serves its clients.

#![expect(
    clippy::disallowed_types,
    reason = "a client that has nothing from us but the bytes"
)]

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::support::{ConfigFile, Running, count, eventually};

/// Request `number` of a client, without the twelve bytes of Electrode.
fn request(number: u8) -> Vec<u8> {
    let name = b"specpaxos.vr.proto.RequestMessage";
    [
        b"\x18\x03\x05\x20\x21\0\0\0\0\0\0\0",
        &name[..],
        b"\x0D\0\0\0\0\0\0\0\x0A\x0B\x0A\x04time\x10\x87\x01\x18",
        &[number],
    ]
    .concat()
}

/// Replicas that serve clients on the file's ports.
fn group(config: &ConfigFile) -> Vec<Running> {
    let replica = |id: usize| {
        let id = id.to_string();
        let args = ["--id", &id, "--wire", "specpaxos", "--app", "time"];
        let mut replica = config.start("replica", &args);
        replica.says("listening");
        replica
    };
    let replicas = (0..3).map(replica).collect();
    config.status_until("three are normal", |status| count(status, "normal") == 3);
    replicas
}

/// Where clients find each replica.
fn doors(config: &ConfigFile) -> [SocketAddr; 3] {
    [0, 1, 2].map(|id| SocketAddr::from(([127, 0, 0, 1], config.port + id)))
}

/// A client's socket.
fn client(addr: &str) -> UdpSocket {
    let client = UdpSocket::bind(addr).expect("a socket");
    let patience = Some(Duration::from_secs(2));
    client.set_read_timeout(patience).expect("it can be set");
    client
}

/// Sends to all replicas and takes the first reply to that, as specpaxos' client does.
fn ask(client: &UdpSocket, all: &[SocketAddr], number: u8) -> Vec<u8> {
    let mut reply = [0; 256];
    eventually("a reply", || {
        for to in all {
            client.send_to(&request(number), to)?;
        }
        loop {
            let len = client.recv(&mut reply)?;
            // Else it is to an earlier request, once more.
            if reply[..len].ends_with(&[0x20, number]) {
                return Ok::<_, io::Error>(reply[..len].to_vec());
            }
        }
    })
}

/// What the time server answers to the client's request of this number, in view `view`: it counts,
/// and the operation's place in the log is the count, too.
fn reply(number: u8, view: u8) -> Vec<u8> {
    let ascii = b'0' + number;
    [
        b"\x18\x03\x05\x20\x1F\0\0\0\0\0\0\0",
        &b"specpaxos.vr.proto.ReplyMessage"[..],
        b"\x09\0\0\0\0\0\0\0\x08",
        &[view, 0x10, number, 0x1A, 1, ascii, 0x20, number],
    ]
    .concat()
}

#[test]
fn a_specpaxos_file_makes_a_group_that_serves_specpaxos_clients() {
    let config = ConfigFile::of_specpaxos();
    let _replicas = group(&config);
    let client = client("127.0.0.1:0");
    for number in 1..=3 {
        assert_eq!(ask(&client, &doors(&config), number), reply(number, 0));
    }
    // Clients of ours find the group by the same file.
    config
        .run("kv", &["get", "k"])
        .complains(2, &["key-value store"]);
}

#[test]
fn the_bench_measures_as_clients_of_specpaxos_too() {
    let config = ConfigFile::of_specpaxos();
    let _replicas = group(&config);
    let args = [
        "--op",
        "null",
        "--clients",
        "4",
        "--requests",
        "200",
        "--warm-up",
        "0s",
        "--json",
    ];
    for wire in ["specpaxos", "viewring"] {
        let ended = config.run("bench", &[&args[..], &["--wire", wire]].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let report = ended.json();
        assert_eq!(
            (&report["ops"], &report["wire"]),
            (&200.into(), &wire.into()),
            "{report}"
        );
        assert_eq!(
            (&report["errors"], &report["unknown"]),
            (&0.into(), &0.into()),
            "{report}"
        );
        assert!(report["cpu"]["primary"].is_object(), "{report}");
    }
    let mute = ["--wire", "electrode", "--timeout", "300ms"];
    config
        .run("bench", &mute)
        .complains(3, &["no answer within 300ms", "as electrode does"]);
}

#[test]
fn a_file_with_a_multicast_line_makes_a_group_that_hears_there_too() {
    let config = ConfigFile::of_specpaxos_with("239.192.77.4");
    let _replicas = group(&config);
    let all = SocketAddr::from(([239, 192, 77, 4], config.port));
    let client = client("127.0.0.1:0");
    for number in 1..=3 {
        assert_eq!(ask(&client, &[all], number), reply(number, 0));
    }
    // Somebody whose file has no such line.
    assert_eq!(ask(&client, &doors(&config), 4), reply(4, 0));
}

#[test]
fn a_broadcast_address_serves_as_well() {
    let config = ConfigFile::of_specpaxos_with("127.255.255.255");
    let mut replicas = group(&config);
    let all = SocketAddr::from(([127, 255, 255, 255], config.port));
    // What theirs does: any address, and broadcasts allowed.
    let client = client("0.0.0.0:0");
    client.set_broadcast(true).expect("it can be set");
    for number in 1..=3 {
        assert_eq!(ask(&client, &[all], number), reply(number, 0));
    }
    replicas[0].kill();
    assert_eq!(ask(&client, &[all], 4), reply(4, 1));
}

/// It measures through the multicast address alone: its file has replicas that are not there.
#[test]
fn the_bench_asks_all_replicas_at_once() {
    let config = ConfigFile::of_specpaxos_with("239.192.77.5");
    let mut replicas = group(&config);
    let elsewhere = ConfigFile::of_specpaxos();
    let text = std::fs::read_to_string(elsewhere.path()).expect("it is there");
    let multicast = format!("{text}multicast 239.192.77.5:{}\n", config.port);
    let elsewhere = ConfigFile::of(&multicast, elsewhere.port);
    let more = ["--wire", "specpaxos", "--op", "null", "--clients", "4"];
    let args = [
        &more[..],
        &["--requests", "200", "--warm-up", "0s", "--json"],
    ]
    .concat();
    for _ in 0..2 {
        let ended = elsewhere.run("bench", &args);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let report = ended.json();
        let counts = ["ops", "errors", "unknown"].map(|what| report[what].as_u64());
        assert_eq!(counts, [Some(200), Some(0), Some(0)], "{report}");
        // Once more, without the first primary.
        replicas[0].kill();
    }
    drop(replicas);
    elsewhere
        .run("bench", &["--wire", "specpaxos", "--timeout", "300ms"])
        .complains(3, &["no answer within 300ms", "at 239.192.77.5"]);
}

#[test]
fn what_is_wrong_with_a_specpaxos_file_is_told_with_its_line() {
    let four = "f 1\n".to_owned() + &"replica 127.0.0.1:9\n".repeat(2);
    let replica = |text: &str, more: &[&str]| {
        let config = ConfigFile::of(text, 0);
        config.run("replica", &[&["--id", "0"], more].concat())
    };
    replica(&four, &[]).complains(2, &["cluster.toml:3", "two replicas"]);
    let alone = "f 0\nreplica 127.0.0.1:9\nmulticast 127.0.0.2:9\n";
    replica(alone, &[]).complains(2, &["cluster.toml:3", "127.0.0.2:9 is one host"]);
    // Only the kernel knows.
    let config = ConfigFile::of_specpaxos_with("127.0.0.3");
    config
        .run("replica", &["--id", "0", "--wire", "specpaxos"])
        .complains(4, &["cannot bind 127.0.0.3", "nor the broadcast address"]);
    let clash = "f 1\nreplica 127.0.0.1:9\nreplica 127.0.0.1:1009\nreplica 127.0.0.1:11\n";
    replica(clash, &[]).complains(2, &["cluster.toml:2", "127.0.0.1:1009", "plus 1000"]);
    let ours = "cluster = 1\nreplicas = ['127.0.0.1:9']\n";
    replica(ours, &["--wire", "electrode"]).complains(2, &["lines of f and replica"]);
}
