//! What does a timeout cost that never fires but starts again with every message?
//!
//! ```text
//! cargo bench -p viewring-benches --bench timer
//! ```
//!
//! With 0 and with 1,000 other timers pending: dropping a 5 s timer and arming a new one, moving
//! one with `reset`, and a `timeout` around a future that is ready at its second poll, to be
//! compared with that future alone (`bare`). None makes a system call: the counter says so.
//! Baseline: one reading of the clock, which every new deadline needs.

use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use viewring_benches::{Noise, enters, poll_once, runtime};
use viewring_runtime::time::{Instant, Timer, sleep, timeout};
use viewring_runtime::{metrics, spawn, yield_now};

const FIVE_SECONDS: Duration = Duration::from_secs(5);

/// Timers that are armed and do not fire while we look: due in 1 to 30 minutes.
async fn arm_others(count: u64) -> Vec<Pin<Box<Timer>>> {
    let mut noise = Noise::new(1);
    let mut others = Vec::new();
    for _ in 0..count {
        let after = Duration::from_millis(60_000 + noise.next_u64() % 1_740_000);
        let mut timer = Box::pin(sleep(after));
        assert_eq!(poll_once(timer.as_mut()).await, Poll::Pending);
        others.push(timer);
    }
    others
}

/// Runs `repeat` in a task, among `others` timers, and sees that it makes no system call.
async fn among<F>(others: u64, repeat: impl FnOnce() -> F + 'static) -> Duration
where
    F: Future<Output = ()> + 'static,
{
    let task = spawn(async move {
        let others = arm_others(others).await;
        let before = enters(&metrics());
        let start = std::time::Instant::now();
        repeat().await;
        let elapsed = start.elapsed();
        assert_eq!(enters(&metrics()), before, "a restart is no system call");
        drop(others);
        elapsed
    });
    task.await.expect("no panic")
}

async fn drop_and_new(times: u64) {
    for _ in 0..times {
        let timer = pin!(sleep(FIVE_SECONDS));
        assert_eq!(poll_once(timer).await, Poll::Pending);
    }
}

async fn reset(times: u64) {
    let mut timer = pin!(sleep(FIVE_SECONDS));
    assert_eq!(poll_once(timer.as_mut()).await, Poll::Pending);
    for _ in 0..times {
        timer.reset(Instant::now() + FIVE_SECONDS);
    }
    assert_eq!(poll_once(timer).await, Poll::Pending);
}

async fn within_timeout(times: u64) {
    for _ in 0..times {
        let result = timeout(Duration::from_secs(1), yield_now()).await;
        assert_eq!(result, Ok(()));
    }
}

async fn bare(times: u64) {
    for _ in 0..times {
        yield_now().await;
    }
}

fn benches(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("timer/clock");
    group.bench_function("std", |b| b.iter(std::time::Instant::now));
    group.bench_function("viewring", |b| {
        b.iter_custom(|iters| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 1..iters {
                    std::hint::black_box(Instant::now());
                }
                start.elapsed()
            })
        });
    });
    group.finish();
    for (name, others) in [("timer/alone", 0), ("timer/among_1000", 1000)] {
        let mut group = criterion.benchmark_group(name);
        group.bench_function("drop_and_new", |b| {
            b.iter_custom(|iters| runtime.block_on(among(others, move || drop_and_new(iters))));
        });
        group.bench_function("reset", |b| {
            b.iter_custom(|iters| runtime.block_on(among(others, move || reset(iters))));
        });
        group.bench_function("timeout", |b| {
            b.iter_custom(|iters| runtime.block_on(among(others, move || within_timeout(iters))));
        });
        group.bench_function("bare", |b| {
            b.iter_custom(|iters| runtime.block_on(among(others, move || bare(iters))));
        });
        group.finish();
    }
}

criterion_group!(name = timers; config = viewring_benches::criterion(); targets = benches);
criterion_main!(timers);
