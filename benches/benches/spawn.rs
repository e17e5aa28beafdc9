//! What do spawning a task and joining it cost?
//!
//! ```text
//! cargo bench -p viewring-benches --bench spawn
//! ```
//!
//! One by one (spawn, await the handle), and 10,000 at once. Baselines: `async-task` and a queue,
//! which is an executor without runtime around it; and a boxed future, polled once and dropped: an
//! allocation and an indirect call, which no task can do without.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_task::{Runnable, Task};
use criterion::{Criterion, criterion_group, criterion_main};
use viewring_benches::{runtime, scaled};
use viewring_runtime::{JoinHandle, metrics, spawn};

const BULK: u64 = 10_000;

async fn one_by_one(tasks: u64) -> Duration {
    let before = metrics().tasks_spawned;
    let start = Instant::now();
    for number in 0..tasks {
        let joined = spawn(async move { number }).await.expect("no panic");
        assert_eq!(joined, number);
    }
    let elapsed = start.elapsed();
    assert_eq!(metrics().tasks_spawned - before, tasks);
    elapsed
}

async fn in_bulk(tasks: u64) -> Duration {
    let rounds = tasks.div_ceil(BULK);
    let mut handles: Vec<JoinHandle<u64>> = Vec::with_capacity(BULK as usize);
    let start = Instant::now();
    for _ in 0..rounds {
        handles.extend((0..BULK).map(|number| spawn(async move { number })));
        for (place, handle) in handles.drain(..).enumerate() {
            assert_eq!(handle.await.expect("no panic"), place as u64);
        }
    }
    let elapsed = start.elapsed();
    assert_eq!(metrics().tasks_alive, 0);
    scaled(elapsed, rounds * BULK, tasks)
}

thread_local! {
    static QUEUE: RefCell<VecDeque<Runnable>> = const { RefCell::new(VecDeque::new()) };
}

fn queued(number: u64) -> Task<u64> {
    let schedule = |runnable| QUEUE.with_borrow_mut(|queue| queue.push_back(runnable));
    let (runnable, task) = async_task::spawn_local(async move { number }, schedule);
    runnable.schedule();
    task
}

fn join(task: Task<u64>, number: u64) {
    let mut task = pin!(task);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = task.as_mut().poll(&mut cx) {
            assert_eq!(output, number);
            return;
        }
        while let Some(runnable) = QUEUE.with_borrow_mut(VecDeque::pop_front) {
            runnable.run();
        }
    }
}

fn queued_one_by_one(tasks: u64) -> Duration {
    let start = Instant::now();
    for number in 0..tasks {
        join(queued(number), number);
    }
    start.elapsed()
}

fn queued_in_bulk(tasks: u64) -> Duration {
    let rounds = tasks.div_ceil(BULK);
    let mut handles = Vec::with_capacity(BULK as usize);
    let start = Instant::now();
    for _ in 0..rounds {
        handles.extend((0..BULK).map(queued));
        for (place, task) in handles.drain(..).enumerate() {
            join(task, place as u64);
        }
    }
    scaled(start.elapsed(), rounds * BULK, tasks)
}

type Boxed = Pin<Box<dyn Future<Output = u64>>>;

fn boxed(number: u64) -> Boxed {
    black_box(Box::pin(async move { number }))
}

fn check(mut future: Boxed, number: u64) {
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(future.as_mut().poll(&mut cx), Poll::Ready(number));
}

fn boxed_one_by_one(tasks: u64) -> Duration {
    let start = Instant::now();
    for number in 0..tasks {
        check(boxed(number), number);
    }
    start.elapsed()
}

fn boxed_in_bulk(tasks: u64) -> Duration {
    let rounds = tasks.div_ceil(BULK);
    let mut futures = Vec::with_capacity(BULK as usize);
    let start = Instant::now();
    for _ in 0..rounds {
        futures.extend((0..BULK).map(boxed));
        for (place, future) in futures.drain(..).enumerate() {
            check(future, place as u64);
        }
    }
    scaled(start.elapsed(), rounds * BULK, tasks)
}

fn benches(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("spawn/one_by_one");
    group.bench_function("viewring", |b| {
        b.iter_custom(|iters| runtime.block_on(one_by_one(iters)));
    });
    group.bench_function("queue", |b| b.iter_custom(queued_one_by_one));
    group.bench_function("box", |b| b.iter_custom(boxed_one_by_one));
    group.finish();
    // Nanoseconds per task.
    let mut group = criterion.benchmark_group("spawn/10000_at_once");
    group.bench_function("viewring", |b| {
        b.iter_custom(|iters| runtime.block_on(in_bulk(iters)));
    });
    group.bench_function("queue", |b| b.iter_custom(queued_in_bulk));
    group.bench_function("box", |b| b.iter_custom(boxed_in_bulk));
    group.finish();
}

criterion_group!(name = spawns; config = viewring_benches::criterion(); targets = benches);
criterion_main!(spawns);
