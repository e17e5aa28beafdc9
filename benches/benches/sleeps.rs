//! What do 10,000 sleeps of 1 to 100 ms cost, and how late do they end?
//!
//! ```text
//! cargo bench -p viewring-benches --bench sleeps
//! ```
//!
//! CPU time of the thread, and microseconds between a deadline and the first instruction behind the
//! sleep. Baseline: a sorted list on a ring by hand, which sleeps until 50 µs (the runtime's slack)
//! after the next deadline and then takes all that are due. It spawns no tasks.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use viewring_benches::raw_ring::RawRing;
use viewring_benches::{Noise, Table, enters, is_wanted, quantile, rounds, runtime, thread_cpu};
use viewring_runtime::{metrics, spawn, time};

const SLEEPS: usize = 10_000;
const SLACK: Duration = Duration::from_micros(50);

struct Measured {
    cpu: Duration,
    enters: u64,
    late_us: Vec<f64>,
}

fn durations() -> Vec<Duration> {
    let mut noise = Noise::new(2);
    let duration = |_| Duration::from_nanos(1_000_000 + noise.next_u64() % 99_000_000);
    (0..SLEEPS).map(duration).collect()
}

fn viewring(durations: &[Duration]) -> Measured {
    let runtime = runtime();
    let late_us = Rc::new(RefCell::new(Vec::with_capacity(SLEEPS)));
    let cpu_before = thread_cpu();
    let enters = runtime.block_on(async {
        let task = |&duration| {
            let late_us = Rc::clone(&late_us);
            spawn(async move {
                let timer = time::sleep(duration);
                let deadline = timer.deadline();
                timer.await;
                let now = time::Instant::now();
                assert!(now >= deadline, "a timer never fires early");
                late_us.borrow_mut().push(micros(now - deadline));
            })
        };
        let tasks: Vec<_> = durations.iter().map(task).collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        enters(&metrics())
    });
    Measured {
        cpu: thread_cpu() - cpu_before,
        enters,
        late_us: late_us.take(),
    }
}

fn raw(durations: &[Duration]) -> Measured {
    let mut ring = RawRing::new().expect("a ring");
    let mut late_us = Vec::with_capacity(SLEEPS);
    let cpu_before = thread_cpu();
    let mut deadlines: Vec<_> = durations.iter().map(|&d| Instant::now() + d).collect();
    deadlines.sort_unstable();
    let mut deadlines = deadlines.into_iter().peekable();
    while let Some(next) = deadlines.peek() {
        let wait = (*next + SLACK).saturating_duration_since(Instant::now());
        ring.sleep(wait.as_nanos() as u64).expect("a timed wait");
        let now = Instant::now();
        while let Some(deadline) = deadlines.next_if(|&deadline| deadline <= now) {
            late_us.push(micros(Instant::now() - deadline));
        }
    }
    Measured {
        cpu: thread_cpu() - cpu_before,
        enters: ring.enters,
        late_us,
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1000.0
}

fn main() {
    if !is_wanted("sleeps") {
        return;
    }
    let names = ["viewring", "raw, a sorted list"];
    let mut cpu = Table::new("CPU time, ms", &names);
    let mut entered = Table::new("system calls", &names);
    let mut p50 = Table::new("late, p50, us", &names);
    let mut p99 = Table::new("late, p99, us", &names);
    let durations = durations();
    for _ in 0..rounds(10) {
        let mut both = [viewring(&durations), raw(&durations)];
        for measured in &both {
            assert_eq!(measured.late_us.len(), SLEEPS, "each ends once");
        }
        let mut row = |value: fn(&mut Measured) -> f64| both.iter_mut().map(value).collect();
        cpu.add_round(row(|m| micros(m.cpu) / 1000.0));
        entered.add_round(row(|m| m.enters as f64));
        p50.add_round(row(|m| quantile(&mut m.late_us, 0.5)));
        p99.add_round(row(|m| quantile(&mut m.late_us, 0.99)));
    }
    for table in [cpu, entered, p50, p99] {
        table.print();
    }
}
