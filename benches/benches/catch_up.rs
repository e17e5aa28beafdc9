//! How soon is a replica back that was down while a million operations were executed, what does
//! that cost the others, and how long does a snapshot of a million keys make clients wait?
//!
//! ```text
//! cargo bench -p viewring-benches --bench catch_up
//! cargo bench -p viewring-benches --bench catch_up -- down
//! cargo bench -p viewring-benches --bench catch_up -- pause
//! ```
//!
//! Three replicas of the key-value store and the load generator `viewring bench` are processes on
//! this machine: 64 clients on one socket, which put. *Down*: replica 2 is killed, and started
//! again with an empty memory once the others have executed a million operations; the log behind it
//! is cut off by then. *Pause*: a checkpoint is taken every 100,000 operations, of ten thousand
//! keys or of a million; the longest wait of any client is the longest pause, whatever made it.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use viewring_benches::group::{Group, program};
use viewring_benches::{Table, is_wanted, rounds};

fn main() {
    let busy = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of the machine before: {}", busy.trim());
    let program = program();
    if is_wanted("down") {
        down(&program);
    }
    if is_wanted("pause") {
        pause(&program);
    }
}

/// A process for each replica.
const PROCESSES: [&[&str]; 3] = [&["--id", "0"], &["--id", "1"], &["--id", "2"]];
/// Who is killed: a backup.
const VICTIM: usize = 2;
const LOAD: [&str; 5] = ["--op", "put", "--clients", "64", "--shared-socket"];
/// How often the victim is asked whether it is back.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// It may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(program: &Path) -> Group {
    Group::start(
        program,
        Path::new(env!("CARGO_TARGET_TMPDIR")),
        "kv",
        &PROCESSES,
    )
}

fn down(program: &Path) {
    let names = ["one down", "it catches up", "all up"];
    let mut puts = Table::new("puts a second, a replica down for a million", &names[..]);
    let mut back = Table::new("until it has caught up, ms", &["back"]);
    let missed = rounds(1_000_000).to_string();
    for _ in 0..rounds(5) {
        let mut group = start(program);
        let for_long = [&LOAD[..], &["--duration", "3s"]].concat();
        let all_up = group.bench(&for_long).figure("ops_per_sec");
        group.kill(VICTIM);
        let one_down = [&LOAD[..], &["--requests", &missed]].concat();
        let one_down = group.bench(&one_down).figure("ops_per_sec");
        let load =
            group.begin_bench(&[&LOAD[..], &["--warm-up", "0s", "--duration", "3s"]].concat());
        let took = restart(&mut group);
        puts.add_round(vec![one_down, load.end().figure("ops_per_sec"), all_up]);
        back.add_round(vec![took.as_secs_f64() * 1e3]);
    }
    puts.print();
    back.print();
}

/// Starts the victim again; how long it takes until it has executed what the others had when it
/// began.
fn restart(group: &mut Group) -> Duration {
    let goal = group.executed(0).expect("it lives");
    let began = Instant::now();
    group.restart(VICTIM);
    while group
        .executed(VICTIM)
        .is_none_or(|executed| executed < goal)
    {
        assert!(began.elapsed() < PATIENCE, "it does not come back");
        sleep(ASK_EVERY);
    }
    began.elapsed()
}

fn pause(program: &Path) {
    let names = ["a million keys", "ten thousand keys"];
    let mut longest = Table::new("the longest wait, ms", &names);
    let mut p99 = Table::new("p99, ms", &names);
    let requests = rounds(1_500_000).to_string();
    for _ in 0..rounds(3) {
        let found = ["1000000", "10000"].map(|keys| {
            let group = start(program);
            // Each key is written once and more before it counts.
            let fill = [&LOAD[..], &["--keys", keys, "--requests", &requests]].concat();
            group.bench(&fill);
            group.bench(&fill)
        });
        for (table, figure) in [
            (&mut longest, "latency_us.max"),
            (&mut p99, "latency_us.p99"),
        ] {
            let ms = found.iter().map(|bench| bench.figure(figure) / 1e3);
            table.add_round(ms.collect());
        }
    }
    longest.print();
    p99.print();
}
