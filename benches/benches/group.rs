//! What does a group of three processes serve, what does a request cost its primary, and how long
//! does one request take?
//!
//! ```text
//! cargo bench -p viewring-benches --bench group
//! cargo bench -p viewring-benches --bench group -- load
//! cargo bench -p viewring-benches --bench group -- reads
//! cargo bench -p viewring-benches --bench group -- trip
//! VIEWRING=/another/viewring cargo bench -p viewring-benches --bench group
//! ```
//!
//! Three replicas and the load generator `viewring bench` are processes on this machine; the
//! operation is null. *Load*: 64 closed loops with a socket each, as clients of specpaxos and as
//! ours, and on one socket. *Reads*: 16 closed loops that put, or get after a round or from any
//! replica, from the key-value store, with a socket each and on one, also where replicas and client
//! spin. *Trip*: one closed loop, against the plain path in the same rounds: the same four hops
//! between three processes that do nothing else, with datagrams as long (see `src/four_hops.rs`);
//! also where they and the client spin, in three processes and in one.
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
    let program = program();
    if is_wanted("load") {
        load(&start(&program, "null", &PROCESSES));
    }
    if is_wanted("reads") {
        reads(
            &start(&program, "kv", &PROCESSES),
            &start(&program, "kv", &SPINNING),
        );
    }
    if is_wanted("trip") {
        trip(
            &start(&program, "null", &PROCESSES),
            &start(&program, "null", &SPINNING),
            &start(&program, "null", &[&["--all", "--spin", SPIN]]),
        );
    }
}

/// A process for each replica.
const PROCESSES: [&[&str]; 3] = [&["--id", "0"], &["--id", "1"], &["--id", "2"]];
/// How long those who spin look for work before they sleep.
const SPIN: &str = "50us";
/// A process for each replica, that spins.
const SPINNING: [&[&str]; 3] = [
    &["--id", "0", "--spin", SPIN],
    &["--id", "1", "--spin", SPIN],
    &["--id", "2", "--spin", SPIN],
];

fn start(program: &Path, app: &str, processes: &[&[&str]]) -> Group {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    Group::start(program, tmp, app, processes)
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
    let args = ["--op", "null", "--clients", "64", "--requests", &requests];
    for _ in 0..rounds(5) {
        let found = contestants.map(|(_, more)| group.bench(&[&args[..], more].concat()));
        for (table, (_, figure)) in tables.iter_mut().zip(figures) {
            table.add_round(found.iter().map(|bench| bench.figure(figure)).collect());
        }
    }
    println!("64 clients");
    tables.iter().for_each(Table::print);
}

fn reads(asleep: &Group, spinning: &Group) {
    let read = |consistency| ["--op", "get", "--consistency", consistency];
    let contestants = [
        ("put", &["--op", "put"][..]),
        ("read-index", &read("read-index")),
        ("local", &read("local")),
    ];
    let names = contestants.map(|(name, _)| name);
    let requests = rounds(200_000).to_string();
    let spin = ["--shared-socket", "--spin", SPIN];
    let settings = [
        ("requests a second, a socket each", asleep, &[][..]),
        ("requests a second, one socket", asleep, &spin[..1]),
        ("requests a second, one socket, spinning", spinning, &spin),
    ];
    for (title, group, setting) in settings {
        let mut table = Table::new(title, &names);
        let args = ["--clients", "16", "--requests", &requests];
        for _ in 0..rounds(7) {
            let bench = |more: &[&str]| group.bench(&[&args[..], setting, more].concat());
            let row = contestants.map(|(_, more)| bench(more).figure("ops_per_sec"));
            table.add_round(row.to_vec());
        }
        table.print();
    }
}

fn trip(asleep: &Group, spinning: &Group, together: &Group) {
    let hops = FourHops::start();
    let names = [
        "three processes",
        "three processes, spinning",
        "one process, spinning",
        "four hops",
    ];
    let mut p50 = Table::new("p50, µs", &names);
    let mut p99 = Table::new("p99, µs", &names);
    let count = rounds(20_000);
    let requests = count.to_string();
    let args = [
        "--op",
        "null",
        "--clients",
        "1",
        "--warm-up",
        "200ms",
        "--requests",
        &requests,
    ];
    let spin = [&args[..], &["--spin", SPIN]].concat();
    hops.trips(count / 10);
    for _ in 0..rounds(10) {
        let groups = [
            asleep.bench(&args),
            spinning.bench(&spin),
            together.bench(&spin),
        ];
        let mut raw = hops.trips(count);
        for (table, figure, share) in [
            (&mut p50, "latency_us.p50", 0.5),
            (&mut p99, "latency_us.p99", 0.99),
        ] {
            let mut row = groups.each_ref().map(|bench| bench.figure(figure)).to_vec();
            row.push(quantile(&mut raw, share));
            table.add_round(row);
        }
    }
    println!("one client");
    p50.print();
    p99.print();
}
