//! What does a group of three processes serve, what does a request cost its primary, and how long
//! does one request take?
//!
//! ```text
//! cargo bench -p viewring-benches --bench group
//! cargo bench -p viewring-benches --bench group -- load
//! cargo bench -p viewring-benches --bench group -- trip
//! VIEWRING=/another/viewring cargo bench -p viewring-benches --bench group
//! ```
//!
//! Three replicas and the load generator `viewring bench` are processes on this machine; the
//! operation is null. *Load*: 64 closed loops with a socket each, as clients of specpaxos and as
//! ours, and on one socket. *Trip*: one closed loop, against the plain path in the same rounds: the
//! same four hops between three processes that do nothing else, with datagrams as long (see
//! `src/four_hops.rs`).
//!
//! Four processes on two cores: whatever else runs here takes from them. CPU times bear that,
//! requests a second do not; of these look at the most.

use std::path::Path;

use viewring_benches::four_hops::{self, FourHops};
use viewring_benches::group::{Group, program};
use viewring_benches::{Table, is_wanted, quantile, rounds};

fn main() {
    four_hops::be_asked();
    let busy = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of the machine before: {}", busy.trim());
    let group = Group::start(&program(), Path::new(env!("CARGO_TARGET_TMPDIR")));
    if is_wanted("load") {
        load(&group);
    }
    if is_wanted("trip") {
        trip(&group);
    }
}

fn load(group: &Group) {
    let contestants = [
        ("a socket each, of specpaxos", &["--wire", "specpaxos"][..]),
        ("a socket each", &[]),
        ("one socket", &["--shared-socket"]),
    ];
    let figures = [
        ("requests a second", "ops_per_sec"),
        (
            "CPU time of the primary, µs a request",
            "cpu.primary.us_per_op",
        ),
        (
            "CPU time of the clients, µs a request",
            "cpu.client.us_per_op",
        ),
        ("p50, µs", "latency_us.p50"),
        ("p99, µs", "latency_us.p99"),
    ];
    let names = contestants.map(|(name, _)| name);
    let mut tables = figures.map(|(title, _)| Table::new(title, &names));
    let requests = rounds(200_000).to_string();
    let args = ["--clients", "64", "--requests", &requests];
    for _ in 0..rounds(5) {
        let found = contestants.map(|(_, more)| group.bench(&[&args[..], more].concat()));
        for (table, (_, figure)) in tables.iter_mut().zip(figures) {
            table.add_round(found.iter().map(|bench| bench.figure(figure)).collect());
        }
    }
    println!("64 clients");
    tables.iter().for_each(Table::print);
}

fn trip(group: &Group) {
    let hops = FourHops::start();
    let mut p50 = Table::new("p50, µs", &["viewring, one client", "four hops"]);
    let mut p99 = Table::new("p99, µs", &["viewring, one client", "four hops"]);
    let count = rounds(20_000);
    let requests = count.to_string();
    let args = [
        "--clients",
        "1",
        "--warm-up",
        "200ms",
        "--requests",
        &requests,
    ];
    hops.trips(count / 10);
    for _ in 0..rounds(10) {
        let viewring = group.bench(&args);
        let mut raw = hops.trips(count);
        p50.add_round(vec![
            viewring.figure("latency_us.p50"),
            quantile(&mut raw, 0.5),
        ]);
        p99.add_round(vec![
            viewring.figure("latency_us.p99"),
            quantile(&mut raw, 0.99),
        ]);
    }
    println!("one request");
    p50.print();
    p99.print();
}
