//! A group that is described by specpaxos' configuration file, and serves its clients.

#![expect(
    clippy::disallowed_types,
    reason = "a client that has nothing from us but the bytes"
)]

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

/// Sends to all replicas and takes the first reply, as specpaxos' client does.
fn ask(client: &UdpSocket, config: &ConfigFile, number: u8) -> Vec<u8> {
    let mut reply = [0; 256];
    eventually("a reply", || {
        for id in 0..3 {
            let to = SocketAddr::from(([127, 0, 0, 1], config.port + id));
            client.send_to(&request(number), to)?;
        }
        client.recv(&mut reply).map(|len| reply[..len].to_vec())
    })
}

#[test]
fn a_specpaxos_file_makes_a_group_that_serves_specpaxos_clients() {
    let config = ConfigFile::of_specpaxos();
    let _replicas = group(&config);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let patience = Some(Duration::from_secs(2));
    client.set_read_timeout(patience).expect("it can be set");
    for number in 1..=3 {
        let reply = ask(&client, &config, number);
        // The time server counts; the operation's place in the log is the count, too.
        let ascii = b'0' + number;
        let expected = [
            b"\x18\x03\x05\x20\x1F\0\0\0\0\0\0\0",
            &b"specpaxos.vr.proto.ReplyMessage"[..],
            b"\x09\0\0\0\0\0\0\0\x08\0\x10",
            &[number, 0x1A, 1, ascii, 0x20, number],
        ];
        assert_eq!(reply, expected.concat());
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
fn what_is_wrong_with_a_specpaxos_file_is_told_with_its_line() {
    let four = "f 1\n".to_owned() + &"replica 127.0.0.1:9\n".repeat(2);
    let replica = |text: &str, more: &[&str]| {
        let config = ConfigFile::of(text, 0);
        config.run("replica", &[&["--id", "0"], more].concat())
    };
    replica(&four, &[]).complains(2, &["cluster.toml:3", "two replicas"]);
    let clash = "f 0\nreplica 127.0.0.1:9\nmulticast 224.0.0.1:9\n";
    replica(clash, &[]).complains(2, &["cluster.toml:3", "multicast"]);
    let clash = "f 1\nreplica 127.0.0.1:9\nreplica 127.0.0.1:1009\nreplica 127.0.0.1:11\n";
    replica(clash, &[]).complains(2, &["cluster.toml:2", "127.0.0.1:1009", "plus 1000"]);
    let ours = "cluster = 1\nreplicas = ['127.0.0.1:9']\n";
    replica(ours, &["--wire", "electrode"]).complains(2, &["lines of f and replica"]);
}
